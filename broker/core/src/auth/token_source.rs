//! Where a client puts its token.

use std::fmt;
use std::str::FromStr;

/// One of a JWT authorizer's `identity_source`s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `route.request.header.X`: the token, with or without `Bearer ` before it.
    Header(Box<str>),
    /// `route.request.querystring.X`
    Query(Box<str>),
    /// `route.request.subprotocol.X`, which is not API Gateway's: the client offers a subprotocol
    /// `X.{token}`. It is the one place of the three that a browser's code can fill and that is not
    /// part of an address, which others write down.
    Subprotocol(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no source of tokens; known are route.request.header.X, route.request.querystring.X \
     and route.request.subprotocol.X, where X is made of letters, digits, `.`, `_` and `-`"
)]
pub struct NotATokenSource(Box<str>);

impl TokenSource {
    /// What is the token of a header's value, or of a parameter's.
    pub fn token_in(value: &str) -> Option<&str> {
        let value = value.trim();
        let token = match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start(),
            Some(_) => return None,
            None => value,
        };
        Some(token).filter(|token| !token.is_empty())
    }

    /// The token in a subprotocol that was offered, if this source is one of subprotocols.
    pub fn token_in_subprotocol<'a>(&self, offered: &'a str) -> Option<&'a str> {
        let TokenSource::Subprotocol(name) = self else { return None };
        let token = offered.strip_prefix(&**name)?.strip_prefix('.')?;
        Some(token).filter(|token| !token.is_empty())
    }
}

impl FromStr for TokenSource {
    type Err = NotATokenSource;

    fn from_str(text: &str) -> Result<TokenSource, NotATokenSource> {
        type Make = fn(Box<str>) -> TokenSource;
        let makers: [(&str, Make); 3] = [
            ("route.request.header.", TokenSource::Header),
            ("route.request.querystring.", TokenSource::Query),
            ("route.request.subprotocol.", TokenSource::Subprotocol),
        ];
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = |name: &&str| !name.is_empty() && name.bytes().all(is_part);
        let source = makers.into_iter().find_map(|(prefix, make)| {
            text.strip_prefix(prefix).filter(is_name).map(|name| make(name.into()))
        });
        source.ok_or_else(|| NotATokenSource(text.into()))
    }
}

impl fmt::Display for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::Header(name) => write!(f, "route.request.header.{name}"),
            TokenSource::Query(name) => write!(f, "route.request.querystring.{name}"),
            TokenSource::Subprotocol(name) => write!(f, "route.request.subprotocol.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_one_text() {
        for text in [
            "route.request.header.Authorization",
            "route.request.querystring.access_token",
            "route.request.subprotocol.bearer",
        ] {
            assert_eq!(text.parse::<TokenSource>().unwrap().to_string(), text);
        }
        for text in ["", "context.stage", "route.request.header.", "route.request.subprotocol.a b"]
        {
            assert_eq!(text.parse::<TokenSource>(), Err(NotATokenSource(text.into())));
        }
    }

    #[test]
    fn a_header_has_the_token_alone_or_behind_its_scheme() {
        for (value, token) in [
            ("a.b.c", Some("a.b.c")),
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer  a.b.c ", Some("a.b.c")),
            ("Basic YTpi", None),
            ("Bearer ", Some("Bearer")),
            ("", None),
        ] {
            assert_eq!(TokenSource::token_in(value), token, "{value}");
        }
    }

    #[test]
    fn a_subprotocol_has_the_token_behind_its_name() {
        let source: TokenSource = "route.request.subprotocol.bearer".parse().unwrap();
        assert_eq!(source.token_in_subprotocol("bearer.a.b.c"), Some("a.b.c"));
        for offered in ["bearer", "bearer.", "bearera.b", "chat", "Bearer.a"] {
            assert_eq!(source.token_in_subprotocol(offered), None, "{offered}");
        }
    }
}
