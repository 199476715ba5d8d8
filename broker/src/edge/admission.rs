//! Who may begin a handshake: decided by the connection alone, before anything is read from it and
//! anything dear is done for it. Whoever is refused here costs an answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::Gauge;
use parking_lot::Mutex;
use posthorn_core::auth::throttle::{Throttle, TokenBucket};
use posthorn_core::proxies::Proxies;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::config::node::EdgeSettings;
use crate::descriptors::Shares;
use crate::edge::linger;
use crate::edge::places::{Addresses, Handshake, Places};
use crate::exchange::population::Population;
use crate::telemetry::Refused;

/// Those who were refused and are seen out: closed at once, with its request unread, a socket would
/// take the answer back. Further ones are.
const SEEN_OUT_MAX: usize = 1024;
/// For how long one look at the memory is good.
const MEMORY_LOOK: Duration = Duration::from_millis(100);

pub(super) struct Admission {
    connections_max: Option<u64>,
    /// Sockets of clients, handshakes included.
    sockets: Population,
    handshakes_max: Option<u64>,
    handshakes: Population,
    gauge: Gauge,
    rate: Option<(Throttle, Mutex<TokenBucket>)>,
    memory: Option<Memory>,
    pub(super) addresses: Option<Arc<Addresses>>,
    retry_after_max: Duration,
    seen_out: Arc<Semaphore>,
}

/// The memory of the process, and how much of it there may be before nobody else is let in.
struct Memory {
    bytes_max: u64,
    last: Mutex<(Option<Instant>, bool)>,
}

impl Admission {
    pub(super) fn new(settings: &EdgeSettings, shares: Shares, gauge: Gauge) -> Admission {
        let written = settings.connections_max.0;
        let connections_max = written.into_iter().chain(shares.clients).min();
        let rate = settings.connects_throttle();
        let callers = shares.callers.and_then(|callers| usize::try_from(callers).ok());
        let seen_out_max = callers.unwrap_or(SEEN_OUT_MAX).min(SEEN_OUT_MAX);
        Admission {
            connections_max,
            sockets: Population::default(),
            handshakes_max: settings.handshakes_max.0,
            handshakes: Population::default(),
            gauge,
            rate: rate.map(|rate| (rate, Mutex::new(TokenBucket::new(Instant::now())))),
            memory: settings.memory_bytes_max.0.map(Memory::new),
            addresses: settings.connections_per_address_max.0.map(Addresses::new),
            retry_after_max: settings.retry_after_max_s.0,
            seen_out: Arc::new(Semaphore::new(seen_out_max)),
        }
    }

    /// Whether one more may come from there. Behind a proxy are many, who are told apart later. The
    /// rate is asked last: who is refused for something else is not counted.
    pub(super) fn let_in(&self, address: IpAddr, proxies: &Proxies) -> Result<Places, Refused> {
        let node = self.sockets.enter(self.connections_max).ok_or(Refused::TooMany)?;
        if self.memory.as_ref().is_some_and(Memory::is_short) {
            return Err(Refused::Memory);
        }
        let handshake = self.handshakes.enter(self.handshakes_max);
        let handshake = handshake.ok_or(Refused::TooManyHandshakes)?;
        let addresses = self.addresses.as_ref().filter(|_| !proxies.trust(address));
        let address = addresses
            .map(|addresses| addresses.enter(address).ok_or(Refused::TooManyOfAddress))
            .transpose()?;
        if let Some((throttle, bucket)) = &self.rate {
            let taken = bucket.lock().take(Instant::now(), *throttle);
            taken.map_err(|_| Refused::TooFast)?;
        }
        let handshake = Some(Handshake::new(handshake, self.gauge.clone()));
        Ok(Places { _node: node, handshake, address, stage: None })
    }

    /// When who was refused should come again, in whole seconds: by chance, so that those who came
    /// together do not come together again.
    pub(super) fn retry_after_s(&self) -> u64 {
        let chance = getrandom::u64().unwrap_or_default();
        1 + chance % self.retry_after_max.as_secs().max(1)
    }

    /// Tells a client that it is refused, and sees it out.
    pub(super) fn turn_away(&self, stream: TcpStream, label: Refused, tasks: &TaskTracker) {
        let status = match label {
            Refused::TooManyOfAddress => "429 Too Many Requests",
            _ => "503 Service Unavailable",
        };
        let response = format!(
            "HTTP/1.1 {status}\r\nRetry-After: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.retry_after_s()
        );
        // A socket that was just opened has room for that.
        let _ = stream.try_write(response.as_bytes());
        if let Ok(place) = self.seen_out.clone().try_acquire_owned() {
            tasks.spawn(async move {
                let mut stream = stream;
                linger::end(&mut stream).await;
                drop(place);
            });
        }
    }
}

impl Memory {
    fn new(bytes_max: u64) -> Memory {
        Memory { bytes_max, last: Mutex::new((None, false)) }
    }

    fn is_short(&self) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock();
        let is_fresh = |looked: Instant| now.duration_since(looked) < MEMORY_LOOK;
        if !last.0.is_some_and(is_fresh) {
            // Where the system does not say, nobody is refused for that.
            *last = (Some(now), resident_bytes().is_some_and(|bytes| bytes > self.bytes_max));
        }
        last.1
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::Limit;

    #[test]
    fn the_process_knows_how_large_it_is() {
        let bytes = resident_bytes().expect("Linux says so");
        assert!(bytes > 1024 * 1024, "{bytes}");
        assert!(Memory::new(1).is_short());
        assert!(!Memory::new(1 << 50).is_short());
    }

    #[test]
    fn nobody_is_let_in_while_memory_is_short() {
        let memory_bytes_max = Limit(Some(1));
        let settings = EdgeSettings { memory_bytes_max, ..EdgeSettings::default() };
        let shares = Shares { clients: None, callers: None };
        let admission = Admission::new(&settings, shares, Gauge::noop());
        let entered = admission.let_in([127, 0, 0, 1].into(), &Proxies::default());
        assert_eq!(entered.err().map(|label| format!("{label:?}")).as_deref(), Some("Memory"));
    }

    #[test]
    fn who_is_refused_for_something_else_is_not_counted_by_the_rate() {
        let settings = EdgeSettings {
            connections_max: Limit(Some(1)),
            connects_per_s_max: Limit(Some(1)),
            connects_burst_max: Some(2),
            ..EdgeSettings::default()
        };
        let shares = Shares { clients: None, callers: None };
        let admission = Admission::new(&settings, shares, Gauge::noop());
        let enter = || {
            let entered = admission.let_in([127, 0, 0, 1].into(), &Proxies::default());
            entered.map_err(|label| format!("{label:?}"))
        };
        let first = enter();
        assert!(first.is_ok());
        for _ in 0..3 {
            assert_eq!(enter().err().as_deref(), Some("TooMany"));
        }
        drop(first);
        assert!(enter().is_ok(), "a token was left");
        assert_eq!(enter().err().as_deref(), Some("TooFast"));
        assert!((1..=10).contains(&admission.retry_after_s()));
    }
}
