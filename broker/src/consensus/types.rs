//! openraft's types as this broker fills them in, under names of their own.
//!
//! Invariants:
//!
//! * A raft ID names one log for all time. It belongs to a data directory and not to a node: a node
//!   that lost its disk comes back under a new one.
//! * A proposal is encoded once, where it is made or received, and never again.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use posthorn_core::directory::{Applied, Command};
use posthorn_core::ids::NodeId;

use super::machine::Machine;
use super::snapshot::SnapshotFile;

openraft::declare_raft_types!(
    /// What openraft is instantiated with.
    pub TypeConfig:
        D = Proposal,
        R = Option<Applied>,
        NodeId = RaftId,
        Node = Member,
);

/// Which log, and thereby which member of the raft group. Random, and never given twice.
pub type RaftId = u64;
/// The handle to a running raft node.
pub type Raft = openraft::Raft<TypeConfig, Machine>;
pub type RaftMetrics = openraft::RaftMetrics<TypeConfig>;
/// What openraft tells of itself as it goes.
pub type RaftMetricsReceiver = openraft::alias::WatchReceiverOf<TypeConfig, RaftMetrics>;
pub type RaftEntry = openraft::alias::EntryOf<TypeConfig>;
#[cfg(test)]
pub type RaftPayload = openraft::alias::PayloadOf<TypeConfig>;
pub type RaftVote = openraft::alias::VoteOf<TypeConfig>;
pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Membership = openraft::Membership<RaftId, Member>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;
pub type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub type AppendResponse = openraft::raft::AppendEntriesResponse<TypeConfig>;
pub type StreamAppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
pub type TransferLeaderRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
pub type TransferLeaderResponse = openraft::raft::TransferLeaderResponse<TypeConfig>;
pub type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;

/// Which cluster. Drawn once, by whoever forms it, so that nodes of another are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterId(pub [u8; ClusterId::BYTES]);

impl ClusterId {
    pub const BYTES: usize = 16;
}

/// A member of the raft group: which node's disk its log is on, and where to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    /// Host and port.
    pub fabric_address: Arc<str>,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} at {}", self.node, self.fabric_address)
    }
}

/// What goes ahead of a snapshot file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRequest {
    pub vote: RaftVote,
    pub meta: SnapshotMeta,
    /// How long the file is.
    pub bytes: u64,
}

/// A command on its way into the log. Cloning is cheap.
#[derive(Clone)]
pub struct Proposal {
    command: Arc<Command>,
    /// The same command as protocol buffers.
    encoded: Bytes,
}

impl Proposal {
    pub fn command(&self) -> &Command {
        &self.command
    }

    pub(super) fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// `encoded` must be the command's encoding.
    pub(super) fn from_parts(command: Command, encoded: Bytes) -> Proposal {
        Proposal { command: Arc::new(command), encoded }
    }
}

impl PartialEq for Proposal {
    fn eq(&self, other: &Proposal) -> bool {
        self.command == other.command
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.command, f)
    }
}

/// Counts instead of connections: an update carries up to a thousand of them.
impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command() {
            Command::Join { run, .. } => write!(f, "join of {run}"),
            Command::Evict { run } => write!(f, "eviction of {run}"),
            Command::Raise { version } => write!(f, "protocol version {version}"),
            Command::Update { run, number, opened, closed } => {
                let (opened, closed) = (opened.len(), closed.len());
                write!(f, "update {number} of {run}: {opened} opened, {closed} closed")
            }
        }
    }
}

/// openraft's test suite makes members up.
#[cfg(test)]
impl Default for Member {
    fn default() -> Member {
        Member { node: NodeId(0), fabric_address: Arc::from("node:7946") }
    }
}
