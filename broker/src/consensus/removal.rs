//! A node is to leave the cluster: the leader is found and asked, for as long as that may take.

use std::time::Duration;

use posthorn_core::ids::NodeId;
use posthorn_core::membership::RemoveError;
use posthorn_proto::cluster::v1 as wire;
use prost::Message as _;
use tokio::time::{Instant, sleep};

use crate::consensus::Consensus;
use crate::consensus::members::Removal;
use crate::consensus::proposals::{AskError, Leader};
use crate::consensus::service::Method;
use crate::consensus::wire::Wire as _;

/// Long enough for a leader that is to leave to hand over first, and its successor to go on.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than the leader takes to give up.
const ASK_TIMEOUT: Duration = Duration::from_secs(12);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Why a node was not removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemovalError {
    NoMember,
    /// Too few that can vote would be left.
    Refused,
    /// Nothing was done: nobody leads.
    NoLeader(String),
    /// Perhaps done.
    Unknown(String),
}

impl Consensus {
    /// Takes a node out of the cluster. Returns when it is no longer a member.
    pub async fn remove(&self, node: NodeId) -> Result<(), RemovalError> {
        let deadline = Instant::now() + TIMEOUT;
        // What an earlier leader began may be done when the next one is asked.
        let mut may_be_done = false;
        loop {
            let error = match self.ask_to_remove(node).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(RemoveError::NoMember)) if may_be_done => return Ok(()),
                Ok(Err(RemoveError::NoMember)) => return Err(RemovalError::NoMember),
                Ok(Err(RemoveError::NoQuorum)) => return Err(RemovalError::Refused),
                Err(error) => error,
            };
            may_be_done |= matches!(error, AskError::Unknown(_));
            if Instant::now() >= deadline {
                return Err(match error {
                    AskError::NoLeader(why) => RemovalError::NoLeader(why),
                    AskError::NotAMember => RemovalError::NoLeader(error.to_string()),
                    AskError::Unknown(why) => RemovalError::Unknown(why),
                });
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn ask_to_remove(&self, node: NodeId) -> Result<Removal, AskError> {
        match self.proposals.leader()? {
            Leader::Here => self.members.remove(node).await,
            Leader::There(peer) => {
                let request = wire::RemoveRequest { node: node.0 }.encode_to_vec().into();
                let answer =
                    self.proposals.ask(&peer, Method::Remove, request, ASK_TIMEOUT).await?;
                Removal::from_bytes(answer).map_err(|error| AskError::Unknown(error.to_string()))
            }
        }
    }
}
