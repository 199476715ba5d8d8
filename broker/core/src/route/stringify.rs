//! What a JSON value is called where a text is wanted: in a selection expression.
//!
//! API Gateway documents only that an array of two becomes `[item1, item2]`. The rest is ours:
//!
//! | value | text |
//! |---|---|
//! | string | its text |
//! | number | as written; without exponent, needless zeros or the sign of zero where it has them |
//! | `true`, `false`, `null` | as written |
//! | array | `[a, b]`, its elements as here, save that arrays and objects in it are as written |
//! | object | as written |
//!
//! "As written" means without the spaces between its parts: members keep their order, and strings
//! and numbers inside their spelling.

use std::borrow::Cow;

use crate::route::json::{Kind, Value};
use crate::route::quoted::plain_end;

/// How many zeros may be written for an exponent. A number that would need more stays as written,
/// so that nine bytes cannot ask for a gigabyte.
const ZEROS_MAX: usize = 21;

/// Borrows where the text is there already: plain strings, words, and most numbers.
pub fn stringify(value: Value<'_>) -> Cow<'_, str> {
    match value.kind() {
        Kind::String => value.as_string().unwrap_or_default(),
        Kind::Number => decimal(value.raw()),
        Kind::Null | Kind::Boolean => Cow::Borrowed(value.raw()),
        Kind::Array => Cow::Owned(stringify_all(value.elements())),
        Kind::Object => compact(value.raw()),
    }
}

/// As an array of these values.
pub fn stringify_all<'a>(values: impl Iterator<Item = Value<'a>>) -> String {
    let mut text = String::from("[");
    for (index, value) in values.enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        match value.kind() {
            Kind::Array | Kind::Object => text.push_str(&compact(value.raw())),
            Kind::String | Kind::Number | Kind::Null | Kind::Boolean => {
                text.push_str(&stringify(value));
            }
        }
    }
    text.push(']');
    text
}

/// JSON without the spaces between its parts.
pub fn compact(json: &str) -> Cow<'_, str> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let bytes = json.as_bytes();
    let mut compacted = String::new();
    // What lies between `copied` and `at` is still to be copied.
    let (mut copied, mut at) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' {
            at = string_end(bytes, at);
        } else if is_space(byte) {
            compacted.push_str(&json[copied..at]);
            at += bytes[at..].iter().take_while(|byte| is_space(**byte)).count();
            copied = at;
        } else {
            at += 1;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    compacted.push_str(&json[copied..]);
    Cow::Owned(compacted)
}

/// Behind the string that begins here.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = plain_end(bytes, start + 1);
    while bytes.get(at) == Some(&b'\\') {
        at = plain_end(bytes, at + 2);
    }
    at + 1
}

/// A number in the fewest characters that need no exponent, with the value exactly as written.
fn decimal(number: &str) -> Cow<'_, str> {
    if number != "-0" && !number.contains(['.', 'e', 'E']) {
        return Cow::Borrowed(number);
    }
    decimal_of(number).map_or(Cow::Borrowed(number), Cow::Owned)
}

/// None if it would be too long.
fn decimal_of(number: &str) -> Option<String> {
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = format!("{whole}{fraction}");
    let without_leading = all_digits.trim_start_matches('0');
    let digits = without_leading.trim_end_matches('0');
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let leading = all_digits.len() - without_leading.len();
    // Where the point belongs, counted from the first digit.
    let shift = i64::from(exponent.parse::<i32>().ok()?);
    let point = i64::try_from(whole.len()).ok()? - i64::try_from(leading).ok()? + shift;
    let length = i64::try_from(digits.len()).ok()?;
    let zeros = |count: i64| {
        let count = usize::try_from(count).ok().filter(|count| *count <= ZEROS_MAX)?;
        Some("0".repeat(count))
    };
    if point <= 0 {
        Some(format!("{sign}0.{}{digits}", zeros(-point)?))
    } else if point >= length {
        Some(format!("{sign}{digits}{}", zeros(point - length)?))
    } else {
        let (whole, fraction) = digits.split_at(usize::try_from(point).ok()?);
        Some(format!("{sign}{whole}.{fraction}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::json;

    #[test]
    fn scalars_are_as_written() {
        for (value, text) in [
            (r#""join""#, "join"),
            (r#""""#, ""),
            (r#""a\"b\u00e4\ud83d\ude00""#, "a\"bä😀"),
            ("null", "null"),
            ("true", "true"),
            ("0", "0"),
            ("-17", "-17"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("0.1", "0.1"),
        ] {
            assert_eq!(stringify(parse(value)), text, "{value}");
        }
    }

    #[test]
    fn numbers_lose_what_does_not_change_their_value() {
        for (number, text) in [
            ("1.0", "1"),
            ("1.50", "1.5"),
            ("-0", "0"),
            ("-0.0e7", "0"),
            ("1e3", "1000"),
            ("1.25E+1", "12.5"),
            ("120e-1", "12"),
            ("-5e-3", "-0.005"),
            ("0.00120e1", "0.012"),
            ("1e21", "1000000000000000000000"),
            ("1e22", "1e22"),
            ("1e999999", "1e999999"),
            ("1e-99999999999999999999", "1e-99999999999999999999"),
        ] {
            assert_eq!(stringify(parse(number)), text, "{number}");
        }
    }

    #[test]
    fn arrays_and_objects_keep_their_order_and_lose_their_spaces() {
        for (value, text) in [
            ("[]", "[]"),
            (r#"["item1","item2"]"#, "[item1, item2]"),
            (
                r#"[ 1.0 , null, [ "a" , 1.0 ], {"b" : " c "} ]"#,
                r#"[1, null, ["a",1.0], {"b":" c "}]"#,
            ),
            (r#"{"b":1,"a":2}"#, r#"{"b":1,"a":2}"#),
            ("{ \"b\\\" \" :\t[ 1 , 2 ]\r\n}", r#"{"b\" ":[1,2]}"#),
        ] {
            assert_eq!(stringify(parse(value)), text, "{value}");
        }
    }

    fn parse(text: &str) -> Value<'_> {
        json::parse(text).unwrap()
    }
}
