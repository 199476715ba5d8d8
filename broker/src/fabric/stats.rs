//! What the fabric counts. Another room exports it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Plain counters, to be read at any time. Only gauges ever fall.
#[derive(Debug, Default)]
pub struct FabricStats {
    /// Connections that are up (a gauge), dialed or accepted, by purpose.
    pub connections_open: ByPurpose,
    /// Connections that we dialed and that came up, by purpose.
    pub connections_dialed: ByPurpose,
    /// Connections that we accepted and that came up, by purpose.
    pub connections_accepted: ByPurpose,
    /// Dials that came to nothing, for whatever reason.
    pub dials_failed: Count,
    /// Peers that we turned away, whoever dialed.
    refused: [Count; RefusalCause::ALL.len()],
    /// Strangers that were asked to prove their address first.
    pub retries_demanded: Count,
    /// Control calls and uploads that we began.
    pub calls_sent: Count,
    /// Control calls and uploads that reached our service.
    pub calls_received: Count,
    /// Frames given to a lane's stream, those sent again included.
    pub frames_sent: Count,
    /// Frames that reached our service.
    pub frames_received: Count,
    /// Answers to our frames.
    pub answers_received: Count,
    /// Answers to others' frames, those sent again included.
    pub answers_sent: Count,
    /// Bytes given to lanes' streams.
    pub lane_bytes_sent: Count,
    /// Bytes taken from lanes' streams.
    pub lane_bytes_received: Count,
    /// Lanes that went on after a lost connection, as their sender.
    pub lanes_resumed: Count,
    /// Lanes whose session was lost with frames that were posted to it, as their sender.
    pub lanes_lost: Count,
    /// Posts turned away because their peer's lanes were full.
    pub lanes_full: Count,
    /// Lanes' streams that ended because the other side broke the protocol.
    pub lanes_broken: Count,
}

/// A number that anyone may count up and read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

/// A number for each purpose of a connection.
#[derive(Debug, Default)]
pub struct ByPurpose {
    pub control: Count,
    pub posts: Count,
}

/// What a connection is for. Each has its own, so that bulk never starves a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Control,
    Posts,
}

/// Why a peer was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCause {
    /// It showed no certificate.
    NoCertificate,
    /// Its certificate is not of our authority, or not for this use.
    UntrustedCertificate,
    /// Its certificate is not valid yet, or no longer.
    ExpiredCertificate,
    /// Its certificate names no node, or several.
    NoNodeName,
    /// Its certificate names a node of a cluster with another name.
    AnotherClusterName,
    /// It is another node than the one addressed, or than it says.
    AnotherNode,
    /// No protocol version in common.
    Version,
    /// It belongs to another cluster.
    AnotherCluster,
    /// Its first words made no sense, or did not come in time.
    MalformedHello,
    /// TLS or QUIC failed before it could be known.
    FailedHandshake,
    /// Too many at once.
    TooMany,
}

impl FabricStats {
    pub fn refused(&self, cause: RefusalCause) -> u64 {
        self.refused[cause as usize].get()
    }

    pub(super) fn on_refused(&self, cause: RefusalCause) {
        self.refused[cause as usize].add(1);
    }
}

impl Count {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

impl ByPurpose {
    pub fn of(&self, purpose: Purpose) -> &Count {
        match purpose {
            Purpose::Control => &self.control,
            Purpose::Posts => &self.posts,
        }
    }
}

impl Purpose {
    pub const ALL: [Purpose; 2] = [Purpose::Control, Purpose::Posts];

    pub const fn label(self) -> &'static str {
        match self {
            Purpose::Control => "control",
            Purpose::Posts => "posts",
        }
    }

    /// By which the two are told apart while connecting (RFC 7301).
    pub(super) const fn alpn(self) -> &'static [u8] {
        match self {
            Purpose::Control => b"posthorn-control/1",
            Purpose::Posts => b"posthorn-posts/1",
        }
    }

    pub(super) fn from_alpn(alpn: &[u8]) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|purpose| purpose.alpn() == alpn)
    }
}

impl RefusalCause {
    pub const ALL: [RefusalCause; 11] = [
        RefusalCause::NoCertificate,
        RefusalCause::UntrustedCertificate,
        RefusalCause::ExpiredCertificate,
        RefusalCause::NoNodeName,
        RefusalCause::AnotherClusterName,
        RefusalCause::AnotherNode,
        RefusalCause::Version,
        RefusalCause::AnotherCluster,
        RefusalCause::MalformedHello,
        RefusalCause::FailedHandshake,
        RefusalCause::TooMany,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            RefusalCause::NoCertificate => "no_certificate",
            RefusalCause::UntrustedCertificate => "untrusted_certificate",
            RefusalCause::ExpiredCertificate => "expired_certificate",
            RefusalCause::NoNodeName => "no_node_name",
            RefusalCause::AnotherClusterName => "another_cluster_name",
            RefusalCause::AnotherNode => "another_node",
            RefusalCause::Version => "version",
            RefusalCause::AnotherCluster => "another_cluster",
            RefusalCause::MalformedHello => "malformed_hello",
            RefusalCause::FailedHandshake => "failed_handshake",
            RefusalCause::TooMany => "too_many",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_count_of_its_own() {
        let stats = FabricStats::default();
        for (times, cause) in (1..).zip(RefusalCause::ALL) {
            for _ in 0..times {
                stats.on_refused(cause);
            }
        }
        for (times, cause) in (1..).zip(RefusalCause::ALL) {
            assert_eq!(stats.refused(cause), times, "{}", cause.label());
        }
    }
}
