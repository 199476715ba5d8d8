//! A link: our connection to one peer for one purpose. One task owns it, dials it when it is
//! wanted, and says how it stands.
//!
//! ```text
//!   Down --wanted--> dialing --> Up --lost--> Down
//!     ^                 |
//!     |              Failed: who asks is told at once
//!     +---- pause ------+
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use posthorn_core::ids::NodeId;
use quinn::{ConnectError, Connection, ConnectionError, Endpoint};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::common::Common;
use super::endpoint;
use super::hello::TurnedAway;
use super::peering::{Established, IntroductionError, OpenCount, Watch, introduce_as_dialer};
use super::stats::{Purpose, RefusalCause};
use super::tls::{TlsSetupError, Verdict};
use super::wire::CloseCode;

/// After a failure, and after a connection that lived for less than the longest pause.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Addresses that one name may lead to. Later ones are not tried.
const ADDRESSES_MAX: usize = 4;

/// Why there is no connection. Nothing was sent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// The peer's address is no address, or its name is not known just now.
    #[error("cannot resolve the address: {0}")]
    Unresolved(String),
    /// Nobody answered in time.
    #[error("no answer")]
    TimedOut,
    /// We do not work with who answered.
    #[error("we refused the peer: {0}")]
    Refused(TurnedAway),
    /// Who answered does not work with us. The cause, where its word for that is known.
    #[error("the peer refused us: {1}")]
    RefusedByPeer(Option<RefusalCause>, String),
    #[error("lost while connecting: {0}")]
    Lost(String),
    /// The caller's own deadline came first.
    #[error("not connected before the deadline")]
    Deadline,
    /// There are as many peers as there may be.
    #[error("too many peers")]
    TooManyPeers,
    /// This fabric is closed.
    #[error("closed")]
    Closed,
}

/// How others ask for the connection.
#[derive(Clone)]
pub(super) struct Link {
    /// The address at which it is wanted. Holds one wish, which is everyone's.
    wanted: mpsc::Sender<Arc<str>>,
    state: watch::Receiver<LinkState>,
}

enum LinkState {
    Down,
    Up(Established),
    /// No other attempt is made before then.
    Failed {
        error: DialError,
        until: Instant,
    },
}

struct LinkTask {
    common: Arc<Common>,
    endpoint: Endpoint,
    node: NodeId,
    purpose: Purpose,
    wanted: mpsc::Receiver<Arc<str>>,
    state: watch::Sender<LinkState>,
    /// In a row.
    failures: u32,
}

impl Link {
    pub(super) fn start(
        common: &Arc<Common>,
        endpoint: Endpoint,
        node: NodeId,
        purpose: Purpose,
    ) -> Link {
        let (wanted, wishes) = mpsc::channel(1);
        let (publisher, state) = watch::channel(LinkState::Down);
        let task = LinkTask {
            common: common.clone(),
            endpoint,
            node,
            purpose,
            wanted: wishes,
            state: publisher,
            failures: 0,
        };
        let closing = common.closing.clone();
        common.spawn(async move {
            closing.run_until_cancelled(task.run()).await;
        });
        Link { wanted, state }
    }

    /// The connection, dialed if need be. Fails at once while the peer is known to be out of reach.
    pub(super) async fn connection(
        &self,
        address: &Arc<str>,
        deadline: Instant,
    ) -> Result<Established, DialError> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                LinkState::Up(up) if up.connection.close_reason().is_none() => {
                    return Ok(up.clone());
                }
                LinkState::Failed { error, until } if Instant::now() < *until => {
                    return Err(error.clone());
                }
                LinkState::Up(_) | LinkState::Failed { .. } | LinkState::Down => {}
            }
            match self.wanted.try_send(address.clone()) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(DialError::Closed),
            }
            match timeout_at(deadline, state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(DialError::Closed),
                Err(_) => return Err(DialError::Deadline),
            }
        }
    }
}

impl LinkTask {
    async fn run(mut self) {
        while let Some(address) = self.wanted.recv().await {
            match self.dial(&address).await {
                Ok(established) => self.hold(established).await,
                Err(error) => self.fail(error).await,
            }
        }
    }

    async fn hold(&mut self, established: Established) {
        let since = Instant::now();
        let _open = OpenCount::new(&self.common.stats, self.purpose);
        self.common.stats.connections_dialed.of(self.purpose).add(1);
        let connection = established.connection.clone();
        tracing::info!(node = %self.node, purpose = self.purpose.label(), "reached a peer");
        let mut watch = Watch::new(&self.common, &established);
        self.state.send_replace(LinkState::Up(established));
        let error = tokio::select! {
            error = connection.closed() => error.to_string(),
            code = watch.verdict() => {
                connection.close(code.into(), b"");
                "closed".to_owned()
            }
        };
        tracing::info!(node = %self.node, purpose = self.purpose.label(), error, "lost a peer");
        // Whoever asked while it was up asks again when it is not.
        while self.wanted.try_recv().is_ok() {}
        if since.elapsed() < PAUSE_MAX {
            return self.pause(DialError::Lost(error)).await;
        }
        self.failures = 0;
        self.state.send_replace(LinkState::Down);
    }

    async fn fail(&mut self, error: DialError) {
        let (node, purpose) = (self.node, self.purpose.label());
        // A peer may be away for days. Its coming back is said, and so is the first failure.
        if self.failures == 0 {
            tracing::warn!(%node, purpose, %error, "cannot reach a peer");
        } else {
            tracing::debug!(%node, purpose, %error, "still cannot reach a peer");
        }
        self.common.stats.dials_failed.add(1);
        match &error {
            DialError::Refused(away) => self.common.stats.on_refused(away.cause),
            DialError::RefusedByPeer(Some(cause), reason) => {
                let away = TurnedAway { cause: *cause, reason: reason.clone() };
                self.common.refusals.on_refused(node, &away);
            }
            _ => (),
        }
        self.pause(error).await;
    }

    async fn pause(&mut self, error: DialError) {
        let until = Instant::now() + pause(self.failures, chance());
        self.failures = self.failures.saturating_add(1);
        self.state.send_replace(LinkState::Failed { error, until });
        sleep_until(until).await;
    }

    async fn dial(&self, address: &str) -> Result<Established, DialError> {
        let patience = self.common.settings.dial_timeout;
        let addresses = match timeout(patience, resolve(&self.common, address, ADDRESSES_MAX)).await
        {
            Ok(addresses) => addresses?,
            Err(_) => return Err(DialError::TimedOut),
        };
        // Each gets its share of the time, or one that is silent would use it up.
        let share = patience / u32::try_from(addresses.len()).unwrap_or(1).max(1);
        let mut last = DialError::Unresolved("no address of the right family".to_owned());
        for address in addresses {
            match timeout(share, self.dial_one(address)).await {
                Ok(Ok(established)) => {
                    return Ok(established);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = DialError::TimedOut,
            }
        }
        Err(last)
    }

    async fn dial_one(&self, address: SocketAddr) -> Result<Established, DialError> {
        let name = self.common.settings.cluster.node_name(self.node);
        let connection =
            connect(&self.common, &self.endpoint, self.purpose, address, &name).await?;
        introduce(&self.common, connection, self.node).await
    }
}

/// What a name leads to just now, as far as our socket can reach it.
pub(super) async fn resolve(
    common: &Common,
    address: &str,
    addresses_max: usize,
) -> Result<Vec<SocketAddr>, DialError> {
    let is_v6 = common.settings.listen.is_ipv6();
    let found = tokio::net::lookup_host(address)
        .await
        .map_err(|error| DialError::Unresolved(error.to_string()))?;
    Ok(found.filter(|found| is_v6 || found.is_ipv4()).take(addresses_max).collect())
}

/// Who answers has shown a certificate for the name: a node's, or the cluster's for any node of it.
pub(super) async fn connect(
    common: &Common,
    endpoint: &Endpoint,
    purpose: Purpose,
    address: SocketAddr,
    name: &str,
) -> Result<Connection, DialError> {
    let verdict = Verdict::default();
    let crypto = common.papers().client_config(purpose, verdict.clone())?;
    let config = endpoint::client_config(&common.settings, purpose, crypto);
    let connecting = endpoint.connect_with(config, address, name)?;
    connecting.await.map_err(|error| from_handshake(&error, verdict.get().copied()))
}

pub(super) async fn introduce(
    common: &Common,
    connection: Connection,
    node: NodeId,
) -> Result<Established, DialError> {
    introduce_as_dialer(common, connection, node).await.map_err(from_introduction)
}

impl From<ConnectError> for DialError {
    fn from(error: ConnectError) -> DialError {
        match error {
            ConnectError::EndpointStopping => DialError::Closed,
            error => DialError::Lost(error.to_string()),
        }
    }
}

impl From<TlsSetupError> for DialError {
    fn from(error: TlsSetupError) -> DialError {
        DialError::Lost(error.to_string())
    }
}

fn from_handshake(error: &ConnectionError, verdict: Option<RefusalCause>) -> DialError {
    if let Some(cause) = verdict {
        return DialError::Refused(TurnedAway { cause, reason: cause.label().replace('_', " ") });
    }
    from_connection(error)
}

fn from_introduction(error: IntroductionError) -> DialError {
    if let Some(lost) = error.connection_error() {
        return from_connection(lost);
    }
    match error {
        IntroductionError::Refused(away) => DialError::Refused(away),
        IntroductionError::Lost(lost) => DialError::Lost(lost.to_string()),
    }
}

fn from_connection(error: &ConnectionError) -> DialError {
    match error {
        ConnectionError::TimedOut => DialError::TimedOut,
        ConnectionError::LocallyClosed => DialError::Closed,
        // Its TLS complained of us.
        ConnectionError::ConnectionClosed(close) => {
            DialError::RefusedByPeer(None, close.to_string())
        }
        ConnectionError::ApplicationClosed(close) => {
            let is = |code: CloseCode| close.error_code == code.into();
            let cause = match () {
                () if is(CloseCode::RefusedVersion) => Some(RefusalCause::Version),
                () if is(CloseCode::RefusedCluster) => Some(RefusalCause::AnotherCluster),
                () if is(CloseCode::Refused) => None,
                () => return DialError::Lost(error.to_string()),
            };
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            DialError::RefusedByPeer(cause, reason)
        }
        ConnectionError::TransportError(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::Reset
        | ConnectionError::CidsExhausted => DialError::Lost(error.to_string()),
    }
}

/// Doubles with each failure, up to a cap, and is shortened by up to half by chance, so that those
/// who failed together do not try again together.
fn pause(failures: u32, chance: u64) -> Duration {
    let whole = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX);
    let permille = u32::try_from(chance % 501).unwrap_or(0);
    whole * (500 + permille) / 1000
}

/// Without luck the pause is merely not spread.
fn chance() -> u64 {
    getrandom::u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_cap_and_are_shortened_by_at_most_half() {
        for (failures, longest_ms) in [(0, 25), (1, 50), (5, 800), (6, 1000), (u32::MAX, 1000)] {
            let longest = Duration::from_millis(longest_ms);
            assert_eq!(pause(failures, 500), longest);
            assert_eq!(pause(failures, 0), longest / 2);
        }
    }
}
