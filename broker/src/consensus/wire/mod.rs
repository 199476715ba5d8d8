//! What the log, the peers and the disk are told, and how it is believed again.
//!
//! Invariants:
//!
//! * Whatever arrives, the answer is a value or a [`WireError`] that names what is wrong with it.
//! * What was written comes back equal.

mod directory;
mod members;
mod raft;
mod rpc;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use prost::Message as _;

/// A type that has a message in `posthorn.cluster.v1`.
pub trait Wire: Sized {
    type Message: prost::Message + Default;
    /// The message's name, for errors.
    const NAME: &'static str;

    fn to_message(&self) -> Self::Message;

    fn from_message(message: Self::Message) -> Result<Self, WireError>;

    fn to_bytes(&self) -> Bytes {
        self.to_message().encode_to_vec().into()
    }

    fn from_bytes(bytes: Bytes) -> Result<Self, WireError> {
        let message = Self::Message::decode(bytes)
            .map_err(|error| WireError::NotProtobuf { message: Self::NAME, error })?;
        Self::from_message(message)
    }
}

/// What arrived is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("not a {message}: {error}")]
    NotProtobuf { message: &'static str, error: prost::DecodeError },
    #[error("{message} without its {field}")]
    Missing { message: &'static str, field: &'static str },
    #[error("{message} whose {field} cannot be {value}")]
    Wrong { message: &'static str, field: &'static str, value: String },
}

impl WireError {
    pub(super) fn wrong(
        message: &'static str,
        field: &'static str,
        value: impl std::fmt::Display,
    ) -> WireError {
        WireError::Wrong { message, field, value: value.to_string() }
    }
}

/// A field of message `M` that must be there.
fn required<M: Wire, T: Wire>(
    field: &'static str,
    value: Option<T::Message>,
) -> Result<T, WireError> {
    let value = value.ok_or(WireError::Missing { message: M::NAME, field })?;
    T::from_message(value)
}

/// A field that may be absent.
fn optional<T: Wire>(value: Option<T::Message>) -> Result<Option<T>, WireError> {
    value.map(T::from_message).transpose()
}

fn to_optional<T: Wire>(value: Option<&T>) -> Option<T::Message> {
    value.map(T::to_message)
}
