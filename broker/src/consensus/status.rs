//! What can be seen of this node's part in the cluster.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver as _;
use posthorn_core::ids::NodeId;
use posthorn_core::tenure::Phase;

use crate::consensus::Consensus;
use crate::consensus::types::{ClusterId, LogId, RaftId};

/// As raft has it on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftStatus {
    pub raft_id: RaftId,
    pub term: u64,
    /// Whom this node takes for the leader.
    pub leader: Option<NodeId>,
    /// Whether this node leads, and a quorum has followed it lately.
    pub is_leading: bool,
    pub last_log_index: Option<u64>,
    pub committed_index: Option<u64>,
    pub applied_index: Option<u64>,
    /// Of the last entry that the newest snapshot holds.
    pub snapshot_index: Option<u64>,
    /// Of the last entry that the log has dropped.
    pub purged_index: Option<u64>,
    pub members: Vec<MemberStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    pub raft_id: RaftId,
    pub node: NodeId,
    pub fabric_address: Arc<str>,
    /// Otherwise a learner.
    pub is_voter: bool,
}

/// Why this node cannot register connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    #[error("it belongs to no cluster yet")]
    NoCluster,
    #[error("it knows no leader: too few voters may be up, or it may be cut off from them")]
    NoLeader,
    #[error("it is joining")]
    Joining,
    #[error("the leader does not acknowledge that it lives")]
    Unacknowledged,
    #[error("it has lost its lease or was evicted, and ends what its run owned")]
    Fenced,
    #[error("it is being drained")]
    Draining,
}

impl Consensus {
    /// None while this node belongs to no cluster.
    pub fn cluster_id(&self) -> Option<[u8; ClusterId::BYTES]> {
        self.proposals.cluster_id()
    }

    pub fn raft_status(&self) -> RaftStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let voters: Vec<_> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(raft_id, member)| MemberStatus {
            raft_id: *raft_id,
            node: member.node,
            fabric_address: member.fabric_address.clone(),
            is_voter: voters.contains(raft_id),
        });
        let members: Vec<_> = members.collect();
        let leader = members.iter().find(|member| Some(member.raft_id) == metrics.current_leader);
        let index = |log_id: Option<LogId>| log_id.map(|id| id.index);
        RaftStatus {
            raft_id: metrics.id,
            term: metrics.current_term,
            leader: leader.map(|member| member.node),
            is_leading: self.proposals.is_leading(),
            last_log_index: metrics.last_log_index,
            committed_index: index(metrics.cluster_committed.max(metrics.local_committed)),
            applied_index: self.replica.applied_index(),
            snapshot_index: index(metrics.snapshot),
            purged_index: index(metrics.purged),
            members,
        }
    }

    /// None where it can register connections, at this very moment.
    pub fn not_ready(&self) -> Option<NotReady> {
        match self.standing.phase() {
            None => Some(NotReady::NoCluster),
            Some(Phase::Serving) if self.may_act().is_some() => None,
            Some(Phase::Fencing) => Some(NotReady::Fenced),
            Some(Phase::Left) => Some(NotReady::Draining),
            Some(Phase::Joining | Phase::Serving) if !self.knows_leader() => {
                Some(NotReady::NoLeader)
            }
            Some(Phase::Joining) => Some(NotReady::Joining),
            Some(Phase::Serving) => Some(NotReady::Unacknowledged),
        }
    }

    /// A leader that was left by its quorum is none, and does not always know it.
    fn knows_leader(&self) -> bool {
        let metrics = self.raft.metrics();
        let (own, leader) = (metrics.borrow_watched().id, metrics.borrow_watched().current_leader);
        leader.is_some_and(|leader| leader != own || self.proposals.is_leading())
    }
}
