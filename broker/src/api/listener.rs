//! The sockets of the API: HTTP/1.1 and HTTP/2 at one port, told apart by their first bytes.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::Service as _;
use tracing::debug;

use crate::api::callers::Certified;
use crate::descriptors::{AcceptPause, Shares};
use crate::tls::{ServerTls, client_names};

/// What one HTTP/2 connection may have open at once.
const STREAMS_MAX: u32 = 1024;
/// A request's headers, in both versions.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// What one caller may have sent that was not read yet, on one stream and in all. The library holds
/// thousands of small frames that wait for an attack, the more of them the larger the second is; a
/// stream of posts with a frame each, as some callers send it, must fill the first before that.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Between two Pings of HTTP/2.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the head of a request of HTTP/1.1 may take, from the end of the last one on: idle
/// connections end by it, too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take to say which version it speaks.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// RFC 9113 section 3.4: as long as the first line of a request of HTTP/1.1 is at least.
const PREFACE_BYTES: usize = 24;
/// Open connections, where the system allows them. Further ones wait in its backlog.
const CONNECTIONS_MAX: u64 = 8192;

/// The listener and all that its connections share.
pub(super) struct Door {
    builder: Builder<TokioExecutor>,
    router: Router,
    tls: Option<Arc<ServerTls>>,
    /// None is as many as come.
    callers_max: Option<u64>,
    tasks: TaskTracker,
    ending: CancellationToken,
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remote(pub(super) IpAddr);

impl Door {
    pub(super) fn new(router: Router, tls: Option<Arc<ServerTls>>, shares: Shares) -> Door {
        let (tasks, ending) = (TaskTracker::new(), CancellationToken::new());
        let (builder, callers_max) = (builder(), shares.callers);
        Door { builder, router, tls, callers_max, tasks, ending }
    }

    /// Serves until `stop` resolves, then lets the requests under way end.
    pub(super) async fn serve(
        self: Arc<Door>,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) {
        tokio::select! {
            () = self.clone().accept(listener) => (),
            () = stop => (),
        }
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn accept(self: Arc<Door>, listener: TcpListener) {
        let places = self.callers_max.unwrap_or(CONNECTIONS_MAX).min(CONNECTIONS_MAX);
        let places = Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(usize::MAX)));
        let mut pause = AcceptPause::default();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause.wait(&error).await;
                    continue;
                }
            };
            pause.on_accepted();
            // Answers are small and are to leave at once.
            let _ = stream.set_nodelay(true);
            let door = self.clone();
            self.tasks.spawn(async move {
                door.open(stream, Remote(remote.ip())).await;
                drop(place);
            });
        }
    }

    async fn open(&self, stream: TcpStream, remote: Remote) {
        let Some(tls) = &self.tls else { return self.converse(stream, remote, None).await };
        let shaken = tokio::time::timeout(TLS_TIMEOUT, tls.acceptor().accept(stream));
        let shaken = tokio::select! {
            shaken = shaken => shaken,
            () = self.ending.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let names = client_names(stream.get_ref().1);
                let certified = (!names.is_empty()).then(|| Certified(names.into()));
                // Of the size of its buffers, which a task need not carry through its states.
                self.converse(Box::new(stream), remote, certified).await;
            }
            Ok(Err(error)) => debug!(%error, "a TLS handshake of the API failed"),
            Err(_) => debug!("a TLS handshake of the API took too long"),
        }
    }

    /// Answers what comes over one connection, until either side has enough of it.
    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        remote: Remote,
        certified: Option<Certified>,
    ) {
        let router = self.router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let mut router = router.clone();
            request.extensions_mut().insert(remote);
            if let Some(certified) = &certified {
                request.extensions_mut().insert(certified.clone());
            }
            async move { router.call(request).await.map(without_needless_length) }
        });
        let io = TokioIo::new(Prompt::new(stream));
        let mut connection = std::pin::pin!(self.builder.serve_connection(io, service));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.ending.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(error, "a connection of the API broke");
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEPALIVE_INTERVAL);
    builder
}

/// RFC 9110 section 8.6 allows no length where there is no content. axum adds one.
fn without_needless_length(mut response: Response) -> Response {
    if response.status() == StatusCode::NO_CONTENT {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}

/// A stream whose peer must say soon which version it speaks.
struct Prompt<S> {
    stream: S,
    /// None once enough bytes have come.
    waiting: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Prompt<S> {
    fn new(stream: S) -> Prompt<S> {
        let deadline = Box::pin(tokio::time::sleep_until(Instant::now() + PREFACE_TIMEOUT));
        Prompt { stream, waiting: Some((deadline, PREFACE_BYTES)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((deadline, missing)) = &mut self.waiting else { return polled };
        if polled.is_pending() {
            ready!(deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let read = buffer.filled().len() - before;
        *missing = missing.saturating_sub(read);
        if *missing == 0 {
            self.waiting = None;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
