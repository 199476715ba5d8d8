//! Which of its responses an integration's answer is.
//!
//! A key is `$default`, a pattern in slashes (`/4\d\d/`), or a literal. A pattern fits a text as a
//! whole. A literal goes before patterns, and these are tried in the order of their texts, so that
//! the same answer is always the same response; `$default` is what fits nothing else.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;
use std::str::FromStr;

use regex::Regex;

use crate::event::fields::Fields;
use crate::route::expression::{EvaluateError, Expression, Resolver, Variable, path_text};
use crate::template::pattern;

const DEFAULT: &str = "$default";
/// An error message is longer than a key. What is longer than this fits nothing but `$default`.
const TEXT_BYTES_MAX: usize = 128 * 1024;

/// The responses of an integration. `T` is what they are.
#[derive(Debug, Clone)]
pub struct ResponseTable<T> {
    expression: Expression,
    literals: BTreeMap<Box<str>, T>,
    patterns: BTreeMap<Box<str>, (Regex, T)>,
    default: Option<T>,
}

/// What names an integration's response.
#[derive(Debug, Clone)]
pub enum ResponseKey {
    Default,
    Literal(Box<str>),
    /// As written, with its slashes.
    Pattern(Box<str>, Regex),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseKeyError {
    #[error("a key is not empty")]
    Empty,
    #[error("only $default begins with a dollar")]
    Reserved,
    #[error("not a regular expression that can be used: {0}")]
    Pattern(Box<str>),
}

/// Resolves what an answer is asked for, and what the message was that it answers.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub status: u16,
    pub headers: &'a Fields<'a>,
    pub body: &'a str,
    /// The message.
    pub request_body: &'a str,
}

impl<T> ResponseTable<T> {
    /// `expression` was parsed for [`IntegrationResponse`]. Of two responses with one key the last
    /// counts.
    ///
    /// [`IntegrationResponse`]: crate::route::expression::Purpose::IntegrationResponse
    pub fn new(
        expression: Expression,
        responses: impl IntoIterator<Item = (ResponseKey, T)>,
    ) -> ResponseTable<T> {
        let (literals, patterns) = (BTreeMap::new(), BTreeMap::new());
        let mut table = ResponseTable { expression, literals, patterns, default: None };
        for (key, response) in responses {
            match key {
                ResponseKey::Default => table.default = Some(response),
                ResponseKey::Literal(text) => drop(table.literals.insert(text, response)),
                ResponseKey::Pattern(text, pattern) => {
                    table.patterns.insert(text, (pattern, response));
                }
            }
        }
        table
    }

    /// None if nothing fits and there is no `$default`. A place in an answer that is not JSON is the
    /// empty text.
    pub fn select(&self, answer: &Answer<'_>) -> Option<&T> {
        let text = match self.expression.evaluate_within(TEXT_BYTES_MAX, answer) {
            Ok(text) => text,
            Err(EvaluateError::NotJson) => Cow::Borrowed(""),
            Err(EvaluateError::TooLong) => return self.default.as_ref(),
        };
        let literal = self.literals.get(&*text);
        let pattern = || self.patterns.values().find(|(pattern, _)| pattern.is_match(&text));
        let response = literal.or_else(|| pattern().map(|(_, response)| response));
        response.or(self.default.as_ref())
    }
}

impl FromStr for ResponseKey {
    type Err = ResponseKeyError;

    fn from_str(text: &str) -> Result<ResponseKey, ResponseKeyError> {
        if text.is_empty() {
            return Err(ResponseKeyError::Empty);
        }
        if text == DEFAULT {
            return Ok(ResponseKey::Default);
        }
        if text.starts_with('$') {
            return Err(ResponseKeyError::Reserved);
        }
        let inner = text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
        let Some(inner) = inner else { return Ok(ResponseKey::Literal(text.into())) };
        let pattern = pattern::compile_whole(inner).map_err(ResponseKeyError::Pattern)?;
        Ok(ResponseKey::Pattern(text.into(), pattern))
    }
}

impl Resolver for Answer<'_> {
    fn resolve<'a>(
        &'a self,
        variable: &'a Variable,
    ) -> Result<Option<Cow<'a, str>>, EvaluateError> {
        match variable {
            Variable::RequestBody(path) => path_text(path, self.request_body),
            Variable::ResponseBody(path) => path_text(path, self.body),
            Variable::ResponseStatus => Ok(Some(self.status.to_string().into())),
            Variable::ResponseHeader(name) => {
                Ok(self.headers.last_ignoring_case(name).map(Cow::Borrowed))
            }
            Variable::ResponseHeaderValues(name) => {
                Ok(joined(self.headers.all_ignoring_case(name)))
            }
            Variable::RequestHeader(_) | Variable::BasePath | Variable::UsageIdentifierKey => {
                Ok(None)
            }
        }
    }
}

/// As a list in a text is written. None if there are none.
fn joined<'a>(values: &[Cow<'a, str>]) -> Option<Cow<'a, str>> {
    match values {
        [] => None,
        values => {
            let values = values.iter().map(Borrow::borrow).collect::<Vec<&str>>();
            Some(format!("[{}]", values.join(", ")).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::expression::Purpose;

    const BODY: &str = r#"{"errorMessage":"Bad input: x","n":[1,2]}"#;

    #[test]
    fn an_answer_is_the_response_whose_key_fits() {
        let status = "$integration.response.statuscode";
        for (expression, keys, fitting) in [
            (status, &["/4\\d\\d/", "/5\\d\\d/", "$default"][..], Some("/4\\d\\d/")),
            (status, &["/4\\d/", "$default"], Some("$default")),
            (status, &["/4|04/"], None),
            (status, &["/.*/", "404", "$default"], Some("404")),
            (status, &["/4.4/", "/40./"], Some("/4.4/")),
            ("${response.statuscode}", &["404"], Some("404")),
            ("$integration.response.body.errorMessage", &["/Bad.*/"], Some("/Bad.*/")),
            ("$integration.response.body.nothing", &["/Bad.*/", "$default"], Some("$default")),
            ("$integration.response.body.n", &["[1, 2]"], Some("[1, 2]")),
            ("$integration.response.header.x-kind", &["2"], Some("2")),
            ("$integration.response.multivalueheader.X-Kind", &["[1, 2]"], Some("[1, 2]")),
            ("$integration.response.header.nothing", &["/.*/"], Some("/.*/")),
        ] {
            let headers = Fields::of_headers([("X-Kind", "1"), ("x-kind", "2")]);
            let answer = Answer { status: 404, headers: &headers, body: BODY, request_body: "" };
            let table = table(expression, keys);
            assert_eq!(table.select(&answer).copied(), fitting, "{expression} {keys:?}");
        }
    }

    #[test]
    fn an_answer_that_is_not_json_has_no_text() {
        let (table, headers) =
            (table("$integration.response.body.x", &["/.+/"]), Fields::default());
        let answer = Answer { status: 200, headers: &headers, body: "x", request_body: "" };
        assert_eq!(table.select(&answer), None);
    }

    #[test]
    fn a_long_error_message_still_fits_a_pattern() {
        let table = table("$integration.response.body.errorMessage", &["/(?s).*end/", "$default"]);
        let headers = Fields::default();
        for (length, fitting) in [(5000, "/(?s).*end/"), (TEXT_BYTES_MAX, "$default")] {
            let body = format!(r#"{{"errorMessage":"{}\nend"}}"#, "x".repeat(length));
            let answer = Answer { status: 200, headers: &headers, body: &body, request_body: "" };
            assert_eq!(table.select(&answer), Some(&fitting));
        }
    }

    #[test]
    fn keys_that_can_never_fit_are_refused() {
        let error = |text: &str| text.parse::<ResponseKey>().unwrap_err();
        assert_eq!(error(""), ResponseKeyError::Empty);
        assert_eq!(error("$defualt"), ResponseKeyError::Reserved);
        for pattern in ["/(/", "/a)(b/", "/(?=x)/", "/(a)\\1/"] {
            assert!(matches!(error(pattern), ResponseKeyError::Pattern(_)), "{pattern}");
        }
    }

    /// Its responses are their own keys.
    fn table<'a>(expression: &str, keys: &[&'a str]) -> ResponseTable<&'a str> {
        let expression = Expression::parse(expression, Purpose::IntegrationResponse).unwrap();
        ResponseTable::new(expression, keys.iter().map(|key| (key.parse().unwrap(), *key)))
    }
}
