//! Which template a body takes, and what becomes of a body that has none.
//!
//! Where API Gateway's documentation leaves a choice: what a selection expression cannot be
//! evaluated against takes `$default`, as with routes, and so does everything without an expression.

use std::collections::BTreeMap;

use crate::route::expression::{Expression, Resolver};

const DEFAULT: &str = "$default";

/// The templates of an integration, or of one of its responses. `T` is what they are.
#[derive(Debug, Clone)]
pub struct TemplateTable<T> {
    expression: Option<Expression>,
    templates: BTreeMap<Box<str>, T>,
}

/// What becomes of a message for which there is no template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Passthrough {
    /// It passes as it is.
    #[default]
    WhenNoMatch,
    /// It passes if the integration has no template at all.
    WhenNoTemplates,
    Never,
}

/// What is done with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selected<'a, T> {
    Template(&'a T),
    AsItIs,
    /// 415, in terms of HTTP. The backend is not called.
    Refused,
}

impl<T> TemplateTable<T> {
    /// `expression` was parsed for [`RequestTemplate`] or [`ResponseTemplate`].
    ///
    /// [`RequestTemplate`]: crate::route::expression::Purpose::RequestTemplate
    /// [`ResponseTemplate`]: crate::route::expression::Purpose::ResponseTemplate
    pub fn new(
        expression: Option<Expression>,
        templates: BTreeMap<Box<str>, T>,
    ) -> TemplateTable<T> {
        TemplateTable { expression, templates }
    }

    /// The template of the key that the expression comes to, or else `$default`'s.
    pub fn find(&self, resolver: &impl Resolver) -> Option<&T> {
        let key =
            self.expression.as_ref().and_then(|expression| expression.evaluate(resolver).ok());
        let named = key.and_then(|key| self.templates.get(&*key));
        named.or_else(|| self.templates.get(DEFAULT))
    }

    pub fn select(&self, passthrough: Passthrough, resolver: &impl Resolver) -> Selected<'_, T> {
        match (self.find(resolver), passthrough) {
            (Some(template), _) => Selected::Template(template),
            (None, Passthrough::WhenNoMatch) => Selected::AsItIs,
            (None, Passthrough::WhenNoTemplates) if self.templates.is_empty() => Selected::AsItIs,
            (None, Passthrough::WhenNoTemplates | Passthrough::Never) => Selected::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::expression::{Purpose, RequestBody};

    #[test]
    fn a_template_is_taken_by_its_key_or_by_default() {
        let templates = table("${request.body.kind}-x", &["a-x", "$default"]);
        for (body, key) in [
            (r#"{"kind":"a"}"#, "a-x"),
            (r#"{"kind":"b"}"#, "$default"),
            ("{}", "$default"),
            ("not JSON", "$default"),
        ] {
            assert_eq!(templates.find(&RequestBody(body)), Some(&key.to_owned()), "{body}");
        }
        let unnamed = TemplateTable { expression: None, ..templates };
        assert_eq!(unnamed.find(&RequestBody("")), Some(&"$default".to_owned()));
        assert_eq!(table("fixed", &["fixed"]).find(&RequestBody("")), Some(&"fixed".to_owned()));
    }

    #[test]
    fn a_body_without_a_template_passes_as_configured() {
        use Passthrough::{Never, WhenNoMatch, WhenNoTemplates};
        let body = RequestBody(r#"{"kind":"b"}"#);
        let (none, other) = (table("$request.body.kind", &[]), table("$request.body.kind", &["a"]));
        assert_eq!(none.select(WhenNoMatch, &body), Selected::AsItIs);
        assert_eq!(other.select(WhenNoMatch, &body), Selected::AsItIs);
        assert_eq!(none.select(WhenNoTemplates, &body), Selected::AsItIs);
        assert_eq!(other.select(WhenNoTemplates, &body), Selected::Refused);
        assert_eq!(none.select(Never, &body), Selected::Refused);
        assert_eq!(other.select(Never, &body), Selected::Refused);
        let same = table("$request.body.kind", &["b"]);
        assert_eq!(same.select(Never, &body), Selected::Template(&"b".to_owned()));
    }

    /// Its templates are their own keys.
    fn table(expression: &str, keys: &[&str]) -> TemplateTable<String> {
        let expression = Expression::parse(expression, Purpose::RequestTemplate).unwrap();
        let templates = keys.iter().map(|key| (Box::from(*key), (*key).to_owned()));
        TemplateTable::new(Some(expression), templates.collect())
    }
}
