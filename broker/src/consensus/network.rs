//! How this node's raft asks the others.
//!
//! Every request begins with the raft ID that it is for: a node that lost its disk answers at the
//! same address under another one, and must not be taken for the member it was.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use openraft::RaftNetworkFactory;
use openraft::async_runtime::WatchReceiver as _;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkV2};

use crate::consensus::service::Method;
use crate::consensus::snapshot::SnapshotFile;
use crate::consensus::types::{
    AppendRequest, AppendResponse, Member, RaftId, RaftMetricsReceiver, RaftVote, Snapshot,
    SnapshotRequest, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, TypeConfig,
    VoteRequest, VoteResponse,
};
use crate::consensus::wire::Wire;
use crate::fabric::{CallError, Fabric, Peer};

type RaftRpcError = RPCError<TypeConfig>;

const SNAPSHOT_CHUNK_BYTES: usize = 64 * 1024;
/// A peer that takes or answers nothing for so long is given up. Installing takes a while.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Network {
    fabric: Fabric,
    addresses: Addresses,
}

/// Where the members are just now, once raft has started.
pub(super) type Addresses = Arc<OnceLock<RaftMetricsReceiver>>;

/// The way to one member.
pub(super) struct PeerNetwork {
    fabric: Fabric,
    raft_id: RaftId,
    /// As it was when raft first spoke to it.
    member: Member,
    addresses: Addresses,
}

impl Network {
    pub(super) fn new(fabric: Fabric, addresses: Addresses) -> Network {
        Network { fabric, addresses }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, raft_id: RaftId, member: &Member) -> PeerNetwork {
        let (fabric, addresses) = (self.fabric.clone(), self.addresses.clone());
        PeerNetwork { fabric, raft_id, member: member.clone(), addresses }
    }
}

impl PeerNetwork {
    async fn call<Q: Wire, A: Wire>(
        &self,
        method: Method,
        request: &Q,
        timeout: Duration,
    ) -> Result<A, RaftRpcError> {
        let request = self.addressed(&request.to_bytes());
        let answer = self.fabric.call(&self.peer(), method as u8, request, timeout).await;
        let answer = answer.map_err(|error| rpc_error(&error))?;
        A::from_bytes(answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    /// A member may move while raft speaks to it.
    fn peer(&self) -> Peer {
        let metrics = self.addresses.get().map(|metrics| metrics.borrow_watched());
        let members = metrics.as_ref().map(|metrics| metrics.membership_config.membership());
        let member = members.and_then(|members| members.get_node(&self.raft_id));
        let Member { node, fabric_address } = member.unwrap_or(&self.member).clone();
        Peer { node, address: fabric_address }
    }

    fn addressed(&self, request: &[u8]) -> Bytes {
        let mut addressed = BytesMut::with_capacity(8 + request.len());
        addressed.put_u64(self.raft_id);
        addressed.put_slice(request);
        addressed.freeze()
    }

    async fn upload(
        &self,
        vote: RaftVote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        let failed = |error: &CallError| StreamingError::Unreachable(Unreachable::new(error));
        let broken = |error: &std::io::Error| StreamingError::Network(NetworkError::new(error));
        let Snapshot { meta, snapshot: file } = snapshot;
        let request = SnapshotRequest { vote, meta, bytes: file.bytes() };
        let header = self.addressed(&request.to_bytes());
        let mut upload = self
            .fabric
            .open_upload(&self.peer(), Method::Snapshot as u8, header, SNAPSHOT_PATIENCE)
            .await
            .map_err(|error| failed(&error))?;
        let mut sent = 0;
        while sent < file.bytes() {
            let chunk = file.read_at(sent, SNAPSHOT_CHUNK_BYTES).await;
            let chunk = chunk.map_err(|error| broken(&error))?;
            sent += chunk.len() as u64;
            upload.write(chunk).await.map_err(|error| failed(&error))?;
        }
        let answer = upload.finish().await.map_err(|error| failed(&error))?;
        SnapshotResponse::from_bytes(answer)
            .map_err(|error| StreamingError::Network(NetworkError::new(&error)))
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendResponse, RaftRpcError> {
        self.call(Method::Append, &request, option.soft_ttl()).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RaftRpcError> {
        self.call(Method::Vote, &request, option.soft_ttl()).await
    }

    /// Without this, openraft would take every pre-vote for granted.
    async fn pre_vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RaftRpcError> {
        self.call(Method::PreVote, &request, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse, RaftRpcError> {
        self.call(Method::TransferLeader, &request, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        tokio::select! {
            answer = self.upload(vote, snapshot) => answer,
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}

/// A peer that cannot be reached is asked again after a while, not at once.
fn rpc_error(error: &CallError) -> RaftRpcError {
    match error {
        CallError::Unreachable(_) | CallError::Refused(_) => {
            RPCError::Unreachable(Unreachable::new(error))
        }
        CallError::Unknown(_) | CallError::TooLarge(_) => {
            RPCError::Network(NetworkError::new(error))
        }
    }
}
