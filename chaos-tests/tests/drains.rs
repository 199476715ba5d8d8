//! A node that is asked to end takes its leave of everybody; one that is asked twice does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use posthorn_chaos::backend::{Backend, backend_api};
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::process::binary;
use posthorn_chaos::{eventually, within};
use posthorn_proto::v1::PostToConnectionRequest;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use tokio::process::Command;
use tonic::Code;
use tonic::transport::Channel;
use tungstenite::Message;

type Grpc = ConnectionServiceClient<Channel>;

const WINDOW: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_its_leave_step_by_step() {
    let settings = "drain: { grace_s: 3, window_s: 3, close_code: 4001, close_reason: moving }\n";
    let options = Options { settings: settings.to_owned(), ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let leader = eventually("a leader", || leader_of(&cluster, &[0, 1, 2])).await;
    let others: Vec<_> = (0..cluster.len()).filter(|node| *node != leader).collect();
    // More than ten a second, so that the window is what takes the time.
    let count = 60;
    let connecting = (0..count).map(|_| async {
        let mut client = cluster.client(leader).await;
        let id = client.id().await;
        (client, id)
    });
    let (clients, ids): (Vec<_>, Vec<_>) = join_all(connecting).await.into_iter().unzip();
    let mut elsewhere = cluster.client(others[0]).await;
    let id_elsewhere = elsewhere.id().await;
    let term = eventually("a term", || async {
        cluster.metric(leader, "posthorn_raft_term").await.filter(|term| *term > 0.0)
    })
    .await;

    let asked_at = Instant::now();
    cluster.node(leader).signal(Signal::SIGTERM);
    // First, load balancers are told, and everything goes on as before.
    eventually("a node that says that it is being drained", || async {
        let ready = cluster.get(leader, "/readyz").await?;
        (ready == (503, "not ready: it is being drained\n".to_owned())).then_some(())
    })
    .await;
    let mut late = cluster.client(leader).await;
    late.id().await;
    assert_eq!(cluster.metric(leader, "posthorn_drain_phase").await, Some(1.0));
    // Then nobody is let in any more, and another node leads.
    await_phase(&cluster, leader, 2.0).await;
    let refused = Client::knock(&cluster.url(leader), &[]).await.err().unwrap();
    assert_eq!((refused.status, refused.headers["retry-after"].as_bytes()), (503, &b"1"[..]));
    // Clients go one by one, and each has read what was accepted for it before.
    let posting = post_until_gone(&cluster, others[1], &ids);
    let reading = join_all(clients.into_iter().map(read_until_closed));
    let (posted, read) = tokio::join!(posting, reading);
    assert!(asked_at.elapsed() >= Duration::from_secs(3) + WINDOW * 9 / 10, "all went too soon");
    assert!(posted.iter().sum::<u64>() > 0, "nobody was posted to");
    for (posted, (read, closed)) in posted.into_iter().zip(read) {
        assert_eq!((read, closed), (posted, (4001, "moving".to_owned())));
    }
    assert_eq!(late.closed().await.0, 4001);
    let (_, metrics) = cluster.get(others[0], "/metrics").await.unwrap();
    assert!(!metrics.contains("posthorn_drain_phase 2"), "the others are not drained");
    // Whoever leads now does not because nobody was heard for a while.
    let next = eventually("another leader", || leader_of(&cluster, &others)).await;
    eventually("the very next term", || async {
        let now = cluster.metric(next, "posthorn_raft_term").await?;
        (now == term + 1.0).then_some(())
    })
    .await;
    assert_eq!(cluster.take(leader).wait().await.code(), Some(0));
    // It has left: nobody waits for it, or takes it for dead.
    for node in &others {
        assert_eq!(cluster.metric(*node, "posthorn_evictions_total").await.unwrap_or(0.0), 0.0);
        let status = post(cluster.grpc(*node).await, &ids[0], "?").await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        post(cluster.grpc(*node).await, &id_elsewhere, "still here").await.unwrap();
        assert_eq!(elsewhere.text().await, "still here");
    }
    cluster.spawn(leader).await;
    cluster.wait_ready(leader).await;
    cluster.client(leader).await.id().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_cut_short_leaves_its_disconnects_to_others() {
    let is_down = Arc::new(AtomicBool::new(false));
    let fails = is_down.clone();
    let backend = Backend::start(move |event| {
        let is_disconnect = event["requestContext"]["eventType"] == "DISCONNECT";
        let fails = is_disconnect && fails.load(Ordering::SeqCst);
        (if fails { 500 } else { 200 }, String::new())
    })
    .await;
    let settings = "drain: { grace_s: 0, window_s: 1, disconnect_timeout_s: 60 }\n".to_owned();
    let options = Options { apis: backend_api(&backend.url()), settings, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    // SIGTERM again ends it at once, and so does SIGKILL where nobody waits for long enough.
    for (victim, second, code) in [(1, Signal::SIGTERM, Some(1)), (2, Signal::SIGKILL, None)] {
        is_down.store(true, Ordering::SeqCst);
        let mut clients = Vec::new();
        let mut owed = Vec::new();
        for _ in 0..5 {
            clients.push(cluster.client(victim).await);
            owed.push(id_in(&backend.event_of("CONNECT").await));
        }
        cluster.node(victim).signal(Signal::SIGTERM);
        for client in &mut clients {
            assert_eq!(client.closed().await.0, 1012);
        }
        drop(clients);
        await_phase(&cluster, victim, 3.0).await;
        let node = cluster.take(victim);
        node.signal(second);
        assert_eq!(node.wait().await.code(), code);
        let asked: Vec<_> = backend.drain().await;
        assert!(asked.iter().all(|event| event["requestContext"]["disconnectStatusCode"] == 1012));
        is_down.store(false, Ordering::SeqCst);
        while !owed.is_empty() {
            let event = backend.event_of("DISCONNECT").await;
            assert_eq!(event["requestContext"]["disconnectStatusCode"], 1006, "an heir's call");
            let id = id_in(&event);
            owed.retain(|owed| *owed != id);
        }
        eventually("a directory without debts", || async {
            let entries = cluster.metric(0, "posthorn_directory_entries").await?;
            (entries == 0.0).then_some(())
        })
        .await;
        cluster.spawn(victim).await;
        cluster.wait_ready(victim).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_is_drained_and_comes_back() {
    let options = Options { nodes: 1, ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    for _ in 0..2 {
        let mut client = cluster.client(0).await;
        client.id().await;
        let node = cluster.take(0);
        node.signal(Signal::SIGTERM);
        assert_eq!(client.closed().await, (1012, "Service restart".to_owned()));
        drop(client);
        assert_eq!(node.wait().await.code(), Some(0));
        cluster.spawn(0).await;
        cluster.wait_ready(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_at_any_node_drains_another_or_the_same() {
    let mut cluster = Cluster::start(Options::default()).await;
    for (asked, drained) in [(0, 2), (1, 1)] {
        let mut clients = Vec::new();
        for _ in 0..30 {
            clients.push(cluster.client(drained).await);
        }
        let mut command = Command::new(binary());
        let api = cluster.node(asked).at("api").to_string();
        command.args(["node", "drain", &drained.to_string(), "--wait", "--api", &api]);
        let output = within("a node that has left", command.output()).await.unwrap();
        let (told, error) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        let told = told.unwrap();
        assert_eq!((output.status.code(), &*error.unwrap()), (Some(0), ""), "{told}");
        assert!(told.contains(&format!("node {drained}: closing, ")), "{told}");
        assert!(told.ends_with(&format!("node {drained} has left\n")), "{told}");
        for client in &mut clients {
            assert_eq!(client.closed().await.0, 1012);
        }
        assert_eq!(cluster.take(drained).wait().await.code(), Some(0));
        let mut command = Command::new(binary());
        let other = cluster.node(0).at("api").to_string();
        command.args(["node", "drain", &drained.to_string(), "--api", &other]);
        let output = within("an answer", command.output()).await.unwrap();
        assert_eq!(output.status.code(), Some(3), "a node that is down cannot be drained");
        cluster.spawn(drained).await;
        cluster.wait_ready(drained).await;
    }
    // Who leads has another lead also where no client holds it up.
    let leader = eventually("a leader", || leader_of(&cluster, &[0, 1, 2])).await;
    let node = cluster.take(leader);
    node.signal(Signal::SIGTERM);
    assert_eq!(node.wait().await.code(), Some(0));
    let log = std::fs::read_to_string(cluster.config_path(leader).with_extension("log")).unwrap();
    assert!(log.contains("handed leadership over"), "{log}");
}

/// Posts to each connection in turn until all are over. Returns how many posts were accepted of each.
async fn post_until_gone(cluster: &Cluster, node: usize, ids: &[String]) -> Vec<u64> {
    let mut accepted = vec![0; ids.len()];
    let mut open: Vec<_> = (0..ids.len()).collect();
    let grpc = cluster.grpc(node).await;
    while !open.is_empty() {
        let mut gone = Vec::new();
        for index in &open {
            let text = accepted[*index].to_string();
            match post(grpc.clone(), &ids[*index], &text).await {
                Ok(()) => accepted[*index] += 1,
                Err(status) if status.code() == Code::NotFound => gone.push(*index),
                Err(status) => panic!("neither delivered nor gone: {status}"),
            }
        }
        open.retain(|index| !gone.contains(index));
    }
    accepted
}

/// Reads numbers from 0 on until the connection is closed. Returns how many, and how it was closed.
async fn read_until_closed(mut client: Client) -> (u64, (u16, String)) {
    let mut read = 0;
    loop {
        match client.next().await {
            Ok(Message::Text(text)) => assert_eq!(text.as_str(), read.to_string()),
            Ok(Message::Close(Some(frame))) => {
                return (read, (frame.code.into(), frame.reason.as_str().to_owned()));
            }
            other => panic!("{other:?}"),
        }
        read += 1;
    }
}

async fn post(mut grpc: Grpc, id: &str, text: &str) -> Result<(), tonic::Status> {
    let request = PostToConnectionRequest {
        connection_id: id.to_owned(),
        payload: Some(Payload::Text(text.to_owned())),
        ..Default::default()
    };
    within("an answer", grpc.post_to_connection(request)).await.map(|_| ())
}

async fn await_phase(cluster: &Cluster, node: usize, phase: f64) {
    eventually("the next phase of the drain", || async {
        (cluster.metric(node, "posthorn_drain_phase").await? == phase).then_some(())
    })
    .await;
}

async fn leader_of(cluster: &Cluster, nodes: &[usize]) -> Option<usize> {
    for node in nodes {
        if cluster.metric(*node, "posthorn_raft_is_leader").await == Some(1.0) {
            return Some(*node);
        }
    }
    None
}

fn id_in(event: &serde_json::Value) -> String {
    event["requestContext"]["connectionId"]
        .as_str()
        .expect("an event names its connection")
        .to_owned()
}
