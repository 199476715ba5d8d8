//! Nodes of this and of the next release in one cluster: every message both ways, an upgrade one node
//! at a time, and a clear line where no work together is possible.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use nix::sys::signal::Signal;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;
use posthorn_chaos::process::{Launch, Process};
use posthorn_proto::v1::PostToConnectionRequest;
use posthorn_proto::v1::post_to_connection_request::Payload;
use tonic::Code;

const EXIT_STORE: Option<i32> = Some(6);
const EXIT_INCOMPATIBLE: Option<i32> = Some(8);

const THIS: &str = "1..1";
const NEXT: &str = "1..2";
/// It has forgotten how the first ones spoke.
const LATER: &str = "2..2";

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_upgraded_node_by_node_and_back_until_the_last_one_follows() {
    let mut cluster = Cluster::prepare(Options::default());
    for node in 0..3 {
        let versions = if node == 2 { NEXT } else { THIS };
        cluster.spawn_with(node, &speaking(versions)).await;
    }
    for node in 0..3 {
        cluster.wait_ready(node).await;
    }
    assert_whole(&cluster).await;
    assert_eq!(version_of(&cluster, 2).await, 1.0, "two members do not speak the next one");

    // What can never work is said by both sides, in one line that names both ranges; it ends the
    // newcomer, and nobody else.
    let refused = "no protocol version in common: node ";
    terminate(&mut cluster, 2).await;
    let (code, error) = start_in_vain(&cluster, 2, LATER).await;
    assert_eq!(code, EXIT_INCOMPATIBLE, "{error}");
    let last = error.lines().last().unwrap();
    let reason = "posthorn: this release does not work with the cluster: ";
    assert!(last.starts_with(&format!("{reason}{refused}")), "{last}");
    assert!(last.contains("speaks 1 to 1") && last.contains("speaks 2 to 2"), "{last}");
    eventually("a refusal that was counted", || async {
        let series = r#"posthorn_peers_refused_total{cause="version"}"#;
        let counts = (cluster.metric(0, series).await?, cluster.metric(1, series).await?);
        (counts.0 + counts.1 > 0.0).then_some(())
    })
    .await;
    let logs = [cluster.node(0).log(), cluster.node(1).log()].concat();
    assert!(logs.contains(refused), "{logs}");

    // Up and back and up again, while others are as they were.
    for versions in [THIS, NEXT] {
        cluster.spawn_with(2, &speaking(versions)).await;
        cluster.wait_ready(2).await;
        assert_whole(&cluster).await;
        if versions == THIS {
            terminate(&mut cluster, 2).await;
        }
    }
    for node in [0, 1] {
        terminate(&mut cluster, node).await;
        cluster.spawn_with(node, &speaking(NEXT)).await;
        cluster.wait_ready(node).await;
        assert_whole(&cluster).await;
    }

    // All have followed: the next version is used, and there is no way back.
    for node in 0..3 {
        eventually("the next version", || async {
            (cluster.metric(node, "posthorn_protocol_version").await? == 2.0).then_some(())
        })
        .await;
    }
    terminate(&mut cluster, 1).await;
    let (code, error) = start_in_vain(&cluster, 1, THIS).await;
    assert_eq!(code, EXIT_STORE, "{error}");
    let last = error.lines().last().unwrap();
    let expected = "holds what came with protocol version 2, and this release speaks none after 1: \
                    there is no way back to it";
    assert!(last.contains(expected), "{last}");
    // Not on an empty disk either.
    let data = cluster.folder().join("data-1");
    let kept = cluster.folder().join("kept");
    std::fs::rename(&data, &kept).unwrap();
    let (code, error) = start_in_vain(&cluster, 1, THIS).await;
    assert_eq!(code, EXIT_INCOMPATIBLE, "{error}");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    // The release after it need not know how the first ones spoke.
    cluster.spawn_with(1, &speaking(LATER)).await;
    cluster.wait_ready(1).await;
    assert_whole(&cluster).await;
}

/// Every node's clients get what is posted through every other one, and their messages are answered.
async fn assert_whole(cluster: &Cluster) {
    let mut clients: Vec<Client> = Vec::new();
    for node in 0..cluster.len() {
        clients.push(cluster.client(node).await);
    }
    for client in &mut clients {
        let id = client.id().await;
        for through in 0..cluster.len() {
            let payload = Some(Payload::Text(format!("through {through}")));
            let connection_id = id.clone();
            let post = PostToConnectionRequest { connection_id, payload, ..Default::default() };
            // A node that was away is not dialed again at once.
            eventually("a post that reaches its owner", || async {
                match cluster.grpc(through).await.post_to_connection(post.clone()).await {
                    Err(status) if status.code() == Code::Unavailable => None,
                    outcome => Some(outcome.unwrap()),
                }
            })
            .await;
            assert_eq!(client.text().await, format!("through {through}"));
        }
    }
}

async fn version_of(cluster: &Cluster, node: usize) -> f64 {
    eventually("a version", || cluster.metric(node, "posthorn_protocol_version")).await
}

async fn terminate(cluster: &mut Cluster, node: usize) {
    let node = cluster.take(node);
    node.signal(Signal::SIGTERM);
    assert_eq!(node.wait().await.code(), Some(0));
}

async fn start_in_vain(cluster: &Cluster, node: usize, versions: &str) -> (Option<i32>, String) {
    let path = cluster.config_path(node);
    let (status, error) = Process::start_in_vain_with(&path, &speaking(versions)).await;
    (status.code(), error)
}

fn speaking(versions: &str) -> Launch {
    let arguments = vec!["--protocol-versions".to_owned(), versions.to_owned()];
    Launch { arguments, ..Launch::default() }
}
