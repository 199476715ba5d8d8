//! Models: what a message must look like for its backend to be called at all. JSON Schema, draft 4.
//!
//! Invariants:
//!
//! * A schema says everything itself: what it refers to is in it.
//! * A message is looked at once, in a time that its size and the schema's bound: expressions are
//!   matched in linear time, so there are none with lookaround or backreferences.
//!
//! Where API Gateway's documentation leaves a choice: a message is JSON here if it is JSON to
//! [`route`](crate::route::json), and a number must fit a double; what is not JSON fits no model. A
//! key that comes to nothing takes `$default`, as with templates.

use std::fmt;
use std::sync::Arc;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use crate::mapping::templates::TemplateTable;
use crate::message::{Message, MessageKind};
use crate::route::expression::RequestBody;
use crate::route::json;

/// API Gateway's quota.
pub const SCHEMA_BYTES_MAX: usize = 32 * 1024;
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A schema, compiled.
#[derive(Clone)]
pub struct Model(Option<Arc<Validator>>);

/// The models of a route, by the keys that its expression comes to.
#[derive(Debug, Clone)]
pub struct RequestModels(pub TemplateTable<Model>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error("a schema has at most {SCHEMA_BYTES_MAX} bytes as JSON, this one {bytes}")]
    TooLong { bytes: usize },
    #[error("a schema is an object")]
    NotAnObject,
    #[error("not a JSON Schema of draft 4{}: {why}", Place(.at))]
    Schema { at: Box<str>, why: Box<str> },
}

/// Why a message does not fit its model, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit(pub Box<str>);

struct Place<'a>(&'a str);

impl Model {
    /// What no message fits: the place of a schema that cannot be understood, and that nobody wants
    /// to hear of.
    pub const UNUSABLE: Model = Model(None);

    pub fn compile(schema: &Value) -> Result<Model, ModelError> {
        let bytes = schema.to_string().len();
        if bytes > SCHEMA_BYTES_MAX {
            return Err(ModelError::TooLong { bytes });
        }
        if !schema.is_object() {
            return Err(ModelError::NotAnObject);
        }
        let patterns = PatternOptions::regex();
        let patterns = patterns.size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft4)
            .with_pattern_options(patterns)
            .offline()
            .build(schema);
        let validator = validator.map_err(|error| ModelError::Schema {
            at: error.instance_path().to_string().into(),
            why: error.to_string().into(),
        })?;
        Ok(Model(Some(Arc::new(validator))))
    }

    /// What is wrong with a message, if anything is.
    pub fn judge(&self, text: &str) -> Result<(), Misfit> {
        let Model(Some(validator)) = self else {
            return Err(Misfit("the model is unusable".into()));
        };
        // How deep a message goes is known before a tree is made of it.
        let is_shallow = json::parse(text).is_ok();
        let message: Option<Value> = is_shallow.then(|| serde_json::from_str(text).ok()).flatten();
        let message = message.ok_or_else(|| Misfit("not JSON".into()))?;
        validator.validate(&message).map_err(|error| {
            let at = error.instance_path().to_string();
            // The message itself may be long, and nobody else's business.
            Misfit(format!("{}{}", error.masked(), Place(&at)).into())
        })
    }
}

impl RequestModels {
    /// Whether a message may go to its backend.
    pub fn admit(&self, message: &Message) -> Result<(), Misfit> {
        let RequestModels(models) = self;
        let text = match message.kind {
            MessageKind::Text => str::from_utf8(&message.payload).ok(),
            MessageKind::Binary => None,
        };
        let text = text.ok_or_else(|| Misfit("not text".into()))?;
        let model = models.find(&RequestBody(text));
        model.ok_or_else(|| Misfit("there is no model for it".into()))?.judge(text)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            at => write!(f, ", at {at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::route::expression::{Expression, Purpose};

    #[test]
    fn a_message_fits_or_does_not() {
        let schema = json!({
            "$schema": "http://json-schema.org/draft-04/schema#",
            "title": "Join",
            "type": "object",
            "properties": {
                "room": { "type": "string", "pattern": "^[a-z]+$", "maxLength": 5 },
                "seats": { "type": "integer", "minimum": 0, "exclusiveMinimum": true },
                "tags": { "type": "array", "items": { "$ref": "#/definitions/tag" } },
            },
            "definitions": { "tag": { "enum": ["a", "b"] } },
            "required": ["room"],
            "additionalProperties": false,
        });
        let model = Model::compile(&schema).unwrap();
        for text in [
            r#"{"room":"abc"}"#,
            r#" {"room":"abc","seats":1,"tags":["a","b"]} "#,
            r#"{"room":"ABC","room":"abc"}"#,
        ] {
            assert_eq!(model.judge(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "null",
            "not JSON",
            r#"{"room":"abc"} x"#,
            "\u{feff}{\"room\":\"abc\"}",
            r#"{"room":"ABC"}"#,
            r#"{"room":"abcdef"}"#,
            r#"{"room":"abc","seats":0}"#,
            r#"{"room":"abc","seats":1e999999}"#,
            r#"{"room":"abc","tags":["c"]}"#,
            r#"{"room":"abc","more":1}"#,
            r#"{"room":"\ud800"}"#,
        ] {
            assert!(model.judge(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_what_the_message_says() {
        let schema = json!({ "properties": { "a": { "type": "string" } }, "required": ["b"] });
        let model = Model::compile(&schema).unwrap();
        for (text, why) in [
            ("secret", "not JSON"),
            (r#"{"a":"secret"}"#, "\"b\" is a required property"),
            (r#"{"a":{"secret":1},"b":1}"#, "value is not of type \"string\", at /a"),
        ] {
            assert_eq!(model.judge(text), Err(Misfit(why.into())), "{text}");
        }
    }

    #[test]
    fn a_message_of_any_depth_is_answered() {
        let list = Model::compile(&json!({ "type": "array", "items": { "$ref": "#" } })).unwrap();
        assert!(list.judge(&format!("{}{}", "[".repeat(64), "]".repeat(64))).is_ok());
        assert!(list.judge(&"[".repeat(100_000)).is_err());
        assert!(list.judge(&format!("{}{}", "[".repeat(65), "]".repeat(65))).is_err());
    }

    #[test]
    fn schemas_that_would_not_hold_what_they_promise_are_refused() {
        for schema in [
            json!({ "type": "objekt" }),
            json!({ "required": [] }),
            json!({ "minimum": "1" }),
            json!({ "exclusiveMinimum": 1 }),
            json!({ "properties": [] }),
            json!({ "pattern": "(" }),
            json!({ "pattern": "(?=a)b" }),
            json!({ "pattern": "(a)\\1" }),
            json!({ "pattern": "\\d{1000}{1000}" }),
            json!({ "$ref": "http://127.0.0.1:1/schema.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "$ref": "other.json" }),
            json!({ "$ref": "#/definitions/nothing" }),
        ] {
            let compiled = Model::compile(&schema);
            assert!(matches!(compiled, Err(ModelError::Schema { .. })), "{schema}: {compiled:?}");
        }
        assert_eq!(Model::compile(&json!([])).unwrap_err(), ModelError::NotAnObject);
        let long = json!({ "description": "x".repeat(SCHEMA_BYTES_MAX) });
        assert!(matches!(Model::compile(&long), Err(ModelError::TooLong { .. })));
    }

    #[test]
    fn schemas_that_lead_in_circles_end() {
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "allOf": [{ "$ref": "#" }] }),
            json!({ "not": { "$ref": "#" } }),
            json!({
                "definitions": {
                    "a": { "anyOf": [{ "$ref": "#/definitions/b" }] },
                    "b": { "anyOf": [{ "$ref": "#/definitions/a" }] },
                },
                "$ref": "#/definitions/a",
            }),
        ] {
            if let Ok(model) = Model::compile(&schema) {
                _ = model.judge("{}");
            }
        }
    }

    #[test]
    fn patterns_take_linear_time() {
        let model = Model::compile(&json!({ "pattern": "^(a+)+$" })).unwrap();
        assert!(model.judge(&format!("\"{}b\"", "a".repeat(100_000))).is_err());
    }

    #[test]
    fn models_are_chosen_by_what_a_message_says() {
        let expression = Expression::parse("$request.body.kind", Purpose::Model).unwrap();
        let requires = |name: &str| Model::compile(&json!({ "required": [name] })).unwrap();
        let models = [("a".into(), requires("x")), ("$default".into(), requires("y"))].into();
        let models = RequestModels(TemplateTable::new(Some(expression), models));
        for (text, is_admitted) in [
            (r#"{"kind":"a","x":1}"#, true),
            (r#"{"kind":"a","y":1}"#, false),
            (r#"{"kind":"b","y":1}"#, true),
            (r#"{"y":1}"#, true),
            (r#"{"x":1}"#, false),
            ("not JSON", false),
        ] {
            assert_eq!(models.admit(&Message::text(text)).is_ok(), is_admitted, "{text}");
        }
        assert!(models.admit(&Message::binary(&br#"{"y":1}"#[..])).is_err());
    }
}
