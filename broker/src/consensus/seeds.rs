//! Whom a node asks that knows of no cluster, or of no leader: the initial voters, the voters that its
//! own log speaks of, and whoever is at the names that it was given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver as _;
use posthorn_core::ids::NodeId;
use posthorn_proto::cluster::v1 as wire;
use prost::Message as _;
use tracing::debug;

use crate::config::node::{ClusterSettings, Voter};
use crate::consensus::service::Method;
use crate::consensus::types::{ClusterId, Raft, RaftId};
use crate::fabric::{Fabric, Peer};

const ASK_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Seeds {
    pub(super) node: NodeId,
    pub(super) raft: Raft,
    pub(super) initial_voters: Arc<[Voter]>,
    /// `host:port`. Each name may lead to many nodes.
    names: Arc<[Arc<str>]>,
    pub(super) fabric: Fabric,
    rounds: Arc<AtomicUsize>,
}

/// What a node says of itself and its cluster.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) node: NodeId,
    pub(super) raft_id: RaftId,
    /// None: it knows of no cluster.
    pub(super) cluster: Option<ClusterId>,
    pub(super) leader: Option<Peer>,
}

impl Seeds {
    pub(super) fn new(
        node: NodeId,
        settings: &ClusterSettings,
        raft: Raft,
        fabric: Fabric,
    ) -> Seeds {
        let initial_voters = settings.initial_voters.clone().into();
        let names = settings.peers.clone().into();
        Seeds { node, raft, initial_voters, names, fabric, rounds: Arc::default() }
    }

    /// Asks all of them at once. Who does not answer in time is left out.
    pub(super) async fn ask(&self) -> Vec<Found> {
        let known = join_all(self.known().into_iter().map(|peer| self.ask_known(peer)));
        let named = join_all(self.names.iter().map(|name| self.ask_named(name)));
        let (known, named) = tokio::join!(known, named);
        known.into_iter().flatten().chain(named.into_iter().flatten()).collect()
    }

    async fn ask_known(&self, peer: Peer) -> Option<Found> {
        let method = Method::Discover as u8;
        let answer = self.fabric.call(&peer, method, Bytes::new(), ASK_TIMEOUT).await.ok()?;
        Found::read(peer.node, answer)
    }

    async fn ask_named(&self, name: &str) -> Vec<Found> {
        let method = Method::Discover as u8;
        match self.fabric.ask_all_at(name, method, Bytes::new(), ASK_TIMEOUT).await {
            Ok(told) => {
                told.into_iter().filter_map(|(who, answer)| Found::read(who.node, answer)).collect()
            }
            Err(error) => {
                debug!(name, %error, "cannot ask the nodes of a name");
                Vec::new()
            }
        }
    }

    /// One address a node: where the configuration and the log differ, they take turns, since either
    /// may be out of date.
    fn known(&self) -> Vec<Peer> {
        let round = self.rounds.fetch_add(1, Ordering::Relaxed);
        let mut addresses: BTreeMap<NodeId, Vec<Arc<str>>> = BTreeMap::new();
        for Voter { id, address } in &*self.initial_voters {
            addresses.entry(*id).or_default().push(address.clone());
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        for member in membership.voter_ids().filter_map(|voter| membership.get_node(&voter)) {
            let addresses = addresses.entry(member.node).or_default();
            if !addresses.contains(&member.fabric_address) {
                addresses.push(member.fabric_address.clone());
            }
        }
        let others = addresses.into_iter().filter(|(node, _)| *node != self.node);
        let peer = |(node, addresses): (NodeId, Vec<Arc<str>>)| Peer {
            node,
            address: addresses[round % addresses.len()].clone(),
        };
        others.map(peer).collect()
    }
}

impl Found {
    /// None where it makes no sense.
    fn read(node: NodeId, answer: Bytes) -> Option<Found> {
        let answer = wire::DiscoverAnswer::decode(answer).ok()?;
        let wire::DiscoverAnswer { raft_id, cluster_id, leader } = answer;
        let cluster = <[u8; ClusterId::BYTES]>::try_from(&*cluster_id).ok().map(ClusterId);
        let leader = leader.map(|member| Peer {
            node: NodeId(member.node),
            address: member.fabric_address.into(),
        });
        Some(Found { node, raft_id, cluster, leader })
    }
}
