//! Nodes whose own machine gives them little.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::net::SocketAddr;

use posthorn_chaos::cgroup::ControlGroup;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;
use posthorn_chaos::management::Management;
use posthorn_chaos::process::Launch;
use posthorn_chaos::raw::{self, HANDSHAKE, frame, next_frame};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

const MIB: u64 = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_little_memory_turns_clients_away_and_is_not_killed() {
    let Some(memory) = ControlGroup::make("memory") else { return };
    let settings =
        "edge: { listen: \"{ip}:0\", outbox_bytes_max: 65536, outboxes_bytes_max: 33554432 }";
    let settings = settings.to_owned();
    let mut cluster = Cluster::prepare(Options { settings, ..Options::default() });
    for node in 0..3 {
        cluster.spawn(node).await;
    }
    for node in 0..3 {
        cluster.wait_ready(node).await;
    }
    let enough = cluster.node(2).resident_kib() * 1024 + 32 * MIB;
    cluster.take(2).kill().await;
    memory.set("memory.limit_in_bytes", &(enough + 96 * MIB).to_string());
    let limit = ("POSTHORN_EDGE__MEMORY_BYTES_MAX".to_owned(), enough.to_string());
    let control_group = Some(memory.folder());
    let launch = Launch { environment: vec![limit], control_group, ..Launch::default() };
    cluster.spawn_with(2, &launch).await;
    cluster.wait_ready(2).await;
    let mut reader = cluster.client(2).await;
    let reader_id = reader.id().await;

    let [here, elsewhere] = [2, 0].map(|node| Management::new(cluster.node(node).at("api")));
    let large = vec![b'x'; 100_000];
    let (mut held, mut refused) = (Vec::new(), 0);
    while refused < 200 {
        let (status, mut stream) = knock_narrowly(cluster.node(2).at("edge")).await;
        if status == 503 {
            refused += 1;
            continue;
        }
        assert_eq!(status, 101);
        stream.write_all(&frame(0x81, br#"{"action":"whoami"}"#)).await.unwrap();
        let id = String::from_utf8(next_frame(&mut stream).await.unwrap().1).unwrap();
        let path = format!("/dev/@connections/{id}");
        // Until what waits for it is as much as may be.
        while [&here, &elsewhere][held.len() % 2].post(&path, &large).await.status == 200 {}
        held.push(stream);
        assert!(held.len() < 10_000, "nobody is ever refused");
    }
    let series = "posthorn_handshakes_refused_total{cause=\"memory\"}";
    assert!(cluster.metric(2, series).await.unwrap() >= 200.0);
    let kills = memory.get("memory.oom_control");
    assert!(kills.lines().any(|line| line == "oom_kill 0"), "{kills}");

    // Who is there is served, and whoever comes is once the others have gone.
    for api in [&here, &elsewhere] {
        let path = format!("/dev/@connections/{reader_id}");
        assert_eq!(api.post(&path, b"a post").await.status, 200);
        assert_eq!(reader.text().await, "a post");
    }
    drop(held);
    eventually("a client that is let in", || async { cluster.try_client(2).await.ok() }).await;
}

/// The status of a handshake of a client that takes as little at a time as the system lets it.
async fn knock_narrowly(edge: SocketAddr) -> (u16, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    let mut stream = socket.connect(edge).await.unwrap();
    let (status, _) = raw::ask(&mut stream, HANDSHAKE.as_bytes()).await;
    (status, stream)
}
