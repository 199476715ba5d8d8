//! How a node becomes a member of its cluster, says where it is now, and learns that it is no longer a
//! member.

use std::sync::Arc;
use std::time::Duration;

use posthorn_core::admission::Admission;
use posthorn_core::ids::NodeId;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::consensus::Consensus;
use crate::consensus::members::{AdmitRequest, Members};
use crate::consensus::proposals::{Leader, Proposals};
use crate::consensus::run::Standing;
use crate::consensus::seeds::Seeds;
use crate::consensus::service::Method;
use crate::consensus::store::LogStore;
use crate::consensus::types::RaftId;
use crate::consensus::wire::Wire;
use crate::fabric::Peer;

const ASK_INTERVAL: Duration = Duration::from_millis(200);
const ASK_TIMEOUT: Duration = Duration::from_secs(6);
/// A member asks whether it still is one when it could not act for so long.
const DOUBT_AFTER: Duration = Duration::from_secs(2);

pub(super) struct Candidacy {
    node: NodeId,
    raft_id: RaftId,
    fabric_address: Arc<str>,
    seeds: Seeds,
    proposals: Proposals,
    members: Members,
    standing: Arc<Standing>,
}

impl Candidacy {
    pub(super) fn new(
        consensus: &Consensus,
        store: &LogStore,
        fabric_address: &Arc<str>,
        seeds: Seeds,
    ) -> Candidacy {
        Candidacy {
            node: consensus.node,
            raft_id: store.identity().raft_id,
            fabric_address: fabric_address.clone(),
            seeds,
            proposals: consensus.proposals.clone(),
            members: consensus.members.clone(),
            standing: consensus.standing.clone(),
        }
    }

    /// Asks until this node is a member, and whenever it may no longer be one. Returns when the
    /// cluster has given it up.
    pub(super) async fn keep(self) {
        let mut interval = tokio::time::interval(ASK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_member = false;
        let mut last = None;
        let mut acted_at = Instant::now();
        loop {
            interval.tick().await;
            if self.standing.may_act().is_some() {
                acted_at = Instant::now();
            }
            if is_member && acted_at.elapsed() < DOUBT_AFTER {
                continue;
            }
            let Some(admission) = self.ask(is_member).await else { continue };
            if last != Some(admission) {
                self.say(admission);
            }
            last = Some(admission);
            match admission {
                Admission::Outside => return,
                Admission::Member => {
                    is_member = true;
                    acted_at = Instant::now();
                }
                Admission::Occupied | Admission::Leaving => (),
            }
        }
    }

    fn say(&self, admission: Admission) {
        let raft_id = self.raft_id;
        match admission {
            Admission::Member => info!(raft_id, "this node is a member"),
            Admission::Occupied => {
                warn!("waiting: the cluster knows a run of this node from another disk");
            }
            Admission::Leaving => warn!("waiting: this node is just being removed"),
            Admission::Outside => warn!(raft_id, "this node is no longer a member"),
        }
    }

    /// None where nobody answers who leads.
    async fn ask(&self, was_member: bool) -> Option<Admission> {
        let (raft_id, fabric_address) = (self.raft_id, self.fabric_address.clone());
        let request = AdmitRequest { raft_id, fabric_address, was_member };
        match self.proposals.leader() {
            Ok(Leader::Here) => return self.members.admit(self.node, request).await.ok(),
            Ok(Leader::There(leader)) => {
                if let Some(admission) = self.ask_leader(&leader, &request).await {
                    return Some(admission);
                }
            }
            Err(_) => (),
        }
        let told = self.seeds.ask().await.into_iter().filter_map(|found| found.leader);
        let mut asked: Vec<Peer> = Vec::new();
        for leader in told.filter(|leader| leader.node != self.node) {
            if asked.contains(&leader) {
                continue;
            }
            if let Some(admission) = self.ask_leader(&leader, &request).await {
                return Some(admission);
            }
            asked.push(leader);
        }
        None
    }

    async fn ask_leader(&self, leader: &Peer, request: &AdmitRequest) -> Option<Admission> {
        let asked = self.proposals.ask(leader, Method::Admit, request.to_bytes(), ASK_TIMEOUT);
        let answer = match asked.await {
            Ok(answer) => Admission::from_bytes(answer).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        answer.inspect_err(|error| debug!(node = %leader.node, error, "not admitted")).ok()
    }
}
