//! Whoever sends us datagrams: noise, clients without papers, and nodes that break the protocol.

use posthorn_proto::cluster::v1::{Hello, LaneAttach, LaneAttached};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, VarInt};
use rcgen::{CertificateParams, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::UdpSocket;

use super::*;
use crate::fabric::wire::{read_message, write_message};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_does_not_disturb() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..5_000_usize {
        let mut noise = vec![0; round % 1_500];
        for byte in &mut noise {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            *byte = chance.to_le_bytes()[0];
        }
        // Every other one looks like the first packet of a connection.
        if round % 2 == 0 && noise.len() > 5 {
            noise[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        socket.send_to(&noise, two.fabric.local_address()).await.unwrap();
    }
    one.call(&two.peer(), ECHO, "").await.unwrap();
    one.post(&two.peer(), 1, "frame").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_papers_or_wrong_ones_is_refused_and_counted_by_cause() {
    let town = Town::new();
    let two = town.start(2);
    let with_names = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Some(town.authority.sign(CertificateParams::new(names).unwrap()).unwrap())
    };
    let expired = {
        let mut params = CertificateParams::new(vec!["node-1.posthorn".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2020, 1, 1);
        Some(town.authority.sign(params).unwrap())
    };
    let cases = [
        (None, RefusalCause::NoCertificate),
        (Some(Town::new().authority.node(NodeId(1)).unwrap()), RefusalCause::UntrustedCertificate),
        (expired, RefusalCause::ExpiredCertificate),
        (with_names(&["node-1.other"]), RefusalCause::AnotherClusterName),
        (with_names(&["*.posthorn"]), RefusalCause::NoNodeName),
        (with_names(&[]), RefusalCause::NoNodeName),
        (with_names(&["node-1.posthorn", "node-2.posthorn"]), RefusalCause::NoNodeName),
    ];
    for (papers, cause) in cases {
        let before = two.fabric.stats().refused(cause);
        let error = match dial(&two, papers.as_ref(), Purpose::Control).await {
            Ok(connection) => within(connection.closed()).await,
            Err(error) => error,
        };
        assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{cause:?}: {error}");
        until("it was counted", || two.fabric.stats().refused(cause) == before + 1).await;
    }
    assert!(two.service.froms.lock().is_empty());
    assert_eq!(two.fabric.stats().connections_accepted.control.get(), 0);

    let one = town.start(1);
    one.call(&two.peer(), ECHO, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_another_protocol_is_refused() {
    let town = Town::new();
    let two = town.start(2);
    let papers = town.authority.node(NodeId(1)).unwrap();
    let dialed = dial_with(&two, Some(&papers), b"h3").await;
    assert!(matches!(dialed.unwrap_err(), ConnectionError::ConnectionClosed(_)));
    let refused = || two.fabric.stats().refused(RefusalCause::FailedHandshake);
    until("it was counted", || refused() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_introduces_itself_badly_is_refused_with_a_reason() {
    let town = Town::new();
    let two = town.start(2);
    let papers = town.authority.node(NodeId(1)).unwrap();

    let connection = dial(&two, Some(&papers), Purpose::Control).await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    write_message(&mut send, &Hello { node: 3, ..hello() }).await.unwrap();
    assert_eq!(reason(&connection).await, "it says it is node 3, its certificate says 1");
    until("it was counted", || two.fabric.stats().refused(RefusalCause::AnotherNode) == 1).await;

    let connection = dial(&two, Some(&papers), Purpose::Control).await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&[0xff; 100]).await.unwrap();
    assert_eq!(reason(&connection).await, "a message of 65535 bytes");
    let malformed = || two.fabric.stats().refused(RefusalCause::MalformedHello);
    until("it was counted", || malformed() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_is_shown_the_door() {
    let town = Town::new();
    let mut settings = town.settings(2);
    settings.dial_timeout = Duration::from_millis(300);
    settings.limits.handshakes_max = 1;
    let two = Node::start(settings);
    let papers = town.authority.node(NodeId(1)).unwrap();
    let silent = dial(&two, Some(&papers), Purpose::Control).await.unwrap();
    // The only place is taken, and a second one is refused.
    let second = dial(&two, Some(&papers), Purpose::Control).await.unwrap_err();
    assert!(matches!(second, ConnectionError::ConnectionClosed(_)), "{second}");
    assert!(two.fabric.stats().retries_demanded.get() > 0);
    until("it was counted", || two.fabric.stats().refused(RefusalCause::TooMany) == 1).await;
    within(silent.closed()).await;
    let failed = || two.fabric.stats().refused(RefusalCause::FailedHandshake);
    until("it was counted", || failed() == 1).await;
    town.start(1).call(&two.peer(), ECHO, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_strangers_does_not_keep_a_node_out() {
    let town = Town::new();
    let mut settings = town.settings(2);
    settings.limits.handshakes_max = 8;
    let two = Node::start(settings);
    let one = town.start(1);
    let crowd = futures_util::future::join_all((0..100).map(|_| async {
        if let Ok(connection) = dial(&two, None, Purpose::Posts).await {
            within(connection.closed()).await;
        }
    }));
    let called = async {
        while one.call(&two.peer(), ECHO, "").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(async { tokio::join!(crowd, called) }).await;
    assert!(two.fabric.stats().refused(RefusalCause::NoCertificate) > 0);
    assert!(two.fabric.stats().retries_demanded.get() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_lies_about_its_length_costs_its_stream_only() {
    let town = Town::new();
    let two = town.start(2);
    let connection = introduced(&town, &two, Purpose::Control).await;
    let lies: [&[u8]; 3] = [
        // A gigabyte.
        &[1, ECHO, 0x40, 0, 0, 0, 1, 2, 3],
        // Shorter than it says.
        &[1, ECHO, 0, 0, 0, 9, 1, 2, 3],
        // Of no known kind.
        &[9, ECHO, 0, 0, 0, 0],
    ];
    for lie in lies {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(lie).await.unwrap();
        send.finish().unwrap();
        within(recv.read_to_end(100)).await.unwrap_err();
    }
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[1, ECHO, 0, 0, 0, 1, 7]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(within(recv.read_to_end(100)).await.unwrap(), [0, 0, 0, 0, 1, 7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_breaks_the_protocol_costs_its_stream_only() {
    let town = Town::new();
    let two = town.start(2);
    let connection = introduced(&town, &two, Purpose::Posts).await;
    let lies: [&[u8]; 4] = [
        // A frame of a gigabyte.
        &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0x40, 0, 0, 0, 7],
        // The second frame before the first.
        &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 7],
        // An answer to nothing that was asked.
        &[3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 7],
        // Of no known kind.
        &[77],
    ];
    for (attempt, lie) in (1..).zip(lies) {
        let (mut send, mut recv, session) = attach(&connection, 0, attempt, 0).await;
        assert_ne!(session.session, 0);
        send.write_all(lie).await.unwrap();
        within(recv.read_to_end(100)).await.unwrap_err();
        assert_eq!(two.fabric.stats().lanes_broken.get(), attempt);
    }
    let (mut send, mut recv, _) = attach(&connection, 0, 9, 0).await;
    send.write_all(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 7]).await.unwrap();
    let mut answer = [0; 14];
    within(recv.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, [3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 7]);
    assert_eq!(*two.service.posts.lock(), [Bytes::from_static(&[7])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_latest_attachment_of_a_lane_is_served() {
    let town = Town::new();
    let two = town.start(2);
    let connection = introduced(&town, &two, Purpose::Posts).await;
    let (_send, mut recv, first) = attach(&connection, 0, 5, 0).await;
    let (_newer, _, second) = attach(&connection, 0, 6, first.session).await;
    assert_eq!(second, first);
    // The one before is ended, and one that comes late is refused.
    within(recv.read_to_end(100)).await.unwrap_err();
    for (lane, attempt) in [(0, 5), (4, 1)] {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let words = LaneAttach { lane, attempt, ..LaneAttach::default() };
        write_message(&mut send, &words).await.unwrap();
        within(read_message::<LaneAttached>(&mut recv)).await.unwrap_err();
    }
}

async fn attach(
    connection: &Connection,
    lane: u32,
    attempt: u64,
    session: u64,
) -> (quinn::SendStream, quinn::RecvStream, LaneAttached) {
    let (mut send, mut recv) = within(connection.open_bi()).await.unwrap();
    let words = LaneAttach { lane, attempt, session, seen: 0, answer_bytes_max: 100 };
    write_message(&mut send, &words).await.unwrap();
    let attached = within(read_message(&mut recv)).await.unwrap();
    (send, recv, attached)
}

async fn introduced(town: &Town, to: &Node, purpose: Purpose) -> Connection {
    let papers = town.authority.node(NodeId(1)).unwrap();
    let connection = dial(to, Some(&papers), purpose).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    write_message(&mut send, &hello()).await.unwrap();
    let _: Hello = within(read_message(&mut recv)).await.unwrap();
    connection
}

fn hello() -> Hello {
    Hello { version_min: 1, version_max: 1, node: 1, process: 11, ..Hello::default() }
}

async fn reason(connection: &Connection) -> String {
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code, VarInt::from(CloseCode::Refused));
            String::from_utf8(close.reason.to_vec()).unwrap()
        }
        other => panic!("{other}"),
    }
}

async fn dial(
    to: &Node,
    papers: Option<&NodePapers>,
    purpose: Purpose,
) -> Result<Connection, ConnectionError> {
    dial_with(to, papers, purpose.alpn()).await
}

async fn dial_with(
    to: &Node,
    papers: Option<&NodePapers>,
    alpn: &[u8],
) -> Result<Connection, ConnectionError> {
    let provider = Arc::new(ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = match papers {
        None => config.with_no_client_auth(),
        Some(NodePapers { certificate, key }) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = to.fabric.local_address();
    within(endpoint.connect_with(config, address, "node-2.posthorn").unwrap()).await
}

/// Believes every server.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _own: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
