//! UDP over IPv4, byte by byte, for whoever sends what no socket of the system would: as another, or
//! again. Without options and fragments, since nodes send neither.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

/// By which what was sent here is known from what others send: theirs begins at 64 and is nowhere routed.
pub(crate) const TTL: u8 = 63;

const IP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const VERSION_AND_LENGTH: u8 = 0x45;
const ICMP: u8 = 1;
const UDP: u8 = 17;
const PORT_UNREACHABLE: [u8; 2] = [3, 3];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet(Vec<u8>);

/// Sends packets as they are. What is sent goes to the host that has the address.
pub(crate) struct Sender(Socket);

impl Packet {
    pub(crate) fn new(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Packet {
        let mut bytes = header(UDP, *from.ip(), *to.ip());
        let length = u16::try_from(UDP_BYTES + payload.len()).expect("a datagram is short");
        for field in [from.port(), to.port(), length, 0] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend(payload);
        Packet(bytes)
    }

    /// A datagram as it came. None if it is none.
    pub(crate) fn read(bytes: &[u8]) -> Option<Packet> {
        let is_datagram = bytes.len() >= IP_BYTES + UDP_BYTES
            && (bytes[0], bytes[9]) == (VERSION_AND_LENGTH, UDP);
        if !is_datagram {
            return None;
        }
        let mut packet = Packet(bytes.to_vec());
        packet.0[8] = TTL;
        // None: its sender leaves the checksum to a network card, and it may not stay as it is.
        packet.0[26..28].fill(0);
        Some(packet)
    }

    /// What the destination says where nobody listens.
    pub(crate) fn refusal(&self) -> Packet {
        let mut bytes = header(ICMP, *self.to().ip(), *self.from().ip());
        bytes.extend(PORT_UNREACHABLE);
        bytes.extend([0; 6]);
        bytes.extend(&self.0[..IP_BYTES + UDP_BYTES]);
        let words =
            bytes[IP_BYTES..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("it was folded");
        bytes[IP_BYTES + 2..IP_BYTES + 4].copy_from_slice(&checksum.to_be_bytes());
        Packet(bytes)
    }

    pub(crate) fn from(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip(12), self.port(20))
    }

    pub(crate) fn to(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip(16), self.port(22))
    }

    pub(crate) fn set_ports(&mut self, from: u16, to: u16) {
        self.0[20..22].copy_from_slice(&from.to_be_bytes());
        self.0[22..24].copy_from_slice(&to.to_be_bytes());
    }

    pub(crate) fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.0[IP_BYTES + UDP_BYTES..]
    }

    fn ip(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3])
    }

    fn port(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }
}

impl Sender {
    /// In the network namespace of the thread.
    pub(crate) fn open() -> io::Result<Sender> {
        const RAW: i32 = 255;
        Ok(Sender(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?))
    }

    /// Whatever cannot be sent is lost, as on any network.
    pub(crate) fn send(&self, packet: &Packet) {
        let _ = self.0.send_to(&packet.0, &SocketAddrV4::new(packet.ip(16), 0).into());
    }
}

/// The system fills in the length and the checksum.
fn header(protocol: u8, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0; IP_BYTES];
    (bytes[0], bytes[8], bytes[9]) = (VERSION_AND_LENGTH, TTL, protocol);
    bytes[12..16].copy_from_slice(&from.octets());
    bytes[16..20].copy_from_slice(&to.octets());
    bytes
}
