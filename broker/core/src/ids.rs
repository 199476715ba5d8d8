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

/// The name of a cluster, in which all its nodes' certificates end: a DNS name of lower case
/// letters, digits, hyphens and dots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName(String);

/// The text cannot be the end of a DNS name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cluster name is a DNS name of lower case letters, digits, hyphens and dots")]
pub struct NotAClusterName;

/// One WebSocket, from the accepted handshake to the last byte: 127 random bits, never used twice.
///
/// Its text is 22 characters of unpadded base64url (RFC 4648 section 5), opaque outside the broker. It
/// begins with a letter, so that no command line takes it for an option.
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
    /// can address its client. The first bit is not used: with it, an ID could begin with a hyphen.
    pub const fn from_random(mut bits: [u8; Self::BYTES]) -> ConnectionId {
        bits[0] &= 0x7f;
        ConnectionId(bits)
    }

    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// A number whose lower 63 bits are evenly spread over IDs.
    pub const fn spread(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
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

impl ClusterName {
    /// So that the longest name of a node fits into the 253 bytes of a DNS name.
    const BYTES_MAX: usize = 253 - "node-4294967295.".len();
    const LABEL_BYTES_MAX: usize = 63;

    /// The DNS name that a node's certificate carries.
    pub fn node_name(&self, node: NodeId) -> String {
        format!("node-{node}.{self}")
    }

    /// Which node of this cluster has that DNS name.
    pub fn node_named(&self, name: &str) -> Option<NodeId> {
        let (node, cluster) = ClusterName::split(name)?;
        (cluster == self.0).then_some(node)
    }

    /// The node that a DNS name speaks of, and the name of its cluster.
    pub fn split(name: &str) -> Option<(NodeId, &str)> {
        let (ordinal, cluster) = name.strip_prefix("node-")?.split_once('.')?;
        let node = NodeId(ordinal.parse().ok()?);
        // One node, one name: no leading zeros, no sign.
        (node.to_string() == ordinal).then_some((node, cluster))
    }
}

impl TryFrom<&str> for ClusterName {
    type Error = NotAClusterName;

    fn try_from(text: &str) -> Result<ClusterName, NotAClusterName> {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_label = |label: &str| {
            (1..=ClusterName::LABEL_BYTES_MAX).contains(&label.len())
                && label.bytes().all(is_plain)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_name = text.len() <= ClusterName::BYTES_MAX && text.split('.').all(is_label);
        is_name.then(|| ClusterName(text.to_owned())).ok_or(NotAClusterName)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
            prop_assert!(text.starts_with(|first: char| first.is_ascii_alphabetic()));
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
    fn a_name_says_node_and_cluster() {
        assert_eq!(ClusterName::split("node-7.post.example"), Some((NodeId(7), "post.example")));
        assert_eq!(ClusterName::split("node-0.posthorn"), Some((NodeId(0), "posthorn")));
        for other in
            ["node-07.a", "node-+7.a", "node-.a", "node-7", "7.a", "*.a", "node-4294967296.a"]
        {
            assert_eq!(ClusterName::split(other), None, "{other}");
        }
    }

    #[test]
    fn cluster_names_are_lower_case_dns_names() {
        for good in ["posthorn", "post.example", "a-1.b"] {
            assert_eq!(ClusterName::try_from(good).map(|name| name.to_string()), Ok(good.into()));
        }
        let (label, whole) = ("a".repeat(64), "a.".repeat(120));
        for bad in ["", ".", "a.", "Post", "a b", "a..b", "-", "*.a", "a_b", &*label, &*whole] {
            assert_eq!(ClusterName::try_from(bad), Err(NotAClusterName), "{bad}");
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
