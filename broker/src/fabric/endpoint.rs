//! The UDP socket and how QUIC is set up on it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AsyncTimer, AsyncUdpSocket, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, Runtime,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::task::TaskTracker;

use super::settings::FabricSettings;
use super::stats::Purpose;

/// Asked of the kernel, which may give less: a burst of datagrams should fit.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Strangers' first packets that wait to be looked at, and the bytes kept of them. More are
/// refused.
const INCOMING_MAX: usize = 256;
const INCOMING_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a peer may send ahead of its reader, on one stream and over all of a connection's.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// What we keep until the peer has it. Posts wait in their lanes rather than here: what has come
/// this far can no longer be taken back.
const POSTS_SEND_BYTES: u64 = 2 * 1024 * 1024;
const CONTROL_SEND_BYTES: u64 = 4 * 1024 * 1024;

/// Streams open to a peer that has not introduced itself.
const STRANGERS_STREAMS: u32 = 1;

/// Runs the library's tasks among our own, so that closing waits for them too.
struct TrackedRuntime {
    inner: TokioRuntime,
    tasks: TaskTracker,
}

pub(super) fn bind(
    settings: &FabricSettings,
    crypto: QuicServerConfig,
    reset_seed: &[u8; 32],
    tasks: TaskTracker,
) -> io::Result<Endpoint> {
    let runtime = Arc::new(TrackedRuntime { inner: TokioRuntime, tasks });
    let socket = bind_socket(settings.listen)?;
    let server = server_config(settings, crypto);
    Endpoint::new(endpoint_config(reset_seed), Some(server), socket, runtime)
}

pub(super) fn server_config(settings: &FabricSettings, crypto: QuicServerConfig) -> ServerConfig {
    let mut transport = transport(settings, Purpose::Posts);
    transport.max_concurrent_bidi_streams(STRANGERS_STREAMS.into());
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_MAX);
    // Tokens would spare a later connection the proof of its address; connections are few.
    config.validation_token.sent(0);
    config
}

pub(super) fn client_config(
    settings: &FabricSettings,
    purpose: Purpose,
    crypto: QuicClientConfig,
) -> ClientConfig {
    let mut transport = transport(settings, purpose);
    // Who dials opens the streams.
    transport
        .max_concurrent_bidi_streams(0_u32.into())
        .keep_alive_interval(Some(settings.keep_alive));
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    config
}

fn transport(settings: &FabricSettings, purpose: Purpose) -> TransportConfig {
    let idle = IdleTimeout::try_from(settings.idle_timeout).unwrap_or(VarInt::MAX.into());
    let send_bytes = match purpose {
        Purpose::Control => CONTROL_SEND_BYTES,
        Purpose::Posts => POSTS_SEND_BYTES,
    };
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(0_u32.into())
        .max_idle_timeout(Some(idle))
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(send_bytes)
        .datagram_receive_buffer_size(None);
    transport
}

/// A process that was killed cannot say goodbye. Its successor at the same address signs with the
/// same key that it knows nothing of its predecessor's connections, so that peers need not wait for
/// them to time out.
fn endpoint_config(reset_seed: &[u8; 32]) -> EndpointConfig {
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_seed);
    let cid_seed = ring::hmac::sign(&reset_key, b"posthorn connection ids");
    let mut cid_key = [0; 8];
    cid_key.copy_from_slice(&cid_seed.as_ref()[..8]);
    let cid_key = u64::from_le_bytes(cid_key);
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
    config
}

fn bind_socket(listen: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Smaller buffers only cost throughput.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

impl Runtime for TrackedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.inner.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.tasks.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.inner.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        self.inner.now()
    }
}

impl fmt::Debug for TrackedRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrackedRuntime").finish_non_exhaustive()
    }
}
