//! An HTTP server that gets what the client sent, as it is: the handshake's headers and query for
//! `$connect`, the message's bytes as a body otherwise; and what is mapped beside.

use std::sync::Arc;

use bytes::Bytes;
use posthorn_core::event::proxy::{ConnectEvent, Event};
use posthorn_core::mapping::content::ContentHandling;
use posthorn_core::mapping::parameters::{Mapped, RequestParameters};
use posthorn_core::message::Message;

use crate::integration::http::HttpAnswer;
use crate::integration::http_target::{HttpTarget, map};
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
    target: HttpTarget,
    parameters: Arc<RequestParameters>,
    content_handling: Option<ContentHandling>,
}

impl HttpProxy {
    pub(super) fn new(
        target: HttpTarget,
        parameters: Arc<RequestParameters>,
        content_handling: Option<ContentHandling>,
    ) -> HttpProxy {
        HttpProxy { target, parameters, content_handling }
    }

    pub(super) async fn call(&self, event: &Event<'_>) -> Result<Answer, CallError> {
        let mapped = map(&self.parameters, event)?;
        let answer = match event {
            Event::Connect(connect) => self.pass_on(connect, &mapped).await?,
            Event::Message(message) => {
                let body = message.message.clone();
                let body = match self.content_handling {
                    Some(handling) => handling.convert(body),
                    None => Ok(body),
                };
                let body = body.map_err(|error| CallError::NotMapped(error.to_string()))?;
                self.target.send_message(body, &mapped).await?
            }
            Event::Disconnect(_) => self.target.send_message(Message::text(""), &mapped).await?,
        };
        answer.into_answer(event)
    }

    async fn pass_on(
        &self,
        connect: &ConnectEvent<'_>,
        mapped: &Mapped,
    ) -> Result<HttpAnswer, CallError> {
        let headers = connect.handshake.integration_headers();
        let is_passed_on =
            |name: &str| !NOT_PASSED_ON.iter().any(|other| other.eq_ignore_ascii_case(name));
        let headers: Vec<_> = headers.pairs().filter(|(name, _)| is_passed_on(name)).collect();
        self.target.send(&headers, connect.handshake.query, Bytes::new(), mapped).await
    }
}
