//! Finds values in JSON text without building a tree and without allocating.
//!
//! Invariants:
//!
//! * A text is JSON (RFC 8259) or it is not, whatever is looked for in it: it is always read to its
//!   end.
//! * Nothing that a text contains drives a recursion, and none is nested deeper than [`DEPTH_MAX`].
//! * A [`Value`] is a piece of text that was found to be JSON, so reading on in it cannot fail.
//!
//! Where parsers differ: of several members with one name the last counts; a lone surrogate escape
//! stands for U+FFFD; a number may have any size; a byte order mark is not JSON.

use std::borrow::Cow;

use crate::route::quoted::{Quoted, escape_end, plain_end};

/// Arrays and objects within each other. A text with more is not JSON to us (RFC 8259 section 9
/// allows such a limit): what walks values is then bounded as well.
pub const DEPTH_MAX: u32 = 64;

/// One value in a JSON text, from its first byte to its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    text: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

/// One step from a value to one within it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The member of an object.
    Name(Box<str>),
    /// The element of an array, counted from 0.
    Index(usize),
}

/// The text is not JSON, or is nested too deeply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not JSON")]
pub struct NotJson;

/// The members of an object in their order, repeated names included.
pub struct Members<'a>(Items<'a>);

/// The elements of an array in their order.
pub struct Elements<'a>(Items<'a>);

struct Items<'a> {
    cursor: Cursor<'a>,
    more: bool,
}

/// A place in a text. Its methods read on from there.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// The value that the whole text is.
pub fn parse(text: &str) -> Result<Value<'_>, NotJson> {
    find(text, &[])?.ok_or(NotJson)
}

/// The value at a path. None if the text is JSON and has nothing there.
pub fn find<'a>(text: &'a str, path: &[Key]) -> Result<Option<Value<'a>>, NotJson> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.skip_space();
    let found = cursor.find(path, 0)?;
    cursor.skip_space();
    if cursor.at == text.len() { Ok(found) } else { Err(NotJson) }
}

impl<'a> Value<'a> {
    /// As written, with its spaces.
    pub fn raw(self) -> &'a str {
        self.text
    }

    pub fn kind(self) -> Kind {
        match self.text.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            Some(_) | None => Kind::Number,
        }
    }

    /// The text of a string; None if it is something else.
    pub fn as_string(self) -> Option<Cow<'a, str>> {
        let raw = self.text.strip_prefix('"')?.strip_suffix('"')?;
        Some(Quoted { raw, escaped: raw.contains('\\') }.decode())
    }

    /// Of an object; of anything else, none.
    pub fn members(self) -> Members<'a> {
        Members(Items::new(self, Kind::Object))
    }

    /// Of an array; of anything else, none.
    pub fn elements(self) -> Elements<'a> {
        Elements(Items::new(self, Kind::Array))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Quoted<'a>, Value<'a>);

    fn next(&mut self) -> Option<(Quoted<'a>, Value<'a>)> {
        let Members(Items { cursor, more }) = self;
        if !std::mem::take(more) {
            return None;
        }
        let name = cursor.name().ok()?;
        let value = cursor.value(1).ok()?;
        *more = cursor.another(b'}').ok()?;
        Some((name, value))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let Elements(Items { cursor, more }) = self;
        if !std::mem::take(more) {
            return None;
        }
        let value = cursor.value(1).ok()?;
        *more = cursor.another(b']').ok()?;
        Some(value)
    }
}

impl<'a> Items<'a> {
    fn new(value: Value<'a>, kind: Kind) -> Items<'a> {
        let mut cursor = Cursor { text: value.text, at: 0 };
        let closing = if kind == Kind::Object { b'}' } else { b']' };
        let more = value.kind() == kind && cursor.open(closing, 0).unwrap_or(false);
        Items { cursor, more }
    }
}

impl<'a> Cursor<'a> {
    /// Reads the value here, which is inside `depth` others. Recurses along the path, which is ours.
    fn find(&mut self, path: &[Key], depth: u32) -> Result<Option<Value<'a>>, NotJson> {
        let Some((key, rest)) = path.split_first() else {
            return self.value(depth).map(Some);
        };
        match (key, self.peek()) {
            (Key::Name(name), Some(b'{')) => self.find_member(name, rest, depth),
            (Key::Index(index), Some(b'[')) => self.find_element(*index, rest, depth),
            (Key::Name(_) | Key::Index(_), Some(_) | None) => {
                self.skip_value(depth)?;
                Ok(None)
            }
        }
    }

    fn find_member(
        &mut self,
        name: &str,
        path: &[Key],
        depth: u32,
    ) -> Result<Option<Value<'a>>, NotJson> {
        let mut found = None;
        let mut more = self.open(b'}', depth)?;
        while more {
            if self.name()?.is(name) {
                // Also if there is nothing at the rest of the path: the last of several counts.
                found = self.find(path, depth + 1)?;
            } else {
                self.skip_value(depth + 1)?;
            }
            more = self.another(b'}')?;
        }
        Ok(found)
    }

    fn find_element(
        &mut self,
        index: usize,
        path: &[Key],
        depth: u32,
    ) -> Result<Option<Value<'a>>, NotJson> {
        let mut found = None;
        let mut more = self.open(b']', depth)?;
        let mut here = 0;
        while more {
            if here == index {
                found = self.find(path, depth + 1)?;
            } else {
                self.skip_value(depth + 1)?;
            }
            here += 1;
            more = self.another(b']')?;
        }
        Ok(found)
    }

    fn value(&mut self, depth: u32) -> Result<Value<'a>, NotJson> {
        let start = self.at;
        self.skip_value(depth)?;
        Ok(Value { text: &self.text[start..self.at] })
    }

    /// Reads the value here, which is inside `depth` others.
    fn skip_value(&mut self, depth: u32) -> Result<(), NotJson> {
        // One bit for each array or object entered here, the innermost lowest: 1 is an object.
        let mut objects = 0u64;
        let mut inside = 0;
        loop {
            match self.peek().ok_or(NotJson)? {
                b'"' => _ = self.quoted()?,
                b'{' => {
                    if self.open(b'}', depth + inside)? {
                        objects = objects << 1 | 1;
                        inside += 1;
                        self.name()?;
                        continue;
                    }
                }
                b'[' => {
                    if self.open(b']', depth + inside)? {
                        objects <<= 1;
                        inside += 1;
                        continue;
                    }
                }
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                _ => self.number()?,
            }
            // A value has ended, and perhaps others with it.
            loop {
                if inside == 0 {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                if self.another(if in_object { b'}' } else { b']' })? {
                    if in_object {
                        self.name()?;
                    }
                    break;
                }
                objects >>= 1;
                inside -= 1;
            }
        }
    }

    /// Enters the array or object here. False if it was empty and is behind us.
    fn open(&mut self, closing: u8, depth: u32) -> Result<bool, NotJson> {
        if depth >= DEPTH_MAX {
            return Err(NotJson);
        }
        self.at += 1;
        self.skip_space();
        let is_empty = self.peek() == Some(closing);
        self.at += usize::from(is_empty);
        Ok(!is_empty)
    }

    /// Behind an item: goes to the next one. False if there is none and the array or object is
    /// behind us.
    fn another(&mut self, closing: u8) -> Result<bool, NotJson> {
        self.skip_space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_space();
                Ok(true)
            }
            Some(byte) if byte == closing => {
                self.at += 1;
                Ok(false)
            }
            Some(_) | None => Err(NotJson),
        }
    }

    /// The name of a member; goes to its value.
    fn name(&mut self) -> Result<Quoted<'a>, NotJson> {
        if self.peek() != Some(b'"') {
            return Err(NotJson);
        }
        let name = self.quoted()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(NotJson);
        }
        self.at += 1;
        self.skip_space();
        Ok(name)
    }

    fn quoted(&mut self) -> Result<Quoted<'a>, NotJson> {
        let start = self.at + 1;
        let mut escaped = false;
        let bytes = self.text.as_bytes();
        let mut at = plain_end(bytes, start);
        while bytes.get(at) == Some(&b'\\') {
            escaped = true;
            at = plain_end(bytes, escape_end(bytes, at + 1)?);
        }
        if bytes.get(at) != Some(&b'"') {
            return Err(NotJson);
        }
        self.at = at + 1;
        Ok(Quoted { raw: &self.text[start..at], escaped })
    }

    fn word(&mut self, word: &str) -> Result<(), NotJson> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(NotJson);
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), NotJson> {
        self.at += usize::from(self.peek() == Some(b'-'));
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(_) | None => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(NotJson) } else { Ok(()) }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}
