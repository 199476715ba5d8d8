//! What a post came to.

use posthorn_core::outbox::Unfinished;

use crate::telemetry::Posted;

/// Whether a message got as far as its sender wished.
pub type Outcome = Result<(), DeliverError>;

/// Why a message did not get as far as its sender wished.
///
/// Every variant says what is known about the message, because the sender's next step depends on
/// that and on nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// Not delivered, and never will be: the connection is over.
    #[error("the connection is over")]
    Gone,
    /// Not delivered: the connection's outbox is full.
    #[error("the client reads too slowly: its outbound queue is full")]
    TooSlow,
    /// Not delivered: another message came under the same idempotency key.
    #[error("the idempotency key was used for another message")]
    KeyReused,
    /// Not delivered, and the connection may well live.
    #[error("{0}")]
    Unavailable(Unavailable),
    /// Perhaps delivered: the owner did not answer in time.
    #[error("the owner of the connection did not answer in time")]
    Unknown,
}

/// Why a connection cannot be reached just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("the node that owns the connection cannot be reached")]
    OwnerUnreachable,
    #[error("this node is not part of a quorum")]
    NoQuorum,
    /// The owner's lease has ended.
    #[error("the owner of the connection has lost its lease")]
    Fenced,
    /// Too much waits to be delivered.
    #[error("too many posts are under way")]
    Busy,
}

impl DeliverError {
    pub fn label(self) -> Posted {
        match self {
            DeliverError::Gone => Posted::Gone,
            DeliverError::TooSlow => Posted::TooSlow,
            DeliverError::KeyReused => Posted::KeyReused,
            DeliverError::Unavailable(Unavailable::Busy) => Posted::Busy,
            DeliverError::Unavailable(
                Unavailable::OwnerUnreachable | Unavailable::NoQuorum | Unavailable::Fenced,
            ) => Posted::Unavailable,
            DeliverError::Unknown => Posted::Unknown,
        }
    }
}

impl From<Unfinished> for DeliverError {
    fn from(unfinished: Unfinished) -> DeliverError {
        match unfinished {
            Unfinished::NotSent => DeliverError::Gone,
            Unfinished::PerhapsSent => DeliverError::Unknown,
        }
    }
}

/// How metrics name an outcome.
pub fn label<T>(outcome: &Result<T, DeliverError>) -> Posted {
    outcome.as_ref().map_or_else(|error| error.label(), |_| Posted::Ok)
}
