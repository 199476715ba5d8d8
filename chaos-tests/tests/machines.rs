//! Nodes whose own machine fails them: its power, or its memory.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use nix::sys::signal::Signal;
use posthorn_chaos::backend::{Backend, backend_api};
use posthorn_chaos::cgroup::ControlGroup;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;
use posthorn_chaos::management::Management;
use posthorn_chaos::power::{Loss, Power};
use posthorn_chaos::process::Launch;
use posthorn_chaos::raw::{self, HANDSHAKE, frame, next_frame};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

const MIB: u64 = 1024 * 1024;
const TERM: &str = "posthorn_raft_term";

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_on_all_nodes_costs_no_vote_and_nobody_who_was_let_in() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let apis = backend_api(&backend.url());
    let mut cluster = Cluster::prepare(Options { apis, ..Options::default() });
    let mut power = Power::build(cluster.folder(), 1);
    let all = [0, 1, 2];
    for node in all {
        cluster.equip(node, power.environment(&cluster.data_dir(node)));
        cluster.spawn(node).await;
    }
    for node in all {
        cluster.wait_ready(node).await;
    }
    let mut clients = JoinSet::new();
    connect_to_all(&cluster, &mut clients);
    // Of all rounds: a call that was under way when its node died may come late.
    let mut told = BTreeSet::new();
    for (first, loss) in (0..2).flat_map(|_| [(0, Loss::All), (1, Loss::Some)]) {
        let mut let_in = BTreeSet::new();
        while let_in.len() < 60 {
            let_in.insert(id_in(&backend.event_of("CONNECT").await));
        }
        let term = cluster.metric(first, TERM).await.unwrap();
        let processes = all.map(|node| cluster.take(node));
        for process in &processes {
            process.signal(Signal::SIGKILL);
        }
        for process in processes {
            process.wait().await;
        }
        for node in all {
            power.cut(&cluster.data_dir(node), loss);
        }
        for event in backend.drain().await {
            let seen = if is_connect(&event) { &mut let_in } else { &mut told };
            seen.insert(id_in(&event));
        }

        // By itself it knows only what is on its disk.
        cluster.spawn(first).await;
        eventually("the term that it knew", || async {
            (cluster.metric(first, TERM).await? >= term).then_some(())
        })
        .await;
        for node in all.into_iter().filter(|node| *node != first) {
            cluster.spawn(node).await;
        }
        for node in all {
            cluster.wait_ready(node).await;
        }
        // Nothing else has to happen for that.
        while !let_in.is_subset(&told) {
            told.insert(id_in(&backend.event_of("DISCONNECT").await));
        }
        connect_to_all(&cluster, &mut clients);
    }
}

fn connect_to_all(cluster: &Cluster, clients: &mut JoinSet<()>) {
    for node in 0..cluster.len() {
        clients.spawn(connect_for_ever(cluster.url(node)));
    }
}

/// Clients that come one after the other and stay, until nobody answers.
async fn connect_for_ever(url: String) {
    let mut clients = Vec::new();
    while let Ok(client) = Client::connect(&url).await {
        clients.push(client);
    }
}

fn is_connect(event: &Value) -> bool {
    event["requestContext"]["eventType"] == "CONNECT"
}

fn id_in(event: &Value) -> String {
    event["requestContext"]["connectionId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_little_memory_turns_clients_away_and_is_not_killed() {
    let Some(memory) = ControlGroup::make("memory") else { return };
    let settings =
        "edge: { listen: \"{ip}:0\", outbox_bytes_max: 65536, outboxes_bytes_max: 33554432 }";
    let settings = settings.to_owned();
    let mut cluster = Cluster::prepare(Options { settings, ..Options::default() });
    cluster.bring_up(0..3).await;
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
