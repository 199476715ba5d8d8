//! The one form of a request that signer and verifier agree on.

use crate::auth::hash::Sha256;
use crate::auth::sigv4::Request;

/// How often the path of a canonical request is percent-encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathEncoding {
    /// Once more than on the wire: AWS's rule for all services but S3.
    Again,
    /// As on the wire, of which it does not matter what was encoded there: S3's rule, and that of
    /// signers that know no other.
    Once,
}

/// What the canonical request is made of, beside the request.
pub(super) struct Form<'a> {
    pub path_encoding: PathEncoding,
    /// A member of the query that is not signed: the signature.
    pub query_without: Option<&'a str>,
    /// In lower case if the signer keeps to the rules, sorted, none twice.
    pub signed_headers: &'a [String],
    pub payload_hash: &'a str,
}

/// SHA-256 of the canonical request.
pub(super) fn hash(request: &Request<'_>, form: &Form<'_>) -> Sha256 {
    let Form { path_encoding, query_without, signed_headers, payload_hash } = *form;
    let mut text = Vec::new();
    let mut line = |bytes: &[u8]| {
        text.extend_from_slice(bytes);
        text.push(b'\n');
    };
    line(request.method.as_bytes());
    line(path(request.path, path_encoding).as_bytes());
    line(query(request.query, query_without).as_bytes());
    for name in signed_headers {
        line(&header(request, name));
    }
    line(b"");
    line(signed_headers.join(";").as_bytes());
    text.extend_from_slice(payload_hash.as_bytes());
    Sha256::of(&text)
}

/// Without empty steps, `.` and `..`.
pub(super) fn path(path: &str, encoding: PathEncoding) -> String {
    let mut steps = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => (),
            ".." => {
                steps.pop();
            }
            step => steps.push(step),
        }
    }
    let mut canonical = String::new();
    for step in steps {
        canonical.push('/');
        match encoding {
            PathEncoding::Again => put_encoded(&mut canonical, step.as_bytes()),
            PathEncoding::Once => put_encoded(&mut canonical, &decode(step)),
        }
    }
    if canonical.is_empty() || path.ends_with('/') {
        canonical.push('/');
    }
    canonical
}

/// Sorted by name and then by value.
fn query(query: &str, without: Option<&str>) -> String {
    let mut pairs = Vec::new();
    for (name, value) in pairs_of(query) {
        if without.is_none_or(|without| without.as_bytes() != name) {
            pairs.push((encode(&name), encode(&value)));
        }
    }
    pairs.sort();
    let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// The decoded members of a query. A `+` is itself: SDKs write a space as `%20`.
pub(super) fn pairs_of(query: &str) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// `name:value,value`, with no space around a value and none twice in it.
fn header(request: &Request<'_>, name: &str) -> Vec<u8> {
    let mut line = Vec::from(name);
    let values = request.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    for (index, (_, value)) in values.enumerate() {
        line.push(if index == 0 { b':' } else { b',' });
        let words = value.split(|byte| byte.is_ascii_whitespace());
        for (index, word) in words.filter(|word| !word.is_empty()).enumerate() {
            if index > 0 {
                line.push(b' ');
            }
            line.extend_from_slice(word);
        }
    }
    line
}

/// As the parts of a path and of a query are (RFC 3986 section 2): all but letters, digits and `-._~`.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    put_encoded(&mut encoded, bytes);
    encoded
}

fn put_encoded(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
            text.push('%');
            text.extend(digits.map(char::from));
        }
    }
}

/// What is no escape stays as it is.
fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let escaped = match (first, behind) {
            (b'%', [high, low, behind @ ..]) => {
                escaped_byte(*high, *low).map(|byte| (byte, behind))
            }
            _ => None,
        };
        let (byte, behind) = escaped.unwrap_or((*first, behind));
        decoded.push(byte);
        rest = behind;
    }
    decoded
}

fn escaped_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |character: u8| char::from(character).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_encoded_once_more_than_on_the_wire_or_as_on_the_wire() {
        let again = |text| path(text, PathEncoding::Again);
        let once = |text| path(text, PathEncoding::Once);
        let wire = "/prod/@connections/L0SM9cOFvHcCIhw%3D";
        assert_eq!(again(wire), "/prod/%40connections/L0SM9cOFvHcCIhw%253D");
        assert_eq!(once(wire), "/prod/%40connections/L0SM9cOFvHcCIhw%3D");
        let encoded = "/prod/%40connections/L0SM9cOFvHcCIhw=";
        assert_eq!(again(encoded), "/prod/%2540connections/L0SM9cOFvHcCIhw%3D");
        assert_eq!(once(encoded), "/prod/%40connections/L0SM9cOFvHcCIhw%3D");
        assert_eq!(once("/a%2Fb%2e%2E/%"), "/a%2Fb../%25");
    }

    #[test]
    fn paths_lose_empty_steps_and_dots() {
        for (wire, canonical) in [
            ("", "/"),
            ("//", "/"),
            ("/a/./b//c/", "/a/b/c/"),
            ("/a/../../b", "/b"),
            ("/a/..", "/"),
            ("/%2e%2e", "/%252e%252e"),
        ] {
            assert_eq!(path(wire, PathEncoding::Again), canonical, "{wire}");
        }
    }

    #[test]
    fn queries_are_sorted_by_what_is_signed() {
        assert_eq!(query("b=2&a=%7e&b=1&&c&A=+", None), "A=%2B&a=~&b=1&b=2&c=");
        assert_eq!(query("a=1&X-Amz-Signature=2", Some("X-Amz-Signature")), "a=1");
    }

    proptest! {
        #[test]
        fn what_is_encoded_can_be_decoded(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)), bytes);
        }
    }
}
