//! What the other nodes ask of this one, beside posts.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver as _;
use posthorn_core::ids::{NodeId, NodeRun};
use posthorn_proto::cluster::v1 as wire;
use prost::Message as _;

use crate::consensus::leader::Leadership;
use crate::consensus::members::{AdmitRequest, Members};
use crate::consensus::proposals::{AskError, commit, read_index};
use crate::consensus::snapshot::Snapshots;
use crate::consensus::store::LogStore;
use crate::consensus::types::{Proposal, Raft, RaftId, Snapshot, SnapshotRequest};
use crate::consensus::versions::Speakers;
use crate::consensus::wire::Wire;
use crate::fabric::{ControlService, PeerIdentity, Refusal, UploadReader};

/// What can be asked, by the number that goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Method {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
    Snapshot = 5,
    Propose = 16,
    ReadIndex = 17,
    Beat = 18,
    Discover = 32,
    Admit = 33,
    Remove = 34,
}

/// The node does not lead: nothing was done.
pub(super) const NOT_LEADER: u32 = 1;
/// The request makes no sense, or is for another raft ID.
const MISTAKEN: u32 = 2;
/// The node tried and failed.
const FAILED: u32 = 3;

pub(super) struct Service {
    pub(super) raft_id: RaftId,
    pub(super) raft: Raft,
    pub(super) store: LogStore,
    pub(super) leadership: Leadership,
    pub(super) members: Members,
    /// It is the one that forms the cluster, if there is none.
    pub(super) may_form: bool,
    pub(super) snapshots: Snapshots,
    pub(super) speakers: Speakers,
}

impl ControlService for Service {
    fn call(
        &self,
        from: PeerIdentity,
        method: u8,
        request: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        Box::pin(async move {
            match Method::try_from(method)? {
                Method::Append => {
                    let request = Wire::from_bytes(self.ours(request)?).map_err(mistaken)?;
                    answer(self.raft.append_entries(request).await)
                }
                Method::Vote => {
                    let request = Wire::from_bytes(self.ours(request)?).map_err(mistaken)?;
                    answer(self.raft.vote(request).await)
                }
                Method::PreVote => {
                    let request = Wire::from_bytes(self.ours(request)?).map_err(mistaken)?;
                    answer(self.raft.pre_vote(request).await)
                }
                Method::TransferLeader => {
                    let request = Wire::from_bytes(self.ours(request)?).map_err(mistaken)?;
                    answer(self.raft.handle_transfer_leader(request).await)
                }
                Method::Propose => {
                    let proposal = Proposal::from_encoded(request).map_err(mistaken)?;
                    let applied = commit(&self.raft, proposal).await;
                    applied.map(|applied| applied.to_bytes()).map_err(asked)
                }
                Method::ReadIndex => {
                    let index = read_index(&self.raft).await.map_err(asked)?;
                    Ok(wire::ReadIndexAnswer { index }.encode_to_vec().into())
                }
                Method::Beat => {
                    let run = NodeRun::from_bytes(request).map_err(mistaken)?;
                    let is_current = self.leadership.on_beat(run);
                    let is_current =
                        is_current.ok_or_else(|| refusal(NOT_LEADER, "not leading"))?;
                    if is_current {
                        self.speakers.on_beat(run, from.versions);
                    }
                    Ok(wire::BeatAnswer { is_current }.encode_to_vec().into())
                }
                Method::Discover => Ok(self.discover()),
                Method::Admit => {
                    let request = AdmitRequest::from_bytes(request).map_err(mistaken)?;
                    let admission = self.members.admit(from.node, request).await.map_err(asked)?;
                    Ok(admission.to_bytes())
                }
                Method::Remove => {
                    let request = wire::RemoveRequest::decode(request).map_err(mistaken)?;
                    let removed = self.members.remove(NodeId(request.node)).await.map_err(asked)?;
                    Ok(removed.to_bytes())
                }
                Method::Snapshot => Err(refusal(MISTAKEN, "a snapshot is uploaded")),
            }
        })
    }

    fn upload(
        &self,
        _from: PeerIdentity,
        method: u8,
        header: Bytes,
        body: UploadReader,
    ) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        Box::pin(async move {
            match Method::try_from(method)? {
                Method::Snapshot => self.receive_snapshot(header, body).await,
                _ => Err(refusal(MISTAKEN, "this is not uploaded")),
            }
        })
    }
}

impl Service {
    /// Takes the raft ID off a request, if it is ours.
    fn ours(&self, mut request: Bytes) -> Result<Bytes, Refusal> {
        let raft_id = request.split_off(8.min(request.len()));
        let (raft_id, request) = (request, raft_id);
        match <[u8; 8]>::try_from(&*raft_id).map(u64::from_be_bytes) {
            Ok(raft_id) if raft_id == self.raft_id => Ok(request),
            Ok(_) | Err(_) => Err(refusal(MISTAKEN, "this node has another raft ID")),
        }
    }

    /// Who may be forming a cluster does not speak of it before its log has begun: it may never come
    /// to be.
    fn discover(&self) -> Bytes {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let has_log = members.voter_ids().next().is_some();
        let cluster_id = self.store.identity().cluster_id.filter(|_| has_log || !self.may_form);
        let cluster_id = cluster_id.map_or(Bytes::new(), |id| Bytes::copy_from_slice(&id.0));
        let leader = metrics.current_leader.and_then(|leader| members.get_node(&leader));
        let leader = leader.map(|leader| wire::RaftMember {
            node: leader.node.0,
            fabric_address: leader.fabric_address.to_string(),
        });
        wire::DiscoverAnswer { raft_id: self.raft_id, cluster_id, leader }.encode_to_vec().into()
    }

    async fn receive_snapshot(
        &self,
        header: Bytes,
        mut body: UploadReader,
    ) -> Result<Bytes, Refusal> {
        let request = SnapshotRequest::from_bytes(self.ours(header)?).map_err(mistaken)?;
        let SnapshotRequest { vote, meta, bytes } = request;
        let mut file = self.snapshots.receive(bytes).await.map_err(failed)?;
        while let Some(chunk) = body.read().await.map_err(failed)? {
            file.write(&chunk).await.map_err(failed)?;
        }
        let (snapshot, version) = file.finish().await.map_err(failed)?;
        self.store.save_version(version).await.map_err(failed)?;
        let installed = self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        answer(installed)
    }
}

impl TryFrom<u8> for Method {
    type Error = Refusal;

    fn try_from(number: u8) -> Result<Method, Refusal> {
        let methods = [
            Method::Append,
            Method::Vote,
            Method::PreVote,
            Method::TransferLeader,
            Method::Snapshot,
            Method::Propose,
            Method::ReadIndex,
            Method::Beat,
            Method::Discover,
            Method::Admit,
            Method::Remove,
        ];
        let method = methods.into_iter().find(|method| *method as u8 == number);
        method.ok_or_else(|| refusal(MISTAKEN, "unknown method"))
    }
}

fn answer<A: Wire, E: std::fmt::Display>(answer: Result<A, E>) -> Result<Bytes, Refusal> {
    answer.map(|answer| answer.to_bytes()).map_err(failed)
}

fn asked(error: AskError) -> Refusal {
    match error {
        AskError::NoLeader(why) => refusal(NOT_LEADER, why),
        AskError::NotAMember => refusal(FAILED, error.to_string()),
        AskError::Unknown(why) => refusal(FAILED, why),
    }
}

fn mistaken(error: impl std::fmt::Display) -> Refusal {
    refusal(MISTAKEN, error.to_string())
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    refusal(FAILED, error.to_string())
}

fn refusal(code: u32, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}
