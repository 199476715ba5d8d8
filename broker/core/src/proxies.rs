//! Who a request comes from, where it comes through proxies.
//!
//! Anybody can write an `X-Forwarded-For` header, and every proxy adds to its end whom it was spoken to
//! by. So the list is read from its end, as far as those who wrote are believed: the first address that
//! is no proxy of ours is the client.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The addresses that begin with the same bits: `192.0.2.0/24`, `2001:db8::/32`, or one alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpBlock {
    address: IpAddr,
    bits: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one is an IP address, or one with / and how many bits of it count")]
pub struct NotAnIpBlock;

/// Proxies that are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(pub Vec<IpBlock>);

/// How a request came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub client: IpAddr,
    /// The client, and the proxies between it and us in their order.
    pub addresses: Vec<IpAddr>,
}

impl IpBlock {
    /// An IPv4 address is itself even if it comes as an IPv6 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let difference = own.to_bits() ^ other.to_bits();
                difference.leading_zeros() >= self.bits
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let difference = own.to_bits() ^ other.to_bits();
                difference.leading_zeros() >= self.bits
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for IpBlock {
    type Err = NotAnIpBlock;

    fn from_str(text: &str) -> Result<IpBlock, NotAnIpBlock> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotAnIpBlock)?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| NotAnIpBlock)?
            }
            Some(_) => return Err(NotAnIpBlock),
            None => bits_max,
        };
        (bits <= bits_max).then_some(IpBlock { address, bits }).ok_or(NotAnIpBlock)
    }
}

impl Proxies {
    pub fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|block| block.contains(address))
    }

    /// `forwarded_for` are the values of all `X-Forwarded-For` headers, in their order.
    pub fn chain<'a>(
        &self,
        peer: IpAddr,
        forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
    ) -> Chain {
        let mut client = peer.to_canonical();
        let mut addresses = vec![client];
        let mut written = forwarded_for.rev().flat_map(|value| value.rsplit(','));
        while self.trust(client) {
            let Some(before) = written.next().and_then(address) else { break };
            client = before;
            addresses.push(before);
        }
        addresses.reverse();
        Chain { client, addresses }
    }
}

/// As proxies write one, some with a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text.parse().or_else(|_| text.trim_matches(['[', ']']).parse());
    let address = alone.or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_addresses_that_begin_alike() {
        for (block, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "255.0.0.1", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.0.0.0"),
        ] {
            let parsed: IpBlock = block.parse().expect(block);
            assert!(parsed.contains(ip(inside)), "{inside} in {block}");
            assert!(!parsed.contains(ip(outside)), "{outside} not in {block}");
        }
        for bad in ["", "a", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "::/129", "10.0.0", "1/1/1"]
        {
            assert_eq!(bad.parse::<IpBlock>(), Err(NotAnIpBlock), "{bad}");
        }
    }

    #[test]
    fn a_list_is_believed_as_far_as_our_proxies_wrote_it() {
        for (peer, written, expected) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.1"], "192.0.2.1 10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, 192.0.2.1,10.0.0.2"], "192.0.2.1 10.0.0.2 10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9", "192.0.2.1", "10.0.0.2"], "192.0.2.1 10.0.0.2 10.0.0.1"),
            ("::ffff:10.0.0.1", &["192.0.2.1:4711"], "192.0.2.1 10.0.0.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1 10.0.0.1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1 10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, ' OR 1"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, "], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3 10.0.0.2 10.0.0.1"),
        ] {
            let proxies = Proxies(vec!["10.0.0.0/8".parse().expect("a block")]);
            let Chain { client, addresses } = proxies.chain(ip(peer), written.iter().copied());
            assert_eq!(addresses.first(), Some(&client));
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            assert_eq!(addresses.join(" "), expected, "{peer} {written:?}");
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("it is an address")
    }
}
