//! From what is known of a request's fate to a gRPC status, in one place.

use std::collections::HashMap;
use std::time::Duration;

use posthorn_core::auth::throttle::Throttled;
use posthorn_core::listing::token::TokenError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::api::callers::{Denied, Unauthenticated};
use crate::exchange::outcome::{DeliverError, Unavailable};
use crate::operator::{OperatorError, TailError};

const DOMAIN: &str = "posthorn";
/// When to try again what a full outbound queue refused.
const TOO_SLOW_RETRY: Duration = Duration::from_secs(1);

/// What is wrong with a request itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("connection_id: a connection ID is 22 characters of base64url")]
    ConnectionId,
    #[error("payload: {bytes} bytes are more than {bytes_max}")]
    PayloadTooLarge { bytes: usize, bytes_max: usize },
    #[error("page_token: {0}")]
    PageToken(TokenError),
    #[error("{0}")]
    Invalid(&'static str),
}

/// A status in parts, as an answer within a stream carries it.
pub(super) struct Told {
    pub(super) code: Code,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
}

impl Told {
    /// The node answers no calls any more.
    pub(super) fn draining() -> Told {
        let message = "this node is being shut down".to_owned();
        Told { code: Code::Unavailable, reason: "DRAINING", message, retry_after: None }
    }

    /// The caller left what was shown to him unread for too long.
    pub(super) fn unread() -> Told {
        let message = "what was shown was not read".to_owned();
        Told { code: Code::ResourceExhausted, reason: "UNREAD", message, retry_after: None }
    }
}

impl From<DeliverError> for Told {
    fn from(error: DeliverError) -> Told {
        let (code, reason) = match error {
            DeliverError::Gone => (Code::NotFound, "CONNECTION_GONE"),
            DeliverError::TooSlow => (Code::ResourceExhausted, "CLIENT_TOO_SLOW"),
            DeliverError::KeyReused => (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"),
            DeliverError::Unknown => (Code::DeadlineExceeded, "OUTCOME_UNKNOWN"),
            DeliverError::Unavailable(why) => (Code::Unavailable, reason_of(why)),
        };
        let retry_after = (error == DeliverError::TooSlow).then_some(TOO_SLOW_RETRY);
        Told { code, reason, message: error.to_string(), retry_after }
    }
}

impl From<Unauthenticated> for Told {
    fn from(unauthenticated: Unauthenticated) -> Told {
        let (code, reason) = match unauthenticated {
            Unauthenticated::Missing | Unauthenticated::UnknownToken => {
                (Code::Unauthenticated, "UNAUTHENTICATED")
            }
            Unauthenticated::NoKeys => (Code::Unavailable, "ISSUER_UNREACHABLE"),
        };
        Told { code, reason, message: unauthenticated.to_string(), retry_after: None }
    }
}

impl From<Denied> for Told {
    fn from(denied: Denied) -> Told {
        let (code, reason) = (Code::PermissionDenied, "PERMISSION_DENIED");
        Told { code, reason, message: denied.to_string(), retry_after: None }
    }
}

impl From<Throttled> for Told {
    fn from(throttled: Throttled) -> Told {
        let (code, reason) = (Code::ResourceExhausted, "THROTTLED");
        let Throttled { retry_after } = throttled;
        Told { code, reason, message: throttled.to_string(), retry_after }
    }
}

impl From<BadRequest> for Told {
    fn from(bad: BadRequest) -> Told {
        let reason = match bad {
            BadRequest::ConnectionId => "INVALID_CONNECTION_ID",
            BadRequest::PayloadTooLarge { .. } => "PAYLOAD_TOO_LARGE",
            BadRequest::PageToken(_) => "INVALID_PAGE_TOKEN",
            BadRequest::Invalid(_) => "INVALID_REQUEST",
        };
        let code = Code::InvalidArgument;
        Told { code, reason, message: bad.to_string(), retry_after: None }
    }
}

impl From<OperatorError> for Told {
    fn from(error: OperatorError) -> Told {
        let (code, reason) = match error {
            OperatorError::NotOffered => (Code::Unimplemented, "NOT_OFFERED"),
            OperatorError::UnknownNode(_) => (Code::NotFound, "UNKNOWN_NODE"),
            OperatorError::Unreachable(..) => (Code::Unavailable, "NODE_UNREACHABLE"),
            OperatorError::Unknown(..) => (Code::DeadlineExceeded, "OUTCOME_UNKNOWN"),
            OperatorError::Indispensable(_) => (Code::FailedPrecondition, "INDISPENSABLE_NODE"),
            OperatorError::NoLeader(_) => (Code::Unavailable, "NO_LEADER"),
        };
        Told { code, reason, message: error.to_string(), retry_after: None }
    }
}

impl From<TailError> for Told {
    fn from(error: TailError) -> Told {
        match error {
            TailError::NotFound(error) => Told::from(error),
            TailError::Owner(error) => Told::from(error),
            TailError::TooMany => Told {
                code: Code::ResourceExhausted,
                reason: "TOO_MANY_TAILS",
                message: error.to_string(),
                retry_after: None,
            },
        }
    }
}

impl From<Told> for Status {
    fn from(told: Told) -> Status {
        let mut details = ErrorDetails::with_error_info(told.reason, DOMAIN, HashMap::new());
        if let Some(retry_after) = told.retry_after {
            details.set_retry_info(Some(retry_after));
        }
        Status::with_error_details(told.code, told.message, details)
    }
}

fn reason_of(why: Unavailable) -> &'static str {
    match why {
        Unavailable::OwnerUnreachable => "OWNER_UNREACHABLE",
        Unavailable::NoQuorum => "NO_QUORUM",
        Unavailable::Fenced => "FENCED",
        Unavailable::Busy => "BUSY",
    }
}
