//! Whatever comes in at any door: the right status, close code or line, and the node lives on.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::process::Process;
use posthorn_chaos::raw::{HANDSHAKE, frame};
use posthorn_chaos::within;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tungstenite::Message;

#[tokio::test(flavor = "multi_thread")]
async fn bad_handshakes_get_the_right_status() {
    let settings = "edge: { listen: \"{ip}:0\", handshake_timeout_ms: 1000 }".to_owned();
    let cluster = Cluster::start(Options { nodes: 1, settings, ..Options::default() }).await;
    let edge = cluster.node(0).at("edge");
    assert_eq!(exchange(edge, HANDSHAKE.as_bytes()).await.0, 101);
    let long = format!("/dev?{}", "x".repeat(5000));
    let large = format!("X-Large: {}\r\nHost", "x".repeat(20_000));
    for (from, to, status) in [
        ("/dev", "/unknown", 403),
        ("/dev", "/dev/dev/dev", 403),
        ("/dev", "/", 403),
        ("/dev", "/%64ev", 403),
        ("/dev", "/../dev", 403),
        ("/dev", "/dev%00", 403),
        ("/dev", "/dev/", 101),
        ("/dev", "/dev/dev", 101),
        ("/dev", &*long, 414),
        ("Host", &*large, 431),
        ("GET", "POST", 405),
        ("GET", "\x16\x03\x01", 400),
        ("HTTP/1.1", "HTTP/1.0", 426),
        ("Upgrade: websocket\r\n", "", 426),
        ("Version: 13", "Version: 12", 426),
        ("Host: localhost\r\n", "", 400),
        ("Host: localhost", "Host: localhost\r\nContent-Length: 3", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "AAAA", 400),
    ] {
        let request = HANDSHAKE.replacen(from, to, 1);
        let (answered, body) = exchange(edge, request.as_bytes()).await;
        assert_eq!(answered, status, "{from} -> {to}: {body}");
    }
    // Nobody waits for ever for a request that never ends.
    let mut stream = TcpStream::connect(edge).await.unwrap();
    stream.write_all(b"GET /dev HT").await.unwrap();
    let read = within("an end", stream.read_to_end(&mut Vec::new())).await.unwrap();
    assert_eq!(read, 0);
    // Nor for one that comes byte by byte, each well in time.
    let (mut read, mut write) = TcpStream::connect(edge).await.unwrap().into_split();
    let trickle = async {
        write.write_all(b"GET /dev HTTP/1.1\r\nX-Slow: ").await?;
        let mut turns = tokio::time::interval(Duration::from_millis(50));
        loop {
            turns.tick().await;
            write.write_all(b"x").await?;
        }
    };
    let mut answer = Vec::new();
    let ended = async {
        tokio::select! {
            read = read.read_to_end(&mut answer) => read,
            cut = trickle => cut,
        }
    };
    // The system may say that bytes came too late, or that there are no more.
    assert_eq!(within("an end", ended).await.unwrap_or(0), 0);
    assert_alive(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_sent_before_the_answer_are_kept() {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await;
    let mut stream = TcpStream::connect(cluster.node(0).at("edge")).await.unwrap();
    let early = [HANDSHAKE.as_bytes(), &frame(0x81, b"early")].concat();
    stream.write_all(&early).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\x81\x05early") {
        let read = within("the echo", stream.read_buf(&mut answer)).await.unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_route_is_forbidden_and_the_connection_stays() {
    let apis = r"
apis:
  dev:
    route_selection_expression: $request.body.action
    routes:
      whoami: { target: integrations/whoami, route_response_selection_expression: $default }
    integrations:
      whoami: { integration_type: MOCK, mock_response: { body: $context.connectionId } }
    stages: { dev: {} }
";
    let apis = apis.to_owned();
    let cluster = Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let forbidden = format!(r#"{{"message": "Forbidden", "connectionId":"{id}", "requestId":""#);
    let deep = "[".repeat(30_000);
    let wide = format!(r#"{{"{}":1}}"#, "k".repeat(30_000));
    for message in [
        "",
        "not JSON",
        "7",
        "[]",
        r#"{"action":"unknown"}"#,
        r#"{"action":"$connect"}"#,
        &deep,
        &wide,
    ] {
        client.send(message).await;
        let frame = client.text().await;
        assert!(frame.starts_with(&forbidden), "{message}: {frame}");
    }
    client.send_message(Message::binary(vec![0, 1])).await;
    assert!(client.text().await.starts_with(&forbidden));
    assert_eq!(client.id().await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_at_every_port_hurts_nobody() {
    let cluster = Cluster::start(Options::default()).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let mut garbage = vec![0_u8; 4096];
    for (index, byte) in garbage.iter_mut().enumerate() {
        *byte = (index.wrapping_mul(167) >> 3) as u8;
    }
    for door in ["edge", "api", "admin"] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(cluster.node(0).at(door)).await.unwrap();
            // The node may have closed it already.
            let _ = stream.write_all(&garbage).await;
            let _ = stream.shutdown().await;
            let _ = within("an end", stream.read_to_end(&mut Vec::new())).await;
        }
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in (0..1400).step_by(7) {
        socket.send_to(&garbage[..length], cluster.node(0).at("fabric")).await.unwrap();
    }
    // The very same connection still takes messages both ways, through another node as well.
    assert_eq!(client.id().await, id);
    let post =
        posthorn_proto::v1::PostToConnectionRequest { connection_id: id, ..Default::default() };
    cluster.grpc(2).await.post_to_connection(post).await.unwrap();
    assert_eq!(client.text().await, "");
    assert_alive(&cluster).await;
}

/// 41 characters of three bytes, and one.
const LONG_REASON: &str =
    "window_s: 1, close_reason: \"€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€x\"";

/// What is to be replaced in a good configuration, by what, and what the error says.
const WRONG: &[(&str, &str, &str)] = &[
    ("listen:", "lisen:", "lisen"),
    ("id: 0", "id: zero", "node.id"),
    ("name: test", "name: TEST", "cluster.name"),
    ("admin: {", "admin: 7\nlog: {", "admin"),
    ("integrations/echo,", "integrations/ehco,", "routes.$default.target"),
    ("$request.body.action", "$request.header.action", "route_selection_expression"),
    ("MOCK", "MOKC", "integration_type"),
    ("stages:", "stagse:", "stagse"),
    ("apis:", "apis: {}\napis:", "apis"),
    ("cluster:", "cluster: [", ""),
    ("name: test", "name: test\n  lease_ms: 100", "cluster.lease_ms: is at least"),
    ("initial_voters:", "initial_voters: []\n  x:", ""),
    ("window_s: 1", "window_s: 1, close_code: 1005", "drain.close_code"),
    ("window_s: 1", LONG_REASON, "drain.close_reason"),
    ("apis:", "domain_names: { 'a b': { api_mappings: [] } }\napis:", "domain_names.a b"),
    (
        "apis:",
        "domain_names: { a.b: { api_mappings: [{ api_id: dev, stage: prod }] } }\napis:",
        "domain_names.a.b.api_mappings[0].stage: `prod` is no stage",
    ),
    ("name: test", "name: test\n  voters_max: 2", "cluster.voters_max: is 1, 3 or 5"),
    ("name: test", "name: test\n  voter_absence_max_s: 1", "voter_absence_max_s: is at least"),
    ("name: test", "name: test\n  peers: [name]", "cluster.peers: `name` is not a host and a"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_refused_in_one_line_that_names_the_place() {
    let cluster = Cluster::prepare(Options { nodes: 1, ..Options::default() });
    let good = cluster.config(0);
    let path = cluster.config_path(0);
    let file = path.display().to_string();
    for (from, to, expected) in WRONG {
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let (status, error) = Process::start_in_vain(&path).await;
        assert_eq!(status.code(), Some(2), "{from} -> {to}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with(&format!("posthorn: {file}:")), "{error}");
        assert!(error.contains(expected), "{from} -> {to}: {error}");
        let place = error.trim_start_matches(&format!("posthorn: {file}:"));
        let has_line = place.starts_with(|letter: char| letter.is_ascii_digit());
        assert!(has_line, "{error}");
        std::fs::remove_file(path.with_extension("log")).unwrap();
    }
    // What would fill the memory is refused before it does.
    let names = "abcdefghijkl".as_bytes();
    let bomb =
        names.windows(2).fold("a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, pair| {
            let (before, name) = (pair[0] as char, pair[1] as char);
            let ten = vec![format!("*{before}"); 10].join(", ");
            format!("{text}{name}: &{name} [{ten}]\n")
        });
    let bombs = [("aliases", bomb), ("depth", "[".repeat(1_000_000))];
    for (what, text) in bombs {
        std::fs::write(&path, text).unwrap();
        let (status, error) = Process::start_in_vain(&path).await;
        assert_eq!(status.code(), Some(2), "{what}: {error}");
        assert!(error.starts_with(&format!("posthorn: {file}")), "{what}: {error}");
        std::fs::remove_file(path.with_extension("log")).unwrap();
    }
    std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let (status, error) = Process::start_in_vain(&path).await;
    assert_eq!(status.code(), Some(2), "{error}");
    assert!(error.contains("it has more than 16777216 bytes"), "{error}");
    std::fs::remove_file(path.with_extension("log")).unwrap();
    let key = cluster.folder().join("node-0.key");
    for (what, papers) in [("missing", None), ("broken", Some("no key"))] {
        match papers {
            None => std::fs::remove_file(&key).unwrap(),
            Some(papers) => std::fs::write(&key, papers).unwrap(),
        }
        std::fs::write(&path, &good).unwrap();
        let (status, error) = Process::start_in_vain(&path).await;
        assert_eq!(status.code(), Some(2), "{what}: {error}");
        let last = error.lines().last().unwrap();
        assert!(last.contains("node-0.key"), "{what}: {error}");
        std::fs::remove_file(path.with_extension("log")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_and_a_disk_in_use_are_named() {
    let mut cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await;
    let config = cluster.config(0);
    let twin = cluster.folder().join("twin.yaml");
    let edge = cluster.node(0).at("edge");
    let (ip, own) = (edge.ip(), format!("edge: {{ listen: \"{edge}\" }}"));
    std::fs::write(&twin, config.replace(&format!("edge: {{ listen: \"{ip}:0\" }}"), &own))
        .unwrap();
    let (status, error) = Process::start_in_vain(&twin).await;
    assert_eq!(status.code(), Some(3), "{error}");
    assert!(error.contains(&format!("edge.listen: cannot listen at {edge}")), "{error}");

    // The same disk, all ports its own.
    let fabric = cluster.node(0).at("fabric");
    let elsewhere = config.replace(&format!("listen: \"{fabric}\""), "listen: \"127.0.0.1:0\"");
    std::fs::write(&twin, elsewhere).unwrap();
    let (status, error) = Process::start_in_vain(&twin).await;
    assert_eq!(status.code(), Some(6), "{error}");
    assert!(error.contains("in use by another process"), "{error}");
    assert_alive(&cluster).await;
    let node = cluster.take(0);
    node.signal(Signal::SIGTERM);
    let status = node.wait().await;
    let log = std::fs::read_to_string(cluster.config_path(0).with_extension("log")).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// Sends bytes and returns the status and body of the answer.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The node may answer and close before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let whole = async {
        while stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {
            if answer.starts_with(b"HTTP/1.1 101") {
                break;
            }
        }
    };
    within("an answer", whole).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_default(), answer)
}

async fn assert_alive(cluster: &Cluster) {
    for node in 0..cluster.len() {
        let mut client = cluster.client(node).await;
        let echoed = tokio::time::timeout(Duration::from_secs(30), client.id()).await;
        assert_eq!(echoed.expect("an answer").len(), 22);
        assert!(!cluster.node(node).log().contains("panicked"), "{}", cluster.node(node).log());
    }
}
