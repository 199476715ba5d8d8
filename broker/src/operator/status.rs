//! What this node says of itself.

use std::time::Instant;

use posthorn_core::drain::Phase;
use posthorn_proto::v1::{Drain, DrainPhase, NodeState, NodeStatus};

use crate::consensus::NotReady;
use crate::draining::Progress;
use crate::operator::Operator;

impl Operator {
    pub(super) fn own_status(&self) -> NodeStatus {
        let raft = self.consensus.raft_status();
        let not_ready = self.not_ready();
        let run = self.consensus.may_act();
        let versions = self.fabric.identity().versions;
        let uptime_ms = self.started_at.elapsed().as_millis();
        NodeStatus {
            node_id: self.consensus.node().0,
            // Who asked knows where he found us.
            address: String::new(),
            state: state_of(not_ready).into(),
            is_ready: not_ready.is_none(),
            not_ready_because: not_ready.map_or_else(String::new, |why| why.to_string()),
            incarnation: run.map_or(0, |run| run.incarnation),
            raft_id: raft.raft_id,
            term: raft.term,
            leader_node_id: raft.leader.map(|node| node.0),
            is_leading: raft.is_leading,
            applied_index: raft.applied_index,
            committed_index: raft.committed_index,
            // For whom is asked, who has heard the leader, too.
            lag: None,
            last_log_index: raft.last_log_index,
            purged_index: raft.purged_index,
            snapshot_index: raft.snapshot_index,
            connections: self.gateway.connections() as u64,
            disconnects_under_way: self.gateway.disconnects_under_way() as u64,
            software: self.fabric.software().to_owned(),
            protocol_version_min: versions.min,
            protocol_version_max: versions.max,
            uptime_ms: u64::try_from(uptime_ms).unwrap_or(u64::MAX),
            drain: self.gateway.draining().progress().map(drain_of),
        }
    }
}

fn state_of(not_ready: Option<NotReady>) -> NodeState {
    match not_ready {
        Some(NotReady::Fenced) => NodeState::Fenced,
        Some(NotReady::Draining) => NodeState::Draining,
        None => NodeState::Serving,
        Some(
            NotReady::NoCluster | NotReady::NoLeader | NotReady::Joining | NotReady::Unacknowledged,
        ) => NodeState::Joining,
    }
}

fn drain_of(progress: Progress) -> Drain {
    let Progress { phase, left, ends_by } = progress;
    let phase = match phase {
        Phase::Announced => DrainPhase::Announced,
        Phase::Closing => DrainPhase::Closing,
        Phase::Settling => DrainPhase::Settling,
        Phase::Leaving => DrainPhase::Leaving,
    };
    Drain {
        phase: phase.into(),
        connections_left: left.connections as u64,
        disconnects_left: left.unsettled as u64,
        ends_within_ms: ends_by.saturating_duration_since(Instant::now()).as_millis() as u64,
    }
}
