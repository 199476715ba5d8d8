//! Makes user agents small: the ones of browsers are more than a hundred bytes of what all browsers
//! say, and every node holds the one of every connection.
//!
//! A byte below 0x80 is itself, another one a phrase.

/// Frozen: what was written with one list can be read with that list only. Another list is another
/// version of [`ConnectionInfo`](crate::event::connection_info::ConnectionInfo)'s encoding. Where one
/// phrase begins with another, the longer stands first.
const PHRASES: [&str; 26] = [
    ") AppleWebKit/537.36 (KHTML, like Gecko) Chrome/",
    ") AppleWebKit/605.1.15 (KHTML, like Gecko) Version/",
    ") AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/",
    ".0.0.0 Mobile Safari/537.36",
    ".0.0.0 Safari/537.36",
    ".0.0.0",
    " Mobile/15E148 Safari/604.1",
    " Mobile Safari/537.36",
    " Safari/605.1.15",
    " Safari/537.36",
    " Edg/",
    " OPR/",
    ") Gecko/20100101 Firefox/",
    "; rv:",
    "Mozilla/5.0 (",
    "Windows NT 10.0; Win64; x64",
    "Macintosh; Intel Mac OS X 10_15_7",
    "Macintosh; Intel Mac OS X 10.15",
    "X11; Linux x86_64",
    "iPhone; CPU iPhone OS ",
    "iPad; CPU OS ",
    " like Mac OS X",
    "Linux; Android 10; K",
    "Linux; Android ",
    "Python/3.",
    " websockets/",
];

const FIRST: u8 = 0x80;

/// None if the text is not ASCII.
pub(super) fn shorten(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() {
        return None;
    }
    let mut short = Vec::new();
    let mut rest = text;
    while let Some(byte) = rest.bytes().next() {
        let phrase = (FIRST..).zip(PHRASES).find(|(_, phrase)| rest.starts_with(phrase));
        let (byte, length) = phrase.map_or((byte, 1), |(byte, phrase)| (byte, phrase.len()));
        short.push(byte);
        rest = &rest[length..];
    }
    Some(short)
}

/// None if there is no such phrase.
pub(super) fn lengthen(short: &[u8]) -> Option<String> {
    let mut text = String::new();
    for byte in short {
        match byte.checked_sub(FIRST) {
            None => text.push(char::from(*byte)),
            Some(phrase) => text.push_str(PHRASES.get(usize::from(phrase))?),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn browsers_become_small() {
        for (agent, bytes_max) in [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/124.0.0.0 Safari/537.36",
                8,
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4_1 like Mac OS X) AppleWebKit/605.1.15 \
                 (KHTML, like Gecko) Version/17.4.1 Mobile/15E148 Safari/604.1",
                17,
            ),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:122.0) Gecko/20100101 Firefox/122.0", 14),
            ("okhttp/4.12.0", 13),
        ] {
            let short = shorten(agent).unwrap();
            assert!(short.len() <= bytes_max, "{agent}: {} bytes", short.len());
            assert_eq!(lengthen(&short).as_deref(), Some(agent));
        }
        assert_eq!(shorten("Bär/1.0"), None);
        assert_eq!(lengthen(&[0xff]), None);
    }

    proptest! {
        #[test]
        fn what_was_shortened_can_be_read_again(
            parts in prop::collection::vec(prop_oneof![prop::sample::select(PHRASES.to_vec()).prop_map(str::to_owned), "[ -~]{0,4}"], 0..8)
        ) {
            let text = parts.concat();
            let short = shorten(&text).unwrap();
            prop_assert!(short.len() <= text.len());
            prop_assert_eq!(lengthen(&short), Some(text));
        }
    }
}
