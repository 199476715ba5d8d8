//! Where clients connect: listeners, handshakes, one task a connection.

mod admission;
mod head;
mod linger;
mod opening;
mod places;
mod session;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use posthorn_core::connection::Limits;
use posthorn_core::frames::FrameLimits;
use posthorn_core::proxies::Proxies;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::config::node::EdgeSettings;
use crate::descriptors::{AcceptPause, Shares};
use crate::edge::admission::Admission;
use crate::edge::head::HeadLimits;
use crate::edge::places::Places;
use crate::edge::session::Pace;
use crate::exchange::Gateway;
use crate::telemetry::Refused;
use crate::tls::ServerTls;

const BACKLOG: u32 = 4096;
/// What is spoken above TLS (ALPN): a WebSocket begins as HTTP/1.1.
pub(crate) const PROTOCOLS: &[&str] = &["http/1.1"];

/// The settings of the edge, believed, and what its tasks share.
pub(crate) struct Edge {
    gateway: Arc<Gateway>,
    /// None is plain text.
    tls: Option<Arc<ServerTls>>,
    limits: Arc<Limits>,
    head_limits: HeadLimits,
    frame_limits: Arc<FrameLimits>,
    pace: Arc<Pace>,
    handshake_timeout: Duration,
    lifetime_max: Option<Duration>,
    lifetime_jitter_percent: u8,
    admission: Admission,
    proxies: Proxies,
}

/// Who connected, and where.
#[derive(Debug, Clone, Copy)]
struct Peer {
    address: SocketAddr,
    local: SocketAddr,
    /// Over TLS.
    is_secure: bool,
}

impl Edge {
    pub(crate) fn new(
        settings: &EdgeSettings,
        tls: Option<Arc<ServerTls>>,
        gateway: Arc<Gateway>,
        shares: Shares,
    ) -> Arc<Edge> {
        let handshakes = gateway.metrics().edge.handshakes.clone();
        Arc::new(Edge {
            admission: Admission::new(settings, shares, handshakes),
            gateway,
            tls,
            limits: Arc::new(Limits {
                idle_max: settings.idle_timeout_s.0.map(|idle| idle.0),
                ping_interval: settings.ping_interval_s.0.map(|interval| interval.0),
                pong_max: settings.pong_timeout_s.0,
                closing_max: settings.close_timeout_ms.0,
                in_flight_max: settings.messages_in_flight_max,
            }),
            head_limits: HeadLimits {
                header_bytes_max: settings.header_bytes_max as usize,
                url_bytes_max: settings.url_bytes_max as usize,
            },
            frame_limits: Arc::new(FrameLimits {
                message_bytes_max: settings.message_bytes_max.0,
                frame_bytes_max: settings.frame_bytes_max.0,
                fragments_max: settings.fragments_max.0,
            }),
            pace: Arc::new(Pace {
                message_max: settings.message_timeout_ms.0.map(|timeout| timeout.0),
                control_frames_per_s_max: settings.control_frames_per_s_max.0,
            }),
            handshake_timeout: settings.handshake_timeout_ms.0,
            lifetime_max: settings.lifetime_s.0.map(|lifetime| lifetime.0),
            lifetime_jitter_percent: settings.lifetime_jitter_percent,
            proxies: settings.trusted_proxies.clone(),
        })
    }

    /// Accepts connections until told to stop. The connections themselves go on.
    pub(crate) async fn serve(
        self: Arc<Edge>,
        listener: TcpListener,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let mut pause = AcceptPause::default();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    pause.on_accepted();
                    self.clone().accept(stream, address, &tasks);
                }
                Err(error) => pause.wait(&error).await,
            }
        }
    }

    fn accept(self: Arc<Edge>, stream: TcpStream, address: SocketAddr, tasks: &TaskTracker) {
        let places = match self.admission.let_in(address.ip(), &self.proxies) {
            Ok(places) => places,
            Err(label) => {
                self.gateway.metrics().edge.refused.at(label).increment(1);
                // Over TLS, an answer would cost as much as letting it in.
                if self.tls.is_none() {
                    self.admission.turn_away(stream, label, tasks);
                }
                return;
            }
        };
        let Ok(local) = stream.local_addr() else { return };
        // Messages are small and are to leave at once.
        let _ = stream.set_nodelay(true);
        let deadline = Instant::now() + self.handshake_timeout;
        let peer = Peer { address, local, is_secure: self.tls.is_some() };
        let tracker = tasks.clone();
        // Two tasks of two sizes: who comes in plain text does not pay for TLS.
        match self.tls.as_ref().map(|tls| tls.acceptor()) {
            None => tasks.spawn(self.open(stream, peer, deadline, tracker, places)),
            Some(acceptor) => tasks.spawn(async move {
                if let Some(stream) = shake_hands(&self, acceptor, stream, deadline).await {
                    self.open(stream, peer, deadline, tracker, places).await;
                }
            }),
        };
    }

    async fn open<S>(
        self: Arc<Edge>,
        stream: S,
        peer: Peer,
        deadline: Instant,
        tasks: TaskTracker,
        mut places: Places,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let session = opening::open(&self, stream, peer, deadline, &mut places).await;
        places.handshake = None;
        if let Some(mut session) = session {
            // A task of its own, so that what the handshake needed is not kept beside it.
            tasks.spawn(async move {
                session.run().await;
                drop(session);
                drop(places);
            });
        }
    }

    /// How long a connection may live, shortened by chance.
    fn random_lifetime(&self) -> Option<Duration> {
        let lifetime = self.lifetime_max?;
        let parts = u64::from(self.lifetime_jitter_percent) * 1000;
        let chance = getrandom::u64().unwrap_or_default() % (parts + 1);
        Some(lifetime - lifetime * chance as u32 / 100_000)
    }
}

/// The handshake of TLS. None where it came to nothing: the client was told by an alert.
async fn shake_hands(
    edge: &Edge,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    deadline: Instant,
) -> Option<TlsStream<TcpStream>> {
    let refused = &edge.gateway.metrics().edge.refused;
    match tokio::time::timeout_at(deadline, acceptor.accept(stream).into_fallible()).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err((error, mut stream))) => {
            debug!(%error, "a TLS handshake failed");
            refused.at(Refused::Tls).increment(1);
            linger::end(&mut stream).await;
            None
        }
        Err(_) => {
            refused.at(Refused::TimedOut).increment(1);
            None
        }
    }
}

/// Opens the listener of the edge.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // A restarted node must not wait for its old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
