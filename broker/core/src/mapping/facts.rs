//! What templates and mappings are told of one event.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::event::fields::Fields;
use crate::event::proxy::{Event, StageVariables};
use crate::message::{Message, MessageKind};
use crate::template::Source;

/// `route.request.…`, `context.…` and `stageVariables.…`, or `$input`, `$context` and
/// `$stageVariables`, of one event.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Empty where the event has none. Of a binary message: base64, as in the events of proxies.
    pub body: Cow<'a, str>,
    /// Of the handshake, for `$connect`; none otherwise.
    headers: Fields<'a>,
    /// The same.
    query: Fields<'a>,
    context: String,
    stage_variables: &'a StageVariables,
}

impl<'a> Facts<'a> {
    pub fn of(event: &Event<'a>) -> Facts<'a> {
        let (headers, query) = match event {
            Event::Connect(connect) => {
                (connect.handshake.integration_headers(), connect.handshake.query_fields())
            }
            Event::Message(_) | Event::Disconnect(_) => Default::default(),
        };
        Facts {
            body: event.message().map_or_else(Cow::default, text_of),
            headers,
            query,
            context: event.context_json(),
            stage_variables: event.stage_variables(),
        }
    }

    pub fn source(&self) -> Source<'_> {
        let Facts { body, headers, query, context, stage_variables } = self;
        Source { body, headers, query, context, stage_variables }
    }

    /// The same of an answer: with its body, and in its context its status.
    pub fn source_of_answer<'b>(&'b self, body: &'b str, context: &'b str) -> Source<'b> {
        let Facts { headers, query, stage_variables, .. } = self;
        Source { body, headers, query, context, stage_variables }
    }

    /// `$context` once there is an answer.
    pub fn context_with_status(&self, status: u16) -> String {
        // It is an object, and has members.
        let members = self.context.strip_suffix('}').unwrap_or_default();
        format!("{members},\"status\":{status}}}")
    }
}

/// A body as a text, whatever it is.
pub(super) fn text_of(message: &Message) -> Cow<'_, str> {
    match message.kind {
        MessageKind::Text => String::from_utf8_lossy(&message.payload),
        MessageKind::Binary => STANDARD.encode(&message.payload).into(),
    }
}
