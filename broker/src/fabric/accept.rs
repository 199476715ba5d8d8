//! The accepting side: who may come in, and what is done with the streams of those who did.

use std::sync::Arc;

use posthorn_core::ids::NodeId;
use quinn::{Connection, ConnectionError, Endpoint, Incoming};
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::common::Common;
use super::control::{self, ControlService};
use super::endpoint;
use super::peering::{Established, IntroductionError, OpenCount, Watch, introduce_as_acceptor};
use super::posts::Sessions;
use super::stats::{Purpose, RefusalCause};
use super::tls::{Papers, Verdict};

/// Streams open on a posts connection: a lane's old stream may linger while its new one opens.
const POSTS_STREAMS_MAX: u32 = 16;

/// A TLS alert (RFC 8446) as QUIC carries it (RFC 9001).
const ALERT_CERTIFICATE_REQUIRED: u64 = 0x100 + 116;

pub(super) struct Acceptor {
    pub(super) common: Arc<Common>,
    pub(super) endpoint: Endpoint,
    pub(super) control: Arc<dyn ControlService>,
    pub(super) sessions: Arc<Sessions>,
    /// Connections being accepted. More are refused.
    handshakes: Arc<Semaphore>,
    /// Connections that were accepted. More are refused.
    connections: Arc<Semaphore>,
}

/// Why nobody came in.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error("{}", .0.label())]
    Refused(RefusalCause),
    /// The other side gave up, or turned us away itself.
    #[error("{0}")]
    Lost(ConnectionError),
    #[error("{0}")]
    Introduction(#[from] IntroductionError),
}

impl Acceptor {
    pub(super) fn new(
        common: &Arc<Common>,
        endpoint: Endpoint,
        control: Arc<dyn ControlService>,
        sessions: Arc<Sessions>,
    ) -> Acceptor {
        let limits = &common.settings.limits;
        Acceptor {
            common: common.clone(),
            endpoint,
            control,
            sessions,
            handshakes: Arc::new(Semaphore::new(limits.handshakes_max)),
            connections: Arc::new(Semaphore::new(limits.connections_max)),
        }
    }

    pub(super) async fn run(self) {
        let acceptor = Arc::new(self);
        let closing = acceptor.common.closing.clone();
        loop {
            let incoming = tokio::select! {
                () = closing.cancelled() => return,
                incoming = acceptor.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            acceptor.admit(incoming);
        }
    }

    fn admit(self: &Arc<Self>, incoming: Incoming) {
        let stats = &self.common.stats;
        let handshakes_max = self.common.settings.limits.handshakes_max;
        // A forged address can take no more than a quarter of the room.
        let is_busy = self.handshakes.available_permits() <= handshakes_max - handshakes_max / 4;
        if is_busy && !incoming.remote_address_validated() && incoming.may_retry() {
            stats.retries_demanded.add(1);
            // It may be retried, as was just asked.
            let _ = incoming.retry();
            return;
        }
        let Ok(handshake) = self.handshakes.clone().try_acquire_owned() else {
            stats.on_refused(RefusalCause::TooMany);
            return incoming.refuse();
        };
        let Ok(place) = self.connections.clone().try_acquire_owned() else {
            stats.on_refused(RefusalCause::TooMany);
            return incoming.refuse();
        };
        let acceptor = self.clone();
        self.common.spawn(acceptor.receive(incoming, handshake, place));
    }

    async fn receive(
        self: Arc<Self>,
        incoming: Incoming,
        handshake: OwnedSemaphorePermit,
        place: OwnedSemaphorePermit,
    ) {
        let remote = incoming.remote_address();
        let patience = self.common.settings.dial_timeout;
        let welcomed = timeout(patience, self.welcome(incoming)).await;
        drop(handshake);
        let stats = &self.common.stats;
        let error = match welcomed {
            Ok(Ok((purpose, established))) => {
                stats.connections_accepted.of(purpose).add(1);
                self.hold(purpose, established).await;
                drop(place);
                return;
            }
            Ok(Err(error)) => error,
            Err(_) => AcceptError::Refused(RefusalCause::FailedHandshake),
        };
        match &error {
            AcceptError::Introduction(IntroductionError::Refused(away)) => {
                stats.on_refused(away.cause);
                tracing::warn!(%remote, %error, "a node was refused");
                return;
            }
            AcceptError::Refused(cause) => stats.on_refused(*cause),
            AcceptError::Lost(_) | AcceptError::Introduction(IntroductionError::Lost(_)) => {}
        }
        // Anyone can bring this about, as often as they like: it is counted, and no more.
        tracing::debug!(%remote, %error, "a connection was not accepted");
    }

    async fn welcome(&self, incoming: Incoming) -> Result<(Purpose, Established), AcceptError> {
        let failed = |_| AcceptError::Refused(RefusalCause::FailedHandshake);
        let verdict = Verdict::default();
        let papers = self.common.papers();
        let crypto = papers.server_config(verdict.clone()).map_err(failed)?;
        let config = endpoint::server_config(&self.common.settings, crypto);
        let from_handshake = |error| from_handshake(error, verdict.get().copied());
        let connecting = incoming.accept_with(Arc::new(config)).map_err(from_handshake)?;
        let connection = connecting.await.map_err(from_handshake)?;
        let purpose =
            purpose_of(&connection).ok_or(AcceptError::Refused(RefusalCause::FailedHandshake))?;
        let node = holder_of(&connection, &papers).map_err(AcceptError::Refused)?;
        let established = introduce_as_acceptor(&self.common, connection, node).await?;
        Ok((purpose, established))
    }

    async fn hold(&self, purpose: Purpose, established: Established) {
        let _open = OpenCount::new(&self.common.stats, purpose);
        let mut watch = Watch::new(&self.common, &established);
        let connection = established.connection.clone();
        tokio::select! {
            () = self.serve(purpose, established) => {}
            code = watch.verdict() => connection.close(code.into(), b""),
        }
    }

    /// Takes streams until the connection is over. What runs for a stream goes on to its own end.
    async fn serve(&self, purpose: Purpose, Established { connection, peer, .. }: Established) {
        let limits = &self.common.settings.limits;
        let streams_max = match purpose {
            Purpose::Control => limits.streams_max,
            Purpose::Posts => POSTS_STREAMS_MAX,
        };
        connection.set_max_concurrent_bi_streams(streams_max.into());
        let room = Arc::new(Semaphore::new(limits.call_bytes_held_max));
        while let Ok(streams) = connection.accept_bi().await {
            let closing = self.common.closing.clone();
            let peer = peer.clone();
            match purpose {
                Purpose::Control => {
                    let (common, service) = (self.common.clone(), self.control.clone());
                    let answer = control::serve(common, service, room.clone(), peer, streams);
                    self.common.spawn(async move {
                        closing.run_until_cancelled(answer).await;
                    });
                }
                Purpose::Posts => {
                    let attach = self.sessions.clone().attach(peer, streams);
                    self.common.spawn(async move {
                        closing.run_until_cancelled(attach).await;
                    });
                }
            }
        }
    }
}

fn purpose_of(connection: &Connection) -> Option<Purpose> {
    let data = connection.handshake_data()?;
    let data = data.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    Purpose::from_alpn(data.protocol.as_deref()?)
}

pub(super) fn holder_of(connection: &Connection, papers: &Papers) -> Result<NodeId, RefusalCause> {
    let chain = connection.peer_identity().ok_or(RefusalCause::NoCertificate)?;
    let chain = chain
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| RefusalCause::FailedHandshake)?;
    papers.holder(chain.first().ok_or(RefusalCause::NoCertificate)?)
}

fn from_handshake(error: ConnectionError, verdict: Option<RefusalCause>) -> AcceptError {
    if let Some(cause) = verdict {
        return AcceptError::Refused(cause);
    }
    match &error {
        // Ours, since the peer's would have closed the connection.
        ConnectionError::TransportError(ours) => match u64::from(ours.code) {
            ALERT_CERTIFICATE_REQUIRED => AcceptError::Refused(RefusalCause::NoCertificate),
            _ => AcceptError::Refused(RefusalCause::FailedHandshake),
        },
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => AcceptError::Lost(error),
    }
}
