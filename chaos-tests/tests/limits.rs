//! How many may connect, from where, and with how large a request: at each limit, and beyond it.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::net::{IpAddr, SocketAddr};

use posthorn_chaos::backend::Backend;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::raw::{self, closed, frame, next_frame};
use posthorn_chaos::{eventually, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

const HANDSHAKE: &str = "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const PROXY: &str = "127.0.0.9";

#[tokio::test(flavor = "multi_thread")]
async fn so_many_may_connect_and_no_more() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let cluster = with_limits(&backend).await;
    let edge = cluster.node(0).at("edge");

    // Of one address: whoever is no proxy of ours may say what he likes.
    let mut held = Vec::new();
    for forwarded in ["", "X-Forwarded-For: ' OR 1\r\n"] {
        let (status, stream, _) = open(edge, "127.0.0.1", "/dev", forwarded).await;
        assert_eq!(status, 101);
        held.push(stream);
        let event = backend.event().await;
        assert_eq!(event["requestContext"]["identity"]["sourceIp"], "127.0.0.1");
        assert_eq!(event["headers"]["X-Forwarded-For"], "127.0.0.1");
    }
    let (status, _, answer) =
        open(edge, "127.0.0.1", "/dev", "X-Forwarded-For: 192.0.2.1\r\n").await;
    assert_eq!(status, 429);
    assert!(retry_after_s(&answer) <= 10, "{answer}");

    // Behind a proxy that is believed, each client has its own.
    let entries = "203.0.113.9, ".repeat(100);
    let forwarded = format!(
        "X-Forwarded-For: {entries}192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n"
    );
    for _ in 0..2 {
        let (status, stream, _) = open(edge, PROXY, "/dev", &forwarded).await;
        assert_eq!(status, 101);
        held.push(stream);
        let event = backend.event().await;
        assert_eq!(event["requestContext"]["identity"]["sourceIp"], "192.0.2.1");
        let headers = &event["headers"];
        assert_eq!(headers["X-Forwarded-For"], format!("192.0.2.1, {PROXY}"));
        assert_eq!(headers["X-Forwarded-Proto"], "https");
        assert_eq!(headers["X-Forwarded-Port"], "443");
    }
    let (status, _, answer) = open(edge, PROXY, "/dev", &forwarded).await;
    assert_eq!(status, 429);
    assert!(retry_after_s(&answer) <= 10, "{answer}");

    // Of one stage.
    let (status, small, _) = open(edge, "127.0.0.2", "/small", "").await;
    assert_eq!(status, 101);
    assert_eq!(open(edge, "127.0.0.3", "/small", "").await.0, 429);
    drop(small);
    let again = eventually("a place that is free again", || async {
        let (status, stream, _) = open(edge, "127.0.0.2", "/small", "").await;
        (status == 101).then_some(stream)
    })
    .await;
    held.push(again);

    // Of the node.
    for address in ["127.0.0.4", "127.0.0.5"] {
        let (status, stream, _) = open(edge, address, "/dev", "").await;
        assert_eq!(status, 101);
        held.push(stream);
    }
    let (status, _, answer) = open(edge, "127.0.0.6", "/dev", "").await;
    assert_eq!(status, 503);
    assert!(retry_after_s(&answer) <= 10, "{answer}");
    for (cause, count) in [("too_many", 1.0), ("too_many_of_address", 2.0)] {
        let series = format!("posthorn_handshakes_refused_total{{cause=\"{cause}\"}}");
        assert_eq!(cluster.metric(0, &series).await, Some(count), "{cause}");
    }
    drop(held);
    eventually("places that are free again", || async {
        (open(edge, "127.0.0.1", "/dev", "").await.0 == 101).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_be_so_large_and_no_larger() {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await;
    let edge = cluster.node(0).at("edge");
    let url = |bytes: usize| format!("/dev?{}", "x".repeat(bytes - 5));
    let parameters = |count: usize| format!("/dev?{}", "a=1&".repeat(count));
    // What is there beside the padding: the request line, the handshake, two line ends.
    let beside = "GET /dev HTTP/1.1\r\n".len() + HANDSHAKE.len() + "X: \r\n\r\n".len();
    let headers = |bytes: usize| format!("X: {}\r\n", "x".repeat(bytes - beside));
    let many = |count: usize| "X: y\r\n".repeat(count - HANDSHAKE.matches("\r\n").count());
    for (what, path, more, expected) in [
        ("a URL at its limit", url(4096), String::new(), 101),
        ("a URL beyond it", url(4097), String::new(), 414),
        ("10,000 parameters", parameters(10_000), String::new(), 414),
        ("as many as fit", parameters(1000), String::new(), 101),
        ("a query that is not encoded well", "/dev?a=%zz&a=%".to_owned(), String::new(), 101),
        ("NUL in a query", "/dev?a=\0".to_owned(), String::new(), 400),
        ("headers at their limit", "/dev".to_owned(), headers(16 * 1024), 101),
        ("headers beyond it", "/dev".to_owned(), headers(16 * 1024 + 1), 431),
        ("100 headers", "/dev".to_owned(), many(100), 101),
        ("101 headers", "/dev".to_owned(), many(101), 431),
    ] {
        assert_eq!(open(edge, "127.0.0.1", &path, &more).await.0, expected, "{what}");
    }
    // Nobody speaks the PROXY protocol here: its bytes end the connection, spoken well or badly.
    let version_2 =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\0\x50\0\x50".as_slice();
    let version_1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\n".as_slice();
    let request = format!("GET /dev HTTP/1.1\r\n{HANDSHAKE}\r\n");
    for begin in [version_1, b"PROXY nonsense\r\n", version_2, &version_2[..14]] {
        let mut stream = TcpStream::connect(edge).await.unwrap();
        stream.write_all(&[begin, request.as_bytes()].concat()).await.unwrap();
        let mut answer = Vec::new();
        within("an end", stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_may_be_so_large_and_no_larger() {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await;
    let edge = cluster.node(0).at("edge");
    let fragment = |first: u8, bytes: usize| frame(first, &vec![b'x'; bytes]);
    let begun = [fragment(0x01, 32 * 1024), fragment(0, 32 * 1024).repeat(2)].concat();
    let mut stream = raw::open(edge).await;
    for end in [fragment(0x80, 32 * 1024), [fragment(0, 32 * 1024), fragment(0x80, 0)].concat()] {
        stream.write_all(&[&begun[..], &end].concat()).await.unwrap();
        let (first, payload) = next_frame(&mut stream).await.unwrap();
        assert_eq!((first, payload.len()), (0x81, 131_072));
    }
    let too_large = [begun, fragment(0, 32 * 1024), fragment(0x80, 1)].concat();
    for bytes in [too_large, fragment(0x81, 32 * 1024 + 1)] {
        let mut stream = raw::open(edge).await;
        // The node may close it before all is sent.
        let _ = stream.write_all(&bytes).await;
        assert_eq!(closed(&mut stream).await.map(|(code, _)| code), Some(1009));
    }
}

async fn with_limits(backend: &Backend) -> Cluster {
    let settings = format!(
        "edge: {{ listen: \"{{ip}}:0\", connections_max: 7, connections_per_address_max: 2, \
         trusted_proxies: [\"{PROXY}\"] }}"
    );
    let apis = format!(
        "apis:\n  dev:\n    route_selection_expression: $request.body.action\n    routes:\n      \
         $connect: {{ target: integrations/backend }}\n    integrations:\n      \
         backend: {{ integration_type: HTTP_EVENT, integration_uri: \"{}\" }}\n    \
         stages: {{ dev: {{}}, small: {{ connections_max: 1 }} }}\n",
        backend.url()
    );
    Cluster::start(Options { nodes: 1, settings, apis }).await
}

/// After how many seconds who was refused may come again.
fn retry_after_s(answer: &str) -> u32 {
    let line = answer.lines().find_map(|line| line.strip_prefix("Retry-After: "));
    line.expect(answer).parse().expect("a number of seconds")
}

/// A handshake from an address of ours: its status, the connection, and the head of the answer.
async fn open(edge: SocketAddr, from: &str, path: &str, more: &str) -> (u16, TcpStream, String) {
    let socket = TcpSocket::new_v4().unwrap();
    let from: IpAddr = from.parse().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let mut stream = socket.connect(edge).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\n{HANDSHAKE}{more}\r\n");
    let (status, answer) = raw::ask(&mut stream, request.as_bytes()).await;
    (status, stream, answer)
}
