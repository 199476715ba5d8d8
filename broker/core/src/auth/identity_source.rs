//! What a client must send before its authorizer is asked at all.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// One of an authorizer's `identity_source`s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// `route.request.header.X`
    Header(Box<str>),
    /// `route.request.querystring.X`
    Query(Box<str>),
    /// `context.X`
    Context(Box<str>),
    /// `stageVariables.X`
    StageVariable(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentitySourceError {
    #[error(
        "`{0}` is no identity source; known are route.request.header.X, \
         route.request.querystring.X, context.X and stageVariables.X, where X is made of letters, \
         digits, `.`, `_` and `-`"
    )]
    Unknown(Box<str>),
    /// API Gateway takes them and then answers every client with 401.
    #[error("`{0}` never has a value as an identity source, so nobody would be let in")]
    NeverPresent(Box<str>),
}

/// Knows what a client sent with its handshake.
pub trait IdentityFields {
    /// Names are the same in any case.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;
    fn query(&self, name: &str) -> Option<Cow<'_, str>>;
    /// As mapping templates know it: `identity.sourceIp`, `connectionId`, …
    fn context(&self, name: &str) -> Option<Cow<'_, str>>;
    fn stage_variable(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// The first source that is absent or empty: the client is answered 401, and the authorizer is not
/// called. What an authorizer says is not cached, so the values themselves are of no use here.
pub fn first_absent<'s>(
    sources: &'s [IdentitySource],
    fields: &impl IdentityFields,
) -> Option<&'s IdentitySource> {
    sources.iter().find(|source| {
        let value = match source {
            IdentitySource::Header(name) => fields.header(name),
            IdentitySource::Query(name) => fields.query(name),
            IdentitySource::Context(name) => fields.context(name),
            IdentitySource::StageVariable(name) => fields.stage_variable(name),
        };
        value.is_none_or(|value| value.is_empty())
    })
}

impl FromStr for IdentitySource {
    type Err = IdentitySourceError;

    fn from_str(text: &str) -> Result<IdentitySource, IdentitySourceError> {
        type Make = fn(Box<str>) -> IdentitySource;
        let makers: [(&str, Make); 4] = [
            ("route.request.header.", IdentitySource::Header),
            ("route.request.querystring.", IdentitySource::Query),
            ("context.", IdentitySource::Context),
            ("stageVariables.", IdentitySource::StageVariable),
        ];
        let source = makers.into_iter().find_map(|(prefix, make)| {
            text.strip_prefix(prefix).filter(|name| is_name(name)).map(|name| make(name.into()))
        });
        match source {
            None => Err(IdentitySourceError::Unknown(text.into())),
            Some(IdentitySource::Context(name))
                if matches!(&*name, "eventType" | "messageDirection") =>
            {
                Err(IdentitySourceError::NeverPresent(text.into()))
            }
            Some(source) => Ok(source),
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

impl fmt::Display for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentitySource::Header(name) => write!(f, "route.request.header.{name}"),
            IdentitySource::Query(name) => write!(f, "route.request.querystring.{name}"),
            IdentitySource::Context(name) => write!(f, "context.{name}"),
            IdentitySource::StageVariable(name) => write!(f, "stageVariables.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Has one header, one parameter, and so on.
    struct Sent;

    impl IdentityFields for Sent {
        fn header(&self, name: &str) -> Option<Cow<'_, str>> {
            name.eq_ignore_ascii_case("authorization").then_some("Bearer x".into())
        }

        fn query(&self, name: &str) -> Option<Cow<'_, str>> {
            (name == "empty").then_some("".into())
        }

        fn context(&self, name: &str) -> Option<Cow<'_, str>> {
            (name == "identity.sourceIp").then_some("192.0.2.1".into())
        }

        fn stage_variable(&self, name: &str) -> Option<Cow<'_, str>> {
            (name == "tenant").then_some("a".into())
        }
    }

    #[test]
    fn every_source_must_have_a_value() {
        let absent = |sources: &[&str]| {
            let sources: Vec<IdentitySource> =
                sources.iter().map(|text| text.parse().unwrap()).collect();
            first_absent(&sources, &Sent).map(ToString::to_string)
        };
        let all = [
            "route.request.header.Authorization",
            "context.identity.sourceIp",
            "stageVariables.tenant",
        ];
        assert_eq!(absent(&all), None);
        assert_eq!(absent(&[]), None);
        for missing in ["route.request.header.X", "route.request.querystring.empty"] {
            assert_eq!(absent(&[all[0], missing]).as_deref(), Some(missing));
        }
    }

    #[test]
    fn other_sources_are_refused() {
        for text in [
            "",
            "Authorization",
            "route.request.header.",
            "route.request.body.a",
            "$request.header.Authorization",
            "method.request.header.Authorization",
            "route.request.header.a b",
            "stagevariables.a",
        ] {
            let refused = text.parse::<IdentitySource>();
            assert_eq!(refused, Err(IdentitySourceError::Unknown(text.into())), "{text}");
        }
        let refused = "context.eventType".parse::<IdentitySource>();
        assert!(matches!(refused, Err(IdentitySourceError::NeverPresent(_))));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_is_the_text_of_a_source(
            text in "(route.request.)?(header|querystring|context|stageVariables)\\.\\PC{0,8}",
        ) {
            if let Ok(source) = text.parse::<IdentitySource>() {
                prop_assert_eq!(source.to_string(), text);
            }
        }
    }
}
