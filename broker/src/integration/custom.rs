//! Custom integrations: a backend behind templates, which get between it and the client both ways.

use std::sync::Arc;

use posthorn_core::event::fields::Fields;
use posthorn_core::event::proxy::Event;
use posthorn_core::mapping::custom::{CustomError, CustomMapping, Outgoing, mock_status};
use posthorn_core::mapping::facts::Facts;
use posthorn_core::message::Message;

use crate::config::api::FunctionName;
use crate::integration::http_target::HttpTarget;
use crate::integration::lambda::{Invoked, LambdaClient, excerpt};
use crate::integration::{Answer, CallError};

/// What a handshake is answered with when the function that was to decide has failed.
const FAILED_STATUS: u16 = 502;

pub(super) struct Custom {
    backend: Backend,
    mapping: Arc<CustomMapping>,
}

pub(super) enum Backend {
    Http(HttpTarget),
    Lambda { lambda: LambdaClient, function: FunctionName },
    Mock,
}

struct Answered {
    status: u16,
    headers: Vec<(String, String)>,
    body: Message,
    /// A function's: why it has failed. It may have a response all the same.
    failure: Option<String>,
}

impl Custom {
    pub(super) fn new(backend: Backend, mapping: Arc<CustomMapping>) -> Custom {
        Custom { backend, mapping }
    }

    pub(super) fn is_mock(&self) -> bool {
        matches!(self.backend, Backend::Mock)
    }

    pub(super) async fn call(&self, event: &Event<'_>) -> Result<Answer, CallError> {
        let facts = Facts::of(event);
        let outgoing = self.mapping.request.outgoing(&facts, event.message());
        let answered = self.backend.call(outgoing.map_err(|error| not_sent(&error))?).await?;
        let Answered { status, headers, body, failure } = answered;
        if let (Event::Disconnect(_), None) = (event, &failure) {
            // There is nobody to be told.
            return Ok(Answer::new(status, Vec::new(), None));
        }
        let fields = Fields::of_headers(headers.iter().map(|(name, value)| (&**name, &**value)));
        let reply = match event {
            Event::Disconnect(_) => None,
            Event::Connect(_) | Event::Message(_) => self
                .mapping
                .reply(&facts, status, &fields, &body)
                .map_err(|error| CallError::BadAnswer(error.to_string()))?,
        };
        match (reply, failure) {
            (None, Some(failure)) => Err(CallError::Failed(failure)),
            (None, None) => Ok(Answer::new(status, Vec::new(), None)),
            (Some(reply), _) => {
                let body = Some(reply.body).filter(|body| !body.payload.is_empty());
                Ok(Answer { status, headers: reply.headers, body, is_mapped: true })
            }
        }
    }
}

impl Backend {
    async fn call(&self, outgoing: Outgoing) -> Result<Answered, CallError> {
        let Outgoing { body, mapped } = outgoing;
        match self {
            Backend::Http(target) => {
                let answer = target.send_message(body, &mapped).await?;
                let (status, headers, body) = answer.into_parts()?;
                Ok(Answered { status, headers, body, failure: None })
            }
            Backend::Lambda { lambda, function } => {
                // The Invoke API takes nothing that is not JSON.
                let payload = if body.payload.is_empty() { "{}".into() } else { body.payload };
                let invoked = lambda.invoke(function, payload, &mapped.headers).await?;
                let (status, body, failure) = match invoked {
                    Invoked::Returned(body) => (200, body, None),
                    Invoked::Threw(body) => {
                        let failure = format!("{} failed: {}", function.as_str(), excerpt(&body));
                        (FAILED_STATUS, body, Some(failure))
                    }
                };
                let body = Message::text(String::from_utf8_lossy(&body));
                Ok(Answered { status, headers: Vec::new(), body, failure })
            }
            Backend::Mock => {
                let status = mock_status(&body).ok_or_else(|| {
                    CallError::NotMapped("the mock's request has no statusCode".to_owned())
                })?;
                let body = Message::text("");
                Ok(Answered { status, headers: Vec::new(), body, failure: None })
            }
        }
    }
}

fn not_sent(error: &CustomError) -> CallError {
    match error {
        CustomError::NoTemplate => CallError::NoTemplate,
        CustomError::NoResponse
        | CustomError::Render(_)
        | CustomError::Map(_)
        | CustomError::Content(_) => CallError::NotMapped(error.to_string()),
    }
}
