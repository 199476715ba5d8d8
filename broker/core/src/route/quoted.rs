//! The strings of JSON: where they end, and what they say.

use std::borrow::Cow;

use crate::route::json::NotJson;

/// What stands between the quotes of a string that was found to be valid.
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a> {
    pub(super) raw: &'a str,
    /// Whether there is a backslash in it.
    pub(super) escaped: bool,
}

impl<'a> Quoted<'a> {
    /// With its escapes replaced. Allocates only if there are any.
    pub fn decode(self) -> Cow<'a, str> {
        if !self.escaped {
            return Cow::Borrowed(self.raw);
        }
        let mut decoded = String::with_capacity(self.raw.len());
        let mut rest = self.raw;
        while let Some(at) = rest.find('\\') {
            decoded.push_str(&rest[..at]);
            let (character, after) = unescape(&rest[at + 1..]);
            decoded.push(character);
            rest = after;
        }
        decoded.push_str(rest);
        Cow::Owned(decoded)
    }

    pub fn is(self, name: &str) -> bool {
        if self.escaped { self.decode() == name } else { self.raw == name }
    }
}

/// The first quote, backslash or control character from here on, or the end.
///
/// Eight bytes at a time: a byte of `word - LOW * n` has its high bit set where the byte of `word`
/// is below `n`, or where a lower byte borrowed from it, which cannot be before the first hit.
pub(super) fn plain_end(bytes: &[u8], start: usize) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let mut at = start;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (LOW * u64::from(b'"'));
        let backslash = word ^ (LOW * u64::from(b'\\'));
        let below = |word: u64, limit: u64| word.wrapping_sub(LOW * limit) & !word & HIGH;
        let hits = below(quote, 1) | below(backslash, 1) | below(word, 0x20);
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += chunk.len();
    }
    let is_plain = |byte: &&u8| !matches!(byte, b'"' | b'\\' | 0..0x20);
    at + bytes.get(at..).map_or(0, |rest| rest.iter().take_while(is_plain).count())
}

/// Behind the escape whose backslash is behind us.
pub(super) fn escape_end(bytes: &[u8], at: usize) -> Result<usize, NotJson> {
    match bytes.get(at) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 1),
        Some(b'u') => match bytes.get(at + 1..at + 5) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(at + 5),
            Some(_) | None => Err(NotJson),
        },
        Some(_) | None => Err(NotJson),
    }
}

/// The character that the escape at the start of `text` stands for, and what follows. Its backslash
/// is behind us, and it is a valid one.
fn unescape(text: &str) -> (char, &str) {
    let mut characters = text.chars();
    let character = match characters.next() {
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('u') => return unescape_unit(&text[1..]),
        Some(itself) => itself,
        None => char::REPLACEMENT_CHARACTER,
    };
    (character, characters.as_str())
}

/// Four hexadecimal digits name a UTF-16 unit, and two of them in a row may name one character.
fn unescape_unit(text: &str) -> (char, &str) {
    let (first, after) = hexadecimal(text);
    if let Some(character) = char::from_u32(first) {
        return (character, after);
    }
    let second = after.strip_prefix("\\u").map(hexadecimal);
    match second {
        Some((second @ 0xdc00..0xe000, after)) if first < 0xdc00 => {
            let code_point = 0x10000 + ((first - 0xd800) << 10 | (second - 0xdc00));
            (char::from_u32(code_point).unwrap_or(char::REPLACEMENT_CHARACTER), after)
        }
        Some(_) | None => (char::REPLACEMENT_CHARACTER, after),
    }
}

fn hexadecimal(text: &str) -> (u32, &str) {
    let (digits, after) = text.split_at_checked(4).unwrap_or((text, ""));
    (u32::from_str_radix(digits, 16).unwrap_or(0), after)
}
