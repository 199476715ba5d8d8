//! Handshakes a second, at all nodes at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use posthorn_chaos::cluster::Cluster;
use posthorn_chaos::eventually;
use tokio::task::JoinSet;

use crate::LoadError;
use crate::client::{Client, edge};
use crate::report::{Figure, Times, rate};
use crate::usage::Meter;

/// A process may have 20,000 files on many a machine.
const ROUND_CONNECTIONS: usize = 15_000;
const ROUNDS: u32 = 4;
/// Handshakes under way at once.
const AT_ONCE: usize = 512;

pub async fn run(cluster: &Cluster) -> Result<Vec<Figure>, LoadError> {
    // Unmeasured: caches are cold, and peers get to know each other.
    drop(open(cluster, 1000, None).await?);
    let mut times = Times::default();
    let mut elapsed = Duration::ZERO;
    let mut usage = None;
    for _ in 0..ROUNDS {
        until_empty(cluster).await;
        let meter = Meter::start(cluster);
        let started = Instant::now();
        let opened = open(cluster, ROUND_CONNECTIONS, None).await?;
        elapsed += started.elapsed();
        usage = Some(meter.stop());
        times.merge(&opened.times);
    }
    let connects = u64::from(ROUNDS) * ROUND_CONNECTIONS as u64;
    let limit = usage.map_or(String::new(), |usage| usage.to_string());
    Ok(vec![
        Figure { what: "connects, 3 nodes".to_owned(), value: rate(connects, elapsed), limit },
        Figure {
            what: format!("  until 101, {AT_ONCE} at once"),
            value: times.to_string(),
            limit: "commits, and the queue for them".to_owned(),
        },
    ])
}

/// Connections that stay open until they are dropped.
pub struct Opened {
    pub clients: Vec<Client>,
    pub times: Times,
}

/// Opens connections to one node, or in turn to each.
pub async fn open(
    cluster: &Cluster,
    count: usize,
    node: Option<usize>,
) -> Result<Opened, LoadError> {
    let edges: Arc<[_]> = match node {
        Some(node) => [edge(cluster, node)].into(),
        None => (0..cluster.len()).map(|node| edge(cluster, node)).collect(),
    };
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (edges, next) = (edges.clone(), next.clone());
        tasks.spawn(async move {
            let (mut clients, mut times) = (Vec::new(), Times::default());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(Opened { clients, times });
                }
                let started = Instant::now();
                clients.push(Client::connect(edges[number % edges.len()]).await?);
                times.record(started.elapsed());
            }
        });
    }
    let mut all = Opened { clients: Vec::new(), times: Times::default() };
    while let Some(opened) = tasks.join_next().await {
        let opened: Result<Opened, LoadError> = opened.map_err(std::io::Error::other)?;
        let Opened { clients, times } = opened?;
        all.clients.extend(clients);
        all.times.merge(&times);
    }
    Ok(all)
}

/// Waits until no replica knows of a connection any more.
async fn until_empty(cluster: &Cluster) {
    for node in 0..cluster.len() {
        eventually("an empty directory", || async {
            (cluster.metric(node, "posthorn_directory_entries").await? == 0.0).then_some(())
        })
        .await;
    }
}
