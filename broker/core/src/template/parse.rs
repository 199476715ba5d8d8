//! Reads templates: text, references and directives.
//!
//! Invariants:
//!
//! * The tree nests no deeper than [`DEPTH_MAX`] squared, however a template is written.
//! * A backslash means something only before a reference or a directive that would otherwise count:
//!   of two the first takes the meaning of the second, and one takes that of what follows.
//! * What ends a directive's line, spaces included, belongs to the directive. What stands before it
//!   does not.
//! * A `#name(…)` that is no directive of ours is text, and so is what stands in its parentheses.

use crate::template::tree::{Block, Expression, Node, Position, Reference};
use crate::template::{ParseError, ParseFault};

/// Blocks, parentheses, brackets, quotes and operators within each other.
pub(super) const DEPTH_MAX: u32 = 64;

pub(super) type At<T> = Result<T, ParseError>;

pub(super) struct Parser<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
    pub(super) depth: u32,
    /// A place that was asked for, its byte and where that is, so that the next is not counted from
    /// the start again.
    known: (usize, Position),
    /// The text stands within quotes, which begin there.
    quotes_at: Option<Position>,
}

/// What ended a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Text,
    End,
    Else,
    ElseIf,
}

/// A directive that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Set,
    If,
    ElseIf,
    Else,
    End,
    Foreach,
    Define,
    Macro,
    Break,
    Stop,
}

pub(super) fn parse(text: &str) -> At<Block> {
    let start = Position { line: 1, column: 1 };
    Parser { text, at: 0, depth: 0, known: (0, start), quotes_at: None }.whole()
}

impl<'a> Parser<'a> {
    fn whole(mut self) -> At<Block> {
        let (block, ending) = self.block()?;
        match ending {
            Ending::Text => Ok(block),
            Ending::End | Ending::Else | Ending::ElseIf => Err(self.fault(ParseFault::Stray)),
        }
    }

    /// What stands in double quotes is a template itself.
    pub(super) fn within(&mut self, at: Position, text: &str) -> At<Block> {
        let depth = self.depth;
        self.descend()?;
        let inner = Parser { text, at: 0, depth: self.depth, known: (0, at), quotes_at: Some(at) };
        self.depth = depth;
        inner.whole()
    }

    fn block(&mut self) -> At<(Block, Ending)> {
        let depth = self.depth;
        self.descend()?;
        let mut nodes = Vec::new();
        let mut plain = String::new();
        let ending = loop {
            let start = self.at;
            let rest = self.rest();
            let length = rest.find(['$', '#', '\\']).unwrap_or(rest.len());
            plain.push_str(&rest[..length]);
            self.at += length;
            let node = match self.peek() {
                None => break Ending::Text,
                Some('\\') => {
                    self.backslashes(&mut plain);
                    None
                }
                Some('$') => self.reference()?.map(Node::Reference),
                Some(_) => match self.directive()? {
                    Some(Directive::End) => break Ending::End,
                    Some(Directive::Else) => break Ending::Else,
                    Some(Directive::ElseIf) => break Ending::ElseIf,
                    Some(directive) => self.behind(directive)?,
                    None => {
                        self.not_a_directive(&mut plain)?;
                        None
                    }
                },
            };
            if let Some(node) = node {
                end_text(&mut plain, &mut nodes);
                nodes.push(node);
            } else if self.at == start + length && length < rest.len() {
                // A dollar or a number sign that is nothing else.
                plain.push_str(&rest[length..=length]);
                self.at += 1;
            }
        };
        end_text(&mut plain, &mut nodes);
        self.depth = depth;
        Ok((nodes.into(), ending))
    }

    /// Halves them where they mean something.
    fn backslashes(&mut self, plain: &mut String) {
        let count = self.rest().bytes().take_while(|byte| *byte == b'\\').count();
        let run = &self.rest()[..count];
        self.at += count;
        if !self.is_meant() {
            plain.push_str(run);
            return;
        }
        plain.push_str(&run[..count / 2]);
        if count % 2 == 1 {
            plain.push_str(&self.rest()[..1]);
            self.at += 1;
        }
    }

    /// Whether a reference or a directive begins here.
    fn is_meant(&self) -> bool {
        let rest = self.rest();
        if let Some(behind) = rest.strip_prefix('$') {
            let behind = behind.strip_prefix('!').unwrap_or(behind);
            let behind = behind.strip_prefix('{').unwrap_or(behind);
            return behind.starts_with(begins_name);
        }
        directive_of(rest).is_some()
    }

    /// Goes behind the name of the directive here, if it is one. `#else` and `#end` end their lines.
    fn directive(&mut self) -> At<Option<Directive>> {
        let Some((directive, length)) = directive_of(self.rest()) else { return Ok(None) };
        let at = self.position();
        self.at += length;
        match directive {
            Directive::Else | Directive::End => self.end_line(),
            Directive::Break | Directive::Stop => (),
            Directive::Set
            | Directive::If
            | Directive::ElseIf
            | Directive::Foreach
            | Directive::Define
            | Directive::Macro => {
                self.skip_space();
                if !self.take("(") {
                    return Err(self.fault_at(at, ParseFault::Expected("(")));
                }
            }
        }
        Ok(Some(directive))
    }

    fn behind(&mut self, directive: Directive) -> At<Option<Node>> {
        match directive {
            Directive::Set => self.set().map(Some),
            Directive::If => self.branches().map(Some),
            Directive::Foreach => self.foreach().map(Some),
            Directive::Define => self.define().map(Some),
            Directive::Macro => {
                // API Gateway reads macros and never calls one.
                self.at -= 1;
                self.skip_parentheses()?;
                self.end_line();
                self.body()?;
                Ok(None)
            }
            Directive::Break => Ok(Some(Node::Break)),
            Directive::Stop => Ok(Some(Node::Stop)),
            Directive::Else | Directive::ElseIf | Directive::End => {
                Err(self.fault(ParseFault::Stray))
            }
        }
    }

    fn set(&mut self) -> At<Node> {
        let target = self.target()?;
        self.expect("=")?;
        let value = self.expression()?;
        self.close()?;
        Ok(Node::Set { target, value })
    }

    fn branches(&mut self) -> At<Node> {
        let mut branches = Vec::new();
        let mut otherwise = Block::default();
        let at = self.position();
        let mut condition: Option<Expression> = Some(self.condition()?);
        loop {
            let (block, ending) = self.block()?;
            let was_else = condition.is_none();
            match condition.take() {
                Some(condition) => branches.push((condition, block)),
                None => otherwise = block,
            }
            match ending {
                Ending::End => break,
                Ending::Else if !was_else => (),
                Ending::ElseIf if !was_else => condition = Some(self.condition()?),
                Ending::Else | Ending::ElseIf => return Err(self.fault(ParseFault::Stray)),
                Ending::Text => return Err(self.fault_at(at, ParseFault::Unclosed("#end"))),
            }
        }
        Ok(Node::If { branches: branches.into(), otherwise })
    }

    fn condition(&mut self) -> At<Expression> {
        let condition = self.expression()?;
        self.close()?;
        Ok(condition)
    }

    fn foreach(&mut self) -> At<Node> {
        let at = self.position();
        let variable = self.variable()?;
        self.skip_space();
        if !self.take_word("in") {
            return Err(self.fault(ParseFault::Expected("in")));
        }
        let list = self.expression()?;
        self.close()?;
        let body = self.body()?;
        Ok(Node::Foreach { at, name: variable.name, list, body })
    }

    fn define(&mut self) -> At<Node> {
        let variable = self.variable()?;
        self.close()?;
        let body = self.body()?;
        Ok(Node::Define { name: variable.name, body })
    }

    /// A block that only `#end` ends.
    fn body(&mut self) -> At<Block> {
        let at = self.position();
        let (block, ending) = self.block()?;
        match ending {
            Ending::End => Ok(block),
            Ending::Text => Err(self.fault_at(at, ParseFault::Unclosed("#end"))),
            Ending::Else | Ending::ElseIf => Err(self.fault(ParseFault::Stray)),
        }
    }

    fn target(&mut self) -> At<Reference> {
        self.skip_space();
        let reference = if self.peek() == Some('$') { self.reference()? } else { None };
        reference.ok_or_else(|| self.fault(ParseFault::Expected("$")))
    }

    fn variable(&mut self) -> At<Reference> {
        let target = self.target()?;
        if target.steps.is_empty() {
            return Ok(target);
        }
        Err(self.fault_at(target.at, ParseFault::NotAName))
    }

    /// Of a directive that is followed by a block or by text.
    fn close(&mut self) -> At<()> {
        self.expect(")")?;
        self.end_line();
        Ok(())
    }

    /// A comment, literal text, or a name that we do not know.
    fn not_a_directive(&mut self, plain: &mut String) -> At<()> {
        let (start, at) = (self.at, self.position());
        if self.take("##") {
            self.at += self.rest().find('\n').map_or(self.rest().len(), |length| length + 1);
        } else if self.take("#*") {
            self.skip_behind("*#", at)?;
        } else if self.take("#[[") {
            let inside = self.at;
            self.skip_behind("]]#", at)?;
            plain.push_str(&self.text[inside..self.at - 3]);
        } else {
            self.at += 1;
            if self.name().is_some() && self.peek() == Some('(') {
                self.skip_parentheses()?;
                plain.push_str(&self.text[start..self.at]);
            } else {
                self.at = start;
            }
        }
        Ok(())
    }

    fn skip_behind(&mut self, closing: &'static str, at: Position) -> At<()> {
        let length = self.rest().find(closing);
        let length = length.ok_or_else(|| self.fault_at(at, ParseFault::Unclosed(closing)))?;
        self.at += length + closing.len();
        Ok(())
    }

    /// Those that begin here. What is in quotes does not count.
    fn skip_parentheses(&mut self) -> At<()> {
        let mut open = 0u32;
        let mut quote = None;
        for (index, character) in self.rest().char_indices() {
            match (quote, character) {
                (Some(mark), _) if mark == character => quote = None,
                (None, '"' | '\'') => quote = Some(character),
                (None, '(') => open += 1,
                (None, ')') => {
                    open -= 1;
                    if open == 0 {
                        self.at += index + 1;
                        return Ok(());
                    }
                }
                (Some(_) | None, _) => (),
            }
        }
        Err(self.fault(ParseFault::Unclosed(")")))
    }

    pub(super) fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        if !rest.starts_with(begins_name) {
            return None;
        }
        let is_in_name = |c: char| begins_name(c) || c.is_ascii_digit() || c == '-';
        let length = rest.find(|c| !is_in_name(c)).unwrap_or(rest.len());
        self.at += length;
        Some(&rest[..length])
    }

    /// The letters here.
    pub(super) fn word(&self) -> &'a str {
        letters(self.rest())
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        self.word() == word && self.take(word)
    }

    pub(super) fn take(&mut self, token: &str) -> bool {
        let is_here = self.rest().starts_with(token);
        self.at += if is_here { token.len() } else { 0 };
        is_here
    }

    pub(super) fn expect(&mut self, token: &'static str) -> At<()> {
        self.skip_space();
        if self.take(token) { Ok(()) } else { Err(self.fault(ParseFault::Expected(token))) }
    }

    pub(super) fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_ascii_start().len();
    }

    fn end_line(&mut self) {
        let behind = self.rest().trim_start_matches([' ', '\t']);
        let next = behind.strip_prefix("\r\n").or_else(|| behind.strip_prefix(['\n', '\r']));
        if let Some(next) = next {
            self.at = self.text.len() - next.len();
        }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn descend(&mut self) -> At<()> {
        if self.depth >= DEPTH_MAX {
            return Err(self.fault(ParseFault::TooDeep));
        }
        self.depth += 1;
        Ok(())
    }

    pub(super) fn position(&mut self) -> Position {
        if let Some(at) = self.quotes_at {
            return at;
        }
        let (from, mut position) = match self.known {
            (known, position) if known <= self.at => (known, position),
            _ => (0, Position { line: 1, column: 1 }),
        };
        for character in self.text[from..self.at].chars() {
            if character == '\n' {
                position = Position { line: position.line + 1, column: 1 };
            } else {
                position.column += 1;
            }
        }
        self.known = (self.at, position);
        position
    }

    pub(super) fn fault(&mut self, why: ParseFault) -> ParseError {
        let at = self.position();
        self.fault_at(at, why)
    }

    pub(super) fn fault_at(&self, at: Position, why: ParseFault) -> ParseError {
        ParseError { at, why }
    }
}

/// The directive that begins here, and the length of its name.
fn directive_of(text: &str) -> Option<(Directive, usize)> {
    let behind = text.strip_prefix('#')?;
    let (name, length) = match behind.strip_prefix('{') {
        Some(braced) => {
            let name = letters(braced);
            braced[name.len()..].strip_prefix('}')?;
            (name, name.len() + 3)
        }
        None => {
            let name = letters(behind);
            (name, name.len() + 1)
        }
    };
    let directive = match name {
        "set" => Directive::Set,
        "if" => Directive::If,
        "elseif" => Directive::ElseIf,
        "else" => Directive::Else,
        "end" => Directive::End,
        "foreach" => Directive::Foreach,
        "define" => Directive::Define,
        "macro" => Directive::Macro,
        "break" => Directive::Break,
        "stop" => Directive::Stop,
        _ => return None,
    };
    Some((directive, length))
}

fn letters(text: &str) -> &str {
    let is_in_word = |c: char| begins_name(c) || c.is_ascii_digit();
    &text[..text.find(|c| !is_in_word(c)).unwrap_or(text.len())]
}

fn begins_name(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_'
}

fn end_text(plain: &mut String, nodes: &mut Vec<Node>) {
    if !plain.is_empty() {
        nodes.push(Node::Text(std::mem::take(plain).into()));
    }
}
