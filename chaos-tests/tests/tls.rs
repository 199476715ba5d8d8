//! TLS at the listeners: certificates by name, their renewal, and what is no TLS. And the papers that nodes
//! show each other.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::Signal;
use posthorn_chaos::backend::{Backend, backend_api};
use posthorn_chaos::clock::Clock;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::papers::{Authority, dial};
use posthorn_chaos::process::{Process, binary};
use posthorn_chaos::{eventually, within};
use posthorn_proto::v1::PostToConnectionRequest;
use posthorn_proto::v1::post_to_connection_request::Payload;
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tonic::Code;
use tungstenite::Message;

const DAY: Duration = Duration::from_secs(24 * 3600);
const DIALED: &str = "posthorn_fabric_connections_dialed_total{";
const EXPIRED: &str = "posthorn_peers_refused_total{cause=\"expired_certificate\"}";
const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const APPLIED: &str = "posthorn_certificate_reloads_total{outcome=\"applied\"}";
const REFUSED: &str = "posthorn_certificate_reloads_total{outcome=\"refused\"}";

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_over_tls_by_certificates_that_can_be_renewed() {
    let backend =
        Backend::start(|event| (200, event["body"].as_str().unwrap_or_default().to_owned())).await;
    let settings = "edge:\n  listen: \"{ip}:0\"\n  handshake_timeout_ms: 2000\n  tls:\n    \
        cert_file: one.pem\n    key_file: one.key\n    \
        more_certificates: [{ cert_file: two.pem, key_file: two.key }]\n";
    let (settings, apis) = (settings.to_owned(), backend_api(&backend.url()));
    let mut cluster = Cluster::prepare(Options { nodes: 1, settings, apis });
    let authority = Authority::new();
    let (one, two) = (authority.papers(&["one.test"]), authority.papers(&["*.two.test"]));
    one.write(cluster.folder(), "one");
    two.write(cluster.folder(), "two");
    cluster.spawn(0).await;
    cluster.wait_ready(0).await;
    let edge = cluster.node(0).at("edge");

    for version in BOTH {
        let (mut client, shown) = open(edge, "one.test", authority.client(&[version])).await;
        assert_eq!(shown, one.certificate);
        let connect = backend.event_of("CONNECT").await;
        let headers = &connect["headers"];
        assert_eq!(headers["X-Forwarded-Proto"], "https");
        assert_eq!(headers["X-Forwarded-Port"], edge.port().to_string());
        assert_eq!(connect["requestContext"]["domainName"], "one.test");
        // Larger than a TLS record.
        let large = "x".repeat(32 * 1024);
        assert_eq!(echo(&mut client, &large).await, large);
    }
    let (mut veteran, shown) = open(edge, "a.two.test", authority.client(BOTH)).await;
    assert_eq!(shown, two.certificate);

    what_is_no_tls_ends(edge).await;

    // A renewed certificate is shown to who comes next, and nobody is thrown out.
    let until = Duration::from_secs(2_208_988_800);
    let renewed = authority.papers_until(&["one.test"], SystemTime::UNIX_EPOCH + until);
    renewed.write(cluster.folder(), "one");
    eventually("a renewed certificate", || async {
        let stream = dial(edge, "one.test", authority.client(BOTH)).await.unwrap();
        (shown_by(&stream) == renewed.certificate).then_some(())
    })
    .await;
    assert_eq!(cluster.metric(0, APPLIED).await, Some(1.0));
    assert_eq!(expires(&cluster, "edge.tls").await, until.as_secs_f64());
    std::fs::write(cluster.folder().join("one.pem"), "nonsense").unwrap();
    eventually("a refused certificate", || async {
        (cluster.metric(0, REFUSED).await? == 1.0).then_some(())
    })
    .await;
    let log = cluster.node(0).log();
    assert!(log.contains("one.pem: holds no certificate"), "{log}");
    let (_, shown) = open(edge, "one.test", authority.client(BOTH)).await;
    assert_eq!(shown, renewed.certificate);
    renewed.write(cluster.folder(), "one");
    cluster.node(0).signal(Signal::SIGHUP);
    eventually("certificates read anew, those of the fabric included", || async {
        (cluster.metric(0, APPLIED).await? >= 3.0).then_some(())
    })
    .await;
    assert_eq!(echo(&mut veteran, "still here").await, "still here");
}

async fn expires(cluster: &Cluster, section: &str) -> f64 {
    let series = format!("posthorn_certificate_expiry_timestamp_seconds{{section=\"{section}\"}}");
    let value = cluster.metric(0, &series).await;
    value.unwrap_or_else(|| panic!("no {series}"))
}

/// Each ends by an alert, if it said anything at all, and is counted.
#[test]
fn check_loads_the_certificates_of_each_listener() {
    let cluster = Cluster::prepare(Options { nodes: 1, ..Options::default() });
    let (good, path) = (cluster.config(0), cluster.config_path(0));
    for (door, key_file, is_good) in [
        ("edge", "node-0.key", true),
        ("api", "node-0.key", true),
        ("edge", "none.key", false),
        ("api", "none.key", false),
        ("edge", "ca.pem", false),
        ("api", "ca.pem", false),
    ] {
        let (from, tls) = (format!("{door}: {{"), "tls: { cert_file: node-0.pem, key_file: ");
        assert!(good.contains(&from));
        let text = good.replace(&from, &format!("{from} {tls}{key_file} }},"));
        std::fs::write(&path, text).unwrap();
        let checked = Command::new(binary()).arg("check").arg(&path).output().unwrap();
        let error = String::from_utf8(checked.stderr).unwrap();
        let file = cluster.folder().join(key_file).display().to_string();
        if is_good {
            assert!(checked.status.success() && error.is_empty(), "{error}");
        } else {
            assert_eq!((checked.status.code(), error.lines().count()), (Some(2), 1), "{error}");
            assert!(error.contains(&format!(": {door}.tls: ")) && error.contains(&file), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn papers_of_nodes_are_replaced_and_left_to_expire_under_posts_and_connects() {
    let mut cluster = Cluster::prepare(Options::default());
    let clock = Clock::build(cluster.folder());
    let [before, after] = [(); 2].map(|()| Authority::new());
    let ca_file = cluster.folder().join("ca.pem");
    std::fs::write(&ca_file, before.pem()).unwrap();
    for node in 0..3 {
        write_papers(&cluster, &before, node, DAY);
        cluster.spawn_with(node, &clock.launch()).await;
    }
    for node in 0..3 {
        cluster.wait_ready(node).await;
    }
    let leader = cluster.leader().await;
    let (expiring, other) = ((leader + 1) % 3, (leader + 2) % 3);

    // Another authority, the way it is done: both are believed until nobody shows the first one's.
    let story = async |rounds: &AtomicU64| {
        go_on(rounds, 1).await;
        let dialed = dialed(&cluster).await;
        std::fs::write(&ca_file, format!("{}{}", before.pem(), after.pem())).unwrap();
        read_anew(&cluster, 1.0).await;
        for node in 0..3 {
            write_papers(&cluster, &after, node, if node == expiring { DAY } else { 9 * DAY });
        }
        read_anew(&cluster, 2.0).await;
        std::fs::write(&ca_file, after.pem()).unwrap();
        read_anew(&cluster, 3.0).await;
        // What all connections were made with is no longer good.
        clock.step_to(2 * DAY.as_secs().cast_signed());
        go_on(rounds, 10).await;
        assert_eq!(self::dialed(&cluster).await, dialed, "all connections live on");
    };
    let rounds = AtomicU64::new(0);
    tokio::select! {
        () = story(&rounds) => (),
        () = traffic(&cluster, &rounds) => (),
    }

    // Who comes anew shows new papers, and believes none that have expired.
    let mut client = cluster.client(expiring).await;
    let id = client.id().await;
    cluster.take(other).kill().await;
    cluster.spawn_with(other, &clock.launch()).await;
    cluster.wait_ready(other).await;
    eventually("a peer that is refused", async || {
        (cluster.metric(other, EXPIRED).await? > 0.0).then_some(())
    })
    .await;
    let refused = cluster.grpc(other).await.post_to_connection(post(&id, "")).await.unwrap_err();
    assert!(matches!(refused.code(), Code::Unavailable | Code::DeadlineExceeded), "{refused}");
    cluster.grpc(leader).await.post_to_connection(post(&id, "still here")).await.unwrap();
    assert_eq!(client.text().await, "still here");
    cluster.take(expiring).kill().await;
    let path = cluster.config_path(expiring);
    let (status, error) = Process::start_in_vain_with(&path, &clock.launch()).await;
    let last = error.lines().last().unwrap();
    assert!(!status.success() && last.contains("certificate expired"), "{last}");
    write_papers(&cluster, &after, expiring, 9 * DAY);
    cluster.spawn_with(expiring, &clock.launch()).await;
    cluster.wait_ready(expiring).await;
    tokio::select! {
        () = traffic(&cluster, &rounds) => (),
        () = go_on(&rounds, 1) => (),
    }
}

/// Posts between each two nodes, and connects to each, for ever. Counts the rounds.
async fn traffic(cluster: &Cluster, rounds: &AtomicU64) {
    let mut clients = Vec::new();
    for node in 0..3 {
        let mut client = cluster.client(node).await;
        clients.push((client.id().await, client));
    }
    loop {
        for through in 0..3 {
            let mut grpc = cluster.grpc(through).await;
            for (id, client) in &mut clients {
                grpc.post_to_connection(post(id, "hi")).await.unwrap();
                assert_eq!(client.text().await, "hi");
            }
            cluster.client(through).await.close().await;
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits for so many more rounds that began after now.
async fn go_on(rounds: &AtomicU64, more: u64) {
    let seen = rounds.load(Ordering::Relaxed);
    eventually("posts and connects", async || {
        (rounds.load(Ordering::Relaxed) > seen + more).then_some(())
    })
    .await;
}

fn post(id: &str, text: &str) -> PostToConnectionRequest {
    let (connection_id, payload) = (id.to_owned(), Some(Payload::Text(text.to_owned())));
    PostToConnectionRequest { connection_id, payload, ..Default::default() }
}

/// Those of a node, good from now on for so long.
fn write_papers(cluster: &Cluster, authority: &Authority, node: usize, lasting: Duration) {
    let until = SystemTime::now() + lasting;
    let papers = authority.papers_until(&[&format!("node-{node}.test")], until);
    papers.write(cluster.folder(), &format!("node-{node}"));
}

/// Waits until every node has read its papers anew so often.
async fn read_anew(cluster: &Cluster, times: f64) {
    for node in 0..3 {
        eventually("papers that are read anew", async || {
            (cluster.metric(node, APPLIED).await? >= times).then_some(())
        })
        .await;
    }
}

/// How many connections between nodes were ever made.
async fn dialed(cluster: &Cluster) -> f64 {
    let mut sum = 0.0;
    for node in 0..3 {
        let (_, text) = cluster.get(node, "/metrics").await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with(DIALED));
        let values = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap());
        sum += values.sum::<f64>();
    }
    sum
}

async fn what_is_no_tls_ends(edge: SocketAddr) {
    // A ClientHello of TLS 1.0 alone, as small as can be.
    let mut hello = vec![0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 1];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0, 0x2f, 0, 0x35, 1, 0]);
    let mut hello_11 = hello.clone();
    hello_11[10] = 2;
    let plain = b"GET /dev HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    for (what, bytes) in [
        ("plain HTTP", plain),
        ("garbage", vec![0xff; 1000]),
        ("TLS 1.0", hello),
        ("TLS 1.1", hello_11),
    ] {
        let mut stream = TcpStream::connect(edge).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        within(what, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(matches!(answer[..], [0x15, 3, _, 0, 2, 2, _]), "{what}: {answer:02x?}");
    }
    let mut silent = TcpStream::connect(edge).await.unwrap();
    let mut answer = Vec::new();
    within("an end", silent.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty());
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn open(
    edge: SocketAddr,
    name: &str,
    client: ClientConfig,
) -> (Socket, CertificateDer<'static>) {
    let stream = dial(edge, name, client).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let shown = shown_by(&stream);
    let url = format!("wss://{name}/dev");
    let opened = Box::pin(tokio_tungstenite::client_async(url, stream));
    let (socket, _) = within("a handshake", opened).await.unwrap();
    (socket, shown)
}

fn shown_by(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

async fn echo(socket: &mut Socket, text: &str) -> String {
    socket.send(Message::text(text)).await.unwrap();
    match within("an echo", socket.next()).await {
        Some(Ok(Message::Text(text))) => text.as_str().to_owned(),
        other => panic!("not a text: {other:?}"),
    }
}
