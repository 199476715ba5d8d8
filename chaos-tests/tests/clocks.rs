//! Wall clocks step; leases and evictions go by another clock.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use nix::sys::signal::Signal;
use posthorn_chaos::clock::Clock;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{GetConnectionRequest, PostToConnectionRequest};

const DAY_S: i64 = 24 * 3600;

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_steps_neither_ends_a_lease_nor_extends_one() {
    let mut cluster = Cluster::prepare(Options::default());
    let clocks = [0, 1, 2].map(|node| Clock::build(&cluster.folder().join(node.to_string())));
    for (node, clock) in clocks.iter().enumerate() {
        cluster.spawn_with(node, &clock.launch()).await;
    }
    for node in 0..3 {
        cluster.wait_ready(node).await;
    }
    let leader = cluster.leader().await;
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut client = cluster.client(follower).await;
    let id = client.id().await;

    for stepping in [leader, follower] {
        for ahead_s in [DAY_S, -DAY_S] {
            clocks[stepping].step_to(ahead_s);
            // Each is written down by all, and read at another node.
            for _ in 0..20 {
                let mut newcomer = cluster.client(stepping).await;
                let request = GetConnectionRequest { connection_id: newcomer.id().await };
                let found = cluster.grpc(other).await.get_connection(request).await.unwrap();
                let connected_at_ms = found.into_inner().connection.unwrap().connected_at_ms;
                let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed();
                let off_s = (connected_at_ms / 1000 - now_s).abs_diff(ahead_s);
                assert!(off_s < 3600, "the time of its own clock: {off_s} s off");
            }
        }
    }
    post(&cluster, other, &id, "here").await;
    assert_eq!(client.text().await, "here");
    assert_eq!(evictions(&cluster, [leader, other]).await, 0.0);

    // Who stands still for longer than its lease has lost it, whatever the wall clock says of that.
    let node = cluster.node(follower);
    node.pause().await;
    clocks[follower].step_to(-2 * DAY_S);
    eventually("an eviction", || async {
        (evictions(&cluster, [leader, other]).await == 1.0).then_some(())
    })
    .await;
    node.signal(Signal::SIGCONT);
    assert_eq!(client.closed().await.0, 1012);
    cluster.wait_ready(follower).await;
    let mut client = cluster.client(follower).await;
    let id = client.id().await;
    post(&cluster, other, &id, "again").await;
    assert_eq!(client.text().await, "again");
}

async fn post(cluster: &Cluster, node: usize, id: &str, text: &str) {
    let payload = Some(Payload::Text(text.to_owned()));
    let connection_id = id.to_owned();
    let request = PostToConnectionRequest { connection_id, payload, ..Default::default() };
    cluster.grpc(node).await.post_to_connection(request).await.unwrap();
}

/// As the nodes have counted them that lead by turns.
async fn evictions(cluster: &Cluster, nodes: [usize; 2]) -> f64 {
    let mut evictions = 0.0;
    for node in nodes {
        evictions += cluster.metric(node, "posthorn_evictions_total").await.unwrap_or_default();
    }
    evictions
}
