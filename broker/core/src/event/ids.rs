//! The names of single requests and messages, in the shape of API Gateway's: 16 characters of
//! base64url (RFC 4648 section 5), the last of them `=`.
//!
//! They are for reading logs, nothing can be addressed by one. A message's ID ends in the bytes that
//! its connection's ID ends in, as API Gateway's do; the seven before them are enough to tell the
//! messages of one connection apart. The 12 bytes of the connection's ID that it does not show are
//! 96 random bits still.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde::{Serialize, Serializer};

use crate::ids::ConnectionId;

const BYTES: usize = 11;
const CHARS: usize = 16;

/// One call of an integration, or one request to our own APIs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId([u8; BYTES]);

/// One message of a client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId([u8; BYTES]);

impl RequestId {
    pub const fn from_random(bits: [u8; BYTES]) -> RequestId {
        RequestId(bits)
    }
}

impl MessageId {
    pub const fn from_random(bits: [u8; 7], connection: ConnectionId) -> MessageId {
        let [a, b, c, d, e, f, g] = bits;
        let [.., w, x, y, z] = *connection.as_bytes();
        MessageId([a, b, c, d, e, f, g, w, x, y, z])
    }
}

fn write(bytes: &[u8; BYTES], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [0; CHARS];
    let written = URL_SAFE.encode_slice(bytes, &mut text).map_err(|_| fmt::Error)?;
    f.write_str(str::from_utf8(&text[..written]).map_err(|_| fmt::Error)?)
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(&self.0, f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(&self.0, f)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(&self.0, f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(&self.0, f)
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_look_as_those_of_api_gateway() {
        let connection = ConnectionId::from_random([0xff; 16]);
        assert_eq!(RequestId::from_random([0; 11]).to_string(), "AAAAAAAAAAAAAAA=");
        assert_eq!(RequestId::from_random([0xff; 11]).to_string(), "______________8=");
        let message = MessageId::from_random([0; 7], connection);
        assert_eq!(message.to_string(), "AAAAAAAAAP____8=");
    }
}
