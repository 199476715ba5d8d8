//! Frames that a client must not send, or not so many of, or not so slowly: each gets its close code,
//! and nobody else feels it.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use posthorn_chaos::backend::Backend;
use posthorn_chaos::cluster::{Cluster, ECHO_API, Options};
use posthorn_chaos::eventually;
use posthorn_chaos::raw::{close, closed, frame, next_frame, open, open_narrow};
use posthorn_proto::v1::{DeleteConnectionRequest, PostToConnectionRequest};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tungstenite::Message;

const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A node that echoes, tells the backend of disconnects, and is strict with frames.
async fn strict(backend: &Backend) -> Cluster {
    let apis = ECHO_API
        .replace("routes:", "routes:\n      $disconnect: { target: integrations/backend }")
        .replace(
            "integrations:\n",
            &format!(
                "integrations:\n      backend: {{ integration_type: HTTP_EVENT, integration_uri: '{}' }}\n",
                backend.url()
            ),
        )
        + "      textual: { binary_messages: refuse }\n";
    let settings = "edge: { listen: \"{ip}:0\", fragments_max: 100, message_timeout_ms: 2000, \
        control_frames_per_s_max: 50, close_timeout_ms: 500, outbox_bytes_max: 65536 }"
        .to_owned();
    Cluster::start(Options { nodes: 1, apis, settings }).await
}

async fn silent_backend() -> Backend {
    Backend::start(|_| (200, String::new())).await
}

async fn assert_alive(cluster: &Cluster) {
    assert_eq!(cluster.client(0).await.id().await.len(), 22);
    assert!(!cluster.node(0).log().contains("panicked"), "{}", cluster.node(0).log());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_frame_gets_its_close_code() {
    let backend = silent_backend().await;
    let cluster = strict(&backend).await;
    let large = vec![b'x'; 33 * 1024];
    let mut message = Vec::new();
    for index in 0..5 {
        let (is_final, opcode) = (if index == 4 { 0x80 } else { 0 }, u8::from(index == 0));
        message.extend(frame(is_final | opcode, &vec![b'x'; 30 * 1024]));
    }
    let announced = |length: u64| [vec![0x82, 0xff], length.to_be_bytes().to_vec()].concat();
    for (what, bytes, code) in [
        ("an unmasked frame", vec![0x81, 1, b'x'], 1002),
        ("the first reserved bit", frame(0xc1, b"x"), 1002),
        ("the second reserved bit", frame(0xa1, b"x"), 1002),
        ("the third reserved bit", frame(0x91, b"x"), 1002),
        ("a large control frame", frame(PING, &[b'x'; 126]), 1002),
        ("a fragmented control frame", frame(0x09, b"x"), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a message within a message", [frame(0x01, b"x"), frame(0x81, b"x")].concat(), 1002),
        ("a length that is negative", announced(1 << 63), 1002),
        ("a terabyte announced", announced(1 << 40), 1009),
        ("a frame too large", frame(0x81, &large), 1009),
        ("a message too large", message, 1009),
        ("text of no characters", frame(0x81, &[0xff, 0xfe]), 1007),
        ("half a character", [frame(0x01, &[0xe2, 0x82]), frame(0x80, b"")].concat(), 1007),
        ("a surrogate", frame(0x81, &[0xed, 0xa0, 0x80]), 1007),
        ("an overlong slash", frame(0x81, &[0xc0, 0xaf]), 1007),
        ("beyond the last character", frame(0x81, &[0xf4, 0x90, 0x80, 0x80]), 1007),
        ("a Close frame of one byte", frame(0x88, b"x"), 1002),
        ("a reason of no characters", close(1000, &[0xff]), 1007),
        ("101 fragments of a byte", [frame(0x01, b"x"), frame(0, b"x").repeat(100)].concat(), 1008),
        ("101 fragments of nothing", [frame(0x01, b""), frame(0, b"").repeat(100)].concat(), 1008),
        ("51 Pings", frame(PING, b"x").repeat(51), 1008),
        ("10,000 Pings", frame(PING, b"x").repeat(10_000), 1008),
        ("10,000 Pongs", frame(PONG, b"x").repeat(10_000), 1008),
        ("10,000 Pongs that bear numbers", frame(PONG, &[0; 8]).repeat(10_000), 1008),
    ] {
        let mut stream = open(cluster.node(0).at("edge")).await;
        // The node may close it before all is sent.
        let _ = stream.write_all(&bytes).await;
        assert_eq!(closed(&mut stream).await.map(|(code, _)| code), Some(code), "{what}");
        let event = backend.event_of("DISCONNECT").await;
        assert_eq!(event["requestContext"]["disconnectStatusCode"], code, "{what}");
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        let mut stream = open(cluster.node(0).at("edge")).await;
        stream.write_all(&frame(0x80 | opcode, b"x")).await.unwrap();
        assert_eq!(closed(&mut stream).await.map(|(code, _)| code), Some(1002), "{opcode}");
    }
    assert_alive(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_is_answered_whoever_begins_and_whatever_follows() {
    let backend = silent_backend().await;
    let cluster = strict(&backend).await;
    let edge = cluster.node(0).at("edge");
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        let mut stream = open(edge).await;
        stream.write_all(&close(code, "für immer".as_bytes())).await.unwrap();
        assert_eq!(closed(&mut stream).await, Some((code, "für immer".to_owned())));
        assert_disconnected(&backend, code, "für immer").await;
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        let mut stream = open(edge).await;
        stream.write_all(&close(code, b"")).await.unwrap();
        assert_eq!(closed(&mut stream).await.map(|(code, _)| code), Some(1002), "{code}");
        assert_eq!(
            backend.event_of("DISCONNECT").await["requestContext"]["disconnectStatusCode"],
            1002
        );
    }
    let mut stream = open(edge).await;
    stream.write_all(&frame(0x88, b"")).await.unwrap();
    assert_eq!(next_frame(&mut stream).await, Some((0x88, Vec::new())));
    assert_disconnected(&backend, 1005, "Client-side close frame status not set").await;

    // What follows a Close frame means nothing, however much it is.
    let mut stream = open(edge).await;
    let bytes = [close(4000, b"bye"), frame(0x81, b"more"), vec![0xff; 100_000]].concat();
    let _ = stream.write_all(&bytes).await;
    assert_eq!(closed(&mut stream).await, Some((4000, "bye".to_owned())));
    assert_disconnected(&backend, 4000, "bye").await;

    // A client that goes without a word.
    let mut stream = open(edge).await;
    stream.shutdown().await.unwrap();
    assert_eq!(next_frame(&mut stream).await, None);
    assert_disconnected(&backend, 1006, "Connection closed abnormally").await;

    // A client that never answers our Close frame.
    let mut stream = open(edge).await;
    let id = id_of(&mut stream).await;
    delete(&cluster, &id).await;
    assert_eq!(closed(&mut stream).await, Some((1000, "bye".to_owned())));
    assert_disconnected(&backend, 1000, "bye").await;
    assert_alive(&cluster).await;
}

async fn assert_disconnected(backend: &Backend, code: u16, reason: &str) {
    let context = backend.event_of("DISCONNECT").await["requestContext"].clone();
    assert_eq!(context["disconnectStatusCode"], code);
    assert_eq!(context["disconnectReason"], reason);
}

async fn delete(cluster: &Cluster, id: &str) {
    let (connection_id, close_reason) = (id.to_owned(), "bye".to_owned());
    let request = DeleteConnectionRequest { connection_id, close_reason, ..Default::default() };
    cluster.grpc(0).await.delete_connection(request).await.unwrap();
}

async fn id_of(stream: &mut TcpStream) -> String {
    stream.write_all(&frame(0x81, br#"{"action":"whoami"}"#)).await.unwrap();
    let (_, id) = next_frame(stream).await.unwrap();
    String::from_utf8(id).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_begun_must_be_ended_in_time() {
    let backend = silent_backend().await;
    let cluster = strict(&backend).await;
    let edge = cluster.node(0).at("edge");
    for begun in [&frame(0x01, b"x")[..], &frame(0x81, b"half")[..8], &[0x81]] {
        let mut stream = open(edge).await;
        stream.write_all(begun).await.unwrap();
        if begun.ends_with(b"x") {
            // A sign of life is no progress.
            stream.write_all(&frame(PING, b"")).await.unwrap();
        }
        let reason = "Message not finished in time".to_owned();
        assert_eq!(closed(&mut stream).await, Some((1008, reason)), "{begun:02x?}");
    }
    // As many fragments as are allowed, with control frames between them.
    let mut stream = open(edge).await;
    let middle = [frame(0, b"x").repeat(49), frame(PING, b"!")].concat();
    let bytes = [frame(0x01, b"x"), middle.repeat(2), frame(0x80, b"x")].concat();
    stream.write_all(&bytes).await.unwrap();
    for expected in [(PONG, vec![b'!']), (PONG, vec![b'!']), (0x81, vec![b'x'; 100])] {
        assert_eq!(next_frame(&mut stream).await, Some(expected));
    }
    // A length written in more bytes than it needs is a length.
    for length in [&[0x80 | 126, 0, 2][..], &[0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 2]] {
        let bytes = [&[0x81], length, &[0; 4], b"hi"].concat();
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(next_frame(&mut stream).await, Some((0x81, b"hi".to_vec())), "{length:?}");
    }
    assert_alive(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_messages_are_taken_or_refused_by_the_stage() {
    let backend = silent_backend().await;
    let cluster = strict(&backend).await;
    let mut client = cluster.client(0).await;
    client.send_message(Message::binary(vec![0, 255])).await;
    assert_eq!(client.next().await.unwrap(), Message::binary(vec![0, 255]));
    let url = cluster.url(0).replace("/dev", "/textual");
    let mut client = posthorn_chaos::client::Client::connect(&url).await.unwrap();
    client.send("text").await;
    assert_eq!(client.text().await, "text");
    client.send_message(Message::binary(vec![0, 255])).await;
    assert_eq!(client.closed().await, (1003, "Binary is not supported".to_owned()));
    assert_disconnected(&backend, 1003, "Binary is not supported").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_costs_nobody_else_anything() {
    let backend = silent_backend().await;
    let cluster = strict(&backend).await;
    let mut stream = open_narrow(cluster.node(0).at("edge")).await;
    let id = id_of(&mut stream).await;
    let mut accepted = 0_u32;
    let full = loop {
        let text = format!("{accepted:08}{}", "x".repeat(10_000));
        match post(&cluster, &id, text).await {
            Ok(()) => accepted += 1,
            Err(status) => break status,
        }
        assert!(accepted < 10_000, "what is not read has a limit");
    };
    assert_eq!(full.code(), tonic::Code::ResourceExhausted, "{full}");
    // Pings that it does not read the answers to gather nowhere.
    let _ = stream.write_all(&frame(PING, &[b'x'; 125]).repeat(20)).await;
    assert_alive(&cluster).await;
    let waiting = eventually("a gauge", || cluster.metric(0, "posthorn_outbox_bytes")).await;
    assert!(waiting <= 65536.0, "{waiting}");
    // Once it reads, it gets all that was accepted, in order.
    let mut expected = 0_u32;
    while expected < accepted {
        match next_frame(&mut stream).await.unwrap() {
            (0x81, text) => {
                assert_eq!(text[..8], *format!("{expected:08}").as_bytes());
                expected += 1;
            }
            (PONG | PING, _) => (),
            other => panic!("{other:?}"),
        }
    }
    // One that still does not read can be closed all the same.
    let mut stream = open_narrow(cluster.node(0).at("edge")).await;
    let id = id_of(&mut stream).await;
    while post(&cluster, &id, "x".repeat(10_000)).await.is_ok() {}
    delete(&cluster, &id).await;
    let ended = loop {
        let context = backend.event_of("DISCONNECT").await["requestContext"].clone();
        if context["connectionId"] == id {
            break context;
        }
    };
    assert_eq!(ended["disconnectStatusCode"], 1000);
}

async fn post(cluster: &Cluster, id: &str, text: String) -> Result<(), tonic::Status> {
    let payload = posthorn_proto::v1::post_to_connection_request::Payload::Text(text);
    let (connection_id, payload) = (id.to_owned(), Some(payload));
    let request = PostToConnectionRequest { connection_id, payload, ..Default::default() };
    cluster.grpc(0).await.post_to_connection(request).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_idle_or_has_lived_long_enough_goes_away() {
    let settings = "edge: { listen: \"{ip}:0\", idle_timeout_s: 1, lifetime_s: 4, \
        lifetime_jitter_percent: 0, ping_interval_s: none }"
        .to_owned();
    let cluster = Cluster::start(Options { nodes: 1, settings, ..Options::default() }).await;
    let going_away = (1001, "Going away".to_owned());
    assert_eq!(cluster.client(0).await.closed().await, going_away);
    let mut busy = cluster.client(0).await;
    let ended = loop {
        busy.send("still here").await;
        match busy.next().await.unwrap() {
            Message::Text(_) => (),
            other => break other,
        }
    };
    let Message::Close(Some(frame)) = ended else { panic!("{ended:?}") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "Going away"));
}
