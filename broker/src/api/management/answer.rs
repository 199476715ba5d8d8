//! What the `@connections` API answers, byte for byte as API Gateway does where that is known.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use posthorn_core::auth::sigv4::VerifyError;
use posthorn_core::auth::throttle::Throttled;
use posthorn_core::event::ids::RequestId;
use posthorn_core::event::time::IsoTime;
use serde_json::json;

use crate::api::callers::seconds_of;
use crate::clock;
use crate::exchange::Found;
use crate::exchange::outcome::DeliverError;

pub(super) const ERROR_TYPE: &str = "x-amzn-errortype";
/// How much of a malformed connection ID is said back.
const ECHO_CHARS_MAX: usize = 64;

pub(super) enum Done {
    Posted,
    Deleted,
    Found(Box<Found>),
}

/// Why a request came to nothing.
pub(super) enum Refusal {
    /// The path leads to no stage, or is not of this API.
    NoSuchPlace,
    Method,
    Unauthenticated(VerifyError),
    /// Who may not do what, in AWS's words.
    Denied(String),
    /// An issuer's keys cannot be had.
    NoKeys,
    ConnectionId(String),
    TooLarge,
    /// The body did not come in time.
    Slow,
    /// The body broke off.
    Broken,
    InvocationId,
    Busy,
    Throttled(Throttled),
    Undelivered(DeliverError),
}

/// An error as its parts: status, exception, body.
struct Parts {
    status: StatusCode,
    exception: &'static str,
    body: String,
    /// In seconds.
    retry_after: Option<u64>,
}

impl Done {
    pub(super) fn into_response(self, request: RequestId) -> Response {
        let (status, body) = match self {
            Done::Posted => (StatusCode::OK, String::new()),
            Done::Deleted => (StatusCode::NO_CONTENT, String::new()),
            Done::Found(found) => (StatusCode::OK, body_of(&found)),
        };
        response(status, body, request)
    }
}

impl Refusal {
    pub(super) fn into_response(self, request: RequestId) -> Response {
        let Parts { status, exception, body, retry_after } = self.into_parts();
        let mut response = response(status, body, request);
        let headers = response.headers_mut();
        headers.insert(ERROR_TYPE, HeaderValue::from_static(exception));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("DELETE, GET, POST"));
        }
        response
    }

    fn into_parts(self) -> Parts {
        let parts = |status, exception, message: &str| {
            let body = json!({ "message": message }).to_string();
            Parts { status, exception, body, retry_after: None }
        };
        match self {
            Refusal::NoSuchPlace => parts(StatusCode::FORBIDDEN, "ForbiddenException", "Forbidden"),
            Refusal::Method => parts(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowedException",
                "Method Not Allowed",
            ),
            Refusal::Unauthenticated(error) => {
                parts(StatusCode::FORBIDDEN, error.exception(), &error.to_string())
            }
            Refusal::Denied(message) => Parts {
                // With a capital letter, unlike all others.
                body: json!({ "Message": message }).to_string(),
                ..parts(StatusCode::FORBIDDEN, "AccessDeniedException", "")
            },
            Refusal::ConnectionId(id) => {
                let echo: String = id.chars().take(ECHO_CHARS_MAX).collect();
                let message = format!("Invalid connectionId: {echo}");
                parts(StatusCode::BAD_REQUEST, "BadRequestException", &message)
            }
            Refusal::TooLarge => Parts {
                body: String::new(),
                ..parts(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeException", "")
            },
            Refusal::Slow => {
                parts(StatusCode::REQUEST_TIMEOUT, "RequestTimeoutException", "Request Timeout")
            }
            Refusal::Broken => {
                parts(StatusCode::BAD_REQUEST, "BadRequestException", "The body broke off")
            }
            Refusal::InvocationId => {
                let message = "amz-sdk-invocation-id has at most 128 characters";
                parts(StatusCode::BAD_REQUEST, "BadRequestException", message)
            }
            Refusal::NoKeys => unavailable("the keys of an issuer cannot be had"),
            Refusal::Busy => unavailable("too many requests are under way"),
            Refusal::Throttled(Throttled { retry_after }) => {
                limited(retry_after, "Too Many Requests")
            }
            Refusal::Undelivered(error) => undelivered(error),
        }
    }
}

fn undelivered(error: DeliverError) -> Parts {
    match error {
        DeliverError::Gone => Parts {
            status: StatusCode::GONE,
            exception: "GoneException",
            body: String::new(),
            retry_after: None,
        },
        DeliverError::TooSlow => limited(None, &error.to_string()),
        DeliverError::KeyReused => Parts {
            status: StatusCode::CONFLICT,
            exception: "ConflictException",
            body: json!({ "message": error.to_string() }).to_string(),
            retry_after: None,
        },
        DeliverError::Unavailable(why) => unavailable(&why.to_string()),
        DeliverError::Unknown => Parts {
            status: StatusCode::GATEWAY_TIMEOUT,
            exception: "GatewayTimeoutException",
            body: json!({ "message": error.to_string() }).to_string(),
            retry_after: None,
        },
    }
}

fn limited(retry_after: Option<Duration>, message: &str) -> Parts {
    Parts {
        status: StatusCode::TOO_MANY_REQUESTS,
        exception: "LimitExceededException",
        body: json!({ "message": message }).to_string(),
        retry_after: Some(seconds_of(retry_after)),
    }
}

fn unavailable(message: &str) -> Parts {
    Parts {
        status: StatusCode::SERVICE_UNAVAILABLE,
        exception: "ServiceUnavailableException",
        body: json!({ "message": message }).to_string(),
        retry_after: Some(1),
    }
}

/// Spaced as API Gateway spaces it.
fn body_of(found: &Found) -> String {
    let Found { info, last_active_at_ms, owner: _ } = found;
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let source_ip = text(&info.source_ip.to_string());
    let user_agent = text(info.user_agent.as_deref().unwrap_or_default());
    let connected_at = IsoTime(info.connected_at_ms);
    let last_active_at = IsoTime(*last_active_at_ms);
    format!(
        "{{\n  \"identity\" : {{\n    \"sourceIp\" : {source_ip},\n    \
           \"userAgent\" : {user_agent}\n  }},\n  \
           \"connectedAt\" : \"{connected_at}\",\n  \
           \"lastActiveAt\" : \"{last_active_at}\"\n}}"
    )
}

/// With the headers that all answers have.
fn response(status: StatusCode, body: String, request: RequestId) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in names_of_request(request) {
        // They are made of letters, digits, `-`, `_` and `=`.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}

/// What the answer is called in logs, its ID in access logs among them. Nothing can be addressed by it, so that without random bits it
/// is good as well.
fn names_of_request(request: RequestId) -> [(HeaderName, String); 3] {
    let mut bits = [0; 28];
    let _ = getrandom::fill(&mut bits);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // The bits that say which kind of UUID it is (RFC 9562 section 5.4).
    bits[6] = bits[6] & 0x0f | 0x40;
    bits[8] = bits[8] & 0x3f | 0x80;
    let (uuid, trace) = bits.split_at(16);
    let groups = [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]];
    let uuid = groups.map(hex).join("-");
    let trace = format!("Root=1-{:08x}-{}", clock::epoch_ms() / 1000, hex(trace));
    [
        (HeaderName::from_static("x-amzn-requestid"), uuid),
        (HeaderName::from_static("x-amz-apigw-id"), request.to_string()),
        (HeaderName::from_static("x-amzn-trace-id"), trace),
    ]
}
