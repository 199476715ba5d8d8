//! How a node without a cluster comes to one: by forming it, once, or by being told of it.
//!
//! Only the first of the initial voters may form the cluster, and only when every one of them has
//! answered and none knows of a cluster already. So it cannot be formed twice, whatever order or
//! subset of nodes comes up first: whoever has lost its disk meets at least one that remembers.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use posthorn_core::ids::NodeId;
use posthorn_proto::cluster::v1 as wire;
use prost::Message as _;
use tracing::{info, warn};

use crate::config::node::Voter;
use crate::consensus::service::Method;
use crate::consensus::store::LogStore;
use crate::consensus::types::{ClusterId, Member, Raft, RaftId};
use crate::fabric::{Fabric, Peer};

const ASK_INTERVAL: Duration = Duration::from_millis(200);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Bootstrap {
    pub(super) node: NodeId,
    pub(super) raft_id: RaftId,
    pub(super) fabric_address: std::sync::Arc<str>,
    pub(super) initial_voters: Vec<Voter>,
    pub(super) raft: Raft,
    pub(super) store: LogStore,
    pub(super) fabric: Fabric,
}

/// What keeps a node from its cluster for good.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootstrapError {
    #[error(transparent)]
    Store(#[from] std::io::Error),
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// What the initial voters said. Who has no log yet says that it knows of no cluster.
struct Census {
    cluster: Option<ClusterId>,
    /// The raft ID of each that knows of no cluster.
    unbound: BTreeMap<NodeId, RaftId>,
}

impl Bootstrap {
    /// Returns once this node knows its cluster.
    pub(super) async fn run(self) -> Result<ClusterId, BootstrapError> {
        let forms = self.initial_voters.iter().map(|voter| voter.id).min() == Some(self.node);
        let known = self.store.identity().cluster_id;
        // Who formed a cluster and died before its log began goes on forming that.
        let is_forming = forms && !matches!(self.raft.is_initialized().await, Ok(true));
        if let Some(cluster) = known
            && !is_forming
        {
            self.fabric.set_cluster_id(cluster.0);
            return Ok(cluster);
        }
        let mut interval = tokio::time::interval(ASK_INTERVAL);
        loop {
            interval.tick().await;
            let census = self.ask().await;
            if let Some(cluster) = census.cluster {
                info!("found the cluster");
                return self.belong_to(cluster).await;
            }
            if forms && census.unbound.len() == self.initial_voters.len() {
                return self.form(known, &census.unbound).await;
            }
        }
    }

    async fn ask(&self) -> Census {
        let mut census = Census { cluster: None, unbound: BTreeMap::new() };
        for voter in &self.initial_voters {
            if voter.id == self.node {
                census.unbound.insert(self.node, self.raft_id);
                continue;
            }
            let peer = Peer { node: voter.id, address: voter.address.clone() };
            let call = self.fabric.call(&peer, Method::Discover as u8, Bytes::new(), ASK_TIMEOUT);
            let Ok(answer) = call.await else { continue };
            let Ok(answer) = wire::DiscoverAnswer::decode(answer) else { continue };
            match <[u8; ClusterId::BYTES]>::try_from(&*answer.cluster_id) {
                Ok(cluster) => census.cluster = Some(ClusterId(cluster)),
                Err(_) => drop(census.unbound.insert(voter.id, answer.raft_id)),
            }
        }
        census
    }

    async fn form(
        &self,
        known: Option<ClusterId>,
        voters: &BTreeMap<NodeId, RaftId>,
    ) -> Result<ClusterId, BootstrapError> {
        let cluster = known.map_or_else(draw_cluster_id, Ok)?;
        self.belong_to(cluster).await?;
        let member = |voter: &Voter| {
            let fabric_address = match voter.id == self.node {
                true => self.fabric_address.clone(),
                false => voter.address.clone(),
            };
            Some((*voters.get(&voter.id)?, Member { node: voter.id, fabric_address }))
        };
        let members: BTreeMap<RaftId, Member> =
            self.initial_voters.iter().filter_map(member).collect();
        match self.raft.initialize(members).await {
            Ok(()) => info!(voters = voters.len(), "formed the cluster"),
            Err(error) => warn!(%error, "cannot form the cluster"),
        }
        Ok(cluster)
    }

    async fn belong_to(&self, cluster: ClusterId) -> Result<ClusterId, BootstrapError> {
        self.store.save_cluster(cluster).await?;
        self.fabric.set_cluster_id(cluster.0);
        Ok(cluster)
    }
}

fn draw_cluster_id() -> Result<ClusterId, getrandom::Error> {
    let mut id = [0; ClusterId::BYTES];
    getrandom::fill(&mut id)?;
    Ok(ClusterId(id))
}
