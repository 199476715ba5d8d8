//! What a REQUEST authorizer answers.
//!
//! ```json
//! {"principalId": "ada", "policyDocument": {…}, "context": {"plan": "free"},
//!  "usageIdentifierKey": "…"}
//! ```
//!
//! An answer that is not understood lets nobody in: it is an error of the authorizer, not a "no".

use std::fmt;

use crate::auth::policy::{Policy, PolicyError};
use crate::event::connection_info::Authorized;
use crate::route::json::{self, Kind, Value};
use crate::route::stringify::stringify;

/// A longer answer is refused.
pub const ANSWER_BYTES_MAX: usize = 8 * 1024;
/// An authorizer that fails with exactly this message says 401. One that fails with another is
/// broken.
pub const UNAUTHORIZED: &str = "Unauthorized";

#[derive(Clone, PartialEq, Eq)]
pub struct AuthorizerAnswer {
    /// Who it is, and what the authorizer wants integrations to know.
    pub authorized: Authorized,
    pub policy: Policy,
    /// The value of an API key, where keys come from the authorizer.
    pub usage_identifier_key: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizerAnswerError {
    #[error("the answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    #[error("the answer is not a JSON object")]
    NotAnObject,
    #[error("`principalId` is not a text")]
    PrincipalId,
    #[error("there is no `policyDocument`")]
    NoPolicy,
    #[error("`policyDocument`: {0}")]
    Policy(#[from] PolicyError),
    #[error("`context` is not an object")]
    Context,
    #[error("`context.{0}` is neither a text nor a number nor a truth value")]
    ContextValue(Box<str>),
    #[error("`usageIdentifierKey` is not a text")]
    UsageIdentifierKey,
}

impl AuthorizerAnswer {
    pub fn parse(bytes: &[u8]) -> Result<AuthorizerAnswer, AuthorizerAnswerError> {
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(AuthorizerAnswerError::TooLong);
        }
        let text = str::from_utf8(bytes).map_err(|_| AuthorizerAnswerError::NotAnObject)?;
        let answer = json::parse(text).map_err(|_| AuthorizerAnswerError::NotAnObject)?;
        if answer.kind() != Kind::Object {
            return Err(AuthorizerAnswerError::NotAnObject);
        }
        let Members { principal_id, policy_document, context, usage_identifier_key } =
            Members::of(answer);
        let principal_id = principal_id.and_then(Value::as_string);
        let principal_id = principal_id.ok_or(AuthorizerAnswerError::PrincipalId)?.into();
        let policy = Policy::parse(policy_document.ok_or(AuthorizerAnswerError::NoPolicy)?)?;
        let context = context.map(parse_context).transpose()?.unwrap_or_default();
        let usage_identifier_key = match usage_identifier_key.map(Value::as_string) {
            Some(None) => return Err(AuthorizerAnswerError::UsageIdentifierKey),
            Some(Some(key)) => Some(key.into()),
            None => None,
        };
        let authorized = Authorized { principal_id, context };
        Ok(AuthorizerAnswer { authorized, policy, usage_identifier_key })
    }
}

/// Names and values.
type Context = Vec<(Box<str>, Box<str>)>;

#[derive(Default)]
struct Members<'a> {
    principal_id: Option<Value<'a>>,
    policy_document: Option<Value<'a>>,
    context: Option<Value<'a>>,
    usage_identifier_key: Option<Value<'a>>,
}

impl<'a> Members<'a> {
    /// `null` is as good as absent, and other members are nothing to us.
    fn of(answer: Value<'a>) -> Members<'a> {
        let mut members = Members::default();
        for (name, value) in answer.members() {
            let value = Some(value).filter(|value| value.kind() != Kind::Null);
            match &*name.decode() {
                "principalId" => members.principal_id = value,
                "policyDocument" => members.policy_document = value,
                "context" => members.context = value,
                "usageIdentifierKey" => members.usage_identifier_key = value,
                _ => (),
            }
        }
        members
    }
}

/// In the authorizer's order. Of several members with one name the last counts.
fn parse_context(context: Value<'_>) -> Result<Context, AuthorizerAnswerError> {
    if context.kind() != Kind::Object {
        return Err(AuthorizerAnswerError::Context);
    }
    let mut members = Context::new();
    for (name, value) in context.members() {
        let name: Box<str> = name.decode().into();
        let text: Box<str> = match value.kind() {
            Kind::String | Kind::Number | Kind::Boolean => stringify(value).into(),
            Kind::Null | Kind::Array | Kind::Object => {
                return Err(AuthorizerAnswerError::ContextValue(name));
            }
        };
        match members.iter_mut().find(|(other, _)| *other == name) {
            Some((_, earlier)) => *earlier = text,
            None => members.push((name, text)),
        }
    }
    Ok(members)
}

impl fmt::Debug for AuthorizerAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AuthorizerAnswer { authorized, policy, usage_identifier_key: _ } = self;
        let mut debug = f.debug_struct("AuthorizerAnswer");
        debug.field("authorized", authorized).field("policy", policy).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::arn::INVOKE;
    use crate::auth::policy::{Circumstances, Decision};
    use proptest::prelude::*;

    const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[
        {"Action":"execute-api:Invoke","Effect":"Allow","Resource":"arn:aws:execute-api:*/$connect"}]}"#;

    #[test]
    fn an_answer_says_who_it_is_what_he_may_and_what_to_pass_on() {
        let text = format!(
            r#"{{"principalId":"ada","policyDocument":{POLICY},"usageIdentifierKey":"secret",
                "context":{{"plan":"free","level":7,"ratio":1.50,"beta":true,"plan":"paid"}},"x":[]}}"#
        );
        let answer = AuthorizerAnswer::parse(text.as_bytes()).unwrap();
        let context = [("plan", "paid"), ("level", "7"), ("ratio", "1.5"), ("beta", "true")];
        let authorized = Authorized {
            principal_id: "ada".into(),
            context: context.map(|(name, value)| (name.into(), value.into())).into(),
        };
        assert_eq!(answer.authorized, authorized);
        assert_eq!(answer.usage_identifier_key.as_deref(), Some("secret"));
        assert!(!format!("{answer:?}").contains("secret"));
        let circumstances = Circumstances {
            source_ip: [127, 0, 0, 1].into(),
            is_secure: false,
            now_ms: 0,
            user_agent: None,
            referer: None,
        };
        let arn = "arn:aws:execute-api:us-east-1:1:abc/prod/$connect";
        assert_eq!(answer.policy.evaluate(INVOKE, arn, &circumstances), Decision::Allowed);
    }

    #[test]
    fn an_answer_that_is_not_understood_is_refused() {
        use AuthorizerAnswerError::*;
        let with = |members: &str| format!(r#"{{"policyDocument":{POLICY},{members}}}"#);
        for (text, error) in [
            ("".to_owned(), NotAnObject),
            ("\"Unauthorized\"".to_owned(), NotAnObject),
            (r#"{"principalId":"a"}"#.to_owned(), NoPolicy),
            (with(r#""principalId":7"#), PrincipalId),
            (with(r#""principalId":null"#), PrincipalId),
            (with(r#""principalId":"a","context":[]"#), Context),
            (with(r#""principalId":"a","context":{"b":[]}"#), ContextValue("b".into())),
            (with(r#""principalId":"a","context":{"b":null}"#), ContextValue("b".into())),
            (with(r#""principalId":"a","usageIdentifierKey":1"#), UsageIdentifierKey),
            (" ".repeat(ANSWER_BYTES_MAX + 1), TooLong),
        ] {
            let refused = AuthorizerAnswer::parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused, error, "{text}");
        }
        let refused = br#"{"principalId":"a","policyDocument":{"Statement":1}}"#;
        let refused = AuthorizerAnswer::parse(refused).unwrap_err();
        assert_eq!(refused.to_string(), "`policyDocument`: `Statement` is not an object");
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes: Vec<u8>, value in "[\\[\\]{}\",:a1.-]{0,12}") {
            let _ = AuthorizerAnswer::parse(&bytes);
            let text = format!(r#"{{"principalId":"a","policyDocument":{POLICY},"context":{value}}}"#);
            let _ = AuthorizerAnswer::parse(text.as_bytes());
        }
    }
}
