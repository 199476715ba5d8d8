//! Selection expressions: how a key is made of a message, a request or a response.
//!
//! ```text
//! expression = *( literal / "\$" / "\\" / "$" bare / "${" braced "}" )
//! ```
//!
//! A bare variable goes on as long as letters, digits, `_`, `-`, `.`, `*` and brackets do: braces
//! say where it ends, and let other characters into its names. It is evaluated in a single pass:
//! what a variable stands for is never read as an expression again. A variable without a value
//! stands for the empty text.
//!
//! API Gateway documents `\$` for a dollar. A backslash before anything else than `$` or `\` is
//! refused rather than guessed at.

use std::borrow::Cow;

use crate::route::json::NotJson;
use crate::route::jsonpath::{JsonPath, PathError, PathFault};
use crate::route::variable::VariableFault;
pub use crate::route::variable::{Purpose, Variable};

/// An expression that is longer is refused.
pub const EXPRESSION_BYTES_MAX: usize = 1024;
/// What an expression comes to is to be compared with keys, which are shorter by far. So a longer
/// text is not made.
pub const RESULT_BYTES_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// No two literals are neighbours, and none is empty.
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Variable(Variable),
}

/// Why an expression cannot be understood, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`, at byte {at}: {why}")]
pub struct ExpressionError {
    pub text: Box<str>,
    pub at: usize,
    pub why: ExpressionFault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionFault {
    #[error("the expression is empty")]
    Empty,
    #[error("an expression has at most {EXPRESSION_BYTES_MAX} bytes")]
    TooLong,
    #[error("`${{` without `}}`")]
    Unterminated,
    #[error("a backslash must be followed by `$` or by another backslash")]
    Backslash,
    #[error("unknown variable `{name}`; known here: {}; a dollar itself is written `\\$`", .purpose.variables())]
    UnknownVariable { name: Box<str>, purpose: Purpose },
    #[error("the variable `{name}` has no value here; known here: {}", .purpose.variables())]
    Misplaced { name: Box<str>, purpose: Purpose },
    #[error("{0}")]
    Path(PathFault),
}

/// The expression has no text for this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// It asks for a place in something that is not JSON.
    #[error("not JSON")]
    NotJson,
    #[error("longer than any key")]
    TooLong,
}

/// Knows the values of variables.
pub trait Resolver {
    /// None if the variable has no value.
    fn resolve<'a>(&'a self, variable: &'a Variable)
    -> Result<Option<Cow<'a, str>>, EvaluateError>;
}

/// Resolves the variables of a message alone. The others have no value.
#[derive(Debug, Clone, Copy)]
pub struct RequestBody<'a>(pub &'a str);

impl Expression {
    pub fn parse(text: &str, purpose: Purpose) -> Result<Expression, ExpressionError> {
        let error = |(at, why)| ExpressionError { text: clip(text), at, why };
        if text.is_empty() {
            return Err(error((0, ExpressionFault::Empty)));
        }
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(error((EXPRESSION_BYTES_MAX, ExpressionFault::TooLong)));
        }
        Parser { text, at: 0, purpose }.parts().map(|parts| Expression { parts }).map_err(error)
    }

    /// The text of an expression without variables.
    pub fn as_static(&self) -> Option<&str> {
        match &*self.parts {
            [Part::Literal(text)] => Some(text),
            [] | [_, ..] => None,
        }
    }

    /// Borrows if the expression is static, or is one variable whose text is there as it stands.
    pub fn evaluate<'a>(
        &'a self,
        resolver: &'a impl Resolver,
    ) -> Result<Cow<'a, str>, EvaluateError> {
        self.evaluate_within(RESULT_BYTES_MAX, resolver)
    }

    /// The same for what is compared with more than keys.
    pub fn evaluate_within<'a>(
        &'a self,
        bytes_max: usize,
        resolver: &'a impl Resolver,
    ) -> Result<Cow<'a, str>, EvaluateError> {
        let text = match &*self.parts {
            [Part::Literal(text)] => Cow::Borrowed(&**text),
            [Part::Variable(variable)] => resolver.resolve(variable)?.unwrap_or_default(),
            parts => Cow::Owned(concatenate(parts, bytes_max, resolver)?),
        };
        if text.len() > bytes_max { Err(EvaluateError::TooLong) } else { Ok(text) }
    }
}

impl Resolver for RequestBody<'_> {
    fn resolve<'a>(
        &'a self,
        variable: &'a Variable,
    ) -> Result<Option<Cow<'a, str>>, EvaluateError> {
        match variable {
            Variable::RequestBody(path) => path_text(path, self.0),
            Variable::RequestHeader(_)
            | Variable::BasePath
            | Variable::UsageIdentifierKey
            | Variable::ResponseStatus
            | Variable::ResponseHeader(_)
            | Variable::ResponseHeaderValues(_)
            | Variable::ResponseBody(_) => Ok(None),
        }
    }
}

/// The text of what is at a path of a body.
pub fn path_text<'a>(
    path: &JsonPath,
    body: &'a str,
) -> Result<Option<Cow<'a, str>>, EvaluateError> {
    match path.select(body) {
        Ok(selection) => Ok(selection.text()),
        Err(NotJson) => Err(EvaluateError::NotJson),
    }
}

fn concatenate(
    parts: &[Part],
    bytes_max: usize,
    resolver: &impl Resolver,
) -> Result<String, EvaluateError> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Literal(literal) => text.push_str(literal),
            Part::Variable(variable) => {
                text.push_str(&resolver.resolve(variable)?.unwrap_or_default());
            }
        }
        if text.len() > bytes_max {
            return Err(EvaluateError::TooLong);
        }
    }
    Ok(text)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    purpose: Purpose,
}

type At<T> = Result<T, (usize, ExpressionFault)>;

impl<'a> Parser<'a> {
    fn parts(mut self) -> At<Box<[Part]>> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let end_literal = |literal: &mut String, parts: &mut Vec<Part>| {
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(literal).into()));
            }
        };
        while let Some(character) = self.rest().chars().next() {
            match character {
                '\\' => literal.push(self.escaped()?),
                '$' => {
                    end_literal(&mut literal, &mut parts);
                    parts.push(Part::Variable(self.variable()?));
                }
                plain => {
                    literal.push(plain);
                    self.at += plain.len_utf8();
                }
            }
        }
        end_literal(&mut literal, &mut parts);
        Ok(parts.into())
    }

    fn escaped(&mut self) -> At<char> {
        let escaped = match self.rest().as_bytes().get(1) {
            Some(b'$') => '$',
            Some(b'\\') => '\\',
            Some(_) | None => return Err((self.at, ExpressionFault::Backslash)),
        };
        self.at += 2;
        Ok(escaped)
    }

    fn variable(&mut self) -> At<Variable> {
        let dollar = self.at;
        let behind = &self.rest()[1..];
        let (start, length, end) = match behind.strip_prefix('{') {
            Some(braced) => {
                let start = dollar + 2;
                let length =
                    braced_length(braced).ok_or((dollar, ExpressionFault::Unterminated))?;
                (start, length, start + length + 1)
            }
            None => {
                let start = dollar + 1;
                let length = bare_length(behind);
                (start, length, start + length)
            }
        };
        let name = &self.text[start..start + length];
        let purpose = self.purpose;
        self.at = end;
        Variable::parse(name, purpose).map_err(|fault| match fault {
            VariableFault::Unknown => {
                (start, ExpressionFault::UnknownVariable { name: name.into(), purpose })
            }
            VariableFault::Misplaced => {
                (start, ExpressionFault::Misplaced { name: name.into(), purpose })
            }
            VariableFault::Path(PathError { at, why }) => (start + at, ExpressionFault::Path(why)),
        })
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }
}

/// Up to the `}` that is not within brackets. None if there is none.
fn braced_length(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.as_bytes().get(at)? {
            b'}' => return Some(at),
            b'[' => at += brackets_length(&text[at..]),
            _ => at += 1,
        }
    }
}

/// Up to the first character that no bare variable has.
fn bare_length(text: &str) -> usize {
    let mut at = 0;
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'[' => at += brackets_length(&text[at..]),
            b'_' | b'-' | b'.' | b'*' => at += 1,
            byte if byte.is_ascii_alphanumeric() || !byte.is_ascii() => at += 1,
            _ => break,
        }
    }
    at
}

/// Behind the bracket that closes the one here, or the end. Brackets in quotes do not count.
fn brackets_length(text: &str) -> usize {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            _ if is_escaped => is_escaped = false,
            (Some(_), b'\\') => is_escaped = true,
            (Some(open), byte) if open == byte => quote = None,
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, b']') => return at + 1,
            (Some(_) | None, _) => (),
        }
    }
    text.len()
}

/// An error shows so much of an expression at most.
fn clip(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(EXPRESSION_BYTES_MAX)].into()
}
