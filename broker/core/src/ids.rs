//! The nouns that cross every boundary.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A node of the cluster: its ordinal, which outlives its disk, its address and its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// One run of one node's process.
///
/// A restart takes a larger incarnation, so a message from an earlier run can be told from one of
/// this run. Everything a node owns, it owns as a run. The first incarnation is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRun {
    pub node: NodeId,
    pub incarnation: u32,
}

/// One data directory: a random number, made with it and lost with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u64);

/// One WebSocket, from the accepted handshake to the last byte: 128 random bits, never used twice.
///
/// Its text is 22 characters of unpadded base64url (RFC 4648 section 5), opaque outside the broker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId([u8; ConnectionId::BYTES]);

/// The text is not one that a connection ID could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a connection ID is 22 characters of base64url")]
pub struct NotAConnectionId;

impl ConnectionId {
    pub const BYTES: usize = 16;
    pub const CHARS: usize = 22;

    /// The bits must come from the operating system's random number generator: who can guess an ID
    /// can address its client.
    pub const fn from_random(bits: [u8; Self::BYTES]) -> ConnectionId {
        ConnectionId(bits)
    }

    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// A number that is evenly spread over IDs.
    pub const fn spread(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl TryFrom<&[u8]> for ConnectionId {
    type Error = NotAConnectionId;

    fn try_from(bytes: &[u8]) -> Result<ConnectionId, NotAConnectionId> {
        bytes.try_into().map(ConnectionId).map_err(|_| NotAConnectionId)
    }
}

impl FromStr for ConnectionId {
    type Err = NotAConnectionId;

    fn from_str(text: &str) -> Result<ConnectionId, NotAConnectionId> {
        if text.len() != Self::CHARS {
            return Err(NotAConnectionId);
        }
        let mut bytes = [0; Self::BYTES];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(Self::BYTES) => Ok(ConnectionId(bytes)),
            Ok(_) | Err(_) => Err(NotAConnectionId),
        }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; Self::CHARS];
        let written = URL_SAFE_NO_PAD.encode_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(str::from_utf8(&text[..written]).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// `2/7`: node 2, incarnation 7.
impl fmt::Display for NodeRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_text_of_an_id_names_it_and_no_other(bits: [u8; 16]) {
            let id = ConnectionId::from_random(bits);
            let text = id.to_string();
            prop_assert_eq!(text.len(), ConnectionId::CHARS);
            prop_assert_eq!(text.parse(), Ok(id));
        }

        #[test]
        fn any_text_is_refused_or_is_the_text_of_an_id(text in "[A-Za-z0-9_=/+-]{20,24}") {
            if let Ok(id) = text.parse::<ConnectionId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let good = ConnectionId::from_random([0; 16]).to_string();
        assert_eq!(good, "AAAAAAAAAAAAAAAAAAAAAA");
        for bad in
            ["", "A", "AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAAAAAAAAAAA==", "AAAAAAAAAAAAAAAAAAAA A"]
        {
            assert_eq!(bad.parse::<ConnectionId>(), Err(NotAConnectionId), "{bad:?}");
        }
    }
}
