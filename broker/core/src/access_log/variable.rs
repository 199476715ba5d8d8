//! The variables of access logs.

use crate::access_log::failure::ResponseType;
use crate::access_log::{Entry, EventType, Value};
use crate::event::time::CommonLogTime;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Variable {
    ApiId,
    AuthorizerLatency,
    AuthorizerPrincipalId,
    /// A member of what an authorizer said.
    AuthorizerProperty(Box<str>),
    ConnectedAt,
    ConnectionId,
    DisconnectReason,
    DisconnectStatusCode,
    DomainName,
    ErrorMessage,
    /// In quotation marks.
    ErrorMessageString,
    ErrorResponseType,
    ErrorValidation,
    EventType,
    IdentityAccountId,
    IdentityApiKeyId,
    IdentitySourceIp,
    IdentityUser,
    IdentityUserArn,
    IdentityUserAgent,
    IntegrationError,
    IntegrationLatency,
    IntegrationStatus,
    MessageDirection,
    MessageId,
    RequestId,
    RequestTime,
    RequestTimeEpoch,
    RouteKey,
    Stage,
    Status,
    /// API Gateway has it; here it never has a value.
    Absent,
}

/// API Gateway's, of services that have no counterpart here. The value of an API key is a secret.
const ABSENT: &[&str] = &[
    "authenticate.error",
    "authenticate.latency",
    "authenticate.status",
    "authorize.error",
    "authorize.latency",
    "authorize.status",
    "authorizer.error",
    "authorizer.requestId",
    "authorizer.status",
    "identity.apiKey",
    "identity.cognitoAuthenticationProvider",
    "identity.cognitoAuthenticationType",
    "identity.cognitoIdentityId",
    "identity.cognitoIdentityPoolId",
    "identity.principalOrgId",
    "integration.requestId",
    "waf.error",
    "waf.latency",
    "waf.status",
    "wafResponseCode",
    "webaclArn",
];

impl Variable {
    /// `name` is what stands behind `$context.`.
    pub(super) fn parse(name: &str) -> Option<Variable> {
        Some(match name {
            "apiId" => Variable::ApiId,
            "authorizer.integrationLatency" | "authorizer.latency" => Variable::AuthorizerLatency,
            "authorizer.principalId" => Variable::AuthorizerPrincipalId,
            "connectedAt" => Variable::ConnectedAt,
            "connectionId" => Variable::ConnectionId,
            "disconnectReason" => Variable::DisconnectReason,
            "disconnectStatusCode" => Variable::DisconnectStatusCode,
            "domainName" => Variable::DomainName,
            "error.message" => Variable::ErrorMessage,
            "error.messageString" => Variable::ErrorMessageString,
            "error.responseType" => Variable::ErrorResponseType,
            "error.validationErrorString" => Variable::ErrorValidation,
            "eventType" => Variable::EventType,
            "identity.accountId" => Variable::IdentityAccountId,
            "identity.caller" | "identity.user" => Variable::IdentityUser,
            "identity.userArn" => Variable::IdentityUserArn,
            "identity.apiKeyId" => Variable::IdentityApiKeyId,
            "identity.sourceIp" => Variable::IdentitySourceIp,
            "identity.userAgent" => Variable::IdentityUserAgent,
            "integration.error" | "integrationErrorMessage" => Variable::IntegrationError,
            "integration.latency" | "integrationLatency" => Variable::IntegrationLatency,
            "integration.integrationStatus" | "integration.status" | "integrationStatus" => {
                Variable::IntegrationStatus
            }
            "messageDirection" => Variable::MessageDirection,
            "messageId" => Variable::MessageId,
            "extendedRequestId" | "requestId" => Variable::RequestId,
            "requestTime" => Variable::RequestTime,
            "requestTimeEpoch" => Variable::RequestTimeEpoch,
            "routeKey" => Variable::RouteKey,
            "stage" => Variable::Stage,
            "status" => Variable::Status,
            name if ABSENT.contains(&name) => Variable::Absent,
            name => {
                let property = name.strip_prefix("authorizer.").filter(|name| !name.is_empty())?;
                Variable::AuthorizerProperty(property.into())
            }
        })
    }

    /// Gives `write` the value, if there is one.
    pub(super) fn resolve(&self, entry: &Entry<'_>, write: &mut dyn FnMut(Value<'_>)) {
        let Entry { info, request, integration, closed, failure, .. } = entry;
        let is_of_client = entry.event_type != EventType::ConnectionApi;
        let (authorized, signer) = (info.authorized.as_ref(), info.signer.as_ref());
        match self {
            Variable::ApiId => write(Value::Text(&info.api_id)),
            Variable::AuthorizerLatency => number(entry.authorizer_latency_ms, write),
            Variable::AuthorizerPrincipalId => {
                text(authorized.map(|authorized| &*authorized.principal_id), write);
            }
            Variable::AuthorizerProperty(name) => {
                let context = authorized.map_or(&[][..], |authorized| &authorized.context);
                let found = context.iter().find(|(other, _)| other == name);
                text(found.map(|(_, value)| &**value), write);
            }
            Variable::ConnectedAt => {
                number(is_of_client.then_some(info.connected_at_ms), write);
            }
            Variable::ConnectionId => write(Value::Text(&info.connection)),
            Variable::DisconnectReason => text(closed.map(|(_, reason)| reason), write),
            Variable::DisconnectStatusCode => number(closed.map(|(code, _)| code), write),
            Variable::DomainName => write(Value::Text(&info.domain_name)),
            Variable::ErrorMessage => text(failure.map(|failure| failure.message), write),
            Variable::ErrorMessageString => {
                if let Some(failure) = failure {
                    write(Value::Quoted(&failure.message));
                }
            }
            Variable::ErrorResponseType => {
                let kind = failure.and_then(|failure| failure.response_type);
                text(kind.map(ResponseType::name), write);
            }
            Variable::ErrorValidation => text(entry.misfit, write),
            Variable::EventType => write(Value::Text(&match entry.event_type {
                EventType::Connect => "CONNECT",
                EventType::Message => "MESSAGE",
                EventType::Disconnect => "DISCONNECT",
                EventType::ConnectionApi => "CONNECTION_API",
            })),
            Variable::IdentityAccountId => text(signer.map(|signer| &*signer.account_id), write),
            Variable::IdentityUser => text(signer.map(|signer| &*signer.user), write),
            Variable::IdentityUserArn => text(signer.map(|signer| &*signer.user_arn), write),
            Variable::IdentityApiKeyId => {
                text(info.api_key.as_ref().map(|key| &*key.id), write);
            }
            Variable::IdentitySourceIp => write(Value::Text(&info.source_ip)),
            Variable::IdentityUserAgent => text(info.user_agent.as_deref(), write),
            Variable::IntegrationError => text(integration.and_then(|call| call.error), write),
            Variable::IntegrationLatency => number(integration.map(|call| call.latency_ms), write),
            Variable::IntegrationStatus => number(integration.and_then(|call| call.status), write),
            Variable::MessageDirection => text(is_of_client.then_some("IN"), write),
            Variable::MessageId => {
                if let Some(id) = &entry.message_id {
                    write(Value::Text(id));
                }
            }
            Variable::RequestId => write(Value::Text(&request.id)),
            Variable::RequestTime => write(Value::Text(&CommonLogTime(request.at_ms))),
            Variable::RequestTimeEpoch => write(Value::Number(request.at_ms)),
            Variable::RouteKey => text(entry.route_key, write),
            Variable::Stage => write(Value::Text(&info.stage)),
            Variable::Status => write(Value::Number(entry.status.into())),
            Variable::Absent => (),
        }
    }
}

fn text(text: Option<&str>, write: &mut dyn FnMut(Value<'_>)) {
    if let Some(text) = text {
        write(Value::Text(&text));
    }
}

fn number(number: Option<impl Into<u64>>, write: &mut dyn FnMut(Value<'_>)) {
    if let Some(number) = number {
        write(Value::Number(number.into()));
    }
}
