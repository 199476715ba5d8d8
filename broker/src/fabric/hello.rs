//! The first words on each connection: who we are, what we speak, where we belong.
//!
//! Both sides judge by the same rules, so that both know why where they cannot work together.
//!
//! Who has learnt that the cluster uses a version speaks no earlier one any more: whoever does not
//! speak that version is turned away, before it is told what it would not understand.

use std::fmt;
use std::str::FromStr;

use posthorn_core::ids::NodeId;
use posthorn_proto::cluster::v1::Hello;

use super::stats::RefusalCause;

/// The identity of a cluster, random, fixed when it was formed.
pub type ClusterId = [u8; 16];

/// A release's name, for people. Longer ones are cut.
const SOFTWARE_CHARS_MAX: usize = 64;

/// The protocol versions that this release speaks.
pub const PROTOCOL_VERSIONS: ProtocolVersions = ProtocolVersions { min: 1, max: 1 };

/// Both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolVersions {
    pub min: u32,
    pub max: u32,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    pub node: NodeId,
    /// Random for each process: who restarts is another.
    pub process: u64,
    /// What it speaks.
    pub versions: ProtocolVersions,
}

/// What we say of ourselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Introduction {
    pub(super) identity: PeerIdentity,
    pub(super) cluster: Option<ClusterId>,
    pub(super) software: String,
}

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) version: u32,
    pub(super) peer: PeerIdentity,
    pub(super) cluster: Option<ClusterId>,
    pub(super) software: String,
}

impl ProtocolVersions {
    /// The highest that both speak.
    fn in_common(self, other: ProtocolVersions) -> Option<u32> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

impl fmt::Display for ProtocolVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

impl FromStr for ProtocolVersions {
    type Err = NotVersions;

    fn from_str(text: &str) -> Result<ProtocolVersions, NotVersions> {
        let (min, max) = text.split_once("..").ok_or(NotVersions)?;
        let (Ok(min), Ok(max)) = (min.parse(), max.parse()) else { return Err(NotVersions) };
        if min == 0 || min > max {
            return Err(NotVersions);
        }
        Ok(ProtocolVersions { min, max })
    }
}

/// Not like `1..2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two versions, as in 1..2")]
pub struct NotVersions;

/// Why a peer was turned away, for counting and for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TurnedAway {
    pub cause: RefusalCause,
    pub reason: String,
}

impl Introduction {
    pub(super) fn to_hello(&self) -> Hello {
        Hello {
            version_min: self.identity.versions.min,
            version_max: self.identity.versions.max,
            node: self.identity.node.0,
            process: self.identity.process,
            cluster_id: self.cluster.map(|id| id.to_vec()).unwrap_or_default().into(),
            software: self.software.chars().take(SOFTWARE_CHARS_MAX).collect(),
        }
    }

    /// Whether we work with a peer that says this, and whose certificate names that node.
    pub(super) fn judge(&self, hello: Hello, certified: NodeId) -> Result<Agreed, TurnedAway> {
        let Hello { version_min, version_max, node, process, cluster_id, software } = hello;
        let ours = self.identity.versions;
        let theirs = ProtocolVersions { min: version_min, max: version_max };
        let Some(version) = ours.in_common(theirs) else {
            let reason = format!(
                "no protocol version in common: node {} speaks {ours}, node {certified} speaks \
                 {theirs}",
                self.identity.node
            );
            return Err(TurnedAway { cause: RefusalCause::Version, reason });
        };
        if NodeId(node) != certified {
            let reason = format!("it says it is node {node}, its certificate says {certified}");
            return Err(TurnedAway { cause: RefusalCause::AnotherNode, reason });
        }
        let Some(cluster) = parse_cluster(&cluster_id) else {
            let reason = format!("a cluster ID of {} bytes", cluster_id.len());
            return Err(TurnedAway { cause: RefusalCause::MalformedHello, reason });
        };
        if are_apart(self.cluster, cluster) {
            let reason = format!("node {certified} belongs to another cluster");
            return Err(TurnedAway { cause: RefusalCause::AnotherCluster, reason });
        }
        let software = software.chars().take(SOFTWARE_CHARS_MAX).collect();
        let peer = PeerIdentity { node: certified, process, versions: theirs };
        Ok(Agreed { version, peer, cluster, software })
    }
}

/// Both belong somewhere, and not to the same cluster.
pub(super) fn are_apart(one: Option<ClusterId>, other: Option<ClusterId>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}

fn parse_cluster(bytes: &[u8]) -> Option<Option<ClusterId>> {
    if bytes.is_empty() {
        return Some(None);
    }
    bytes.try_into().ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_in_common_is_spoken() {
        let own = introduction(2, 4);
        for (min, max, agreed) in [(1, 2, 2), (1, 3, 3), (3, 9, 4), (4, 4, 4)] {
            let judged = own.judge(Hello { version_min: min, version_max: max, ..hello() }, NODE);
            assert_eq!(judged.map(|agreed| agreed.version), Ok(agreed), "{min} to {max}");
        }
        for (min, max) in [(1, 1), (5, 9), (4, 3), (0, 0)] {
            let judged = own.judge(Hello { version_min: min, version_max: max, ..hello() }, NODE);
            assert_eq!(cause(judged), Some(RefusalCause::Version), "{min} to {max}");
        }
    }

    #[test]
    fn both_sides_name_what_either_speaks() {
        let (old, new) = (introduction(1, 1), introduction(2, 3));
        let reason = |judged: Result<Agreed, TurnedAway>| judged.unwrap_err().reason;
        let by_old = reason(old.judge(Hello { version_min: 2, version_max: 3, ..hello() }, NODE));
        let by_new = reason(new.judge(Hello { version_min: 1, version_max: 1, ..hello() }, NODE));
        assert_eq!(
            by_old,
            "no protocol version in common: node 1 speaks 1 to 1, node 2 speaks 2 to 3"
        );
        assert_eq!(
            by_new,
            "no protocol version in common: node 1 speaks 2 to 3, node 2 speaks 1 to 1"
        );
    }

    #[test]
    fn a_node_must_be_who_its_certificate_says() {
        let judged = introduction(1, 1).judge(Hello { node: 3, ..hello() }, NODE);
        assert_eq!(cause(judged), Some(RefusalCause::AnotherNode));
    }

    #[test]
    fn who_belongs_nowhere_yet_may_talk_to_all_and_others_only_to_their_own() {
        let of = |cluster| Introduction { cluster, ..introduction(1, 1) };
        let from = |id: &[u8]| Hello { cluster_id: id.to_vec().into(), ..hello() };
        assert_eq!(cause(of(None).judge(from(&[7; 16]), NODE)), None);
        assert_eq!(cause(of(Some([7; 16])).judge(from(&[]), NODE)), None);
        assert_eq!(cause(of(Some([7; 16])).judge(from(&[7; 16]), NODE)), None);
        assert_eq!(
            cause(of(Some([8; 16])).judge(from(&[7; 16]), NODE)),
            Some(RefusalCause::AnotherCluster)
        );
        assert_eq!(cause(of(None).judge(from(&[7; 15]), NODE)), Some(RefusalCause::MalformedHello));
    }

    const NODE: NodeId = NodeId(2);

    fn introduction(min: u32, max: u32) -> Introduction {
        Introduction {
            identity: PeerIdentity {
                node: NodeId(1),
                process: 11,
                versions: ProtocolVersions { min, max },
            },
            cluster: None,
            software: "posthorn".into(),
        }
    }

    fn hello() -> Hello {
        Hello { version_min: 1, version_max: 1, node: 2, process: 22, ..Hello::default() }
    }

    fn cause(judged: Result<Agreed, TurnedAway>) -> Option<RefusalCause> {
        judged.err().map(|turned| turned.cause)
    }
}
