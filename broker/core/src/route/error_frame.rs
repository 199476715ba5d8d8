//! What a client is told when its message came to nothing. The socket stays open.
//!
//! The texts are API Gateway's to the space, because clients compare them: the first two as recorded
//! from it, "Bad request body" as its documentation prints it. "Endpoint request timed out" and "Too
//! Many Requests" are its words for the same over HTTP; what it says on a socket is not known.

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
    /// The message does not fit the route's model.
    BadRequestBody(MessageId),
}

impl ErrorFrame {
    pub fn text(self, connection: ConnectionId) -> String {
        match self {
            ErrorFrame::Forbidden(request) => failed("Forbidden", connection, request),
            ErrorFrame::InternalServerError(request) => {
                failed("Internal server error", connection, request)
            }
            ErrorFrame::TimedOut(request) => {
                failed("Endpoint request timed out", connection, request)
            }
            ErrorFrame::TooManyRequests(request) => {
                failed("Too Many Requests", connection, request)
            }
            ErrorFrame::BadRequestBody(message) => format!(
                r#"{{"message" : "Bad request body", "connectionId": "{connection}", "messageId": "{message}"}}"#
            ),
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
