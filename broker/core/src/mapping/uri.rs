//! The address that an HTTP integration calls: fixed by the configuration but for places in its path
//! and for what is appended to its query.
//!
//! ```text
//! http://users.internal/v1/{tenant}/users/{id}?format=json
//!                          ^^^^^^^^       ^^^^ integration.request.path.NAME
//! ```
//!
//! Invariant: nothing that a client says changes the scheme, the host or the port, nor, by dots or
//! slashes, which path the configuration means.

use std::collections::BTreeSet;

use crate::auth::sigv4::percent_encode;
use crate::event::fields::decode;
use crate::mapping::parameters::RequestParameters;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriTemplate {
    /// Scheme and authority.
    origin: Box<str>,
    path: Box<[Part]>,
    /// Without its `?`.
    query: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Place(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    #[error("is no address with a scheme and a host")]
    NoAddress,
    #[error("a parameter like {{name}} stands in the path, and nowhere else")]
    Misplaced,
    #[error("`{{` without `}}`, or the other way round")]
    Unpaired,
    #[error("an address that is called has no fragment")]
    Fragment,
    #[error("`{{{0}}}` is filled by no integration.request.path.{0}")]
    Unfilled(Box<str>),
    #[error("integration.request.path.{0} fills no `{{{0}}}`")]
    NoPlace(Box<str>),
}

/// An address that cannot be made. Nobody is called then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    #[error("the parameter {name} of the path has no value")]
    Missing { name: Box<str> },
    #[error("the path would have a step that is empty or dots")]
    Step,
}

impl UriTemplate {
    pub fn parse(text: &str) -> Result<UriTemplate, UriError> {
        let behind = text.find("://").ok_or(UriError::NoAddress)? + 3;
        let authority = text[behind..].find(['/', '?', '#']).unwrap_or(text.len() - behind);
        let (origin, rest) = text.split_at(behind + authority);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if authority == 0 {
            return Err(UriError::NoAddress);
        }
        if rest.contains('#') {
            return Err(UriError::Fragment);
        }
        if [origin, query].iter().any(|text| text.contains(['{', '}'])) {
            return Err(UriError::Misplaced);
        }
        Ok(UriTemplate { origin: origin.into(), path: parts_of(path)?, query: query.into() })
    }

    /// Whether each place has its parameter, and each parameter its place.
    pub fn check(&self, parameters: &RequestParameters) -> Result<(), UriError> {
        let places: BTreeSet<&str> = self.places().collect();
        let filled: BTreeSet<&str> = parameters.path_names().collect();
        match (places.difference(&filled).next(), filled.difference(&places).next()) {
            (Some(place), _) => Err(UriError::Unfilled((*place).into())),
            (None, Some(name)) => Err(UriError::NoPlace((*name).into())),
            (None, None) => Ok(()),
        }
    }

    /// The address with the values of its path, encoded, and with more of a query: first what
    /// `passed_on` has, an encoded query, but for the names in `query`, and then `query`.
    pub fn fill(
        &self,
        path: &[(String, String)],
        passed_on: &str,
        query: &[(String, String)],
    ) -> Result<String, FillError> {
        let mut uri = self.origin.to_string();
        self.put_path(&mut uri, path)?;
        let mut join = '?';
        let mut put = |pair: &str| {
            uri.push(join);
            uri.push_str(pair);
            join = '&';
        };
        if !self.query.is_empty() {
            put(&self.query);
        }
        for pair in passed_on.split('&').filter(|pair| !pair.is_empty()) {
            let name = decode(pair.split('=').next().unwrap_or_default());
            if !query.iter().any(|(mapped, _)| *mapped == name) {
                put(pair);
            }
        }
        for (name, value) in query {
            put(&format!("{}={}", encode(name), encode(value)));
        }
        Ok(uri)
    }

    fn places(&self) -> impl Iterator<Item = &str> {
        self.path.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Place(name) => Some(&**name),
        })
    }

    fn put_path(&self, uri: &mut String, values: &[(String, String)]) -> Result<(), FillError> {
        let start = uri.len();
        for part in &self.path {
            match part {
                Part::Literal(text) => uri.push_str(text),
                Part::Place(name) => {
                    let value = values.iter().find(|(other, _)| **other == **name);
                    let (_, value) = value.ok_or(FillError::Missing { name: name.clone() })?;
                    if value.is_empty() {
                        return Err(FillError::Step);
                    }
                    uri.push_str(&encode(value));
                }
            }
        }
        let is_dots = |step: &str| matches!(step, "." | "..");
        if self.places().next().is_some() && uri[start..].split('/').any(is_dots) {
            return Err(FillError::Step);
        }
        Ok(())
    }
}

fn parts_of(path: &str) -> Result<Box<[Part]>, UriError> {
    let mut parts = Vec::new();
    let mut rest = path;
    while let Some((literal, behind)) = rest.split_once('{') {
        let (name, after) = behind.split_once('}').ok_or(UriError::Unpaired)?;
        if literal.contains('}') || name.contains('{') {
            return Err(UriError::Unpaired);
        }
        parts.push(Part::Literal(literal.into()));
        parts.push(Part::Place(name.into()));
        rest = after;
    }
    if rest.contains('}') {
        return Err(UriError::Unpaired);
    }
    parts.push(Part::Literal(rest.into()));
    Ok(parts.into())
}

fn encode(text: &str) -> String {
    percent_encode(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_and_queries_appended() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        for (template, path, passed_on, query, uri) in [
            ("http://h", &[][..], "", &[][..], "http://h"),
            ("http://h:1/a?b=c", &[], "", &[], "http://h:1/a?b=c"),
            ("http://h/{a}/x", &[("a", "1/2?#%ä ")], "", &[], "http://h/1%2F2%3F%23%25%C3%A4%20/x"),
            ("http://h/{a}{b}", &[("b", "2"), ("a", "1")], "", &[], "http://h/12"),
            ("http://h/v{a}", &[("a", "..")], "", &[], "http://h/v.."),
            ("http://h/{a}", &[("a", "@evil:80")], "", &[], "http://h/%40evil%3A80"),
            ("http://h", &[], "", &[("q", "a&b=c"), ("q", "")], "http://h?q=a%26b%3Dc&q="),
            ("http://h?x", &[], "a=%41&b&&q=1", &[("q", "2")], "http://h?x&a=%41&b&q=2"),
            ("http://h", &[], "%71=1&q", &[("q", "2")], "http://h?q=2"),
        ] {
            let template = UriTemplate::parse(template).unwrap();
            let filled = template.fill(&pairs(path), passed_on, &pairs(query));
            assert_eq!(filled.as_deref(), Ok(uri));
        }
    }

    #[test]
    fn a_path_keeps_its_shape() {
        let template = UriTemplate::parse("http://h/users/{id}/x").unwrap();
        let fill = |value: &str| template.fill(&[("id".to_owned(), value.to_owned())], "", &[]);
        for value in ["", ".", ".."] {
            assert_eq!(fill(value), Err(FillError::Step), "{value}");
        }
        assert_eq!(template.fill(&[], "", &[]), Err(FillError::Missing { name: "id".into() }));
        assert_eq!(fill("%2e%2e").as_deref(), Ok("http://h/users/%252e%252e/x"));
        let halves = UriTemplate::parse("http://h/{a}{b}/x").unwrap();
        let dots = [("a".to_owned(), ".".to_owned()), ("b".to_owned(), ".".to_owned())];
        assert_eq!(halves.fill(&dots, "", &[]), Err(FillError::Step));
    }

    #[test]
    fn places_stand_in_the_path_alone() {
        for (text, error) in [
            ("h/a", UriError::NoAddress),
            ("http:///a", UriError::NoAddress),
            ("http://{h}/a", UriError::Misplaced),
            ("http://h:{p}/a", UriError::Misplaced),
            ("http://h/a?b={c}", UriError::Misplaced),
            ("http://h/a#b", UriError::Fragment),
            ("http://h/{a", UriError::Unpaired),
            ("http://h/a}", UriError::Unpaired),
            ("http://h/{{a}}", UriError::Unpaired),
        ] {
            assert_eq!(UriTemplate::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn places_and_parameters_belong_to_each_other() {
        let template = UriTemplate::parse("http://h/{a}").unwrap();
        let check = |keys: &[&str]| {
            let pairs = keys.iter().map(|key| (*key, "'x'"));
            template.check(&RequestParameters::parse(pairs).unwrap())
        };
        let (a, b) = ("integration.request.path.a", "integration.request.path.b");
        assert_eq!(check(&[a]), Ok(()));
        assert_eq!(check(&[]), Err(UriError::Unfilled("a".into())));
        assert_eq!(check(&[a, b]), Err(UriError::NoPlace("b".into())));
    }

    proptest::proptest! {
        #[test]
        fn no_value_leaves_its_place(value in "\\PC{0,12}|[./%@:?#\\\\]{0,6}") {
            let template = UriTemplate::parse("http://h:80/a/{v}/b?c").unwrap();
            let pair = [("v".to_owned(), value)];
            if let Ok(uri) = template.fill(&pair, "", &pair) {
                let path = uri.strip_prefix("http://h:80/a/").unwrap().split('?').next().unwrap();
                let (step, last) = path.split_once('/').unwrap();
                assert_eq!(last, "b");
                assert!(!matches!(step, "" | "." | ".."));
            }
        }
    }
}
