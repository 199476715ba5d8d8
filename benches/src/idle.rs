//! What open connections that say nothing cost the node that has them, and the others that know of
//! them.

use std::time::Duration;

use posthorn_chaos::cluster::Cluster;
use posthorn_chaos::eventually;

use crate::LoadError;
use crate::connects::open;
use crate::report::Figure;

const OWNER: usize = 0;
/// Open already when the measurement begins, so that what is allocated once is allocated.
const WARM_UP: usize = 2000;
const CONNECTIONS: usize = 10_000;
/// The allocator gives back what handshakes needed when it finds time to.
const SETTLE_TIME: Duration = Duration::from_secs(10);

pub async fn run(cluster: &Cluster) -> Result<Vec<Figure>, LoadError> {
    let warm = open(cluster, WARM_UP, Some(OWNER)).await?;
    settle(cluster, WARM_UP).await;
    let before = resident(cluster);
    let opened = open(cluster, CONNECTIONS, Some(OWNER)).await?;
    settle(cluster, WARM_UP + CONNECTIONS).await;
    let after = resident(cluster);
    let grown = |node: usize| {
        let bytes = after[node].saturating_sub(before[node]);
        format!("{:.2} KiB", bytes as f64 / 1024.0 / CONNECTIONS as f64)
    };
    let megabytes =
        |node: usize| format!("{} MiB grew to {}", before[node] >> 20, after[node] >> 20);
    drop((warm, opened));
    Ok(vec![
        Figure {
            what: format!("an idle connection, of {CONNECTIONS}"),
            value: grown(OWNER),
            limit: format!("resident memory of its node: {}", megabytes(OWNER)),
        },
        Figure {
            what: "  at each other node".to_owned(),
            value: grown(OWNER + 1),
            limit: format!("resident memory of a peer: {}", megabytes(OWNER + 1)),
        },
    ])
}

/// Waits until every node knows of the connections and has nothing left to do.
async fn settle(cluster: &Cluster, connections: usize) {
    for node in 0..cluster.len() {
        eventually("a directory that is up to date", || async {
            let entries = cluster.metric(node, "posthorn_directory_entries").await?;
            (entries == connections as f64).then_some(())
        })
        .await;
    }
    tokio::time::sleep(SETTLE_TIME).await;
}

fn resident(cluster: &Cluster) -> Vec<u64> {
    (0..cluster.len()).map(|node| cluster.node(node).resident_kib() * 1024).collect()
}
