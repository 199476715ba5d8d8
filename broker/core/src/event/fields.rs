//! Named values of which a name may have several, as headers and query strings are, and the two
//! views of them that events show: the last value of each name, and all of each.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// Each name once, in the order of the events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    fields: Vec<(Cow<'a, str>, Vec<Cow<'a, str>>)>,
}

/// `{"name":"last value"}`
pub struct LastValues<'a>(pub &'a Fields<'a>);

/// `{"name":["value","last value"]}`
pub struct AllValues<'a>(pub &'a Fields<'a>);

impl<'a> Fields<'a> {
    /// Headers. Their names are equal regardless of case, and keep the case they first had; they are
    /// sorted regardless of case, as in all recorded events.
    pub fn of_headers(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Fields<'a> {
        let mut fields = BTreeMap::<String, (Cow<str>, Vec<Cow<str>>)>::new();
        for (name, value) in headers {
            let field = fields.entry(name.to_ascii_lowercase());
            let (_, values) = field.or_insert_with(|| (name.into(), Vec::new()));
            values.push(value.into());
        }
        Fields { fields: fields.into_values().collect() }
    }

    /// The query of a URL, without its `?`, as a form encodes one. Names keep their order: recorded
    /// events do not sort them.
    ///
    /// A `+` is a space, and `%` with two hexadecimal digits a byte; what is not valid stays as it
    /// is, and what is then not UTF-8 becomes U+FFFD. A name without `=` has the empty value.
    pub fn of_query(query: &'a str) -> Fields<'a> {
        let mut fields = Vec::<(Cow<str>, Vec<Cow<str>>)>::new();
        let mut places = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name);
            let place = *places.entry(name.clone()).or_insert(fields.len());
            if place == fields.len() {
                fields.push((name, Vec::new()));
            }
            fields[place].1.push(decode(value));
        }
        Fields { fields }
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Each value with its name.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().flat_map(|(name, values)| values.iter().map(|value| (&**name, &**value)))
    }

    /// Each name with all its values, of which there is one at least.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Cow<'a, str>])> {
        self.fields.iter().map(|(name, values)| (&**name, &**values))
    }

    /// The values of a name, none if it is not there.
    pub fn all(&self, name: &str) -> &[Cow<'a, str>] {
        let field = self.fields.iter().find(|(other, _)| other == name);
        field.map_or(&[], |(_, values)| values)
    }

    /// The same of a header: case does not count.
    pub fn all_ignoring_case(&self, name: &str) -> &[Cow<'a, str>] {
        let field = self.fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        field.map_or(&[], |(_, values)| values)
    }

    pub fn last(&self, name: &str) -> Option<&str> {
        self.all(name).last().map(|value| &**value)
    }

    pub fn last_ignoring_case(&self, name: &str) -> Option<&str> {
        self.all_ignoring_case(name).last().map(|value| &**value)
    }
}

impl Serialize for LastValues<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.fields.len()))?;
        for (name, values) in &self.0.fields {
            map.serialize_entry(name, values.last().map_or("", |value| value))?;
        }
        map.end()
    }
}

impl Serialize for AllValues<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.fields.len()))?;
        for (name, values) in &self.0.fields {
            map.serialize_entry(name, values)?;
        }
        map.end()
    }
}

/// A `+` is a space, and `%` with two hexadecimal digits a byte.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = decode_byte(rest) {
        decoded.push(byte);
        rest = behind;
    }
    match String::from_utf8(decoded) {
        Ok(text) => Cow::Owned(text),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// None at the end.
fn decode_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let (first, behind) = text.split_first()?;
    let escaped = match (first, behind) {
        (b'%', [high, low, behind @ ..]) => hexadecimal(*high, *low).map(|byte| (byte, behind)),
        _ => None,
    };
    let plain = if *first == b'+' { b' ' } else { *first };
    Some(escaped.unwrap_or((plain, behind)))
}

fn hexadecimal(high: u8, low: u8) -> Option<u8> {
    let digit = |character: u8| char::from(character).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_grouped_and_sorted_regardless_of_case() {
        let sent = [("x-b", "1"), ("Host", "h"), ("X-B", "2"), ("X-A", "")];
        let headers = Fields::of_headers(sent);
        assert_eq!(last(&headers), r#"{"Host":"h","X-A":"","x-b":"2"}"#);
        assert_eq!(all(&headers), r#"{"Host":["h"],"X-A":[""],"x-b":["1","2"]}"#);
    }

    #[test]
    fn a_query_names_its_last_value_and_all_of_them() {
        let query = Fields::of_query("b=1&a=%C3%A4+x&&b=2&c&=d&e=f=g");
        assert_eq!(last(&query), r#"{"b":"2","a":"ä x","c":"","":"d","e":"f=g"}"#);
        let values = r#"{"b":["1","2"],"a":["ä x"],"c":[""],"":["d"],"e":["f=g"]}"#;
        assert_eq!(all(&query), values);
    }

    #[test]
    fn what_is_no_escape_stays_as_it_is() {
        for (query, decoded) in [
            ("a=%zz", "%zz"),
            ("a=%", "%"),
            ("a=%4", "%4"),
            ("a=%%41", "%A"),
            ("a=%ff", "\u{fffd}"),
            ("a=%00", "\0"),
            ("%61=100%25", "100%"),
        ] {
            let expected = serde_json::json!({ "a": decoded }).to_string();
            assert_eq!(last(&Fields::of_query(query)), expected, "{query}");
        }
        assert!(Fields::of_query("&&").is_empty());
    }

    fn last(fields: &Fields<'_>) -> String {
        serde_json::to_string(&LastValues(fields)).unwrap()
    }

    fn all(fields: &Fields<'_>) -> String {
        serde_json::to_string(&AllValues(fields)).unwrap()
    }
}
