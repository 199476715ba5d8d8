//! Strangers at the port where nodes speak to each other: noise, words of QUIC that lead nowhere, and
//! first packets of connections that nobody means to have, from an address of their own, from addresses
//! where nobody is, and as if from the nodes themselves.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Suite, Version};
use rustls::{ClientConfig, RootCertStore, Side};

use crate::chance::Chance;
use crate::hosts::enter;
use crate::packet::{Packet, Sender};

/// Dropping it ends it.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

/// What was sent from the strangers' own address, what came back there, and what was sent in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flooded {
    pub datagrams: u64,
    pub own_bytes: u64,
    pub answered_bytes: u64,
}

#[derive(Default)]
struct Counts {
    datagrams: AtomicU64,
    own_bytes: AtomicU64,
    answered_bytes: AtomicU64,
}

struct Stranger {
    chance: Chance,
    suite: Suite,
    tls: Arc<ClientConfig>,
    socket: UdpSocket,
    forger: Sender,
    targets: Vec<SocketAddrV4>,
    counts: Arc<Counts>,
}

/// A burst, and the time from one to the next: two thousand datagrams a second.
const BURST: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);
/// Nothing less is taken for the first of a connection (RFC 9000 14.1).
const INITIAL_BYTES: usize = 1200;
const CID_BYTES: usize = 8;

impl Flood {
    /// # Panics
    ///
    /// If the namespace cannot be entered, or there are no sockets to be had.
    pub(crate) fn begin(namespace: &str, own: Ipv4Addr, targets: Vec<SocketAddrV4>) -> Flood {
        let (stop, counts) = <(Arc<AtomicBool>, Arc<Counts>)>::default();
        let (stopped, counted) = (stop.clone(), counts.clone());
        let namespace = namespace.to_owned();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let mut stranger = Stranger::new(own, targets, counted);
            while !stopped.load(Ordering::Relaxed) {
                (0..BURST).for_each(|_| stranger.speak());
                stranger.listen();
                std::thread::sleep(PAUSE);
            }
        });
        Flood { stop, counts, thread: Some(thread) }
    }

    pub(crate) fn so_far(&self) -> Flooded {
        let Counts { datagrams, own_bytes, answered_bytes } = &*self.counts;
        Flooded {
            datagrams: datagrams.load(Ordering::Relaxed),
            own_bytes: own_bytes.load(Ordering::Relaxed),
            answered_bytes: answered_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Where it panicked, it has said so.
            let _ = thread.join();
        }
    }
}

impl Stranger {
    fn new(own: Ipv4Addr, targets: Vec<SocketAddrV4>, counts: Arc<Counts>) -> Stranger {
        let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(|suite| suite.quic_suite());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        // Without it, nobody would wait for more.
        tls.alpn_protocols = vec![b"posthorn-control/1".to_vec()];
        let socket = UdpSocket::bind((own, 0)).expect("a port");
        socket.set_nonblocking(true).expect("a socket need not wait");
        Stranger {
            chance: Chance::new(0),
            suite: suite.expect("QUIC begins with this suite"),
            tls: Arc::new(tls),
            socket,
            forger: Sender::open().expect("packets can be sent"),
            targets,
            counts,
        }
    }

    fn speak(&mut self) {
        let to = self.one_of_the_targets();
        let words = self.words();
        self.counts.datagrams.fetch_add(1, Ordering::Relaxed);
        let from = match self.chance.below(3) {
            0 => {
                // A full buffer is as good as a lost datagram.
                if self.socket.send_to(&words, to).is_ok() {
                    self.counts.own_bytes.fetch_add(words.len() as u64, Ordering::Relaxed);
                }
                return;
            }
            1 => {
                let [a, b, c, _] = to.ip().octets();
                let nobody = Ipv4Addr::new(a, b, c, 210 + self.chance.below(40) as u8);
                SocketAddrV4::new(nobody, 1024 + self.chance.below(60_000) as u16)
            }
            _ => self.one_of_the_targets(),
        };
        self.forger.send(&Packet::new(from, to, &words));
    }

    fn listen(&self) {
        let mut bytes = [0; 2048];
        while let Ok((length, _)) = self.socket.recv_from(&mut bytes) {
            self.counts.answered_bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
    }

    fn one_of_the_targets(&mut self) -> SocketAddrV4 {
        self.targets[self.chance.below(self.targets.len() as u64) as usize]
    }

    fn words(&mut self) -> Vec<u8> {
        const LONG: u8 = 0xc0;
        const SHORT: u8 = 0x40;
        let length = match self.chance.below(4) {
            0 => 1 + self.chance.below(40),
            _ => 41 + self.chance.below(1360),
        };
        let mut words = vec![0; length as usize];
        self.chance.fill(&mut words);
        match self.chance.below(6) {
            // Noise.
            0 => (),
            // As of a connection that is open.
            1 => words[0] = SHORT | words[0] & 0x3f,
            // As of a version that nobody speaks.
            2 => words[0] |= LONG,
            // As a handshake, or the beginning of one that makes no sense.
            3 => {
                words[0] |= LONG;
                let version = [0, 0, 0, 1, CID_BYTES as u8];
                words.iter_mut().skip(1).zip(version).for_each(|(word, byte)| *word = byte);
            }
            _ => words = self.initial(),
        }
        words
    }

    /// Sound: the first of a handshake, by somebody who shows no papers later, or nothing at all.
    fn initial(&mut self) -> Vec<u8> {
        let (mut to, mut from) = ([0; CID_BYTES], [0; CID_BYTES]);
        self.chance.fill(&mut to);
        self.chance.fill(&mut from);
        // initial_source_connection_id (RFC 9000 18.2).
        let parameters = [&[0x0f, CID_BYTES as u8], &from[..]].concat();
        let name = ServerName::try_from("node-0.test").expect("it is a name");
        let mut client = ClientConnection::new(self.tls.clone(), Version::V1, name, parameters)
            .expect("a handshake can begin");
        let mut hello = Vec::new();
        client.write_hs(&mut hello);

        // RFC 9000 17.2.2, with a packet number of four bytes and no token.
        let mut header = [&[0xc3, 0, 0, 0, 1, CID_BYTES as u8], &to[..]].concat();
        header.push(CID_BYTES as u8);
        header.extend(from);
        header.push(0);
        let number_at = header.len() + 2;
        let (number_bytes, tag_bytes) = (4, 16);
        let payload_bytes = INITIAL_BYTES - number_at - number_bytes - tag_bytes;
        header.extend(variable(INITIAL_BYTES - number_at));
        header.extend([0; 4]);
        // A CRYPTO frame, and PADDING.
        let mut payload = [&[0x06, 0], &variable(hello.len())[..], &hello].concat();
        payload.resize(payload_bytes, 0);

        let keys = self.suite.keys(&to, Side::Client, Version::V1).local;
        let tag = keys.packet.encrypt_in_place(0, &header, &mut payload);
        let tag = tag.expect("it can be sealed");
        let mut packet = [&header, &payload, tag.as_ref()].concat();
        let (first, rest) = packet.split_at_mut(1);
        let (number, sealed) = rest[number_at - 1..].split_at_mut(number_bytes);
        let sample = &sealed[..keys.header.sample_len()];
        keys.header.encrypt_in_place(sample, &mut first[0], number).expect("a sample is as long");
        packet
    }
}

/// A number below 16,384 in two bytes (RFC 9000 16).
fn variable(number: usize) -> [u8; 2] {
    let number = u16::try_from(number).expect("it is small");
    (0x4000 | number).to_be_bytes()
}
