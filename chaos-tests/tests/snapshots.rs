//! The log stays short, and who missed what it no longer has is given a snapshot, while posts and
//! connects go on and whoever dies of it comes back.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::fs;
use std::path::PathBuf;

use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::disk::DiskFaults;
use posthorn_chaos::eventually;
use posthorn_chaos::process::Launch;
use posthorn_proto::v1::PostToConnectionRequest;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use tokio::sync::watch;
use tonic::transport::Channel;

const SNAPSHOT_ENTRIES: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_for_longer_than_the_log_reaches_is_given_a_snapshot() {
    let mut cluster = Cluster::prepare(Options::default());
    let faults = DiskFaults::build(cluster.folder());
    for node in 0..3 {
        cluster.spawn_with(node, &with_faults(&faults, node)).await;
    }
    for node in 0..3 {
        cluster.wait_ready(node).await;
    }
    let away = (leader_of(&cluster).await + 1) % 3;
    let (left, right) = ((away + 1) % 3, (away + 2) % 3);
    cluster.take(away).kill().await;
    // Gauges are a second behind.
    let last = last_index(&cluster, left).await + SNAPSHOT_ENTRIES;

    // The log is cut behind what the node has.
    let stopped = watch::Sender::new(false);
    let posts = post_until(&cluster, left, right, stopped.subscribe()).await;
    eventually("a log that begins later", || async {
        drop(cluster.try_client(left).await);
        drop(cluster.try_client(right).await);
        (purged_index(&cluster, leader_of(&cluster).await).await > last).then_some(())
    })
    .await;
    for node in [left, right] {
        eventually("a short log", || async {
            let entries = cluster.metric(node, "posthorn_raft_log_entries").await?;
            (entries <= 4.0 * SNAPSHOT_ENTRIES as f64).then_some(())
        })
        .await;
        assert_eq!(snapshots_of(&cluster, node).len(), 1);
    }

    // The one that receives it dies of it, twice; what it had of it is gone when it starts anew.
    for _ in 0..2 {
        faults.begin(away, "hold-partial", "");
        cluster.spawn_with(away, &with_faults(&faults, away)).await;
        partial_of(&cluster, away).await;
        cluster.take(away).kill().await;
        assert_eq!(partials_of(&cluster, away).len(), 1);
    }
    cluster.spawn_with(away, &with_faults(&faults, away)).await;
    partial_of(&cluster, away).await;

    // So does the one that sends it: another one leads, and sends its own.
    let sender = leader_of(&cluster).await;
    stopped.send_replace(true);
    let posted = posts.await.unwrap();
    assert!(posted > 0);
    cluster.take(sender).kill().await;
    cluster.spawn_with(sender, &with_faults(&faults, sender)).await;
    faults.end(away, "hold-partial");
    for node in 0..3 {
        cluster.wait_ready(node).await;
    }
    let received = eventually("a snapshot that was received", || {
        cluster.metric(away, "posthorn_snapshots_received_total")
    });
    assert!(received.await >= 1.0);
    for node in 0..3 {
        let mut client = cluster.client(node).await;
        assert_eq!(client.id().await.len(), 22);
    }
    eventually("that nothing is left behind", || async {
        (0..3).all(|node| partials_of(&cluster, node).is_empty()).then_some(())
    })
    .await;
    assert_eq!(snapshots_of(&cluster, away).len(), 1);
}

/// Posts through one node to a client of another, in order and each received, until told to stop.
/// Gives how many.
async fn post_until(
    cluster: &Cluster,
    through: usize,
    to: usize,
    stopped: watch::Receiver<bool>,
) -> tokio::task::JoinHandle<u64> {
    let (mut client, mut grpc) = (cluster.client(to).await, cluster.grpc(through).await);
    let id = client.id().await;
    tokio::spawn(async move {
        let mut posted = 0;
        while !*stopped.borrow() {
            post(&mut grpc, &id, &mut client, posted).await;
            posted += 1;
        }
        posted
    })
}

async fn post(
    grpc: &mut ConnectionServiceClient<Channel>,
    id: &str,
    client: &mut Client,
    number: u64,
) {
    let payload = Some(Payload::Text(number.to_string()));
    let connection_id = id.to_owned();
    let post = PostToConnectionRequest { connection_id, payload, ..Default::default() };
    grpc.post_to_connection(post).await.unwrap();
    assert_eq!(client.text().await, number.to_string());
}

async fn leader_of(cluster: &Cluster) -> usize {
    eventually("a leader", || async {
        for node in 0..cluster.len() {
            let leads = cluster.runs(node)
                && cluster.metric(node, "posthorn_raft_is_leader").await == Some(1.0);
            if leads {
                return Some(node);
            }
        }
        None
    })
    .await
}

async fn last_index(cluster: &Cluster, node: usize) -> u64 {
    eventually("an index", || cluster.metric(node, "posthorn_raft_applied_index")).await as u64
}

async fn purged_index(cluster: &Cluster, node: usize) -> u64 {
    eventually("an index", || cluster.metric(node, "posthorn_raft_log_first_index")).await as u64
}

async fn partial_of(cluster: &Cluster, node: usize) {
    eventually("the beginning of a snapshot", || async { partials_of(cluster, node).pop() }).await;
}

fn partials_of(cluster: &Cluster, node: usize) -> Vec<PathBuf> {
    files_of(cluster, node, "partial")
}

fn snapshots_of(cluster: &Cluster, node: usize) -> Vec<PathBuf> {
    files_of(cluster, node, "snapshot")
}

fn files_of(cluster: &Cluster, node: usize, suffix: &str) -> Vec<PathBuf> {
    let folder = cluster.folder().join(format!("data-{node}/snapshots"));
    let files = fs::read_dir(folder).into_iter().flatten();
    let files = files.filter_map(|file| Some(file.ok()?.path()));
    files.filter(|path| path.extension().is_some_and(|extension| extension == suffix)).collect()
}

fn with_faults(faults: &DiskFaults, node: usize) -> Launch {
    let mut environment = faults.environment(node);
    let setting = ("POSTHORN_CLUSTER__SNAPSHOT_ENTRIES".to_owned(), SNAPSHOT_ENTRIES.to_string());
    environment.push(setting);
    Launch { environment, ..Launch::default() }
}
