//! An HTTP server that gets what the client sent, as it is: the handshake's headers and query for
//! `$connect`, the message's bytes as a body otherwise.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Uri};
use posthorn_core::event::proxy::{ConnectEvent, Event};
use posthorn_core::message::{Message, MessageKind};

use crate::integration::http::{HttpClient, USER_AGENT};
use crate::integration::{Answer, CallError};

/// Of the handshake's headers, those that belong to one hop, that speak of a body which a handshake
/// does not have, or that would have a plain HTTP server refuse half a WebSocket handshake.
const NOT_PASSED_ON: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authorization",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-version",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) struct HttpProxy {
    client: HttpClient,
    method: Method,
    uri: Uri,
}

impl HttpProxy {
    pub(super) fn new(client: HttpClient, method: Method, uri: Uri) -> HttpProxy {
        HttpProxy { client, method, uri }
    }

    pub(super) async fn call(&self, event: &Event<'_>) -> Result<Answer, CallError> {
        let mut request = Request::builder().method(self.method.clone());
        let body = match event {
            Event::Connect(connect) => {
                for (name, value) in connect.handshake.integration_headers().pairs() {
                    if !NOT_PASSED_ON.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                        request = request.header(name, value);
                    }
                }
                request = request.uri(self.uri_with_query(connect)?);
                Bytes::new()
            }
            Event::Message(message) => {
                let content_type = content_type(message.message);
                request = request.uri(self.uri.clone()).header("content-type", content_type);
                request = request.header("user-agent", USER_AGENT);
                message.message.payload.clone()
            }
            Event::Disconnect(_) => {
                request = request.uri(self.uri.clone()).header("user-agent", USER_AGENT);
                Bytes::new()
            }
        };
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| CallError::NotCalled(error.to_string()))?;
        self.client.send(request).await.map(|answer| answer.into_answer())
    }

    fn uri_with_query(&self, connect: &ConnectEvent<'_>) -> Result<Uri, CallError> {
        let query = connect.handshake.query;
        if query.is_empty() {
            return Ok(self.uri.clone());
        }
        let join = if self.uri.query().is_some() { '&' } else { '?' };
        let uri = format!("{}{join}{query}", self.uri);
        uri.parse().map_err(|_| CallError::NotCalled("the query cannot be passed on".to_owned()))
    }
}

fn content_type(message: &Message) -> &'static str {
    match message.kind {
        MessageKind::Text => "application/json",
        MessageKind::Binary => "application/octet-stream",
    }
}
