//! How a node without a cluster comes to one: by forming it, once, or by being told of it.
//!
//! Only the first of the initial voters may form the cluster, and only when every one of them has
//! answered and neither they nor any other node that answers knows of a cluster already. So it cannot
//! be formed twice, whatever order or subset of nodes comes up first: whoever has lost its disk meets
//! at least one that remembers.

use std::collections::BTreeMap;
use std::time::Duration;

use posthorn_core::ids::NodeId;
use tracing::{info, warn};

use crate::config::node::Voter;
use crate::consensus::seeds::Seeds;
use crate::consensus::store::LogStore;
use crate::consensus::types::{ClusterId, Member, RaftId};

const ASK_INTERVAL: Duration = Duration::from_millis(200);

pub(super) struct Bootstrap {
    pub(super) raft_id: RaftId,
    pub(super) fabric_address: std::sync::Arc<str>,
    pub(super) seeds: Seeds,
    pub(super) store: LogStore,
}

/// What keeps a node from its cluster for good.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootstrapError {
    #[error(transparent)]
    Store(#[from] std::io::Error),
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// What the nodes said that were asked. Who has no log yet says that it knows of no cluster.
struct Census {
    cluster: Option<ClusterId>,
    /// The raft ID of each initial voter that knows of no cluster.
    unbound: BTreeMap<NodeId, RaftId>,
}

impl Bootstrap {
    /// Returns once this node knows its cluster.
    pub(super) async fn run(self) -> Result<ClusterId, BootstrapError> {
        let forms = is_first(self.seeds.node, &self.seeds.initial_voters);
        let known = self.store.identity().cluster_id;
        // Who formed a cluster and died before its log began goes on forming that.
        let is_forming = forms && !matches!(self.seeds.raft.is_initialized().await, Ok(true));
        if let Some(cluster) = known
            && !is_forming
        {
            self.seeds.fabric.set_cluster_id(cluster.0);
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
            if forms && census.unbound.len() == self.seeds.initial_voters.len() {
                return self.form(known, &census.unbound).await;
            }
        }
    }

    async fn ask(&self) -> Census {
        let mut census = Census { cluster: None, unbound: BTreeMap::new() };
        census.unbound.insert(self.seeds.node, self.raft_id);
        for found in self.seeds.ask().await {
            match found.cluster {
                Some(cluster) => census.cluster = Some(cluster),
                None => drop(census.unbound.insert(found.node, found.raft_id)),
            }
        }
        census.unbound.retain(|node, _| self.initial_voters().any(|voter| voter.id == *node));
        census
    }

    fn initial_voters(&self) -> impl Iterator<Item = &Voter> {
        self.seeds.initial_voters.iter()
    }

    async fn form(
        &self,
        known: Option<ClusterId>,
        voters: &BTreeMap<NodeId, RaftId>,
    ) -> Result<ClusterId, BootstrapError> {
        let cluster = known.map_or_else(draw_cluster_id, Ok)?;
        self.belong_to(cluster).await?;
        let member = |voter: &Voter| {
            let fabric_address = match voter.id == self.seeds.node {
                true => self.fabric_address.clone(),
                false => voter.address.clone(),
            };
            Some((*voters.get(&voter.id)?, Member { node: voter.id, fabric_address }))
        };
        let members: BTreeMap<RaftId, Member> = self.initial_voters().filter_map(member).collect();
        match self.seeds.raft.initialize(members).await {
            Ok(()) => info!(voters = voters.len(), "formed the cluster"),
            Err(error) => warn!(%error, "cannot form the cluster"),
        }
        Ok(cluster)
    }

    async fn belong_to(&self, cluster: ClusterId) -> Result<ClusterId, BootstrapError> {
        self.store.save_cluster(cluster).await?;
        self.seeds.fabric.set_cluster_id(cluster.0);
        Ok(cluster)
    }
}

/// Who may form the cluster. He may know its ID before there is one.
pub(super) fn is_first(node: NodeId, initial_voters: &[Voter]) -> bool {
    initial_voters.iter().map(|voter| voter.id).min() == Some(node)
}

fn draw_cluster_id() -> Result<ClusterId, getrandom::Error> {
    let mut id = [0; ClusterId::BYTES];
    getrandom::fill(&mut id)?;
    Ok(ClusterId(id))
}
