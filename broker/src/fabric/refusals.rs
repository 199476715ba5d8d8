//! With whom no work is possible for as long as both stay what they are, and why.
//!
//! Bounded: certificates name nodes, and no more of them are kept than there may be peers.

use std::collections::BTreeMap;

use posthorn_core::ids::NodeId;
use tokio::sync::watch;

use super::hello::TurnedAway;
use super::stats::RefusalCause;

const NODES_MAX: usize = 1024;

/// By node, whoever of the two turned the other away.
#[derive(Debug)]
pub(super) struct Refusals(watch::Sender<BTreeMap<NodeId, TurnedAway>>);

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals(watch::Sender::new(BTreeMap::new()))
    }
}

impl Refusals {
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeMap<NodeId, TurnedAway>> {
        self.0.subscribe()
    }

    pub(super) fn on_refused(&self, node: NodeId, away: &TurnedAway) {
        if !matches!(away.cause, RefusalCause::Version | RefusalCause::AnotherCluster) {
            return;
        }
        self.0.send_if_modified(|refusals| {
            let has_room = refusals.len() < NODES_MAX || refusals.contains_key(&node);
            has_room && refusals.insert(node, away.clone()).as_ref() != Some(away)
        });
    }

    /// The node could be worked with after all.
    pub(super) fn on_established(&self, node: NodeId) {
        self.0.send_if_modified(|refusals| refusals.remove(&node).is_some());
    }
}
