//! Operators look on at one connection, from any node.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::process::Stdio;

use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::process::binary;
use posthorn_chaos::{eventually, within};
use posthorn_core::auth::hash::Sha256;
use posthorn_proto::v1::admin_service_client::AdminServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{PostToConnectionRequest, TailEvent, TailRequest, TailResponse};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};
use tonic_types::StatusExt as _;
use tungstenite::Message;

/// More than a tail keeps, and than gRPC has under way.
const ROUNDS: u64 = 200;
const SILENT_A_ROUND: u64 = 100;
/// The smallest that HTTP/2 begins with.
const WINDOW_BYTES: u32 = 65_535;

#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_connection_does_is_seen_from_another_node() {
    let cluster = Cluster::start(Options::default()).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let mut tail = Tail::start(&cluster, 1, &id, &["--json"]).await;
    assert_eq!(tail.next().await["event"], "began");

    client.send("hello").await;
    client.text().await;
    tail.shows(json!({ "event": "received", "bytes": 5, "is_binary": false, "route": "$default" }))
        .await;
    tail.shows(json!({ "event": "handled", "route": "$default", "status": 200, "error": null }))
        .await;
    tail.shows(json!({ "event": "sent", "bytes": 5, "is_binary": false })).await;

    let post = PostToConnectionRequest {
        connection_id: id.clone(),
        payload: Some(Payload::Binary(vec![0, 255].into())),
        ..Default::default()
    };
    cluster.grpc(1).await.post_to_connection(post).await.unwrap();
    client.next().await.unwrap();
    tail.shows(json!({ "event": "sent", "bytes": 2, "is_binary": true })).await;
    client.send_message(Message::Ping("ping".into())).await;
    tail.shows(json!({ "event": "ping_received" })).await;
    client.close().await;
    tail.shows(json!({ "event": "close_received", "code": 1005 })).await;
    tail.shows(json!({ "event": "ended", "cause": "by_client", "code": 1005 })).await;
    assert_eq!(tail.end().await, (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_seen_by_who_asks_for_them_and_by_nobody_else() {
    let apis = "apis:
  chat:
    route_selection_expression: $request.body.action
    routes:
      join: { target: integrations/echo, route_response_selection_expression: $default }
      whoami: { target: integrations/whoami, route_response_selection_expression: $default }
    integrations:
      echo: { integration_type: MOCK, mock_response: { echo: true } }
      whoami: { integration_type: MOCK, mock_response: { body: '$context.connectionId' } }
    stages: { dev: {} }
"
    .to_owned();
    let cluster = Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let mut blind = Tail::start(&cluster, 0, &id, &[]).await;
    let mut seeing = Tail::start(&cluster, 0, &id, &["--payloads", "--json"]).await;
    assert!(blind.line().await.unwrap().ends_with("  began"));
    assert_eq!(seeing.next().await["event"], "began");
    let long = format!(r#"{{"action":"join","secret":"{}"}}"#, "s".repeat(5000));
    for message in [&*long, "nonsense"] {
        client.send(message).await;
        client.text().await;
    }
    seeing.shows(json!({ "event": "received", "text": long[..4096], "bytes": long.len() })).await;
    seeing.shows(json!({ "event": "handled", "status": 200 })).await;
    seeing.shows(json!({ "event": "sent", "text": long[..4096] })).await;
    seeing.shows(json!({ "event": "received", "text": "nonsense", "route": null })).await;
    seeing.shows(json!({ "event": "handled", "status": 403, "error": "Forbidden" })).await;
    let connection = posthorn_proto::v1::DeleteConnectionRequest {
        connection_id: id,
        close_code: 4000,
        close_reason: "by an operator".to_owned(),
    };
    cluster.grpc(0).await.delete_connection(connection).await.unwrap();
    client.closed().await;
    seeing.shows(json!({ "event": "sent" })).await;
    let frame = json!({ "event": "close_sent", "code": 4000, "reason": "by an operator" });
    seeing.shows(frame).await;
    // Our own answer leaves with the next look.
    client.next().await.unwrap_err();
    while seeing.line().await.is_some() {}
    assert_eq!(seeing.end().await.0, Some(0));
    let mut lines = Vec::new();
    while let Some(line) = blind.line().await {
        lines.push(line);
    }
    let text = lines.join("\n");
    assert!(!text.contains("sss") && !text.contains("nonsense"), "{text}");
    assert!(text.contains("received        text, 8 bytes, no route"), "{text}");
    assert!(text.contains("by_backend: 4000 by an operator"), "{text}");
    assert_eq!(blind.end().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_on_slowly_loses_what_comes_meanwhile_and_slows_nobody() {
    let settings = "edge: { listen: '{ip}:0', ping_interval_s: none }\n".to_owned();
    let cluster = Cluster::start(Options { settings, ..Options::default() }).await;
    for asked in [0, 1] {
        let mut client = cluster.client(0).await;
        let id = client.id().await;
        let mut tail = open(&cluster, asked, &id).await.unwrap();
        let began = within("a beginning", tail.message()).await.unwrap().unwrap();
        assert_eq!(began.event(), TailEvent::Began);
        // Nothing of this is read until all was answered.
        for _ in 0..ROUNDS {
            for _ in 0..SILENT_A_ROUND {
                client.send(r#"{"action":"silent"}"#).await;
            }
            client.send("echo").await;
            assert_eq!(client.text().await, "echo");
        }
        client.close().await;
        // It comes, is handled, and is answered if it is an echo; at last there are a Close frame and the end.
        let expected = ROUNDS * (2 * SILENT_A_ROUND + 3) + 2;
        let (mut seen, mut lost, mut last) = (0, 0, began);
        while let Some(event) = within("an event", tail.message()).await.unwrap() {
            seen += 1;
            lost += event.lost;
            last = event;
        }
        assert_eq!((seen + lost, last.event()), (expected, TailEvent::Ended));
        assert!(lost > 0, "all {seen} were seen");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_look_on_and_only_at_what_is_there() {
    let hash = |token: &str| Sha256::of(token.as_bytes()).to_string();
    let settings = format!(
        "api: {{ listen: '{{ip}}:0', insecure: true }}\nprincipals:\n  \
         root: {{ permissions: ['*/*/admin'], token_sha256: [{}] }}\n  \
         all: {{ permissions: ['*/*/*'], token_sha256: [{}] }}\n",
        hash("root"),
        hash("all")
    );
    let cluster = Cluster::start(Options { nodes: 1, settings, ..Options::default() }).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let gone = "AAAAAAAAAAAAAAAAAAAAAA";
    for (token, id, code, reason) in [
        ("all", &*id, 1, "PERMISSION_DENIED"),
        ("", &*id, 1, "UNAUTHENTICATED"),
        ("root", gone, 4, "CONNECTION_GONE"),
        ("root", "x", 2, "INVALID_CONNECTION_ID"),
    ] {
        let mut command = tail_command(&cluster, 0, id, &[]);
        if !token.is_empty() {
            command.env("POSTHORN_TOKEN", token);
        }
        let output = within("an end", command.output()).await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{error}");
        assert!(error.starts_with(&format!("posthorn: {reason}")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_and_who_leaves_makes_room() {
    let cluster = Cluster::start(Options::default()).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    for asked in [0, 1] {
        let mut tails = Vec::new();
        let refusal = loop {
            match open(&cluster, asked, &id).await {
                Ok(tail) => tails.push(tail),
                Err(status) => break status,
            }
        };
        let reason = refusal.get_details_error_info().unwrap().reason;
        assert_eq!((refusal.code(), &*reason), (Code::ResourceExhausted, "TOO_MANY_TAILS"));
        assert_eq!(tails.len(), 32);
        drop(tails);
        eventually("room", || async { open(&cluster, asked, &id).await.ok() }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_node_ends_what_it_shows() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let mut of_leaving = open(&cluster, 1, &id).await.unwrap();
    let mut of_killed = open(&cluster, 2, &id).await.unwrap();
    let node = cluster.take(1);
    node.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(ended(&mut of_leaving).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(node.wait().await.code(), Some(0), "nobody who looks on holds it up");
    cluster.take(0).kill().await;
    assert_eq!(ended(&mut of_killed).await.unwrap_err().code(), Code::Unavailable);
}

/// How a stream ends.
async fn ended(tail: &mut Streaming<TailResponse>) -> Result<(), tonic::Status> {
    while within("an event or an end", tail.message()).await?.is_some() {}
    Ok(())
}

async fn open(
    cluster: &Cluster,
    node: usize,
    id: &str,
) -> Result<Streaming<TailResponse>, tonic::Status> {
    let address = cluster.node(node).at("api");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    // What is not read is soon left with the node.
    let endpoint = endpoint.initial_stream_window_size(WINDOW_BYTES);
    let channel = endpoint.initial_connection_window_size(WINDOW_BYTES).connect().await.unwrap();
    let request = TailRequest { connection_id: id.to_owned(), payloads: false };
    let mut client = AdminServiceClient::new(channel);
    Ok(within("an answer", client.tail(request)).await?.into_inner())
}

/// A running `posthorn tail`.
struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tail {
    async fn start(cluster: &Cluster, node: usize, id: &str, arguments: &[&str]) -> Tail {
        let mut child = tail_command(cluster, node, id, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Tail { child, lines }
    }

    async fn line(&mut self) -> Option<String> {
        within("a line", self.lines.next_line()).await.unwrap()
    }

    async fn next(&mut self) -> Value {
        serde_json::from_str(&self.line().await.expect("it goes on")).unwrap()
    }

    /// The next event has at least these members.
    async fn shows(&mut self, expected: Value) {
        let event = self.next().await;
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&event[name], value, "{name} of {event}");
        }
        assert!(event["at_ms"].as_u64().unwrap() > 1_600_000_000_000, "{event}");
    }

    async fn end(mut self) -> (Option<i32>, String) {
        assert_eq!(self.line().await, None);
        let output = within("an end", self.child.wait_with_output()).await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

fn tail_command(cluster: &Cluster, node: usize, id: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    let api = cluster.node(node).at("api").to_string();
    command.args(["tail", id, "--api", &api]).args(arguments).env_remove("POSTHORN_TOKEN");
    command.kill_on_drop(true);
    command
}
