//! HTTP/2 and gRPC at the port of the API, as no library speaks them: what is no call is told so, and
//! who floods is cut off or slowed down, while everybody else is served and the memory stays flat.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::Signal;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, ECHO_API, Options};
use posthorn_chaos::management::Management;
use posthorn_chaos::within;
use posthorn_proto::v1::PostToConnectionRequest;
use posthorn_proto::v1::post_to_connection_request::Payload;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

const SERVICE: &str = "/posthorn.v1.ConnectionService";

// RFC 9113 section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Far more than the node needs for all of this, and far less than what it is flooded with.
const GROWTH_KIB_MAX: u64 = 96 * 1024;

/// Posts of one stream whose answers nobody reads: fewer bytes than its window has.
const STREAMED: u32 = 6000;
/// 32 KiB of answers, of 7 bytes each, and those in flight.
const TAKEN_MAX: u32 = 5000;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_call_is_told_so_and_a_deadline_is_believed_within_bounds() {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let api = Caller::new(cluster.node(0).at("api"));
    let post = |text: &str| encoded(&id, text);
    let good = prefixed(0, &post("good"));
    let with_unknown_field = prefixed(0, &[&post("unknown")[..], &[0xa2, 0x06, 1, b'x']].concat());
    assert_eq!(api.post(&[], &good).await, (200, Some(Code::Ok)));
    assert_eq!(api.post(&[], &with_unknown_field).await, (200, Some(Code::Ok)));
    assert_eq!([client.text().await, client.text().await], ["good", "unknown"]);

    let mut not_utf8 = post("xy");
    not_utf8.splice(id.len() + 4.., [0xff, 0xfe]);
    let gzip = ("grpc-encoding", "gzip");
    let announced = |bytes: u32| [&[0][..], &bytes.to_be_bytes(), b"short"].concat();
    for (what, headers, body, expected) in [
        ("no protobuf", &[][..], prefixed(0, &[0xff; 20]), Code::Internal),
        ("a field of more bytes than there are", &[], prefixed(0, &[10, 99, 1]), Code::Internal),
        ("no text in a string", &[], prefixed(0, &[10, 2, 0xff, 0xfe]), Code::Internal),
        ("a text that is not UTF-8", &[], prefixed(0, &not_utf8), Code::Internal),
        ("nothing", &[], Vec::new(), Code::Internal),
        ("half a prefix", &[], vec![0, 0, 0], Code::Internal),
        ("less than was announced", &[], announced(100), Code::Internal),
        ("4 GiB announced", &[], announced(u32::MAX), Code::OutOfRange),
        ("compressed, and nobody says how", &[], prefixed(1, &post("x")), Code::Internal),
        (
            "compressed in a way that is not spoken",
            &[gzip],
            prefixed(1, &post("x")),
            Code::Unimplemented,
        ),
        ("neither compressed nor not", &[], prefixed(2, &post("x")), Code::Internal),
    ] {
        assert_eq!(api.post(headers, &body).await, (200, Some(expected)), "{what}");
    }
    for timeout in ["99999999H", "1H", "x", "", "-1S", "123456789S", "1", "9x"] {
        let headers = [("grpc-timeout", timeout)];
        assert_eq!(api.post(&headers, &good).await, (200, Some(Code::Ok)), "{timeout}");
        assert_eq!(client.text().await, "good");
    }
    // Whatever is said of it, it is said at once.
    let unknown = prefixed(0, &encoded("AAAAAAAAAAAAAAAAAAAAAA", "x"));
    for timeout in ["0S", "1n", "00000000n"] {
        let (status, code) = api.post(&[("grpc-timeout", timeout)], &unknown).await;
        let expected = [Code::DeadlineExceeded, Code::Unavailable, Code::NotFound];
        assert!(status == 200 && expected.contains(&code.unwrap()), "{timeout}: {code:?}");
    }
    let odd = [("x-bin", "no base64!"), ("grpc-message", "%zz"), ("grpc-status", "99")];
    assert_eq!(api.post(&odd, &good).await, (200, Some(Code::Ok)));
    assert_eq!(
        api.call("/posthorn.v1.ConnectionService/No", &[], &good).await.1,
        Some(Code::Unimplemented)
    );
    assert_eq!(client.text().await, "good");

    // As large as headers may be, and larger.
    let large = "x".repeat(15 * 1024);
    assert_eq!(api.post(&[("x-large", &large)], &good).await, (200, Some(Code::Ok)));
    assert_eq!(client.text().await, "good");
    let larger = "x".repeat(20 * 1024);
    assert_eq!(api.post(&[("x-large", &larger)], &good).await, (431, None));

    // What ends a line in HTTP/1.1 is no part of a header.
    for (name, value) in
        [("x", "a\r\nb"), ("x", "a\0b"), ("X", "a"), ("x y", "a"), ("connection", "close")]
    {
        let (mut reader, mut writer) = open(cluster.node(0).at("api"), &[]).await;
        let block = block_of(&[("x", "a"), (name, value)]);
        writer.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await.unwrap();
        assert_eq!(reader.reset().await, Some(PROTOCOL_ERROR), "{name:?}: {value:?}");
    }
    assert_served(&cluster, &mut client, &id, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_is_cut_off_or_slowed_down_and_nobody_else_feels_it() {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let api = cluster.node(0).at("api");
    let call = block_of(&[]);
    let begin = |stream: u32| frame(HEADERS, END_HEADERS, stream, &call);
    let reset = |stream| [begin(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    let streams = |count: u32| (0..count).map(|index| 2 * index + 1);
    let continued = frame(CONTINUATION, 0, 1, &literals(&[("x", &"y".repeat(1000))]));
    let megabyte = block_of(&[("x", &"y".repeat(1024 * 1024))]);
    let rapid_resets: Vec<u8> = streams(20_000).flat_map(reset).collect();
    let many_streams: Vec<u8> = streams(10_000).flat_map(begin).collect();
    let empty_data = [begin(1), frame(DATA, 0, 1, b"").repeat(100_000)].concat();
    let chunks = megabyte.chunks(16 * 1024).enumerate();
    let chunks = chunks.flat_map(|(index, chunk)| {
        frame(if index == 0 { HEADERS } else { CONTINUATION }, 0, 1, chunk)
    });
    let nothing = frame(CONTINUATION, 0, 1, b"").repeat(100_000);
    let before = cluster.node(0).resident_kib();
    for (what, flood, must_end) in [
        ("streams that are reset at once", rapid_resets, false),
        ("streams that never end", many_streams, true),
        (
            "headers that never end",
            [frame(HEADERS, 0, 1, &call), continued.repeat(10_000)].concat(),
            true,
        ),
        (
            "headers of nothing that never end",
            [frame(HEADERS, 0, 1, &call), nothing].concat(),
            true,
        ),
        ("headers of a megabyte", chunks.collect(), true),
        ("DATA of nothing", empty_data, true),
        ("Pings", frame(PING, 0, 0, b"12345678").repeat(50_000), false),
        ("settings", frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0x10, 0]).repeat(50_000), false),
        ("priorities", frame(2, 0, 1, &[0, 0, 0, 3, 1]).repeat(50_000), false),
        ("windows", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(50_000), false),
        ("frames of no kind", frame(0xbe, 0, 0, b"x").repeat(50_000), false),
    ] {
        let flooding = flood_with(api, flood);
        let (ended, ()) = tokio::join!(flooding, assert_served(&cluster, &mut client, &id, 20));
        match ended {
            // What the node says last may be lost with what it no longer reads.
            Err(code) => assert_eq!(code.unwrap_or(ENHANCE_YOUR_CALM), ENHANCE_YOUR_CALM, "{what}"),
            Ok(()) => assert!(!must_end, "{what}: it goes on"),
        }
        let grown = cluster.node(0).resident_kib().saturating_sub(before);
        assert!(grown < GROWTH_KIB_MAX, "{what}: {grown} KiB");
    }
    assert_served(&cluster, &mut client, &id, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_answers_is_taken_no_more_posts_from() {
    let settings = "api: { listen: \"{ip}:0\", insecure: true, stream_posts_in_flight_max: 10 }";
    let options = Options { nodes: 1, settings: settings.to_owned(), ..Options::default() };
    let cluster = Cluster::start(options).await;
    let api = cluster.node(0).at("api");
    let (mut client, mut other) = (cluster.client(0).await, cluster.client(0).await);
    let (id, other_id) = (client.id().await, other.id().await);
    let before = cluster.node(0).resident_kib();

    // The windows of all answers are closed, for ever. Each call is answered, and waits with it.
    let closed_window = [0, 4, 0, 0, 0, 0];
    let mut held = Vec::new();
    for _ in 0..4 {
        let (reader, mut writer) = open(api, &closed_window).await;
        for index in 0..1000 {
            let body = prefixed(0, &encoded(&other_id, "x"));
            let stream = 2 * index + 1;
            let block = block_of(&[]);
            let call = [
                frame(HEADERS, END_HEADERS, stream, &block),
                frame(DATA, END_STREAM, stream, &body),
            ];
            writer.write_all(&call.concat()).await.unwrap();
        }
        held.push((reader, writer));
    }
    for _ in 0..4000 {
        assert_eq!(other.text().await, "x");
    }
    assert_served(&cluster, &mut client, &id, 20).await;

    // As many posts of one stream are taken as may be in flight, and as fit into one buffer of answers,
    // also where each has a frame for itself.
    let (mut reader, mut writer) = open(api, &closed_window).await;
    let block = block_at(&format!("{SERVICE}/PostToConnections"), &[]);
    let posts = (0..STREAMED).flat_map(|number| {
        let post = encoded(&id, &number.to_string());
        frame(DATA, 0, 1, &prefixed(0, &[&[18, post.len() as u8][..], &post].concat()))
    });
    let posts = [frame(HEADERS, END_HEADERS, 1, &block), posts.collect()].concat();
    writer.write_all(&posts).await.unwrap();
    let mut grpc = cluster.grpc(0).await;
    let (mut taken, mut rounds) = (0, 0);
    while rounds < 20 || taken < 10 {
        let post = PostToConnectionRequest {
            connection_id: id.clone(),
            payload: Some(Payload::Text("round".to_owned())),
            ..Default::default()
        };
        within("an answer", grpc.post_to_connection(post)).await.unwrap();
        loop {
            let text = client.text().await;
            if text == "round" {
                break;
            }
            assert_eq!(text, taken.to_string());
            taken += 1;
        }
        rounds += 1;
        assert!(taken <= TAKEN_MAX && rounds < 10_000, "{taken} in {rounds} rounds");
    }
    // Once answers are read, more are taken.
    writer.write_all(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0xff, 0xff])).await.unwrap();
    while reader.frame().await.unwrap().kind != DATA {}
    for _ in 0..100 {
        assert_eq!(client.text().await, taken.to_string());
        taken += 1;
    }
    let grown = cluster.node(0).resident_kib().saturating_sub(before);
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB");
    drop((held, writer));
    assert_served(&cluster, &mut other, &other_id, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_being_drained_still_answers_callers() {
    // Takes a call, and answers it last.
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", backend.local_addr().unwrap());
    let apis = ECHO_API
        .replace("routes:", "routes:\n      $disconnect: { target: integrations/backend }")
        .replace(
            "integrations:\n",
            &format!(
                "integrations:\n      backend: {{ integration_type: HTTP_EVENT, integration_uri: '{url}' }}\n"
            ),
        );
    let mut cluster = Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let address = cluster.node(0).at("api");
    let (api, grpc) = (Management::new(address), Caller::new(address));
    let node = cluster.take(0);
    node.signal(Signal::SIGTERM);
    assert_eq!(client.closed().await, (1012, "Service restart".to_owned()));
    drop(client);
    let (mut call, _) = within("a call of $disconnect", backend.accept()).await.unwrap();
    // It is being drained until that call ends.
    let reply = api.post(&format!("/dev/@connections/{id}"), b"x").await;
    assert_eq!(reply.parts().0, 410, "{reply:?}");
    assert_eq!(grpc.post(&[], &prefixed(0, &encoded(&id, "x"))).await, (200, Some(Code::NotFound)));
    call.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let _ = call.shutdown().await;
    assert!(node.wait().await.success());
}

/// Sends a flood and a Ping behind it. An error, with its code, if the connection was ended before
/// that was answered.
async fn flood_with(api: SocketAddr, flood: Vec<u8>) -> Result<(), Option<u32>> {
    let (mut reader, mut writer) = open(api, &[]).await;
    let flooding = tokio::spawn(async move {
        // The node may end it before all is sent.
        let _ = writer.write_all(&flood).await;
        let _ = writer.write_all(&frame(PING, 0, 0, b"the last")).await;
        writer
    });
    let ended = loop {
        let Some(Frame { kind, flags, payload }) = reader.frame().await else { break Err(None) };
        match kind {
            GOAWAY => break Err(Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()))),
            PING if flags == ACK && *payload == *b"the last" => break Ok(()),
            _ => (),
        }
    };
    flooding.abort();
    ended
}

/// That another caller's posts arrive.
async fn assert_served(cluster: &Cluster, client: &mut Client, id: &str, posts: u32) {
    let mut grpc = cluster.grpc(0).await;
    for number in 0..posts {
        let text = format!("served {number}");
        let request = PostToConnectionRequest {
            connection_id: id.to_owned(),
            payload: Some(Payload::Text(text.clone())),
            ..Default::default()
        };
        within("an answer", grpc.post_to_connection(request)).await.unwrap();
        assert_eq!(client.text().await, text);
    }
    assert!(!cluster.node(0).log().contains("panicked"), "{}", cluster.node(0).log());
}

/// Makes calls of gRPC by hand, of HTTP/2 by a library.
struct Caller {
    address: SocketAddr,
    client: HttpClient<HttpConnector, Full<Bytes>>,
}

impl Caller {
    fn new(address: SocketAddr) -> Caller {
        let client = HttpClient::builder(TokioExecutor::new()).http2_only(true).build_http();
        Caller { address, client }
    }

    async fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> (u16, Option<Code>) {
        self.call(&format!("{SERVICE}/PostToConnection"), headers, body).await
    }

    /// The status of HTTP and that of gRPC.
    async fn call(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Option<Code>) {
        let mut request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let response = within("an answer", self.client.request(request)).await.unwrap();
        let (head, body) = response.into_parts();
        let body = within("a body", body.collect()).await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        let code = head.headers.get("grpc-status").or(trailers.get("grpc-status"));
        (head.status.as_u16(), code.map(|code| Code::from_bytes(code.as_bytes())))
    }
}

/// A post as protobuf has it: the connection's ID and a text.
fn encoded(id: &str, text: &str) -> Vec<u8> {
    let field = |number: u8, text: &str| {
        [&[number << 3 | 2, text.len() as u8][..], text.as_bytes()].concat()
    };
    [field(1, id), field(2, text)].concat()
}

/// A message as gRPC has it.
fn prefixed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = message.len() as u32;
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

struct Reader(OwnedReadHalf);

struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

/// Opens a connection of HTTP/2 with these settings.
async fn open(api: SocketAddr, settings: &[u8]) -> (Reader, OwnedWriteHalf) {
    let (reader, mut writer) = TcpStream::connect(api).await.unwrap().into_split();
    let settings = frame(SETTINGS, 0, 0, settings);
    let preface =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &frame(SETTINGS, ACK, 0, b"")];
    writer.write_all(&preface.concat()).await.unwrap();
    (Reader(reader), writer)
}

impl Reader {
    /// None at the end.
    async fn frame(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [high, middle, low, kind, flags, ..] = head;
            let length = u32::from_be_bytes([0, high, middle, low]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind, flags, payload })
        };
        within("a frame", read).await
    }

    /// Why the next stream is reset, or the connection ended.
    async fn reset(&mut self) -> Option<u32> {
        loop {
            let Frame { kind, payload, .. } = self.frame().await?;
            let code = match kind {
                RST_STREAM => &payload,
                GOAWAY => &payload[4..8],
                _ => continue,
            };
            return Some(u32::from_be_bytes(code.try_into().unwrap()));
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a post, and more.
fn block_of(more: &[(&str, &str)]) -> Vec<u8> {
    block_at(&format!("{SERVICE}/PostToConnection"), more)
}

fn block_at(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let call = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    [literals(&call), literals(more)].concat()
}

/// RFC 7541 section 6.2.2: headers that nobody is to remember.
fn literals(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            push_length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// RFC 7541 section 5.1, with 7 bits in the first byte.
fn push_length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else { return block.push(length as u8) };
    block.push(127);
    while rest >= 128 {
        block.push(rest as u8 | 128);
        rest >>= 7;
    }
    block.push(rest as u8);
}
