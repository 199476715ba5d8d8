//! How many sockets there may be: at the node, of one address, of one stage.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use metrics::Gauge;
use parking_lot::Mutex;

use crate::exchange::population::Resident;

/// Of an IPv6 address: who has one has all that begin alike.
const IPV6_BITS: u32 = 64;

/// What a socket takes up for as long as it is open.
pub(super) struct Places {
    pub(super) _node: Resident,
    /// Until the handshake is over.
    pub(super) handshake: Option<Handshake>,
    /// Where addresses are limited.
    pub(super) address: Option<AddressPlace>,
    /// Once it is known which stage it wants.
    pub(super) stage: Option<Resident>,
}

/// A handshake under way.
pub(super) struct Handshake {
    _place: Resident,
    gauge: Gauge,
}

/// How many sockets each address has.
pub(super) struct Addresses {
    max: u64,
    /// Those that have any.
    counts: Mutex<BTreeMap<IpAddr, u64>>,
}

/// One socket of an address.
pub(super) struct AddressPlace {
    addresses: Arc<Addresses>,
    of: IpAddr,
}

impl Handshake {
    pub(super) fn new(place: Resident, gauge: Gauge) -> Handshake {
        gauge.increment(1);
        Handshake { _place: place, gauge }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.gauge.decrement(1);
    }
}

impl Addresses {
    pub(super) fn new(max: u64) -> Arc<Addresses> {
        Arc::new(Addresses { max, counts: Mutex::default() })
    }

    /// None where the address has as many as it may have.
    pub(super) fn enter(self: &Arc<Addresses>, address: IpAddr) -> Option<AddressPlace> {
        let of = prefix(address);
        let mut counts = self.counts.lock();
        let count = counts.entry(of).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(AddressPlace { addresses: self.clone(), of })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts.lock();
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let others = u128::MAX >> IPV6_BITS;
            Ipv6Addr::from_bits(address.to_bits() & !others).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let addresses = Addresses::new(2);
        let enter = |text: &str| addresses.enter(text.parse().expect("it is an address"));
        let (one, other) = (enter("192.0.2.1"), enter("::ffff:192.0.2.1"));
        assert!(one.is_some() && other.is_some());
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some(), "another address");
        drop(one);
        assert!(enter("192.0.2.1").is_some());
        drop(other);
        assert!(addresses.counts.lock().is_empty());

        let places = ["2001:db8::1", "2001:db8::2"].map(enter);
        assert!(places.iter().all(Option::is_some));
        assert!(enter("2001:db8::3").is_none(), "of the same network");
        assert!(enter("2001:db8:0:1::1").is_some());
    }
}
