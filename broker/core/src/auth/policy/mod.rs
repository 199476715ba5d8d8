//! IAM policy documents, as authorizers answer with them.
//!
//! Invariants:
//!
//! * A `Deny` that applies wins over every `Allow`, and what no `Allow` applies to is denied.
//! * What is not understood is refused as a whole when it is read. A `Deny` that is skipped would
//!   let in whom it should keep out.

mod condition;
mod read;

use condition::Condition;
pub use condition::{Circumstances, ConditionError};
pub use read::PolicyError;

use crate::auth::pattern::Pattern;
use crate::route::json::Value;

/// A resource of a policy has at most this many characters.
pub const RESOURCE_CHARS_MAX: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    statements: Vec<Statement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    ExplicitlyDenied,
    /// Nothing allows it.
    ImplicitlyDenied,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Statement {
    effect: Effect,
    /// In lower case.
    actions: Choice,
    resources: Choice,
    /// All of them must hold.
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// `Action`, `Resource`
    AnyOf(Vec<Pattern>),
    /// `NotAction`, `NotResource`
    NoneOf(Vec<Pattern>),
}

impl Policy {
    /// Reads a policy document.
    pub fn parse(document: Value<'_>) -> Result<Policy, PolicyError> {
        read::policy(document)
    }

    /// Whether an action (`execute-api:Invoke`) on a resource (an ARN) is allowed.
    pub fn evaluate(
        &self,
        action: &str,
        resource: &str,
        circumstances: &Circumstances<'_>,
    ) -> Decision {
        let action = action.to_ascii_lowercase();
        let applies = |statement: &&Statement| {
            statement.actions.includes(&action)
                && statement.resources.includes(resource)
                && statement.conditions.iter().all(|condition| condition.holds(circumstances))
        };
        let mut decision = Decision::ImplicitlyDenied;
        for statement in self.statements.iter().filter(applies) {
            match statement.effect {
                Effect::Deny => return Decision::ExplicitlyDenied,
                Effect::Allow => decision = Decision::Allowed,
            }
        }
        decision
    }
}

impl Choice {
    fn includes(&self, text: &str) -> bool {
        let is_any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(text));
        match self {
            Choice::AnyOf(patterns) => is_any(patterns),
            Choice::NoneOf(patterns) => !is_any(patterns),
        }
    }
}

impl Decision {
    /// What API Gateway tells a client that it denies. None if it is allowed.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Decision::Allowed => None,
            Decision::ExplicitlyDenied => Some(
                "User is not authorized to access this resource with an explicit deny in an \
                 identity-based policy",
            ),
            Decision::ImplicitlyDenied => Some(
                "User is not authorized to access this resource because no identity-based policy \
                 allows the execute-api:Invoke action",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::arn::INVOKE;
    use crate::route::json;
    use Decision::{Allowed, ExplicitlyDenied, ImplicitlyDenied};
    use proptest::prelude::*;

    const CONNECT: &str = "arn:aws:execute-api:us-east-1:123456789012:abc/prod/$connect";

    #[test]
    fn what_an_allow_applies_to_is_allowed() {
        for (statement, decision) in [
            (allow(INVOKE, CONNECT), Allowed),
            (allow("EXECUTE-api:invoke", "*"), Allowed),
            (allow("execute-api:*", "arn:aws:execute-api:*:*:abc/*/$connect"), Allowed),
            (allow("*", "arn:aws:execute-api:us-east-1:123456789012:abc/pro?/*"), Allowed),
            (allow("execute-api:ManageConnections", "*"), ImplicitlyDenied),
            (
                allow(INVOKE, "arn:aws:execute-api:us-east-1:123456789012:abc/dev/*"),
                ImplicitlyDenied,
            ),
            (allow(INVOKE, &CONNECT.to_uppercase()), ImplicitlyDenied),
        ] {
            assert_eq!(evaluate(&statement), Ok(decision), "{statement}");
        }
        assert_eq!(evaluate(""), Ok(ImplicitlyDenied));
    }

    #[test]
    fn a_deny_wins_wherever_it_stands() {
        let allow = allow("*", "*");
        let deny = r#"{"Effect":"Deny","Action":"execute-api:Invoke","Resource":"*"}"#;
        assert_eq!(evaluate(&format!("{allow},{deny}")), Ok(ExplicitlyDenied));
        assert_eq!(evaluate(&format!("{deny},{allow}")), Ok(ExplicitlyDenied));
        let other = deny.replace("Invoke", "ManageConnections");
        assert_eq!(evaluate(&format!("{other},{allow}")), Ok(Allowed));
    }

    #[test]
    fn lists_single_values_and_negations_are_understood() {
        let single = r#"{"Version":"2012-10-17","Statement":
            {"Sid":"a","Effect":"Allow","Action":["a:b","execute-api:Invoke"],"Resource":["x","*"]}}"#;
        assert_eq!(evaluate_document(single), Ok(Allowed));
        for (statement, decision) in [
            (r#"{"Effect":"Allow","NotAction":"a:*","Resource":"*"}"#, Allowed),
            (
                r#"{"Effect":"Allow","NotAction":["a:*","execute-api:*"],"Resource":"*"}"#,
                ImplicitlyDenied,
            ),
            (r#"{"Effect":"Allow","Action":"*","NotResource":"arn:aws:s3:*"}"#, Allowed),
            (r#"{"Effect":"Allow","Action":"*","NotResource":"*/$connect"}"#, ImplicitlyDenied),
        ] {
            assert_eq!(evaluate(statement), Ok(decision), "{statement}");
        }
    }

    #[test]
    fn documents_that_are_not_understood_are_refused_as_a_whole() {
        use PolicyError::*;
        let resource = "x".repeat(513);
        for (document, error) in [
            ("[]", NotAnObject("policyDocument")),
            ("{}", Absent("Statement")),
            (r#"{"Statement":[],"Version":"2013-01-01"}"#, Version),
            (r#"{"Statement":[],"Extra":1}"#, Unknown("Extra".into())),
            (r#"{"Statement":[1]}"#, NotAnObject("Statement")),
            (r#"{"Statement":"a"}"#, NotAnObject("Statement")),
            (r#"{"Statement":{"Action":"*","Resource":"*"}}"#, Absent("Effect")),
            (r#"{"Statement":{"Effect":"allow","Action":"*","Resource":"*"}}"#, Effect),
            (r#"{"Statement":{"Effect":"Deny","Resource":"*"}}"#, Absent("Action")),
            (r#"{"Statement":{"Effect":"Deny","Action":"*"}}"#, Absent("Resource")),
            (r#"{"Statement":{"Effect":"Deny","Action":[],"Resource":"*"}}"#, Texts("Action")),
            (r#"{"Statement":{"Effect":"Deny","Action":[1],"Resource":"*"}}"#, Texts("Action")),
            (
                r#"{"Statement":{"Effect":"Deny","Action":"*","NotAction":"*","Resource":"*"}}"#,
                Both("Action"),
            ),
            (
                r#"{"Statement":{"Effect":"Deny","Action":"*","Resource":"*","Principal":"*"}}"#,
                Unknown("Principal".into()),
            ),
            (
                r#"{"Statement":{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}}"#,
                Repeated("Effect".into()),
            ),
            (
                &format!(
                    r#"{{"Statement":{{"Effect":"Deny","Action":"*","Resource":"{resource}"}}}}"#
                ),
                ResourceTooLong,
            ),
        ] {
            assert_eq!(evaluate_document(document), Err(error), "{document}");
        }
        let variable = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*",
            "Resource":"arn/${aws:username}"}}"#;
        assert!(matches!(evaluate_document(variable), Err(Variable(_))));
        let older = variable.replace("2012", "2008");
        assert_eq!(evaluate_document(&older), Ok(ImplicitlyDenied), "had no variables");
    }

    #[test]
    fn conditions_hold_all_or_the_statement_does_not_apply() {
        let holds = [
            r#"{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"}}"#,
            r#"{"IpAddress":{"AWS:sourceip":["198.51.100.1","192.0.2.7"]}}"#,
            r#"{"NotIpAddress":{"aws:SourceIp":["192.0.2.8/31","2001:db8::/32"]}}"#,
            r#"{"Bool":{"aws:SecureTransport":"true"}}"#,
            r#"{"Bool":{"aws:SecureTransport":true}}"#,
            r#"{"StringEquals":{"aws:UserAgent":["x","Agent/1"]}}"#,
            r#"{"StringNotEquals":{"aws:UserAgent":"x","aws:Referer":"y"}}"#,
            r#"{"StringEqualsIgnoreCase":{"aws:UserAgent":"AGENT/1"}}"#,
            r#"{"StringLike":{"aws:UserAgent":"Agent/?"}}"#,
            r#"{"StringNotLike":{"aws:UserAgent":"agent/*"}}"#,
            r#"{"DateGreaterThan":{"aws:CurrentTime":"2026-01-01T00:00:00Z"}}"#,
            r#"{"DateLessThanEquals":{"aws:EpochTime":1790000000}}"#,
            r#"{"NumericLessThan":{"aws:EpochTime":"1790000001"}}"#,
            r#"{"NumericEquals":{"aws:EpochTime":1790000000}}"#,
            r#"{"Null":{"aws:Referer":"true","aws:UserAgent":false}}"#,
            r#"{}"#,
        ];
        let fails = [
            r#"{"IpAddress":{"aws:SourceIp":"192.0.3.0/24"}}"#,
            r#"{"NotIpAddress":{"aws:SourceIp":"0.0.0.0/0"}}"#,
            r#"{"Bool":{"aws:SecureTransport":"false"}}"#,
            r#"{"StringEquals":{"aws:UserAgent":"agent/1"}}"#,
            r#"{"StringEquals":{"aws:Referer":"x"}}"#,
            r#"{"StringNotEquals":{"aws:UserAgent":["x","Agent/1"]}}"#,
            r#"{"StringLike":{"aws:Referer":"*"}}"#,
            r#"{"DateLessThan":{"aws:CurrentTime":"2026-01-01T00:00:00Z"}}"#,
            r#"{"NumericGreaterThan":{"aws:EpochTime":1790000000}}"#,
            r#"{"NumericNotEquals":{"aws:EpochTime":1790000000}}"#,
            r#"{"Null":{"aws:Referer":"false"}}"#,
            r#"{"Bool":{"aws:SecureTransport":"true"},"StringEquals":{"aws:UserAgent":"x"}}"#,
        ];
        for (conditions, decision) in [(&holds[..], Allowed), (&fails, ImplicitlyDenied)] {
            for condition in conditions {
                let statement = allow_if(condition);
                assert_eq!(evaluate(&statement), Ok(decision), "{condition}");
            }
        }
    }

    #[test]
    fn conditions_that_cannot_be_checked_are_refused() {
        for condition in [
            r#"{"ArnLike":{"aws:SourceArn":"*"}}"#,
            r#"{"StringEqualsIfExists":{"aws:UserAgent":"*"}}"#,
            r#"{"ForAnyValue:StringEquals":{"aws:UserAgent":"*"}}"#,
            r#"{"StringEquals":{"aws:PrincipalOrgID":"o-1"}}"#,
            r#"{"IpAddress":{"aws:UserAgent":"192.0.2.1"}}"#,
            r#"{"IpAddress":{"aws:SourceIp":"192.0.2.1/33"}}"#,
            r#"{"IpAddress":{"aws:SourceIp":"192.0.2.1/+8"}}"#,
            r#"{"IpAddress":{"aws:SourceIp":[]}}"#,
            r#"{"Bool":{"aws:SecureTransport":"yes"}}"#,
            r#"{"DateLessThan":{"aws:CurrentTime":"tomorrow"}}"#,
            r#"{"NumericLessThan":{"aws:EpochTime":-1}}"#,
            r#"{"StringLike":{"aws:UserAgent":"${aws:username}"}}"#,
            r#"{"StringLike":{"aws:UserAgent":null}}"#,
            r#"{"StringLike":"*"}"#,
            r#""StringLike""#,
        ] {
            assert!(evaluate(&allow_if(condition)).is_err(), "{condition}");
        }
    }

    proptest! {
        #[test]
        fn no_document_is_too_odd(
            key in "(Statement|Version|Effect)",
            value in "(\"[A-Za-z*${}/.:]{0,9}\"|\\{\\}|\\[[0-9,]{0,3}\\]|null|[0-9]{1,3})",
            condition in "\\{\"(IpAddress|Bool|Null|DateLessThan)\":\\{\"aws:[A-Za-z]{0,12}\":\"[0-9a-f.:/]{0,20}\"\\}\\}",
        ) {
            let _ = evaluate_document(&format!(r#"{{"{key}":{value}}}"#));
            let _ = evaluate(&allow_if(&condition));
        }
    }

    fn allow(action: &str, resource: &str) -> String {
        format!(r#"{{"Effect":"Allow","Action":"{action}","Resource":"{resource}"}}"#)
    }

    fn allow_if(condition: &str) -> String {
        format!(r#"{{"Effect":"Allow","Action":"*","Resource":"*","Condition":{condition}}}"#)
    }

    fn evaluate(statements: &str) -> Result<Decision, PolicyError> {
        evaluate_document(&format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#))
    }

    fn evaluate_document(document: &str) -> Result<Decision, PolicyError> {
        let Ok(document) = json::parse(document) else { return Err(PolicyError::Version) };
        let circumstances = Circumstances {
            source_ip: [192, 0, 2, 7].into(),
            is_secure: true,
            now_ms: 1_790_000_000_500,
            user_agent: Some("Agent/1"),
            referer: None,
        };
        let policy = Policy::parse(document)?;
        Ok(policy.evaluate(INVOKE, CONNECT, &circumstances))
    }
}
