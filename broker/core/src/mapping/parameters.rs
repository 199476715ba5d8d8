//! Parameter mapping: which headers, query parameters and path parameters a backend is sent, and
//! which headers a client.
//!
//! ```text
//! integration.request.{header,querystring,path}.NAME
//!     ◀─ route.request.{header,querystring,multivalueheader,multivaluequerystring}.NAME
//!      / route.request.body [PATH] / context.NAME / stageVariables.NAME / 'text'
//! {route,method}.response.header.NAME
//!     ◀─ integration.response.{header,multivalueheader}.NAME / integration.response.body [PATH]
//!      / integration.response.statuscode / context.NAME / stageVariables.NAME / 'text'
//! ```
//!
//! A value that is not there leaves its parameter out. Where API Gateway's documentation leaves a
//! choice: a header that says how a message is framed or where it goes cannot be set, and a value
//! that would break out of its header is an error, not a shorter value.

use std::collections::BTreeMap;

use crate::mapping::responses::Answer;
use crate::mapping::value::{RequestValue, ResponseValue, Values, parse_name};
use crate::route::jsonpath::PathFault;
use crate::template::Source;

/// Of one value: what it comes from may be a whole message.
pub const VALUE_BYTES_MAX: usize = 8 * 1024;

/// Headers that belong to the connection to a backend, and not to what is sent on it.
const NOT_SETTABLE: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// `requestParameters` of an integration.
#[derive(Debug, Clone, Default)]
pub struct RequestParameters {
    headers: Vec<(Box<str>, RequestValue)>,
    query: Vec<(Box<str>, RequestValue)>,
    path: Vec<(Box<str>, RequestValue)>,
}

/// `responseParameters` of an integration's response.
#[derive(Debug, Clone, Default)]
pub struct ResponseParameters {
    headers: Vec<(Box<str>, ResponseValue)>,
}

/// What a request gets by its mapping. Nothing is encoded yet for where it goes: a query parameter
/// and a path parameter may hold any character.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapped {
    pub headers: Vec<(String, String)>,
    pub query: Vec<(String, String)>,
    pub path: Vec<(String, String)>,
}

/// A mapping that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct ParameterError {
    /// The left side.
    pub key: Box<str>,
    pub why: ParameterFault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterFault {
    #[error("a parameter to set is integration.request.header|querystring|path.NAME")]
    UnknownRequestKey,
    #[error("a parameter to set is route.response.header.NAME")]
    UnknownResponseKey,
    #[error("not a name: {name:?}; letters, digits and `._$-` make one")]
    Name { name: Box<str> },
    #[error(
        "a parameter of a route is route.request.querystring.NAME or route.request.header.NAME, or \
         multivalue of these"
    )]
    UnknownDeclaration,
    #[error("this header cannot be set")]
    NotSettable,
    #[error("not a value that can be mapped; a text as it is stands in single quotes")]
    UnknownValue,
    #[error("a quote without its other")]
    Unquoted,
    #[error("a value has at most {characters_max} characters")]
    ValueTooLong { characters_max: usize },
    #[error("a header has no control characters")]
    ControlCharacter,
    #[error("the path, at byte {at}: {why}")]
    Path { at: usize, why: PathFault },
}

/// A value that cannot be sent. Nothing is sent then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error("{name} has more than {VALUE_BYTES_MAX} bytes")]
    TooLong { name: String },
    #[error("the header {name} has control characters")]
    ControlCharacter { name: String },
}

impl RequestParameters {
    /// Of pairs such as `("integration.request.header.X", "context.connectionId")`.
    pub fn parse<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<RequestParameters, ParameterError> {
        let mut parameters = RequestParameters::default();
        for (key, value) in pairs {
            parameters.add(key, value).map_err(|why| ParameterError { key: key.into(), why })?;
        }
        Ok(parameters)
    }

    fn add(&mut self, key: &str, text: &str) -> Result<(), ParameterFault> {
        let target = key.strip_prefix("integration.request.");
        let target = target.and_then(|target| target.split_once('.'));
        let (kind, name) = target.ok_or(ParameterFault::UnknownRequestKey)?;
        let value = RequestValue::parse(text);
        match kind {
            "header" => self.headers.push((parse_header(name, text)?, value?)),
            "querystring" => self.query.push((parse_name(name)?, value?)),
            "path" => self.path.push((parse_name(name)?, value?)),
            _ => return Err(ParameterFault::UnknownRequestKey),
        }
        Ok(())
    }

    /// Whether nothing is mapped, so that no source is needed.
    pub fn is_empty(&self) -> bool {
        let RequestParameters { headers, query, path } = self;
        headers.is_empty() && query.is_empty() && path.is_empty()
    }

    /// Of the parameters that a path is to have places for.
    pub fn path_names(&self) -> impl Iterator<Item = &str> {
        self.path.iter().map(|(name, _)| &**name)
    }

    pub fn map(&self, source: &Source<'_>) -> Result<Mapped, MapError> {
        let RequestParameters { headers, query, path } = self;
        Ok(Mapped {
            headers: map_headers(headers, |value| value.of(source))?,
            query: map_all(query, |value| value.of(source))?,
            path: map_all(path, |value| value.of(source))?,
        })
    }
}

impl ResponseParameters {
    /// Of pairs such as `("route.response.header.X", "integration.response.header.Y")`.
    pub fn parse<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<ResponseParameters, ParameterError> {
        let mut parameters = ResponseParameters::default();
        for (key, value) in pairs {
            parameters.add(key, value).map_err(|why| ParameterError { key: key.into(), why })?;
        }
        Ok(parameters)
    }

    fn add(&mut self, key: &str, text: &str) -> Result<(), ParameterFault> {
        let name = ["route.response.header.", "method.response.header."]
            .iter()
            .find_map(|prefix| key.strip_prefix(prefix));
        let name = name.ok_or(ParameterFault::UnknownResponseKey)?;
        self.headers.push((parse_header(name, text)?, ResponseValue::parse(text)?));
        Ok(())
    }

    pub fn map(
        &self,
        answer: &Answer<'_>,
        context: &str,
        stage_variables: &BTreeMap<String, String>,
    ) -> Result<Vec<(String, String)>, MapError> {
        map_headers(&self.headers, |value| value.of(answer, context, stage_variables))
    }
}

fn parse_header(name: &str, value: &str) -> Result<Box<str>, ParameterFault> {
    let name = parse_name(name)?;
    if NOT_SETTABLE.iter().any(|other| other.eq_ignore_ascii_case(&name)) {
        return Err(ParameterFault::NotSettable);
    }
    if value.contains(is_forbidden) {
        return Err(ParameterFault::ControlCharacter);
    }
    Ok(name)
}

fn map_headers<'a, V>(
    parameters: &'a [(Box<str>, V)],
    values: impl Fn(&'a V) -> Values<'a>,
) -> Result<Vec<(String, String)>, MapError> {
    let mapped = map_all(parameters, values)?;
    match mapped.iter().find(|(_, value)| value.contains(is_forbidden)) {
        Some((name, _)) => Err(MapError::ControlCharacter { name: name.clone() }),
        None => Ok(mapped),
    }
}

fn map_all<'a, V>(
    parameters: &'a [(Box<str>, V)],
    values: impl Fn(&'a V) -> Values<'a>,
) -> Result<Vec<(String, String)>, MapError> {
    let mut mapped = Vec::new();
    for (name, parameter) in parameters {
        for value in values(parameter) {
            let name = name.to_string();
            if value.len() > VALUE_BYTES_MAX {
                return Err(MapError::TooLong { name });
            }
            mapped.push((name, value.into_owned()));
        }
    }
    Ok(mapped)
}

/// What may not stand in a header's value (RFC 9110 section 5.5).
fn is_forbidden(character: char) -> bool {
    character.is_ascii_control() && character != '\t'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::fields::Fields;

    const BODY: &str = r#"{"a":"x","n":1.0,"l":[1,"b"],"line":"a\nb","none":null}"#;
    const CONTEXT: &str =
        r#"{"connectionId":"abc=","identity":{"sourceIp":"::1"},"at":5,"no":null}"#;

    #[test]
    fn a_request_gets_what_is_mapped() {
        for (key, value, mapped) in [
            ("header.A", "'fixed text'", &["fixed text"][..]),
            ("header.A", "''", &[""]),
            ("header.A", "context.connectionId", &["abc="]),
            ("header.A", "context.identity.sourceIp", &["::1"]),
            ("header.A", "context.at", &["5"]),
            ("header.A", "context.no", &[]),
            ("header.A", "context.identity.nothing", &[]),
            ("header.A", "stageVariables.tier", &["gold"]),
            ("header.A", "stageVariables.nothing", &[]),
            ("header.A", "route.request.header.x-KEY", &["2"]),
            ("header.A", "route.request.multivalueheader.X-Key", &["1", "2"]),
            ("header.A", "route.request.header.nothing", &[]),
            ("querystring.a.b", "route.request.querystring.q", &["c"]),
            ("querystring.a", "route.request.multivaluequerystring.q", &["a b", "c"]),
            ("querystring.a", "route.request.querystring.Q", &[]),
            ("querystring.a", "route.request.body.line", &["a\nb"]),
            ("path.a", "route.request.body", &[BODY]),
            ("path.a", "route.request.body.a", &["x"]),
            ("path.a", "route.request.body.n", &["1"]),
            ("path.a", "route.request.body.l", &["[1, b]"]),
            ("path.a", "route.request.body['l'][1]", &["b"]),
            ("path.a", "route.request.body.nothing", &[]),
        ] {
            let (kind, name) = key.split_once('.').unwrap();
            let Mapped { headers, query, path } = map(key, value, BODY).unwrap();
            let pairs = match kind {
                "header" => (headers, query.len() + path.len()),
                "querystring" => (query, headers.len() + path.len()),
                _ => (path, headers.len() + query.len()),
            };
            let expected = mapped.iter().map(|value| (name.to_owned(), (*value).to_owned()));
            assert_eq!(pairs, (expected.collect(), 0), "{key} = {value}");
        }
        assert_eq!(map("header.A", "route.request.body.a", "not JSON"), Ok(Mapped::default()));
    }

    #[test]
    fn a_client_gets_what_is_mapped() {
        for (key, value, mapped) in [
            ("route.response.header.A", "integration.response.header.x-KEY", &["2"][..]),
            (
                "method.response.header.A",
                "integration.response.multivalueheader.X-Key",
                &["1", "2"],
            ),
            ("route.response.header.A", "integration.response.statuscode", &["201"]),
            ("route.response.header.A", "integration.response.body.a", &["x"]),
            ("route.response.header.A", "integration.response.body", &[BODY]),
            ("route.response.header.A", "context.connectionId", &["abc="]),
            ("route.response.header.A", "stageVariables.tier", &["gold"]),
            ("route.response.header.A", "'fixed'", &["fixed"]),
        ] {
            let headers = Fields::of_headers([("x-key", "1"), ("X-Key", "2")]);
            let answer = Answer { status: 201, headers: &headers, body: BODY, request_body: "" };
            let parameters = ResponseParameters::parse([(key, value)]).unwrap();
            let expected = mapped.iter().map(|value| ("A".to_owned(), (*value).to_owned()));
            let mapped = parameters.map(&answer, CONTEXT, &stage_variables());
            assert_eq!(mapped, Ok(expected.collect()), "{key} = {value}");
        }
    }

    #[test]
    fn what_would_break_out_of_a_header_is_not_sent() {
        let error = map("header.A", "route.request.body.line", BODY).unwrap_err();
        assert_eq!(error, MapError::ControlCharacter { name: "A".to_owned() });
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        let error = map("path.a", "route.request.body", &long).unwrap_err();
        assert_eq!(error, MapError::TooLong { name: "a".to_owned() });
    }

    #[test]
    fn mappings_that_make_no_sense_are_refused() {
        use ParameterFault::*;
        let name = |name: &str| Name { name: name.into() };
        let long = format!("'{}'", "x".repeat(511));
        for (key, value, why) in [
            ("integration.request.body.a", "'x'", UnknownRequestKey),
            ("integration.response.header.a", "'x'", UnknownRequestKey),
            ("integration.request.header", "'x'", UnknownRequestKey),
            ("integration.request.header.", "'x'", name("")),
            ("integration.request.header.a b", "'x'", name("a b")),
            ("integration.request.path.ä", "'x'", name("ä")),
            ("integration.request.header.Host", "'x'", NotSettable),
            ("integration.request.header.transfer-Encoding", "'x'", NotSettable),
            ("integration.request.header.a", "'x\r\ny'", ControlCharacter),
            ("integration.request.header.a", "x", UnknownValue),
            ("integration.request.header.a", "'x", Unquoted),
            ("integration.request.header.a", "'", Unquoted),
            ("integration.request.header.a", "", UnknownValue),
            ("integration.request.header.a", "route.request.path.x", UnknownValue),
            ("integration.request.header.a", "route.request.bodyguard", UnknownValue),
            ("integration.request.header.a", "integration.response.statuscode", UnknownValue),
            ("integration.request.header.a", "context.", name("")),
            ("integration.request.header.a", "context.a..b", name("")),
            ("integration.request.header.a", "stageVariables.", name("")),
            ("integration.request.header.a", &long, ValueTooLong { characters_max: 512 }),
            (
                "integration.request.header.a",
                "route.request.body.a[?(@)]",
                Path { at: 3, why: PathFault::Filter },
            ),
        ] {
            let error = RequestParameters::parse([(key, value)]).unwrap_err();
            assert_eq!(error, ParameterError { key: key.into(), why }, "{key} = {value}");
        }
        for (key, value, why) in [
            ("route.response.body", "'x'", UnknownResponseKey),
            ("route.response.header.a", "route.request.header.a", UnknownValue),
            ("route.response.header.Upgrade", "'x'", NotSettable),
        ] {
            let error = ResponseParameters::parse([(key, value)]).unwrap_err();
            assert_eq!(error, ParameterError { key: key.into(), why }, "{key} = {value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_mapping_and_no_key_panics(key in "\\PC{0,20}", value in "[a-z.'$\\[\\]*]{0,20}|\\PC{0,20}") {
            let keys = [key.clone(), format!("integration.request.header.{key}")];
            let prefixes = ["", "route.request.body", "context.", "'"];
            for (key, prefix) in keys.iter().zip(prefixes.iter().cycle()) {
                let value = format!("{prefix}{value}");
                if let Ok(parameters) = RequestParameters::parse([(&**key, &*value)]) {
                    _ = map_with(&parameters, BODY);
                }
            }
            _ = key.parse::<crate::mapping::responses::ResponseKey>();
            _ = format!("/{value}/").parse::<crate::mapping::responses::ResponseKey>();
        }
    }

    fn map(key: &str, value: &str, body: &str) -> Result<Mapped, MapError> {
        let key = format!("integration.request.{key}");
        map_with(&RequestParameters::parse([(&*key, value)]).unwrap(), body)
    }

    fn map_with(parameters: &RequestParameters, body: &str) -> Result<Mapped, MapError> {
        let headers = Fields::of_headers([("x-key", "1"), ("X-Key", "2")]);
        let query = Fields::of_query("q=a%20b&q=c");
        parameters.map(&Source {
            body,
            headers: &headers,
            query: &query,
            context: CONTEXT,
            stage_variables: &stage_variables(),
        })
    }

    fn stage_variables() -> BTreeMap<String, String> {
        BTreeMap::from([("tier".to_owned(), "gold".to_owned())])
    }
}
