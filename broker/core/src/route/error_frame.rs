//! What a client is told when its message came to nothing. The socket stays open.
//!
//! The texts are API Gateway's to the space, because clients compare them: the first two as recorded
//! from it, "Bad request body" as its documentation prints it. "Endpoint request timed out", "Too
//! Many Requests" and "Unsupported Media Type" are its words for the same over HTTP; what it says on
//! a socket is not known.

use crate::access_log::failure::{Failure, ResponseType};
use crate::event::ids::{MessageId, RequestId};
use crate::ids::ConnectionId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorFrame {
    /// No route fits, and there is no `$default`.
    Forbidden(RequestId),
    /// The integration failed.
    InternalServerError(RequestId),
    /// The integration did not answer in time.
    TimedOut(RequestId),
    /// The message was one too many for its route.
    TooManyRequests(RequestId),
    /// There is no template for the message, and without one it may not pass.
    UnsupportedMediaType(RequestId),
    /// The message does not fit the route's model.
    BadRequestBody(MessageId),
}

impl ErrorFrame {
    pub fn text(self, connection: ConnectionId) -> String {
        let why = self.message();
        match self {
            ErrorFrame::Forbidden(request)
            | ErrorFrame::InternalServerError(request)
            | ErrorFrame::TimedOut(request)
            | ErrorFrame::TooManyRequests(request)
            | ErrorFrame::UnsupportedMediaType(request) => failed(why, connection, request),
            ErrorFrame::BadRequestBody(message) => format!(
                r#"{{"message" : "{why}", "connectionId": "{connection}", "messageId": "{message}"}}"#
            ),
        }
    }

    fn message(self) -> &'static str {
        match self {
            ErrorFrame::Forbidden(_) => "Forbidden",
            ErrorFrame::InternalServerError(_) => "Internal server error",
            ErrorFrame::TimedOut(_) => "Endpoint request timed out",
            ErrorFrame::TooManyRequests(_) => "Too Many Requests",
            ErrorFrame::UnsupportedMediaType(_) => "Unsupported Media Type",
            ErrorFrame::BadRequestBody(_) => "Bad request body",
        }
    }

    /// As access logs have it.
    pub fn failure(self) -> Failure<'static> {
        let response_type = match self {
            ErrorFrame::Forbidden(_) => ResponseType::ResourceNotFound,
            ErrorFrame::InternalServerError(_) => ResponseType::IntegrationFailure,
            ErrorFrame::TimedOut(_) => ResponseType::IntegrationTimeout,
            ErrorFrame::TooManyRequests(_) => ResponseType::Throttled,
            ErrorFrame::UnsupportedMediaType(_) => ResponseType::UnsupportedMediaType,
            ErrorFrame::BadRequestBody(_) => ResponseType::BadRequestBody,
        };
        Failure { message: self.message(), response_type: Some(response_type) }
    }

    /// What it would be over HTTP, as access logs have it.
    pub fn status(self) -> u16 {
        match self {
            ErrorFrame::Forbidden(_) => 403,
            ErrorFrame::InternalServerError(_) => 500,
            ErrorFrame::TimedOut(_) => 504,
            ErrorFrame::TooManyRequests(_) => 429,
            ErrorFrame::UnsupportedMediaType(_) => 415,
            ErrorFrame::BadRequestBody(_) => 400,
        }
    }
}

/// No member holds anything that JSON would escape.
fn failed(why: &str, connection: ConnectionId, request: RequestId) -> String {
    format!(r#"{{"message": "{why}", "connectionId":"{connection}", "requestId":"{request}"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_spaced_as_api_gateway_spaces_them() {
        let connection = ConnectionId::from_random([0; 16]);
        let request = RequestId::from_random([0; 11]);
        let message = MessageId::from_random([0; 7], connection);
        let id = "AAAAAAAAAAAAAAAAAAAAAA";
        for (frame, text) in [
            (ErrorFrame::Forbidden(request), "Forbidden"),
            (ErrorFrame::InternalServerError(request), "Internal server error"),
            (ErrorFrame::TimedOut(request), "Endpoint request timed out"),
            (ErrorFrame::TooManyRequests(request), "Too Many Requests"),
            (ErrorFrame::UnsupportedMediaType(request), "Unsupported Media Type"),
        ] {
            let text = [
                r#"{"message": ""#,
                text,
                r#"", "connectionId":""#,
                id,
                r#"", "requestId":"AAAAAAAAAAAAAAA="}"#,
            ];
            assert_eq!(frame.text(connection), text.concat());
        }
        assert_eq!(
            ErrorFrame::BadRequestBody(message).text(connection),
            r#"{"message" : "Bad request body", "connectionId": "AAAAAAAAAAAAAAAAAAAAAA", "messageId": "AAAAAAAAAAAAAAA="}"#
        );
    }
}
