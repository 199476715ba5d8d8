//! Three real nodes carry messages both ways: each path once, each promise once.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use posthorn_chaos::backend::{Backend, backend_api};
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::process::Process;
use posthorn_chaos::{eventually, within};
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{
    DeleteConnectionRequest, GetConnectionRequest, PostToConnectionRequest,
    PostToConnectionsRequest, WaitFor,
};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;
use tungstenite::Message;

#[tokio::test(flavor = "multi_thread")]
async fn posts_through_each_node_reach_clients_of_each_node_in_order() {
    let cluster = Cluster::start(Options::default()).await;
    for owner in 0..cluster.len() {
        let mut client = cluster.client(owner).await;
        let id = client.id().await;
        for through in 0..cluster.len() {
            let mut grpc = cluster.grpc(through).await;
            for number in 0..20 {
                grpc.post_to_connection(text(&id, &format!("{through}:{number}"))).await.unwrap();
                grpc.post_to_connection(binary(&id, &[through as u8, number])).await.unwrap();
            }
            for number in 0..20 {
                assert_eq!(client.text().await, format!("{through}:{number}"));
                let expected = Message::binary(vec![through as u8, number]);
                assert_eq!(client.next().await.unwrap(), expected);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_connection_is_not_found_also_by_a_node_that_has_only_just_started() {
    let mut cluster = Cluster::start(Options::default()).await;
    let unknown = "AAAAAAAAAAAAAAAAAAAAAA";
    for node in 0..cluster.len() {
        assert_gone(&cluster, node, unknown).await;
    }
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    cluster.take(2).kill().await;
    cluster.spawn(2).await;
    // It has not caught up yet, and must neither deny who is there nor admit who is not.
    let outcome = eventually("an answer", || async {
        match cluster.grpc(2).await.post_to_connection(text(&id, "early")).await {
            Err(status) if status.code() == Code::Unavailable => None,
            outcome => Some(outcome.map(|_| ()).map_err(|status| status.code())),
        }
    })
    .await;
    assert_eq!(outcome, Ok(()));
    assert_eq!(client.text().await, "early");
    assert_gone(&cluster, 2, unknown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_seen_its_101_is_found_from_every_node_at_once() {
    let cluster = Arc::new(Cluster::start(Options::default()).await);
    let nodes = cluster.len();
    let connect_many = |worker: usize| {
        let cluster = cluster.clone();
        async move {
            let mut grpc = Vec::new();
            for node in 0..nodes {
                grpc.push(cluster.grpc(node).await);
            }
            for round in 0..125 {
                let mut client = cluster.client((worker + round) % nodes).await;
                let id = client.id().await;
                for (node, grpc) in grpc.iter_mut().enumerate() {
                    let posted = grpc.post_to_connection(text(&id, &node.to_string())).await;
                    posted.unwrap_or_else(|status| panic!("round {round}, node {node}: {status}"));
                }
                for node in 0..nodes {
                    assert_eq!(client.text().await, node.to_string());
                }
                client.close().await;
            }
        }
    };
    // 8 times 125 are 1,000 connects.
    let workers = (0..8).map(|worker| tokio::spawn(connect_many(worker)));
    for worker in join_all(workers).await {
        worker.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_posts_is_answered_post_by_post_and_arrives_in_order() {
    let cluster = Cluster::start(Options::default()).await;
    let mut client = cluster.client(1).await;
    let id = client.id().await;
    let posts = 2_000_u64;
    let requests: Vec<_> = (0..posts)
        .map(|sequence| {
            let id = if sequence % 100 == 99 { "not an ID" } else { &id };
            let post = Some(text(id, &sequence.to_string()));
            PostToConnectionsRequest { sequence, post }
        })
        .collect();
    let mut grpc = cluster.grpc(0).await;
    let answers = grpc.post_to_connections(tokio_stream::iter(requests)).await.unwrap();
    let answers = answers.into_inner().map(Result::unwrap);
    let mut answers: Vec<_> = within("all answers", answers.collect::<Vec<_>>()).await;
    answers.sort_by_key(|answer| answer.sequence);
    assert_eq!(answers.len() as u64, posts);
    for answer in answers {
        match answer.sequence % 100 {
            99 => assert_eq!(answer.reason, "INVALID_CONNECTION_ID"),
            _ => assert_eq!((answer.code, &*answer.reason), (0, ""), "{}", answer.message),
        }
    }
    for sequence in (0..posts).filter(|sequence| sequence % 100 != 99) {
        assert_eq!(client.text().await, sequence.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ok_says_how_far_a_post_got_and_a_repeated_key_delivers_once() {
    let cluster = Cluster::start(Options::default()).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    // A client answers Pings only while it reads.
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let reading = tokio::spawn(async move { while sender.send(client.text().await).is_ok() {} });
    for through in 0..2 {
        let mut grpc = cluster.grpc(through).await;
        for wait_for in [WaitFor::Accepted, WaitFor::Written, WaitFor::Answered] {
            let key = format!("{through}-{wait_for:?}");
            let post = PostToConnectionRequest {
                wait_for: wait_for.into(),
                idempotency_key: key.clone(),
                ..text(&id, &key)
            };
            for _ in 0..2 {
                grpc.post_to_connection(post.clone()).await.unwrap();
            }
            let other = PostToConnectionRequest { payload: None, ..post };
            let refused = grpc.post_to_connection(other).await.unwrap_err();
            assert_eq!(reason(&refused), (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED".into()));
            grpc.post_to_connection(text(&id, "after")).await.unwrap();
            assert_eq!(within("the post", received.recv()).await, Some(key));
            // So the repetition was not delivered.
            assert_eq!(within("what follows", received.recv()).await.as_deref(), Some("after"));
        }
    }
    reading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_shown_and_closed_through_any_node() {
    let cluster = Cluster::start(Options::default()).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let mut grpc = cluster.grpc(2).await;
    let request = GetConnectionRequest { connection_id: id.clone() };
    let shown = grpc.get_connection(request.clone()).await.unwrap().into_inner();
    let shown = shown.connection.unwrap();
    assert_eq!((&*shown.api_id, &*shown.stage, shown.node_id), ("dev", "dev", 0));
    assert_eq!(shown.connection_id, id);
    assert!(shown.last_active_at_ms >= shown.connected_at_ms);
    assert!(shown.source_ip.starts_with("127."));

    let delete = |code, reason: &str| DeleteConnectionRequest {
        connection_id: id.clone(),
        close_code: code,
        close_reason: reason.to_owned(),
    };
    let refused = grpc.delete_connection(delete(1006, "")).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::InvalidArgument, "INVALID_REQUEST".into()));
    grpc.post_to_connection(text(&id, "last words")).await.unwrap();
    grpc.delete_connection(delete(4001, "bye")).await.unwrap();
    assert_eq!(client.text().await, "last words");
    assert_eq!(client.closed().await, (4001, "bye".to_owned()));
    for node in 0..cluster.len() {
        assert_gone(&cluster, node, &id).await;
    }
    assert_eq!(grpc.get_connection(request).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(grpc.delete_connection(delete(0, "")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_hears_of_everything_and_its_replies_reach_the_client() {
    let backend = Backend::start(|event| match event["requestContext"]["eventType"].as_str() {
        Some("MESSAGE") => (200, format!("you said {}", event["body"].as_str().unwrap())),
        _ => (200, String::new()),
    })
    .await;
    let cluster =
        Cluster::start(Options { apis: backend_api(&backend.url()), ..Options::default() }).await;
    let mut client = Client::connect(&format!("{}?room=1", cluster.url(1))).await.unwrap();

    let connect = backend.event().await;
    let context = &connect["requestContext"];
    assert_eq!(context["eventType"], "CONNECT");
    assert_eq!(context["routeKey"], "$connect");
    assert_eq!(context["messageDirection"], "IN");
    assert_eq!((&context["stage"], &context["apiId"]), (&json!("dev"), &json!("dev")));
    assert_eq!(context["requestId"], context["extendedRequestId"]);
    assert_eq!(context["identity"]["sourceIp"], "127.0.0.1");
    assert!(context["connectedAt"].is_u64() && context["requestTimeEpoch"].is_u64());
    assert_eq!(connect["queryStringParameters"], json!({ "room": "1" }));
    assert_eq!(connect["multiValueQueryStringParameters"], json!({ "room": ["1"] }));
    assert_eq!(connect["headers"]["Sec-WebSocket-Version"], "13");
    assert_eq!(connect["headers"]["Upgrade"], Value::Null);
    assert_eq!(connect["isBase64Encoded"], false);
    let id = context["connectionId"].clone();

    client.send("hello").await;
    let message = backend.event().await;
    assert_eq!(message["body"], "hello");
    assert_eq!(message["requestContext"]["routeKey"], "$default");
    assert_eq!(message["requestContext"]["connectionId"], id);
    assert!(message["requestContext"]["messageId"].is_string());
    assert_eq!(message["headers"], Value::Null);
    assert_eq!(client.text().await, "you said hello");

    let mut socket = client.into_inner();
    let frame = tungstenite::protocol::CloseFrame { code: 4000.into(), reason: "done".into() };
    socket.close(Some(frame)).await.unwrap();
    let disconnect = backend.event().await;
    let context = &disconnect["requestContext"];
    assert_eq!(context["eventType"], "DISCONNECT");
    assert_eq!(context["connectionId"], id);
    assert_eq!(
        (&context["disconnectStatusCode"], &context["disconnectReason"]),
        (&json!(4000), &json!("done"))
    );
    assert_eq!(context["connectedAt"], connect["requestContext"]["connectedAt"]);
    let names: Vec<_> = disconnect["headers"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["Host", "X-Forwarded-For", "x-api-key", "x-restapi"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_refusal_is_the_handshakes_status() {
    let status = Arc::new(AtomicU64::new(403));
    let answered = status.clone();
    let backend =
        Backend::start(move |_| (answered.load(Ordering::Relaxed) as u16, "no entry".to_owned()))
            .await;
    let cluster =
        Cluster::start(Options { apis: backend_api(&backend.url()), ..Options::default() }).await;
    for refused in [403, 401, 500, 301] {
        status.store(refused, Ordering::Relaxed);
        let error = cluster.try_client(0).await.err().expect("it is refused");
        let tungstenite::Error::Http(response) = error else { panic!("{error}") };
        assert_eq!(u64::from(response.status().as_u16()), refused);
        assert_eq!(response.body().as_deref(), Some(&b"no entry"[..]));
        let connect = backend.event().await;
        let id = connect["requestContext"]["connectionId"].as_str().unwrap().to_owned();
        assert_gone(&cluster, 1, &id).await;
    }
    status.store(201, Ordering::Relaxed);
    let mut client = cluster.client(0).await;
    client.close().await;
    // Of the refused, none is told as disconnected: the first is the one that was let in.
    let connect = backend.event().await;
    let disconnect = backend.event_of("DISCONNECT").await;
    let id = |event: &Value| event["requestContext"]["connectionId"].clone();
    assert_eq!(id(&disconnect), id(&connect));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_can_post_from_inside_its_connect_handler() {
    let posting = Arc::new(std::sync::OnceLock::<(tokio::runtime::Handle, _)>::new());
    let desk = posting.clone();
    let backend = Backend::start(move |event| {
        if event["requestContext"]["eventType"] == "CONNECT" {
            let (runtime, grpc) = desk.get().expect("the cluster has started");
            let id = event["requestContext"]["connectionId"].as_str().unwrap().to_owned();
            let mut grpc: posthorn_proto::v1::connection_service_client::ConnectionServiceClient<
                tonic::transport::Channel,
            > = Clone::clone(grpc);
            let posted = tokio::task::block_in_place(|| {
                runtime.block_on(async move { grpc.post_to_connection(text(&id, "welcome")).await })
            });
            posted.unwrap();
        }
        (200, String::new())
    })
    .await;
    let cluster =
        Cluster::start(Options { apis: backend_api(&backend.url()), ..Options::default() }).await;
    let grpc = cluster.grpc(2).await;
    assert!(posting.set((tokio::runtime::Handle::current(), grpc)).is_ok());
    let mut client = cluster.client(0).await;
    assert_eq!(client.text().await, "welcome");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_a_node_costs_its_clients_and_nobody_else() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let options = Options { apis: backend_api(&backend.url()), ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let (mut survivor, survivor_id) = connect(&cluster, &backend, 0).await;
    let mut lost = Vec::new();
    for _ in 0..20 {
        lost.push(connect(&cluster, &backend, 1).await);
    }
    let victim = cluster.take(1);
    victim.signal(Signal::SIGKILL);
    victim.wait().await;

    // Known connections elsewhere get posts without a break, through every node that is left.
    for (number, node) in [0, 2].into_iter().cycle().take(200).enumerate() {
        let mut grpc = cluster.grpc(node).await;
        grpc.post_to_connection(text(&survivor_id, &number.to_string())).await.unwrap();
        assert_eq!(survivor.text().await, number.to_string());
    }
    // New connects work again, at the latest once another node leads.
    let mut newcomer =
        eventually("a new connection", || async { cluster.try_client(2).await.ok() }).await;
    let connected = backend.event_of("CONNECT").await;
    let newcomer_id = connected["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    cluster.grpc(0).await.post_to_connection(text(&newcomer_id, "hello")).await.unwrap();
    assert_eq!(newcomer.text().await, "hello");

    // The dead node's connections are over, once it is evicted, and a survivor says so to the
    // backend, once each.
    for (_, id) in &lost {
        eventually("a dead node's connection to be gone", || async {
            match cluster.grpc(0).await.post_to_connection(text(id, "?")).await {
                Err(status) if status.code() == Code::NotFound => Some(()),
                Err(status) if status.code() == Code::Unavailable => None,
                Err(status) if status.code() == Code::DeadlineExceeded => None,
                other => panic!("{other:?}"),
            }
        })
        .await;
    }
    let mut owed: Vec<_> = lost.iter().map(|(_, id)| id.clone()).collect();
    while !owed.is_empty() {
        let disconnect = backend.event_of("DISCONNECT").await;
        let id = disconnect["requestContext"]["connectionId"].as_str().unwrap().to_owned();
        assert_eq!(disconnect["requestContext"]["disconnectStatusCode"], 1006);
        let place = owed.iter().position(|owed| *owed == id);
        owed.swap_remove(place.unwrap_or_else(|| panic!("{id} was not owed")));
    }
    // The node comes back and serves, and everybody agrees on what is there.
    cluster.spawn(1).await;
    cluster.wait_ready(1).await;
    let (mut back, back_id) = connect(&cluster, &backend, 1).await;
    cluster.grpc(2).await.post_to_connection(text(&back_id, "welcome back")).await.unwrap();
    assert_eq!(back.text().await, "welcome back");
    for node in 0..cluster.len() {
        eventually("a directory of three connections", || async {
            let entries = cluster.metric(node, "posthorn_directory_entries").await?;
            (entries == 3.0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_may_be_killed_and_the_cluster_carries_on_from_its_disks() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let options = Options { apis: backend_api(&backend.url()), ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let mut clients = Vec::new();
    for node in 0..cluster.len() {
        clients.push(connect(&cluster, &backend, node).await);
    }
    let mut owed: Vec<_> = clients.iter().map(|(_, id)| id.clone()).collect();
    let nodes: Vec<_> = (0..cluster.len()).map(|node| cluster.take(node)).collect();
    nodes.iter().for_each(|node| node.signal(Signal::SIGKILL));
    join_all(nodes.into_iter().map(Process::wait)).await;
    cluster.bring_up(0..cluster.len()).await;
    while !owed.is_empty() {
        let disconnect = backend.event_of("DISCONNECT").await;
        let id = disconnect["requestContext"]["connectionId"].as_str().unwrap().to_owned();
        owed.retain(|owed| *owed != id);
    }
    let (mut client, id) = connect(&cluster, &backend, 2).await;
    cluster.grpc(0).await.post_to_connection(text(&id, "again")).await.unwrap();
    assert_eq!(client.text().await, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_asked_to_end_says_farewell_and_owes_nothing() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let options = Options { apis: backend_api(&backend.url()), ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let (mut client, id) = connect(&cluster, &backend, 0).await;
    let node = cluster.take(0);
    node.signal(Signal::SIGTERM);
    assert_eq!(client.closed().await.0, 1012);
    drop(client);
    let disconnect = backend.event_of("DISCONNECT").await;
    assert_eq!(disconnect["requestContext"]["connectionId"], json!(id));
    assert_eq!(disconnect["requestContext"]["disconnectStatusCode"], 1012);
    assert_eq!(node.wait().await.code(), Some(0));
    assert_gone(&cluster, 1, &id).await;
    assert!(backend.drain().await.is_empty(), "nobody says it again");
}

/// A client of a node, and its ID as the backend was told it.
async fn connect(cluster: &Cluster, backend: &Backend, node: usize) -> (Client, String) {
    let client = cluster.client(node).await;
    let event = backend.event_of("CONNECT").await;
    let id = event["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    (client, id)
}

async fn assert_gone(cluster: &Cluster, node: usize, id: &str) {
    let status = cluster.grpc(node).await.post_to_connection(text(id, "?")).await.unwrap_err();
    assert_eq!(reason(&status), (Code::NotFound, "CONNECTION_GONE".to_owned()), "node {node}");
}

fn reason(status: &tonic::Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().expect("errors carry a reason").reason)
}

fn text(id: &str, text: &str) -> PostToConnectionRequest {
    PostToConnectionRequest {
        connection_id: id.to_owned(),
        payload: Some(Payload::Text(text.to_owned())),
        ..Default::default()
    }
}

fn binary(id: &str, bytes: &[u8]) -> PostToConnectionRequest {
    PostToConnectionRequest {
        connection_id: id.to_owned(),
        payload: Some(Payload::Binary(bytes.to_vec().into())),
        ..Default::default()
    }
}
