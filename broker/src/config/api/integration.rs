//! What routes lead to, as written and as believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, Uri};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::api::variables::substitute;
use crate::config::source::Fault;

/// As API Gateway has it, and its largest.
pub(super) const TIMEOUT_DEFAULT_MS: u64 = 29_000;
const TIMEOUT_MS_MIN: u64 = 50;
const CONCURRENCY_DEFAULT: usize = 1024;
/// How API Gateway names a function: the ARN of an action of its own.
const INVOCATION_BEGIN: &str = ":lambda:path/2015-03-31/functions/";
const INVOCATION_END: &str = "/invocations";

/// An integration of one stage: with the stage's variables filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrationSettings {
    pub kind: IntegrationKind,
    pub timeout: Duration,
    /// Calls under way at once from one node. As many more wait; further ones are refused.
    pub concurrency_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntegrationKind {
    /// The Lambda-proxy event as JSON in a POST to this address; what it answers is the reply.
    HttpEvent {
        uri: Uri,
    },
    /// The client's message, or its handshake, as a request; what it answers is the reply.
    HttpProxy {
        method: Method,
        uri: Uri,
    },
    /// The Lambda-proxy event to a Lambda function, which answers as one behind a proxy does.
    AwsProxy {
        function: FunctionName,
    },
    /// The event in a call of `posthorn.v1.IntegrationService`.
    Grpc {
        uri: Uri,
    },
    Mock {
        response: MockResponse,
    },
}

/// The name, partial ARN or ARN of a Lambda function, with a version or an alias or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionName(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MockResponse {
    /// The same each time; `$context.connectionId` in the body is replaced.
    Static { status: u16, body: Option<Arc<str>> },
    /// What the client sent.
    Echo,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenIntegration {
    integration_type: IntegrationType,
    integration_uri: Option<Spanned<String>>,
    integration_method: Option<Spanned<String>>,
    timeout_in_millis: Option<Spanned<u64>>,
    concurrency_max: Option<Spanned<usize>>,
    mock_response: Option<WrittenMock>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum IntegrationType {
    AwsProxy,
    Grpc,
    HttpEvent,
    HttpProxy,
    Mock,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMock {
    #[serde(default)]
    echo: bool,
    body: Option<Arc<str>>,
    status: Option<Spanned<u16>>,
}

impl IntegrationSettings {
    /// Whether both say the same. Not all that they are made of can be compared, but all of it is
    /// printed.
    pub fn is_same(&self, other: &IntegrationSettings) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

impl FunctionName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Also from the ARN of API Gateway's own action, in which a function's URI is mostly written.
    pub(super) fn parse(text: &str) -> Option<FunctionName> {
        let name = match text.split_once(INVOCATION_BEGIN) {
            Some((_, name)) => name.strip_suffix(INVOCATION_END)?,
            None => text,
        };
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:$".contains(&byte);
        // The longest that Lambda takes.
        let is_name = (1..=170).contains(&name.len()) && name.bytes().all(is_letter);
        is_name.then(|| FunctionName(name.into()))
    }
}

impl WrittenIntegration {
    pub(super) fn believe(
        &self,
        place: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<IntegrationSettings, Fault> {
        self.refuse_misplaced(place)?;
        let kind = match self.integration_type {
            IntegrationType::AwsProxy => {
                let (written, uri) = self.uri(place, variables)?;
                let function = FunctionName::parse(&uri).ok_or_else(|| {
                    let rule = format!("`{uri}` names no Lambda function");
                    Fault::at(format!("{place}.integration_uri"), written, rule)
                })?;
                IntegrationKind::AwsProxy { function }
            }
            IntegrationType::Grpc => {
                IntegrationKind::Grpc { uri: self.http_uri(place, variables)? }
            }
            IntegrationType::HttpEvent => {
                IntegrationKind::HttpEvent { uri: self.http_uri(place, variables)? }
            }
            IntegrationType::HttpProxy => IntegrationKind::HttpProxy {
                method: self.method(place)?,
                uri: self.http_uri(place, variables)?,
            },
            IntegrationType::Mock => IntegrationKind::Mock {
                response: self.mock_response.clone().unwrap_or_default().believe(place)?,
            },
        };
        Ok(IntegrationSettings {
            kind,
            timeout: timeout(place, self.timeout_in_millis.as_ref())?,
            concurrency_max: self.concurrency_max(place)?,
        })
    }

    fn refuse_misplaced(&self, place: &str) -> Result<(), Fault> {
        let kind = self.integration_type;
        let misplaced = [
            ("mock_response", self.mock_response.is_some() && kind != IntegrationType::Mock),
            ("integration_uri", self.integration_uri.is_some() && kind == IntegrationType::Mock),
            (
                "integration_method",
                self.integration_method.is_some()
                    && !matches!(kind, IntegrationType::HttpProxy | IntegrationType::AwsProxy),
            ),
        ];
        match misplaced.iter().find(|(_, is_misplaced)| *is_misplaced) {
            Some((key, _)) => {
                let rule = format!("this is no key of an integration of type {kind:?}");
                Err(Fault::new(format!("{place}.{key}"), rule))
            }
            None => Ok(()),
        }
    }

    fn uri(
        &self,
        place: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<(&Spanned<String>, String), Fault> {
        let key = format!("{place}.integration_uri");
        let Some(written) = &self.integration_uri else {
            return Err(Fault::new(key, "an integration of this type needs it"));
        };
        let uri = substitute(&written.value, variables)
            .map_err(|error| Fault::at(key, written, error.to_string()))?;
        Ok((written, uri))
    }

    fn http_uri(&self, place: &str, variables: &BTreeMap<String, String>) -> Result<Uri, Fault> {
        let (written, text) = self.uri(place, variables)?;
        http_uri(&text).map_err(|rule| Fault::at(format!("{place}.integration_uri"), written, rule))
    }

    /// POST where none is written, and for `ANY`.
    fn method(&self, place: &str) -> Result<Method, Fault> {
        let Some(written) = &self.integration_method else { return Ok(Method::POST) };
        match &*written.value {
            "ANY" => Ok(Method::POST),
            "GET" | "POST" | "PUT" | "DELETE" | "PATCH" | "HEAD" | "OPTIONS" => {
                Ok(Method::from_bytes(written.value.as_bytes()).unwrap_or(Method::POST))
            }
            _ => {
                let rule = format!("`{}` is no method", written.value);
                Err(Fault::at(format!("{place}.integration_method"), written, rule))
            }
        }
    }

    fn concurrency_max(&self, place: &str) -> Result<usize, Fault> {
        match &self.concurrency_max {
            Some(max) if max.value == 0 => {
                Err(Fault::at(format!("{place}.concurrency_max"), max, "is at least 1"))
            }
            max => Ok(max.as_ref().map_or(CONCURRENCY_DEFAULT, |max| max.value)),
        }
    }
}

pub(super) fn timeout(place: &str, written: Option<&Spanned<u64>>) -> Result<Duration, Fault> {
    match written {
        Some(timeout) if !(TIMEOUT_MS_MIN..=TIMEOUT_DEFAULT_MS).contains(&timeout.value) => {
            let rule = format!("is from {TIMEOUT_MS_MIN} to {TIMEOUT_DEFAULT_MS}");
            Err(Fault::at(format!("{place}.timeout_in_millis"), timeout, rule))
        }
        timeout => {
            Ok(Duration::from_millis(timeout.map_or(TIMEOUT_DEFAULT_MS, |timeout| timeout.value)))
        }
    }
}

/// An address that can be called, or what is wrong with it.
pub(in crate::config) fn http_uri(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("`{text}`: {error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(format!("`{text}` is no http or https URL")),
    }
}

impl WrittenMock {
    fn believe(self, place: &str) -> Result<MockResponse, Fault> {
        let WrittenMock { echo, body, status } = self;
        match status {
            Some(status) if !(100..=599).contains(&status.value) => {
                let key = format!("{place}.mock_response.status");
                Err(Fault::at(key, &status, "is from 100 to 599"))
            }
            _ if echo && body.is_some() => {
                let rule = "a mock echoes or has a body, not both";
                Err(Fault::new(format!("{place}.mock_response"), rule))
            }
            _ if echo => Ok(MockResponse::Echo),
            status => {
                let status = status.map_or(200, |status| status.value);
                Ok(MockResponse::Static { status, body })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_known_by_any_of_its_names() {
        let arn = "arn:aws:lambda:eu-west-1:123456789012:function:chat:prod";
        let action = format!(
            "arn:aws:apigateway:eu-west-1:lambda:path/2015-03-31/functions/{arn}/invocations"
        );
        for (text, name) in
            [("chat", "chat"), ("chat:prod", "chat:prod"), (arn, arn), (&action, arn)]
        {
            assert_eq!(FunctionName::parse(text).as_ref().map(FunctionName::as_str), Some(name));
        }
        for bad in ["", "a/b", "http://a", &action[..action.len() - 1], "a b"] {
            assert_eq!(FunctionName::parse(bad), None, "{bad}");
        }
    }
}
