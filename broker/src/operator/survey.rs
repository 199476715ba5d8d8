//! What is known of the whole cluster: our own replica, and what each node says of itself.
//!
//! Who does not answer is shown as unreachable. Nobody's silence keeps the others from being seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use posthorn_core::ids::{NodeId, NodeRun};
use posthorn_proto::v1::{Cluster, NodeState, NodeStatus, RaftMember, Run};
use prost::Message as _;

use crate::consensus::RaftStatus;
use crate::fabric::{CallError, Peer};
use crate::operator::{Method, Operator, OperatorError};

/// How long the others have to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A run, as our replica has it.
struct Known {
    run: NodeRun,
    fabric_address: Arc<str>,
    is_current: bool,
    connections: u64,
}

impl Operator {
    pub(crate) async fn survey(&self) -> Cluster {
        let raft = self.consensus.raft_status();
        let runs = self.known_runs();
        let mut addresses = addresses_of(&raft, &runs);
        addresses.entry(self.consensus.node()).or_default();
        let mut nodes = self.ask_all(&addresses).await;
        let leader = leader_of(&nodes);
        let committed = leader.and_then(|leader| leader.committed_index);
        let leader_node_id = leader.map(|leader| leader.node_id);
        for node in &mut nodes {
            node.lag = committed
                .zip(node.applied_index)
                .map(|(committed, applied)| committed.saturating_sub(applied));
        }
        let is_current = |known: &&Known| known.is_current;
        let sum = |runs: &[&Known]| runs.iter().map(|known| known.connections).sum();
        let (current, over): (Vec<_>, Vec<_>) = runs.iter().partition(is_current);
        Cluster {
            cluster_id: self.consensus.cluster_id().map_or_else(String::new, hex),
            name: self.cluster.to_string(),
            asked_node_id: self.consensus.node().0,
            leader_node_id,
            term: nodes.iter().map(|node| node.term).max().unwrap_or_default(),
            connections: sum(&current),
            debts: sum(&over),
            members: raft.members.iter().map(member_of).collect(),
            runs: runs.iter().map(|known| run_of(known, &nodes)).collect(),
            nodes,
        }
    }

    /// Where a node is, by what our replica knows.
    pub(super) fn peer(&self, node: NodeId) -> Result<Peer, OperatorError> {
        let addresses = addresses_of(&self.consensus.raft_status(), &self.known_runs());
        let address = addresses.get(&node).ok_or(OperatorError::UnknownNode(node))?.clone();
        Ok(Peer { node, address })
    }

    fn known_runs(&self) -> Vec<Known> {
        self.consensus.replica().read(|directory| {
            let header = directory.header();
            let known = header.runs.into_iter().map(|(run, known)| Known {
                run,
                fabric_address: known.fabric_address,
                is_current: known.evicted_at.is_none(),
                connections: directory.connections_of(run),
            });
            known.collect()
        })
    }

    /// What each node says of itself, all of them asked at once.
    async fn ask_all(&self, addresses: &BTreeMap<NodeId, Arc<str>>) -> Vec<NodeStatus> {
        let ask = |(node, address): (&NodeId, &Arc<str>)| {
            let peer = Peer { node: *node, address: address.clone() };
            async move {
                match peer.node == self.consensus.node() {
                    true => {
                        let address = peer.address.to_string();
                        NodeStatus { address, ..self.own_status() }
                    }
                    false => self.ask(&peer).await,
                }
            }
        };
        join_all(addresses.iter().map(ask)).await
    }

    async fn ask(&self, peer: &Peer) -> NodeStatus {
        let method = Method::Status as u8;
        let answer = self.fabric.call(peer, method, Bytes::new(), ANSWER_TIMEOUT).await;
        let said = answer.map_err(|error| why(&error)).and_then(|answer| {
            NodeStatus::decode(answer).map_err(|error| format!("it answers nonsense: {error}"))
        });
        let (node_id, address) = (peer.node.0, peer.address.to_string());
        match said {
            Ok(status) => NodeStatus { node_id, address, ..status },
            Err(why) => NodeStatus {
                node_id,
                address,
                state: NodeState::Unreachable.into(),
                not_ready_because: why,
                ..NodeStatus::default()
            },
        }
    }
}

/// Where each node is that is a member or has a run. A run tells its own address, a member that of the
/// day when it became one.
fn addresses_of(raft: &RaftStatus, runs: &[Known]) -> BTreeMap<NodeId, Arc<str>> {
    let members = raft.members.iter().map(|member| (member.node, member.fabric_address.clone()));
    let current = runs.iter().filter(|known| known.is_current);
    members.chain(current.map(|known| (known.run.node, known.fabric_address.clone()))).collect()
}

/// Why a node did not say how it is.
fn why(error: &CallError) -> String {
    match error {
        CallError::Unreachable(error) => format!("it cannot be reached: {error}"),
        CallError::Unknown(error) => format!("it does not answer: {error}"),
        CallError::Refused(refusal) => format!("it does not say: {}", refusal.message),
        CallError::TooLarge(_) => error.to_string(),
    }
}

/// Of those who say that they lead, who does so in the latest term.
fn leader_of(nodes: &[NodeStatus]) -> Option<&NodeStatus> {
    nodes.iter().filter(|node| node.is_leading).max_by_key(|node| node.term)
}

fn member_of(member: &crate::consensus::MemberStatus) -> RaftMember {
    RaftMember {
        raft_id: member.raft_id,
        node_id: member.node.0,
        address: member.fabric_address.to_string(),
        is_voter: member.is_voter,
    }
}

/// A current run is as its node says, if that says anything of this run.
fn run_of(known: &Known, nodes: &[NodeStatus]) -> Run {
    let Known { run, fabric_address, is_current, connections } = known;
    let node = nodes.iter().find(|node| node.node_id == run.node.0);
    let state = match (is_current, node) {
        (false, _) => NodeState::Gone,
        (true, Some(node)) => node.state(),
        (true, None) => NodeState::Unreachable,
    };
    Run {
        node_id: run.node.0,
        incarnation: run.incarnation,
        state: state.into(),
        connections: *connections,
        address: fabric_address.to_string(),
    }
}

fn hex(id: [u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
