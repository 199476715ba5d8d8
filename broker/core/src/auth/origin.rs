//! From which web pages a browser may connect (against cross-site WebSocket hijacking).
//!
//! | rule | allows |
//! |---|---|
//! | `https://chat.example.com` | that scheme, host and port |
//! | `https://*.example.com` | every host below `example.com`, itself not |
//! | `null` | pages without an origin of their own: sandboxed frames, files |
//! | `*` | everything |

use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OriginRules(pub Vec<OriginRule>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginRule {
    Any,
    Null,
    Exactly(Origin),
    /// Of the hosts that end in a dot and this one's.
    Below(Origin),
}

/// What an `Origin` header says, in lower case and with its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: Box<str>,
    host: Box<str>,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither an origin (https://host or https://host:port), nor one whose host begins \
     with `*.`, nor `null`, nor `*`"
)]
pub struct NotAnOriginRule(pub Box<str>);

/// Why a client is not let in: 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    #[error("the Origin header is no origin")]
    Malformed,
    #[error("the origin is not allowed")]
    NotAllowed,
}

impl OriginRules {
    /// Judges an `Origin` header. What to think of a client without one is not decided here: no
    /// browser is without.
    pub fn check(&self, header: &str) -> Result<(), OriginError> {
        let OriginRules(rules) = self;
        if rules.contains(&OriginRule::Any) {
            return Ok(());
        }
        if header == "null" {
            let is_allowed = rules.contains(&OriginRule::Null);
            return if is_allowed { Ok(()) } else { Err(OriginError::NotAllowed) };
        }
        let origin = Origin::parse(header).ok_or(OriginError::Malformed)?;
        let is_allowed = rules.iter().any(|rule| match rule {
            OriginRule::Any => true,
            OriginRule::Null => false,
            OriginRule::Exactly(allowed) => *allowed == origin,
            OriginRule::Below(parent) => parent.is_parent_of(&origin),
        });
        if is_allowed { Ok(()) } else { Err(OriginError::NotAllowed) }
    }
}

impl Origin {
    /// None if there is anything but scheme, host and port.
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            || !scheme.bytes().all(is_scheme)
        {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(parse_port(port)?)),
            Some(_) | None => (authority, None),
        };
        let port = match (port, &*scheme) {
            (Some(port), _) => port,
            (None, "https" | "wss") => 443,
            (None, "http" | "ws") => 80,
            // Of an extension of a browser, for example: its host says all.
            (None, _) => 0,
        };
        let host = host.to_ascii_lowercase();
        is_host(&host).then(|| Origin { scheme: scheme.into(), host: host.into(), port })
    }

    fn is_parent_of(&self, other: &Origin) -> bool {
        let below = other.host.strip_suffix(&*self.host);
        let is_below = below.and_then(|below| below.strip_suffix('.'));
        is_below.is_some_and(|labels| !labels.is_empty())
            && (&self.scheme, self.port) == (&other.scheme, other.port)
    }
}

fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A DNS name or an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[') {
        let address = address.strip_suffix(']');
        return address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_plain);
    text.split('.').all(is_label)
}

impl FromStr for OriginRule {
    type Err = NotAnOriginRule;

    fn from_str(text: &str) -> Result<OriginRule, NotAnOriginRule> {
        let rule = match (text, text.split_once("://*.")) {
            ("*", _) => Some(OriginRule::Any),
            ("null", _) => Some(OriginRule::Null),
            (_, Some((scheme, host))) => {
                Origin::parse(&format!("{scheme}://{host}")).map(OriginRule::Below)
            }
            (_, None) => Origin::parse(text).map(OriginRule::Exactly),
        };
        rule.ok_or_else(|| NotAnOriginRule(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_origin_is_compared_as_a_whole() {
        let rules = rules(&["https://chat.example.com", "http://localhost:3000", "https://[::1]"]);
        for allowed in [
            "https://chat.example.com",
            "https://CHAT.example.com:443",
            "http://localhost:3000",
            "https://[::1]",
        ] {
            assert_eq!(rules.check(allowed), Ok(()), "{allowed}");
        }
        for other in [
            "http://chat.example.com",
            "https://chat.example.com:8443",
            "https://chat.example.com.evil.io",
            "https://evilchat.example.com",
            "https://a.chat.example.com",
            "http://localhost",
            "null",
        ] {
            assert_eq!(rules.check(other), Err(OriginError::NotAllowed), "{other}");
        }
        for malformed in [
            "",
            "chat.example.com",
            "https://",
            "https://chat.example.com/",
            "https://user@chat.example.com",
            "https://chat.example.com:",
            "https://chat.example.com:+443",
            "https://chat.example.com https://evil.io",
            "https://*.example.com",
            "NULL",
        ] {
            assert_eq!(rules.check(malformed), Err(OriginError::Malformed), "{malformed}");
        }
    }

    #[test]
    fn a_star_stands_for_one_label_and_more() {
        let rules = rules(&["https://*.example.com"]);
        for allowed in ["https://a.example.com", "https://b.a.example.com"] {
            assert_eq!(rules.check(allowed), Ok(()), "{allowed}");
        }
        for other in [
            "https://example.com",
            "https://evilexample.com",
            "https://a.example.com.evil.io",
            "http://a.example.com",
            "https://a.example.com:444",
        ] {
            assert_eq!(rules.check(other), Err(OriginError::NotAllowed), "{other}");
        }
        assert_eq!(rules.check("https://.example.com"), Err(OriginError::Malformed));
    }

    #[test]
    fn everything_is_allowed_if_that_is_said() {
        assert_eq!(rules(&["*"]).check("null"), Ok(()));
        assert_eq!(rules(&["*"]).check("anything"), Ok(()));
        assert_eq!(rules(&["null"]).check("null"), Ok(()));
        assert_eq!(rules(&[]).check("https://a.example"), Err(OriginError::NotAllowed));
    }

    #[test]
    fn other_rules_are_refused() {
        for text in
            ["", "example.com", "https://*", "https://a.*.com", "*.example.com", "https://a/"]
        {
            let refused = text.parse::<OriginRule>();
            assert_eq!(refused, Err(NotAnOriginRule(text.into())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_is_too_odd(header in "\\PC{0,30}", likely in "[a-z]{0,5}:?/?/?[a-z.:\\[\\]*]{0,12}") {
            let rules = rules(&["https://*.example.com"]);
            prop_assert!(rules.check(&header).is_err());
            prop_assert!(rules.check(&likely).is_err());
            let _ = likely.parse::<OriginRule>();
        }
    }

    fn rules(texts: &[&str]) -> OriginRules {
        OriginRules(texts.iter().map(|text| text.parse().unwrap()).collect())
    }
}
