//! Room on the disk: who runs out of it takes its leave while it still can write.
//!
//! What fills one disk may fill all of them. So a node stays for as long as the others could not do
//! without it: without a quorum nobody could go on, and a disk that is not yet full may never be.

use std::path::Path;
use std::time::Duration;

use posthorn_proto::v1::Cluster;
use tracing::{error, warn};

use crate::consensus::free_bytes;
use crate::operator::Operator;

/// Nodes look at different moments, or all would go at once.
const LOOK_INTERVAL_MIN: Duration = Duration::from_secs(1);
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(3);

impl Operator {
    /// Resolves, with the reason, once the disk has less room than it is to have and the others can do
    /// without this node.
    pub(crate) async fn disk_is_low(&self, data_dir: &Path, bytes_min: u64) -> String {
        let mut is_told = false;
        loop {
            tokio::time::sleep(look_interval()).await;
            let free = match free_bytes(data_dir) {
                Ok(free) => free,
                Err(error) => {
                    warn!(%error, "cannot see how much room the disk has");
                    continue;
                }
            };
            let is_low = free < bytes_min;
            self.gateway.metrics().storage.disk_is_low.set(f64::from(u8::from(is_low)));
            if !is_low {
                is_told = false;
                continue;
            }
            let dir = data_dir.display();
            let why = format!(
                "the disk of {dir} is nearly full: {free} bytes are free, and \
                 node.disk_free_bytes_min is {bytes_min}"
            );
            if can_do_without(self.consensus.node().0, &self.survey().await) {
                error!("{why}: this node takes its leave");
                return why;
            }
            if !std::mem::replace(&mut is_told, true) {
                error!("{why}: this node stays, since the others cannot do without it");
            }
        }
    }
}

/// Whether those who are ready beside a node are a quorum.
fn can_do_without(node: u32, cluster: &Cluster) -> bool {
    let voters: Vec<_> = cluster.members.iter().filter(|member| member.is_voter).collect();
    let is_ready =
        |id: u32| cluster.nodes.iter().any(|other| other.node_id == id && other.is_ready);
    let others = voters.iter().filter(|voter| voter.node_id != node && is_ready(voter.node_id));
    others.count() > voters.len() / 2
}

fn look_interval() -> Duration {
    // Without luck it is merely not spread.
    let permille = u32::try_from(getrandom::u64().unwrap_or_default() % 1001).unwrap_or_default();
    LOOK_INTERVAL_MIN + (LOOK_INTERVAL_MAX - LOOK_INTERVAL_MIN) * permille / 1000
}

#[cfg(test)]
mod tests {
    use posthorn_proto::v1::{NodeStatus, RaftMember};

    use super::*;

    #[test]
    fn a_node_goes_only_if_a_quorum_of_the_others_is_ready() {
        let cluster = |voters: u32, ready: &[u32]| Cluster {
            members: (0..voters + 1)
                .map(|node_id| RaftMember { node_id, is_voter: node_id < voters, ..<_>::default() })
                .collect(),
            nodes: (0..voters + 1)
                .map(|node_id| NodeStatus {
                    node_id,
                    is_ready: ready.contains(&node_id),
                    ..<_>::default()
                })
                .collect(),
            ..<_>::default()
        };
        assert!(can_do_without(0, &cluster(3, &[0, 1, 2])));
        assert!(!can_do_without(0, &cluster(3, &[0, 1, 3])), "the last one is a learner");
        assert!(can_do_without(3, &cluster(3, &[0, 1])), "it is a learner itself");
        assert!(!can_do_without(0, &cluster(1, &[0])));
        assert!(can_do_without(4, &cluster(5, &[0, 1, 2, 4])));
        assert!(!can_do_without(4, &cluster(5, &[0, 1, 4])));
    }
}
