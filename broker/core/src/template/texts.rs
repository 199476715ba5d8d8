//! The methods of texts, which are those of Java's `String`.
//!
//! Places in a text are counted in UTF-16 units, as Java counts them.

use regex::{Captures, Regex};

use crate::template::RenderFault;
use crate::template::heap::{Heap, Outcome, Value};
use crate::template::tree::Text;

impl Heap {
    /// Null if there is no such method with such arguments.
    pub fn call_text(&mut self, text: &Text, name: &str, arguments: &[Value]) -> Outcome<Value> {
        // Every method looks at all of the text at most a few times.
        self.pay(text.len())?;
        match arguments {
            [] => self.call_text_alone(text, name),
            [Value::Text(other)] => {
                self.pay(other.len())?;
                self.call_text_with_text(text, name, other)
            }
            [Value::Text(first), Value::Text(second)] => {
                self.call_text_with_texts(text, name, first, second)
            }
            // Whatever else it is, it is not this text.
            [_] if matches!(name, "equals" | "equalsIgnoreCase") => Ok(Value::Boolean(false)),
            [Value::Integer(from), rest @ ..] => match (name, rest) {
                ("charAt", []) => self.slice(text, *from, from.saturating_add(1)),
                ("substring", []) => self.slice(text, *from, units(text)),
                ("substring", [Value::Integer(to)]) => self.slice(text, *from, *to),
                ("repeat", []) => self.repeat(text, *from),
                _ => Ok(Value::Null),
            },
            [Value::Text(other), Value::Integer(number)] => match name {
                "indexOf" => Ok(Value::Integer(index_of(text, other, *number))),
                "split" => self.split(text, other, *number),
                "startsWith" => {
                    let rest = usize::try_from(*number).ok().and_then(|at| text_from(text, at));
                    Ok(Value::Boolean(rest.is_some_and(|rest| rest.starts_with(&**other))))
                }
                _ => Ok(Value::Null),
            },
            _ => Ok(Value::Null),
        }
    }

    fn call_text_alone(&mut self, text: &Text, name: &str) -> Outcome<Value> {
        match name {
            "length" => Ok(Value::Integer(units(text))),
            "isEmpty" => Ok(Value::Boolean(text.is_empty())),
            "isBlank" => Ok(Value::Boolean(text.trim().is_empty())),
            "toString" | "intern" => Ok(Value::Text(Text::clone(text))),
            "toLowerCase" => self.text(text.to_lowercase()),
            "toUpperCase" => self.text(text.to_uppercase()),
            // Of old, what Java trims is all that is no larger than a space.
            "trim" => self.text(text.trim_matches(|c| c <= ' ')),
            "strip" => self.text(text.trim()),
            _ => Ok(Value::Null),
        }
    }

    fn call_text_with_text(&mut self, text: &Text, name: &str, other: &Text) -> Outcome<Value> {
        Ok(match name {
            "contains" => Value::Boolean(text.contains(&**other)),
            "startsWith" => Value::Boolean(text.starts_with(&**other)),
            "endsWith" => Value::Boolean(text.ends_with(&**other)),
            "equals" => Value::Boolean(text == other),
            "equalsIgnoreCase" => {
                self.pay_text(text.len() + other.len())?;
                Value::Boolean(text.to_lowercase() == other.to_lowercase())
            }
            "compareTo" => Value::Integer(text.encode_utf16().cmp(other.encode_utf16()) as i128),
            "indexOf" => Value::Integer(index_of(text, other, 0)),
            "lastIndexOf" => {
                Value::Integer(text.rfind(&**other).map_or(-1, |at| units(&text[..at])))
            }
            "concat" => {
                self.pay_text(text.len() + other.len())?;
                Value::Text([&**text, &**other].concat().into())
            }
            "matches" => {
                self.pay(other.len())?;
                let pattern = self.whole_pattern(other)?;
                Value::Boolean(pattern.is_match(text))
            }
            "split" => self.split(text, other, 0)?,
            _ => Value::Null,
        })
    }

    fn call_text_with_texts(
        &mut self,
        text: &Text,
        name: &str,
        first: &Text,
        second: &Text,
    ) -> Outcome<Value> {
        match name {
            "replace" => {
                let count = text.matches(&**first).count();
                self.pay_text(text.len().saturating_add(count.saturating_mul(second.len())))?;
                self.text(text.replace(&**first, second))
            }
            "replaceAll" => self.replace(text, first, second, usize::MAX),
            "replaceFirst" => self.replace(text, first, second, 1),
            _ => Ok(Value::Null),
        }
    }

    fn whole_pattern(&mut self, text: &str) -> Outcome<Regex> {
        // Alone first: with parentheses around it, what is no expression may become one.
        self.pattern(text)?;
        self.pattern(&crate::template::pattern::whole(text))
    }

    fn replace(&mut self, text: &str, with: &str, by: &str, count: usize) -> Outcome<Value> {
        let pattern = self.pattern(with)?;
        let mut replaced = String::new();
        let mut copied = 0;
        for captures in pattern.captures_iter(text).take(count) {
            let Some(all) = captures.get(0) else { break };
            self.append(&mut replaced, &text[copied..all.start()])?;
            self.expand(&mut replaced, &captures, by)?;
            copied = all.end();
        }
        self.append(&mut replaced, &text[copied..])?;
        self.text(replaced)
    }

    /// In Java's replacements `$1` and `${name}` are groups, and a backslash takes the meaning of
    /// what follows.
    fn expand(&mut self, out: &mut String, captures: &Captures<'_>, by: &str) -> Outcome<()> {
        let mut rest = by;
        while let Some(at) = rest.find(['$', '\\']) {
            self.append(out, &rest[..at])?;
            let is_group = rest[at..].starts_with('$');
            rest = &rest[at + 1..];
            let (group, length) = if !is_group {
                let length = rest.chars().next().map_or(0, char::len_utf8);
                (Some(&rest[..length]), length)
            } else if let Some(named) = rest.strip_prefix('{') {
                let length = named.find('}').unwrap_or(named.len());
                let group = captures.name(&named[..length]).map(|group| group.as_str());
                (group, (length + 2).min(rest.len()))
            } else {
                let length = usize::from(rest.starts_with(|c: char| c.is_ascii_digit()));
                let number = rest[..length].parse().unwrap_or(usize::MAX);
                (captures.get(number).map(|group| group.as_str()), length)
            };
            self.append(out, group.unwrap_or_default())?;
            rest = &rest[length..];
        }
        self.append(out, rest)
    }

    /// As Java does: the limit 0 drops empty texts at the end, and nothing empty comes before a
    /// match that is empty itself.
    fn split(&mut self, text: &str, with: &str, limit: i128) -> Outcome<Value> {
        let pattern = self.pattern(with)?;
        let parts_max = usize::try_from(limit).ok().filter(|max| *max > 0).unwrap_or(usize::MAX);
        let mut parts = Vec::new();
        let mut from = 0;
        for found in pattern.find_iter(text) {
            if parts.len() + 1 >= parts_max {
                break;
            }
            if found.end() == 0 || (found.is_empty() && found.start() == text.len()) {
                continue;
            }
            self.pay_cells(1)?;
            parts.push(&text[from..found.start()]);
            from = found.end();
        }
        parts.push(&text[from..]);
        while limit == 0 && parts.len() > 1 && parts.last().is_some_and(|part| part.is_empty()) {
            parts.pop();
        }
        let mut items = Vec::new();
        for part in parts {
            items.push(self.text(part)?);
        }
        self.new_list(items, false)
    }

    fn slice(&mut self, text: &str, from: i128, to: i128) -> Outcome<Value> {
        let length = usize::try_from(units(text)).unwrap_or(usize::MAX);
        let place = |index: i128| {
            let place = usize::try_from(index).ok().filter(|place| *place <= length);
            place.ok_or(RenderFault::OutOfRange { index, length })
        };
        let (start, end) = (place(from)?, place(to)?);
        if start > end {
            return Err(RenderFault::OutOfRange { index: from, length });
        }
        if text.is_ascii() {
            return self.text(&text[start..end]);
        }
        let units = text.encode_utf16().skip(start).take(end - start).collect::<Vec<_>>();
        self.text(String::from_utf16_lossy(&units))
    }

    fn repeat(&mut self, text: &str, count: i128) -> Outcome<Value> {
        let length = text.len();
        let out_of_range = RenderFault::OutOfRange { index: count, length };
        let count = usize::try_from(count).map_err(|_| out_of_range)?;
        self.pay_text(length.saturating_mul(count))?;
        self.text(if length == 0 { String::new() } else { text.repeat(count) })
    }
}

fn units(text: &str) -> i128 {
    if text.is_ascii() { text.len() as i128 } else { text.encode_utf16().count() as i128 }
}

/// -1 if it is not there.
fn index_of(text: &str, other: &str, from: i128) -> i128 {
    let Some(rest) = text_from(text, usize::try_from(from).unwrap_or(0)) else { return -1 };
    let skipped = text.len() - rest.len();
    rest.find(other).map_or(-1, |at| units(&text[..skipped + at]))
}

/// Behind so many units. None if there are not so many; a character that would be cut goes with
/// those before.
fn text_from(text: &str, units: usize) -> Option<&str> {
    let mut seen = 0;
    for (at, character) in text.char_indices() {
        if seen >= units {
            return Some(&text[at..]);
        }
        seen += character.len_utf16();
    }
    (seen >= units).then_some("")
}
