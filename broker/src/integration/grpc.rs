//! A backend that implements `posthorn.v1.IntegrationService`.

use std::time::Duration;

use hyper::Uri;
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::event::context::{Origin, Request};
use posthorn_core::event::proxy::{Event, StageVariables};
use posthorn_core::message::{Message, MessageKind};
use posthorn_proto::v1::handle_event_request::Event as WireEvent;
use posthorn_proto::v1::handle_event_response::Payload as Reply;
use posthorn_proto::v1::integration_service_client::IntegrationServiceClient;
use posthorn_proto::v1::message_event::Payload;
use posthorn_proto::v1::{
    AuthorizerContext, ConnectEvent, DisconnectEvent, EventContext, HandleEventRequest,
    HandleEventResponse, Header, MessageEvent,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::integration::http::https_connector;
use crate::integration::reach::Reach;
use crate::integration::{Answer, CallError};

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// As large as the largest answer of other integrations.
const ANSWER_BYTES_MAX: usize = 6 * 1024 * 1024;

pub(super) struct Grpc {
    client: IntegrationServiceClient<Channel>,
}

impl Grpc {
    /// Connects when first called.
    pub(super) fn new(uri: &Uri, reach: &Reach) -> Grpc {
        let endpoint = Endpoint::from(uri.clone()).http2_keep_alive_interval(KEEPALIVE_INTERVAL);
        let connector = https_connector().enable_http2().wrap_connector(reach.connector());
        let channel = endpoint.connect_with_connector_lazy(connector);
        let client = IntegrationServiceClient::new(channel);
        Grpc { client: client.max_decoding_message_size(ANSWER_BYTES_MAX) }
    }

    pub(super) async fn call(&self, event: &Event<'_>) -> Result<Answer, CallError> {
        let answered = self.client.clone().handle_event(request_of(event)).await;
        answer_of(answered.map_err(|status| fault_of(&status))?.into_inner())
    }
}

fn request_of(event: &Event<'_>) -> HandleEventRequest {
    let (route_key, context, wire) = match event {
        Event::Connect(connect) => {
            let headers = connect.handshake.integration_headers();
            let header = |(name, value): (&str, &str)| Header {
                name: name.to_owned(),
                value: value.to_owned(),
            };
            let wire = ConnectEvent {
                headers: headers.pairs().map(header).collect(),
                query: connect.handshake.query.to_owned(),
            };
            let context =
                context(connect.info, connect.request, connect.stage_variables, connect.origin);
            ("$connect", context, WireEvent::Connect(wire))
        }
        Event::Message(message) => {
            let payload = match message.message.kind {
                MessageKind::Text => {
                    Payload::Text(String::from_utf8_lossy(&message.message.payload).into_owned())
                }
                MessageKind::Binary => Payload::Binary(message.message.payload.clone()),
            };
            let wire =
                MessageEvent { message_id: message.message_id.to_string(), payload: Some(payload) };
            let context =
                context(message.info, message.request, message.stage_variables, message.origin);
            (message.route_key, context, WireEvent::Message(wire))
        }
        Event::Disconnect(end) => {
            let wire = DisconnectEvent {
                status_code: end.status_code.into(),
                reason: end.reason.to_owned(),
            };
            let context = context(end.info, end.request, end.stage_variables, end.origin);
            ("$disconnect", context, WireEvent::Disconnect(wire))
        }
    };
    HandleEventRequest {
        route_key: route_key.to_owned(),
        context: Some(context),
        event: Some(wire),
    }
}

fn context(
    info: &ConnectionInfo,
    request: Request,
    stage_variables: &StageVariables,
    origin: Option<Origin>,
) -> EventContext {
    let authorizer = info.authorized.as_ref().map(|authorized| AuthorizerContext {
        principal_id: authorized.principal_id.to_string(),
        context: authorized
            .context
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
    });
    EventContext {
        connection_id: info.connection.to_string(),
        api_id: info.api_id.to_string(),
        stage: info.stage.to_string(),
        domain_name: info.domain_name.to_string(),
        source_ip: info.source_ip.to_string(),
        user_agent: info.user_agent.as_deref().unwrap_or_default().to_owned(),
        connected_at_ms: info.connected_at_ms,
        request_id: request.id.to_string(),
        requested_at_ms: request.at_ms,
        stage_variables: stage_variables.clone(),
        authorizer,
        run: origin.map_or_else(String::new, |origin| origin.run.to_string()),
        sequence: origin.map_or(0, |origin| origin.sequence),
    }
}

fn answer_of(response: HandleEventResponse) -> Result<Answer, CallError> {
    let HandleEventResponse { status, headers, payload } = response;
    let status = match status {
        0 => 200,
        100..=599 => status as u16,
        _ => return Err(CallError::BadAnswer(format!("{status} is no status"))),
    };
    let body = payload.map(|payload| match payload {
        Reply::Text(text) => Message::text(text),
        Reply::Binary(bytes) => Message::binary(bytes),
    });
    let headers = headers.into_iter().map(|Header { name, value }| (name, value)).collect();
    Ok(Answer::new(status, headers, body))
}

fn fault_of(status: &Status) -> CallError {
    let text = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        // The method is not there.
        Code::Unimplemented => CallError::NotCalled(text),
        _ => CallError::Failed(text),
    }
}
