//! How any node has the leader do something: find it, ask it, say what is known of the answer.
//!
//! One attempt each. Who asks decides whether to ask again.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver as _;
use openraft::error::{ClientWriteError, RaftError};
use posthorn_core::directory::{Applied, Command};
use posthorn_core::ids::{DiskId, NodeRun};
use posthorn_proto::cluster::v1 as wire;
use prost::Message as _;

use crate::consensus::leader::Leadership;
use crate::consensus::service::{Method, NOT_LEADER};
use crate::consensus::types::{ClusterId, Proposal, Raft};
use crate::consensus::wire::Wire;
use crate::fabric::{CallError, Fabric, Peer, Refusal};

#[derive(Clone)]
pub(super) struct Proposals {
    raft: Raft,
    fabric: Fabric,
    leadership: Leadership,
}

/// Why the leader did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    /// Certainly not done: nobody leads, or whoever does cannot be reached.
    #[error("there is no leader: {0}")]
    NoLeader(String),
    /// Certainly not done: only members join the directory.
    #[error("this node is not a member of the cluster yet")]
    NotAMember,
    /// Perhaps done.
    #[error("the leader did not answer: {0}")]
    Unknown(String),
}

pub(super) enum Leader {
    Here,
    There(Peer),
}

impl Proposals {
    pub(super) fn new(raft: Raft, fabric: Fabric, leadership: Leadership) -> Proposals {
        Proposals { raft, fabric, leadership }
    }

    /// Has a command committed and applied.
    pub(super) async fn propose(
        &self,
        command: Command,
        timeout: Duration,
    ) -> Result<Applied, AskError> {
        self.unless_deposed(self.propose_to_leader(command, timeout)).await
    }

    /// An index of the log: who has applied it has seen all that was committed before the call.
    pub(super) async fn read_index(&self, timeout: Duration) -> Result<u64, AskError> {
        self.unless_deposed(self.ask_leader_for_index(timeout)).await
    }

    /// Gives a question up once another leads than when it was asked: who was deposed may never answer,
    /// and who asks again need not wait until that shows.
    async fn unless_deposed<T>(
        &self,
        asked: impl Future<Output = Result<T, AskError>>,
    ) -> Result<T, AskError> {
        let mut metrics = self.raft.server_metrics();
        let followed = metrics.borrow_watched().vote.leader_id;
        let deposed = async {
            loop {
                if metrics.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                let now = metrics.borrow_watched();
                if now.current_leader.is_some() && now.vote.leader_id != followed {
                    return;
                }
            }
        };
        tokio::select! {
            // What was answered counts, whoever leads by now.
            biased;
            answer = asked => answer,
            () = deposed => Err(AskError::Unknown("another leads by now".to_owned())),
        }
    }

    async fn propose_to_leader(
        &self,
        command: Command,
        timeout: Duration,
    ) -> Result<Applied, AskError> {
        match self.leader()? {
            Leader::Here => {
                match tokio::time::timeout(timeout, commit(&self.raft, command.into())).await {
                    Ok(result) => result,
                    Err(_) => Err(AskError::Unknown("the commit takes too long".to_owned())),
                }
            }
            Leader::There(peer) => {
                let request = command.to_bytes();
                let answer = self.ask(&peer, Method::Propose, request, timeout).await?;
                Applied::from_bytes(answer).map_err(|error| AskError::Unknown(error.to_string()))
            }
        }
    }

    async fn ask_leader_for_index(&self, timeout: Duration) -> Result<u64, AskError> {
        match self.leader()? {
            Leader::Here => match tokio::time::timeout(timeout, read_index(&self.raft)).await {
                Ok(result) => result,
                Err(_) => Err(AskError::NoLeader("no quorum answers".to_owned())),
            },
            Leader::There(peer) => {
                let answer = self.ask(&peer, Method::ReadIndex, Bytes::new(), timeout).await?;
                match wire::ReadIndexAnswer::decode(answer) {
                    Ok(answer) => Ok(answer.index),
                    Err(error) => Err(AskError::Unknown(error.to_string())),
                }
            }
        }
    }

    /// Tells the leader that a run lives. False: the directory holds it for over.
    pub(super) async fn beat(&self, run: NodeRun, timeout: Duration) -> Result<bool, AskError> {
        match self.leader()? {
            Leader::Here => self.leadership.on_beat(run).ok_or_else(not_leading),
            Leader::There(peer) => {
                let answer = self.ask(&peer, Method::Beat, run.to_bytes(), timeout).await?;
                match wire::BeatAnswer::decode(answer) {
                    Ok(answer) => Ok(answer.is_current),
                    Err(error) => Err(AskError::Unknown(error.to_string())),
                }
            }
        }
    }

    pub(super) fn cluster_id(&self) -> Option<[u8; ClusterId::BYTES]> {
        self.fabric.cluster_id()
    }

    /// Has another voter lead whenever this node does, for ever.
    pub(super) async fn lead_no_longer(&self) {
        self.leadership.hand_over_always().await;
    }

    /// Has another voter lead, if this node does.
    pub(super) async fn hand_over(&self) {
        self.leadership.hand_over_to_any().await;
    }

    /// Whether this node leads, and a quorum has followed it lately.
    pub(super) fn is_leading(&self) -> bool {
        self.leadership.leads_since_term().is_some()
    }

    pub(super) fn leader(&self) -> Result<Leader, AskError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let unknown = || AskError::NoLeader("none is known".to_owned());
        let raft_id = metrics.current_leader.ok_or_else(unknown)?;
        if raft_id == metrics.id {
            return Ok(Leader::Here);
        }
        let member = metrics.membership_config.membership().get_node(&raft_id);
        let member = member.ok_or_else(unknown)?;
        let address = member.fabric_address.clone();
        Ok(Leader::There(Peer { node: member.node, address }))
    }

    pub(super) async fn ask(
        &self,
        peer: &Peer,
        method: Method,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, AskError> {
        let answer = self.fabric.call(peer, method as u8, request, timeout).await;
        answer.map_err(|error| match error {
            CallError::Unreachable(_) | CallError::Refused(Refusal { code: NOT_LEADER, .. }) => {
                AskError::NoLeader(error.to_string())
            }
            CallError::Refused(_) | CallError::Unknown(_) | CallError::TooLarge(_) => {
                AskError::Unknown(error.to_string())
            }
        })
    }
}

pub(super) async fn commit(raft: &Raft, proposal: Proposal) -> Result<Applied, AskError> {
    if let Command::Join { disk, .. } = proposal.command()
        && !is_member(raft, *disk)
    {
        return Err(AskError::NotAMember);
    }
    match raft.client_write(proposal).await {
        Ok(written) => written
            .data
            .ok_or_else(|| AskError::Unknown("the command was applied without effect".to_owned())),
        // Right after an election, the leader itself says so until a quorum has answered it.
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(error))) => {
            Err(AskError::NoLeader(error.to_string()))
        }
        Err(error) => Err(AskError::Unknown(error.to_string())),
    }
}

/// Whether the log on a disk is a member's, as far as this node knows.
pub(super) fn is_member(raft: &Raft, disk: DiskId) -> bool {
    let metrics = raft.metrics();
    metrics.borrow_watched().membership_config.membership().get_node(&disk.0).is_some()
}

pub(super) async fn read_index(raft: &Raft) -> Result<u64, AskError> {
    match raft.get_read_log_id(ReadPolicy::ReadIndex).await {
        Ok((read, _)) => Ok(read.index()),
        Err(error) => Err(AskError::NoLeader(error.to_string())),
    }
}

pub(super) fn not_leading() -> AskError {
    AskError::NoLeader("this node does not lead".to_owned())
}
