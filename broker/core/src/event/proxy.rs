//! The events themselves.
//!
//! CONNECT shows the handshake. MESSAGE has neither headers nor a query. DISCONNECT has four headers
//! that say nothing but the host, and no body. What an authorizer is asked is CONNECT's, with all
//! headers and without empty maps left out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::event::connection_info::ConnectionInfo;
use crate::event::context::{Occasion, Origin, Request, RequestContext};
use crate::event::fields::{AllValues, Fields, LastValues};
use crate::event::handshake::{Handshake, disconnect_headers};
use crate::event::ids::MessageId;
use crate::message::{Message, MessageKind};

/// Names and values, as configured for a stage.
pub type StageVariables = BTreeMap<String, String>;

/// What an integration is told of.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    Connect(ConnectEvent<'a>),
    Message(MessageEvent<'a>),
    Disconnect(DisconnectEvent<'a>),
}

/// For `$connect`'s integration.
#[derive(Debug, Clone, Copy)]
pub struct ConnectEvent<'a> {
    pub info: &'a ConnectionInfo,
    pub request: Request,
    pub handshake: Handshake<'a>,
    /// How long the authorizer took, if there is one.
    pub authorizer_latency_ms: Option<u64>,
    pub stage_variables: &'a StageVariables,
    pub origin: Option<Origin>,
}

/// For a message's integration.
#[derive(Debug, Clone, Copy)]
pub struct MessageEvent<'a> {
    pub info: &'a ConnectionInfo,
    pub request: Request,
    pub route_key: &'a str,
    pub message_id: MessageId,
    pub message: &'a Message,
    pub stage_variables: &'a StageVariables,
    pub origin: Option<Origin>,
}

/// For `$disconnect`'s integration.
#[derive(Debug, Clone, Copy)]
pub struct DisconnectEvent<'a> {
    pub info: &'a ConnectionInfo,
    pub request: Request,
    pub status_code: u16,
    pub reason: &'a str,
    pub stage_variables: &'a StageVariables,
    pub origin: Option<Origin>,
}

/// For an authorizer of the type REQUEST.
#[derive(Debug, Clone, Copy)]
pub struct AuthorizerEvent<'a> {
    pub info: &'a ConnectionInfo,
    pub request: Request,
    /// `arn:aws:execute-api:REGION:ACCOUNT:API/STAGE/$connect`
    pub method_arn: &'a str,
    pub handshake: Handshake<'a>,
    pub stage_variables: &'a StageVariables,
}

const JSON: &str = "maps with text for keys, of texts and numbers, are JSON";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyEvent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<LastValues<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_headers: Option<AllValues<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_string_parameters: Option<LastValues<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_query_string_parameters: Option<AllValues<'a>>,
    request_context: RequestContext<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage_variables: Option<&'a StageVariables>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizerInput<'a> {
    r#type: &'static str,
    method_arn: &'a str,
    headers: LastValues<'a>,
    multi_value_headers: AllValues<'a>,
    query_string_parameters: LastValues<'a>,
    multi_value_query_string_parameters: AllValues<'a>,
    stage_variables: &'a StageVariables,
    request_context: RequestContext<'a>,
}

impl<'a> Event<'a> {
    /// As Lambda functions behind API Gateway get it.
    pub fn to_json(&self) -> Vec<u8> {
        match self {
            Event::Connect(event) => event.to_json(),
            Event::Message(event) => event.to_json(),
            Event::Disconnect(event) => event.to_json(),
        }
    }

    /// `$context`: the `requestContext` of the event.
    pub fn context_json(&self) -> String {
        let context = match self {
            Event::Connect(event) => event.context(),
            Event::Message(event) => event.context(),
            Event::Disconnect(event) => event.context(),
        };
        serde_json::to_string(&context).expect(JSON)
    }

    pub fn stage_variables(&self) -> &'a StageVariables {
        match self {
            Event::Connect(event) => event.stage_variables,
            Event::Message(event) => event.stage_variables,
            Event::Disconnect(event) => event.stage_variables,
        }
    }

    pub fn info(&self) -> &'a ConnectionInfo {
        match self {
            Event::Connect(event) => event.info,
            Event::Message(event) => event.info,
            Event::Disconnect(event) => event.info,
        }
    }

    /// The message that a client sent, if that is what the event tells of.
    pub fn message(&self) -> Option<&'a Message> {
        match self {
            Event::Message(event) => Some(event.message),
            Event::Connect(_) | Event::Disconnect(_) => None,
        }
    }
}

impl<'a> ConnectEvent<'a> {
    pub fn to_json(&self) -> Vec<u8> {
        let ConnectEvent { handshake, stage_variables, .. } = *self;
        let (headers, query) = (handshake.integration_headers(), handshake.query_fields());
        let event = ProxyEvent::new(self.context(), stage_variables);
        let event = event.with_headers(&headers);
        json(&if query.is_empty() { event } else { event.with_query(&query) })
    }

    fn context(&self) -> RequestContext<'a> {
        let ConnectEvent { info, request, authorizer_latency_ms, origin, .. } = *self;
        RequestContext::new(info, request, &Occasion::Connect { authorizer_latency_ms }, origin)
    }
}

impl<'a> MessageEvent<'a> {
    pub fn to_json(&self) -> Vec<u8> {
        let MessageEvent { message, stage_variables, .. } = *self;
        let (body, is_base64_encoded) = match message.kind {
            MessageKind::Text => (String::from_utf8_lossy(&message.payload), false),
            MessageKind::Binary => (STANDARD.encode(&message.payload).into(), true),
        };
        let event = ProxyEvent::new(self.context(), stage_variables);
        json(&ProxyEvent { body: Some(body), is_base64_encoded, ..event })
    }

    fn context(&self) -> RequestContext<'a> {
        let MessageEvent { info, request, route_key, message_id, origin, .. } = *self;
        RequestContext::new(info, request, &Occasion::Message { route_key, id: message_id }, origin)
    }
}

impl<'a> DisconnectEvent<'a> {
    pub fn to_json(&self) -> Vec<u8> {
        let DisconnectEvent { info, stage_variables, .. } = *self;
        let headers = disconnect_headers(&info.host);
        json(&ProxyEvent::new(self.context(), stage_variables).with_headers(&headers))
    }

    fn context(&self) -> RequestContext<'a> {
        let DisconnectEvent { info, request, status_code, reason, origin, .. } = *self;
        RequestContext::new(info, request, &Occasion::Disconnect { status_code, reason }, origin)
    }
}

impl AuthorizerEvent<'_> {
    pub fn to_json(&self) -> Vec<u8> {
        let AuthorizerEvent { info, request, method_arn, handshake, stage_variables } = *self;
        let occasion = Occasion::Connect { authorizer_latency_ms: None };
        let (headers, query) = (handshake.authorizer_headers(), handshake.query_fields());
        json(&AuthorizerInput {
            r#type: "REQUEST",
            method_arn,
            headers: LastValues(&headers),
            multi_value_headers: AllValues(&headers),
            query_string_parameters: LastValues(&query),
            multi_value_query_string_parameters: AllValues(&query),
            stage_variables,
            request_context: RequestContext::new(info, request, &occasion, None),
        })
    }
}

impl<'a> ProxyEvent<'a> {
    fn new(request_context: RequestContext<'a>, stage_variables: &'a StageVariables) -> Self {
        ProxyEvent {
            headers: None,
            multi_value_headers: None,
            query_string_parameters: None,
            multi_value_query_string_parameters: None,
            request_context,
            stage_variables: (!stage_variables.is_empty()).then_some(stage_variables),
            body: None,
            is_base64_encoded: false,
        }
    }

    fn with_headers(self, headers: &'a Fields<'a>) -> Self {
        let multi_value_headers = Some(AllValues(headers));
        ProxyEvent { headers: Some(LastValues(headers)), multi_value_headers, ..self }
    }

    fn with_query(self, query: &'a Fields<'a>) -> Self {
        ProxyEvent {
            query_string_parameters: Some(LastValues(query)),
            multi_value_query_string_parameters: Some(AllValues(query)),
            ..self
        }
    }
}

fn json(event: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(event).expect(JSON)
}
