//! The part of JSONPath (Goessner's) that a selection expression can use.
//!
//! ```text
//! path  = 1*step
//! step  = "." name | "." "*" | "[" inner "]" | ".." name | ".." "*" | "..[" inner "]"
//! inner = "'" text "'" | '"' text '"' | index | "-" index | "*"
//! ```
//!
//! A path is *definite* if it names one place at most, so without `*` and `..`. What a definite path
//! begins with is found in the very pass that checks the text; only what follows the first `*`, `..`
//! or negative index is looked for afterwards, among the pieces found.
//!
//! An index counts from 0, a negative one from the end, as in Jayway's implementation, which API
//! Gateway is documented by. Filters, scripts, slices, unions and functions are refused: a route is
//! chosen by a scalar.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::route::json::{self, Key, Kind, NotJson, Value};
use crate::route::stringify::{stringify, stringify_all};

/// Deeper than that there is nothing to be found.
const STEPS_MAX: usize = json::DEPTH_MAX as usize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath {
    /// The names and indexes that the path begins with.
    direct: Box<[Key]>,
    /// What follows them: it begins with another kind of step, if there is any.
    indirect: Box<[Step]>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection<'a> {
    /// A definite path that leads nowhere.
    Missing,
    /// A definite path.
    One(Value<'a>),
    /// Another path. A value comes before what it contains.
    Many(Vec<Value<'a>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Direct(Key),
    /// The last element is 1.
    FromEnd(usize),
    Every,
    /// The value itself and all within it.
    Anywhere,
}

/// Where a path cannot be understood, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathError {
    /// The byte of the path's text.
    pub at: usize,
    pub why: PathFault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("the path is empty: say what to take, as in `.action`")]
    Empty,
    #[error("a step of a path begins with `.` or `[`")]
    NotAStep,
    #[error("a dot wants a name behind it")]
    NameMissing,
    #[error("a name with this character is written ['…']")]
    NameCharacter,
    #[error("`[` without `]`")]
    Unclosed,
    #[error("a quote without its other")]
    Unquoted,
    #[error("in quotes, a backslash wants a quote or a backslash behind it")]
    Escape,
    #[error("brackets hold a name in quotes, an index or `*`")]
    NotAnIndex,
    #[error("filters `[?…]` are not supported")]
    Filter,
    #[error("scripts `[(…)]` are not supported")]
    Script,
    #[error("slices `[a:b]` are not supported")]
    Slice,
    #[error("unions `[a,b]` are not supported")]
    Union,
    #[error("functions `.name()` are not supported")]
    Function,
    #[error("`..` may stand in a path once")]
    DescentTwice,
    #[error("a path has at most {STEPS_MAX} steps")]
    TooLong,
}

impl JsonPath {
    pub fn parse(text: &str) -> Result<JsonPath, PathError> {
        let mut parser = Parser { text, at: 0 };
        let mut steps = Vec::new();
        while parser.at < text.len() {
            let start = parser.at;
            parser.step(&mut steps).map_err(|why| PathError { at: parser.at, why })?;
            let descents = steps.iter().filter(|step| **step == Step::Anywhere).count();
            if descents > 1 {
                return Err(PathError { at: start, why: PathFault::DescentTwice });
            }
            if steps.len() > STEPS_MAX {
                return Err(PathError { at: start, why: PathFault::TooLong });
            }
        }
        if steps.is_empty() {
            return Err(PathError { at: 0, why: PathFault::Empty });
        }
        Ok(JsonPath::new(steps))
    }

    fn new(steps: Vec<Step>) -> JsonPath {
        let mut steps = steps.into_iter().peekable();
        let mut direct = Vec::new();
        while let Some(Step::Direct(key)) = steps.next_if(|step| matches!(step, Step::Direct(_))) {
            direct.push(key);
        }
        JsonPath { direct: direct.into(), indirect: steps.collect() }
    }

    /// Whether the path leads to one place at most.
    pub fn is_definite(&self) -> bool {
        self.indirect.iter().all(Step::is_definite)
    }

    /// Costs one pass over the text. A path with `..` costs a pass for each level of nesting more.
    pub fn select<'a>(&self, text: &'a str) -> Result<Selection<'a>, NotJson> {
        let found = json::find(text, &self.direct)?;
        if self.indirect.is_empty() {
            return Ok(found.map_or(Selection::Missing, Selection::One));
        }
        let mut values = Vec::from_iter(found);
        for step in &self.indirect {
            values = step.apply(&values);
        }
        Ok(match values.first() {
            Some(value) if self.is_definite() => Selection::One(*value),
            None if self.is_definite() => Selection::Missing,
            Some(_) | None => Selection::Many(values),
        })
    }
}

impl<'a> Selection<'a> {
    /// None if there is nothing. Several values become one text as an array would; none at all is
    /// nothing, and not an empty array.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            Selection::Missing => None,
            Selection::One(value) => Some(stringify(*value)),
            Selection::Many(values) if values.is_empty() => None,
            Selection::Many(values) => Some(stringify_all(values.iter().copied()).into()),
        }
    }
}

impl Step {
    fn is_definite(&self) -> bool {
        match self {
            Step::Direct(_) | Step::FromEnd(_) => true,
            Step::Every | Step::Anywhere => false,
        }
    }

    fn apply<'a>(&self, values: &[Value<'a>]) -> Vec<Value<'a>> {
        let values = values.iter().copied();
        match self {
            Step::Direct(Key::Name(name)) => {
                values.filter_map(|value| member(value, name)).collect()
            }
            Step::Direct(Key::Index(index)) => {
                values.filter_map(|value| value.elements().nth(*index)).collect()
            }
            Step::FromEnd(index) => values.filter_map(|value| from_end(value, *index)).collect(),
            Step::Every => values.flat_map(children).collect(),
            Step::Anywhere => values.flat_map(descendants).collect(),
        }
    }
}

fn member<'a>(object: Value<'a>, name: &str) -> Option<Value<'a>> {
    object.members().filter(|(quoted, _)| quoted.is(name)).map(|(_, value)| value).last()
}

fn from_end(array: Value<'_>, index: usize) -> Option<Value<'_>> {
    let length = array.elements().count();
    array.elements().nth(length.checked_sub(index)?)
}

/// Of members with one name the last counts, in the place of the first.
fn children(value: Value<'_>) -> Vec<Value<'_>> {
    if value.kind() == Kind::Array {
        return value.elements().collect();
    }
    let mut children = Vec::new();
    let mut places = BTreeMap::new();
    for (name, member) in value.members() {
        let place = *places.entry(name.decode()).or_insert(children.len());
        if place == children.len() {
            children.push(member);
        } else {
            children[place] = member;
        }
    }
    children
}

/// The value and all within it, each before what it contains.
fn descendants(value: Value<'_>) -> Vec<Value<'_>> {
    let mut found = Vec::new();
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        found.push(value);
        waiting.extend(children(value).into_iter().rev());
    }
    found
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    /// Reads one step, or two where it begins with `..`. On an error, we stand where it is.
    fn step(&mut self, steps: &mut Vec<Step>) -> Result<(), PathFault> {
        if self.take("..") {
            steps.push(Step::Anywhere);
            let step = if self.take("[") { self.brackets()? } else { self.name()? };
            steps.push(step);
        } else if self.take(".") {
            steps.push(self.name()?);
        } else if self.take("[") {
            steps.push(self.brackets()?);
        } else {
            return Err(PathFault::NotAStep);
        }
        Ok(())
    }

    fn name(&mut self) -> Result<Step, PathFault> {
        if self.take("*") {
            return Ok(Step::Every);
        }
        let rest = self.rest();
        let length = rest.find(is_not_in_names).unwrap_or(rest.len());
        let name = &rest[..length];
        self.at += length;
        match self.rest().chars().next() {
            Some('(') => Err(PathFault::Function),
            Some('.' | '[') | None if name.is_empty() => Err(PathFault::NameMissing),
            Some('.' | '[') | None => Ok(Step::Direct(Key::Name(name.into()))),
            Some(_) => Err(PathFault::NameCharacter),
        }
    }

    /// Behind `[`.
    fn brackets(&mut self) -> Result<Step, PathFault> {
        let step = match self.rest().chars().next() {
            Some('*') => {
                self.at += 1;
                Step::Every
            }
            Some(quote @ ('\'' | '"')) => self.quoted(quote)?,
            Some('?') => return Err(PathFault::Filter),
            Some('(') => return Err(PathFault::Script),
            Some(_) => self.index()?,
            None => return Err(PathFault::Unclosed),
        };
        if self.take("]") {
            return Ok(step);
        }
        Err(match self.rest().trim_start().chars().next() {
            Some(',') => PathFault::Union,
            Some(':') => PathFault::Slice,
            Some(_) => PathFault::NotAnIndex,
            None => PathFault::Unclosed,
        })
    }

    fn quoted(&mut self, quote: char) -> Result<Step, PathFault> {
        self.at += 1;
        let mut name = String::new();
        let mut characters = self.rest().char_indices();
        while let Some((at, character)) = characters.next() {
            if character == quote {
                self.at += at + 1;
                return Ok(Step::Direct(Key::Name(name.into())));
            }
            name.push(match character {
                '\\' => match characters.next() {
                    Some((_, escaped @ ('\'' | '"' | '\\'))) => escaped,
                    Some(_) | None => {
                        self.at += at;
                        return Err(PathFault::Escape);
                    }
                },
                plain => plain,
            });
        }
        Err(PathFault::Unquoted)
    }

    fn index(&mut self) -> Result<Step, PathFault> {
        if self.rest().starts_with(':') {
            return Err(PathFault::Slice);
        }
        let is_from_end = self.rest().starts_with('-');
        let digits_at = self.at + usize::from(is_from_end);
        let digits = &self.text[digits_at..];
        let length = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        // A number that no array can be long enough for is a mistake.
        let number = digits[..length].parse::<u32>().map_err(|_| PathFault::NotAnIndex)?;
        let number = usize::try_from(number).map_err(|_| PathFault::NotAnIndex)?;
        self.at = digits_at + length;
        match number {
            0 if is_from_end => Err(PathFault::NotAnIndex),
            _ if is_from_end => Ok(Step::FromEnd(number)),
            _ => Ok(Step::Direct(Key::Index(number))),
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let is_here = self.rest().starts_with(token);
        self.at += if is_here { token.len() } else { 0 };
        is_here
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }
}

/// Characters that mean something in JSONPath or around it. All others may stand in a bare name.
fn is_not_in_names(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(
            character,
            '.' | '[' | ']' | '(' | ')' | '{' | '}' | '*' | ',' | '?' | '\'' | '"' | '\\'
        )
}
