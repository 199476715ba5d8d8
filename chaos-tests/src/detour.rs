//! The way that datagrams between nodes take where it is not enough that they are lost: they come late,
//! twice, spoilt, again, or as from elsewhere.
//!
//! The switch loses all of them (the [hosts](crate::hosts) see to that). A thread in its network
//! namespace sees each before, and sends on what a trick makes of it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::chance::Chance;
use crate::hosts::{FABRIC_PORT, enter};
use crate::packet::{Packet, Sender, TTL};

/// What is done to datagrams between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trick {
    /// Three of four come so much later, more or less. The fourth comes at once.
    Delay { mean: Duration, spread: Duration },
    /// Each comes twice.
    Double,
    /// So many of a hundred have another byte somewhere.
    Spoil(u8),
    /// Behind each comes one that came before from the same node to the same.
    Replay,
    /// Who dials is seen at a port that is another after so many datagrams, as behind a router that
    /// forgets: what is for an earlier port is lost.
    Rebind(u32),
    /// So many of a hundred are lost, and their senders told that nobody listens there.
    Refuse(u8),
}

/// Dropping it ends it. What is late is lost.
pub(crate) struct Detour {
    stop: Arc<AtomicBool>,
    played: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

struct Player {
    trick: Trick,
    chance: Chance,
    played: Arc<AtomicU64>,
    /// By who sent them to whom: so many, any of those that came.
    old: BTreeMap<(SocketAddrV4, SocketAddrV4), Vec<Packet>>,
}

/// In the order in which they are due. Numbers tell those apart that are due at once.
type Late = BTreeMap<(Instant, u64), Packet>;

/// Above it, one that was kept gives way.
const OLD_MAX: usize = 4096;

/// The first port that a dialer is seen at.
const PORT_MIN: u16 = 20_000;

impl Detour {
    /// # Panics
    ///
    /// If the namespace cannot be entered, or its datagrams not be seen.
    pub(crate) fn open(namespace: &str, trick: Trick) -> Detour {
        let (stop, played) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let (chance, old) = (Chance::new(0), BTreeMap::new());
        let player = Player { trick, chance, played: played.clone(), old };
        let (namespace, stopped) = (namespace.to_owned(), stop.clone());
        let (opened, is_open) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let eye = open_eye().expect("what passes can be seen");
            let sender = Sender::open().expect("packets can be sent");
            opened.send(()).expect("somebody waits for it");
            player.run(&eye, &sender, &stopped);
        });
        is_open.recv().expect("a detour opens");
        Detour { stop, played, thread: Some(thread) }
    }

    /// How many datagrams it was played on.
    pub(crate) fn played(&self) -> u64 {
        self.played.load(Ordering::Relaxed)
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Where it panicked, it has said so.
            let _ = thread.join();
        }
    }
}

impl Player {
    fn run(mut self, mut eye: &Socket, sender: &Sender, stopped: &AtomicBool) {
        let mut late = Late::new();
        let mut bytes = vec![0; usize::from(u16::MAX)];
        let mut number = 0;
        while !stopped.load(Ordering::Relaxed) {
            let now = Instant::now();
            while let Some(first) = late.first_entry()
                && first.key().0 <= now
            {
                sender.send(&first.remove());
            }
            let due = late.keys().next().map(|(due, _)| *due - now);
            let patience = Duration::from_millis(20);
            let patience =
                due.map_or(patience, |due| due.clamp(Duration::from_millis(1), patience));
            eye.set_read_timeout(Some(patience)).expect("a wait is short");
            // Nothing came.
            let Ok(length) = eye.read(&mut bytes) else { continue };
            let Some(packet) = Packet::read(&bytes[..length]) else { continue };
            for (after, packet) in self.play(packet) {
                number += 1;
                late.insert((now + after, number), packet);
            }
        }
    }

    /// What comes of it, and after how long.
    fn play(&mut self, packet: Packet) -> Vec<(Duration, Packet)> {
        match self.trick {
            Trick::Delay { mean, spread } => {
                if self.chance.below(4) == 0 {
                    return vec![(Duration::ZERO, packet)];
                }
                let part = self.chance.below(2001) as f64 / 1000.0;
                self.count();
                vec![(mean - spread + spread.mul_f64(part), packet)]
            }
            Trick::Double => {
                self.count();
                let after = Duration::from_millis(self.chance.below(20));
                vec![(Duration::ZERO, packet.clone()), (after, packet)]
            }
            Trick::Spoil(percent) => {
                let mut packet = packet;
                let payload = packet.payload_mut();
                if self.chance.below(100) < u64::from(percent) && !payload.is_empty() {
                    let place = self.chance.below(payload.len() as u64) as usize;
                    payload[place] ^= 1 + self.chance.below(255) as u8;
                    self.count();
                }
                vec![(Duration::ZERO, packet)]
            }
            Trick::Replay => self.replay(packet),
            Trick::Rebind(every) => self.rebind(packet, every),
            Trick::Refuse(percent) => {
                if self.chance.below(100) >= u64::from(percent) {
                    return vec![(Duration::ZERO, packet)];
                }
                self.count();
                vec![(Duration::ZERO, packet.refusal())]
            }
        }
    }

    fn replay(&mut self, packet: Packet) -> Vec<(Duration, Packet)> {
        let old = self.old.entry((packet.from(), packet.to())).or_default();
        let again = match old.len() as u64 {
            0 => None,
            kept => Some(old[self.chance.below(kept) as usize].clone()),
        };
        if old.len() < OLD_MAX {
            old.push(packet.clone());
        } else {
            old[self.chance.below(OLD_MAX as u64) as usize] = packet.clone();
        }
        if again.is_some() {
            self.count();
        }
        [Some(packet), again].into_iter().flatten().map(|packet| (Duration::ZERO, packet)).collect()
    }

    fn rebind(&mut self, packet: Packet, every: u32) -> Vec<(Duration, Packet)> {
        let mut packet = packet;
        let seen_at = self.played.load(Ordering::Relaxed) / u64::from(every) % 40_000;
        let seen_at = PORT_MIN + u16::try_from(seen_at).expect("it is less");
        match packet.to().port() {
            FABRIC_PORT => {
                packet.set_ports(seen_at, FABRIC_PORT);
                self.count();
            }
            port if port == seen_at => packet.set_ports(FABRIC_PORT, FABRIC_PORT),
            _ => return Vec::new(),
        }
        vec![(Duration::ZERO, packet)]
    }

    fn count(&self) {
        self.played.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sees each datagram of a node's fabric as it comes to the switch, and none that was sent here.
fn open_eye() -> std::io::Result<Socket> {
    const ETH_P_ALL: u16 = 3;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(IF_EQUAL, 0, 7, 0x45),
        SockFilter::new(LOAD_BYTE, 0, 0, 9),
        SockFilter::new(IF_EQUAL, 0, 5, 17),
        SockFilter::new(LOAD_BYTE, 0, 0, 8),
        SockFilter::new(IF_EQUAL, 3, 0, TTL.into()),
        SockFilter::new(LOAD_HALF, 0, 0, 20),
        SockFilter::new(IF_EQUAL, 0, 1, FABRIC_PORT.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let eye = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    eye.attach_filter(&filter)?;
    Ok(eye)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::net::{SocketAddr, UdpSocket};

    use super::*;
    use crate::PATIENCE;
    use crate::hosts::{Host, Hosts};

    const COUNT: u8 = 95;
    type Received = Vec<(Vec<u8>, SocketAddr)>;

    /// Two hosts, and a socket at the fabric of each.
    struct Street {
        hosts: Hosts,
        here: UdpSocket,
        there: UdpSocket,
    }

    #[test]
    fn each_trick_does_what_it_says() {
        let Some(hosts) = Hosts::build(2) else { return };
        let [here, there] = [0, 1].map(|node| socket(&hosts, node));
        let street = Street { hosts, here, there };
        late_ones_overtake_each_other(&street);
        doubles_come_twice(&street);
        the_spoilt_differ_in_a_byte(&street);
        old_ones_come_again(&street);
        who_is_rebound_is_answered(&street);
        the_refused_are_told(&street);
    }

    fn late_ones_overtake_each_other(street: &Street) {
        let (mean, spread) = (Duration::from_millis(50), Duration::from_millis(50));
        let mut received = street.play(Trick::Delay { mean, spread }, COUNT.into());
        assert!(!received.is_sorted());
        received.sort();
        assert_eq!(bytes(&received), street.sent());
    }

    fn doubles_come_twice(street: &Street) {
        let mut received = street.play(Trick::Double, 2 * usize::from(COUNT));
        received.sort();
        let twice = street.sent().into_iter().flat_map(|sent| [sent.clone(), sent]);
        assert_eq!(bytes(&received), twice.collect::<Vec<_>>());
    }

    fn the_spoilt_differ_in_a_byte(street: &Street) {
        let received = street.play(Trick::Spoil(100), COUNT.into());
        for (received, sent) in bytes(&received).iter().zip(street.sent()) {
            assert_eq!(received.len(), sent.len());
            assert_eq!(received.iter().zip(&sent).filter(|(one, other)| one != other).count(), 1);
        }
    }

    fn old_ones_come_again(street: &Street) {
        let received = street.play(Trick::Replay, 2 * usize::from(COUNT) - 1);
        let known: BTreeSet<_> = bytes(&received).into_iter().collect();
        assert_eq!(known.into_iter().collect::<Vec<_>>(), street.sent());
    }

    fn who_is_rebound_is_answered(street: &Street) {
        street.hosts.play(Trick::Rebind(10));
        let received = street.exchange(COUNT.into());
        let ports: BTreeSet<_> = received.iter().map(|(_, from)| from.port()).collect();
        assert_eq!(ports.len(), 10);
        let first = SocketAddr::new(received[0].1.ip(), PORT_MIN);
        for (answer, to) in [(b"early", first), (b"later", received[COUNT as usize - 1].1)] {
            street.there.send_to(answer, to).expect("it can be sent");
        }
        let mut answer = [0; 5];
        let (_, from) = street.here.recv_from(&mut answer).expect("an answer");
        assert_eq!((&answer, from), (b"later", street.there.local_addr().expect("an address")));
        street.hosts.heal();
    }

    fn the_refused_are_told(street: &Street) {
        street.hosts.play(Trick::Refuse(100));
        street.here.connect(street.there.local_addr().expect("an address")).expect("it can be");
        street.here.send(b"anybody?").expect("it can be sent");
        let told = street.here.recv(&mut [0; 8]).expect_err("nobody is there");
        assert_eq!(told.kind(), ErrorKind::ConnectionRefused);
        street.hosts.heal();
    }

    impl Street {
        /// What arrives over there of what is sent from here.
        fn play(&self, trick: Trick, count: usize) -> Received {
            self.hosts.play(trick);
            let received = self.exchange(count);
            self.hosts.heal();
            received
        }

        fn exchange(&self, count: usize) -> Received {
            let to = self.there.local_addr().expect("a socket has an address");
            for sent in self.sent() {
                self.here.send_to(&sent, to).expect("it can be sent");
            }
            let mut buffer = [0; 2048];
            let receive = |_| {
                let (length, from) = self.there.recv_from(&mut buffer).expect("it comes");
                (buffer[..length].to_vec(), from)
            };
            (0..count).map(receive).collect()
        }

        fn sent(&self) -> Vec<Vec<u8>> {
            (0..COUNT).map(|number| vec![number; 100]).collect()
        }
    }

    fn bytes(received: &Received) -> Vec<Vec<u8>> {
        received.iter().map(|(bytes, _)| bytes.clone()).collect()
    }

    fn socket(hosts: &Hosts, node: usize) -> UdpSocket {
        let host = Host::Node(node);
        let (namespace, address) = (hosts.namespace(host), hosts.fabric_address(host));
        let bind = || {
            enter(&namespace);
            UdpSocket::bind((address, FABRIC_PORT)).expect("the port is free")
        };
        let socket = std::thread::scope(|scope| scope.spawn(bind).join()).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("it may wait");
        socket
    }
}
