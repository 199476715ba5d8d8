//! One handshake, from the first byte to its answer: it does what [`Connection`] decides.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use posthorn_core::address::without_port;
use posthorn_core::connection::{Action, CloseCause, Connection};
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::ids::ConnectionId;
use posthorn_core::proxies::{Chain, Proxies};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::clock::epoch_ms;
use crate::edge::head::{self, BadHead, Head};
use crate::edge::linger;
use crate::edge::places::Places;
use crate::edge::session::Session;
use crate::edge::socket::Socket;
use crate::edge::{Edge, Peer};
use crate::exchange::gate::{ACCESS_DENIED, TurnedAway};
use crate::exchange::inbound::{ConnectAnswer, HandshakeParts};
use crate::exchange::mailbox::Mailbox;
use crate::exchange::stage::Stage;
use crate::exchange::{Admission, Admitted, Gateway};
use crate::telemetry::Refused;

/// What a client may send before it was answered. More is left in the socket.
const EARLY_BYTES_MAX: usize = 4096;
/// How long a client may take to read a refusal.
const REPLY_MAX: Duration = Duration::from_secs(5);

/// Everything that can happen while a connection is being opened.
enum Event {
    Registered(bool),
    Answered(Box<ConnectAnswer>),
    /// Somebody wishes it closed before it is open.
    Wished(CloseCause),
    Left,
}

struct Opening<S> {
    machine: Connection,
    stream: S,
    early: Vec<u8>,
    stage: Arc<Stage>,
    /// The client's `Sec-WebSocket-Key`.
    key: String,
    /// Until `$connect` is called.
    parts: Option<HandshakeParts>,
    mailbox: Arc<Mailbox>,
    gateway: Arc<Gateway>,
    /// What the directory or the backend is being asked.
    asked: Option<Pin<Box<dyn Future<Output = Event> + Send>>>,
    answer: Option<Box<ConnectAnswer>>,
    has_left: bool,
}

/// Reads a request and answers it. Returns the open connection's task, if it came to that.
pub(super) async fn open<S>(
    edge: &Edge,
    mut stream: S,
    peer: Peer,
    deadline: tokio::time::Instant,
    places: &mut Places,
) -> Option<Session<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let read = head::read(&mut stream, edge.head_limits);
    let (head, early) = match tokio::time::timeout_at(deadline, read).await {
        Ok(Ok(read)) => read,
        Ok(Err(bad)) => {
            refuse_head(edge, &mut stream, bad).await;
            return None;
        }
        Err(_) => {
            edge.gateway.metrics().edge.refused.at(Refused::TimedOut).increment(1);
            return None;
        }
    };
    let started = Instant::now();
    let Admitted { stage, owner } = match admit(edge, &head, peer, places) {
        Ok(admitted) => admitted,
        Err((label, reply)) => {
            refuse(edge, &mut stream, label, reply).await;
            return None;
        }
    };
    let client = client(&edge.proxies, &head, peer);
    let Some(mut info) = describe(&head, &stage, client.ip) else {
        let reply = Reply::message(503, "Service Unavailable");
        refuse(edge, &mut stream, Refused::NotReady, reply).await;
        return None;
    };
    let mut parts = parts(head.clone(), client);
    let mut machine = Connection::new(edge.limits.clone(), edge.random_lifetime());
    match edge.gateway.judge(&stage, &info, &mut parts).await {
        Ok(entry) => {
            if let Some(expires_at) = entry.expires_at_s.and_then(instant_of) {
                machine.expire_at(expires_at);
            }
            info.authorized = entry.authorized;
            info.api_key = entry.api_key;
            info.signer = entry.signer;
            parts.authorizer_latency_ms = entry.authorizer_latency_ms;
        }
        Err(turned_away) => {
            let reply = Reply::turned_away(&turned_away, &info);
            refuse(edge, &mut stream, turned_away.label, reply).await;
            return None;
        }
    }
    let opening = Opening {
        machine,
        stream,
        early,
        mailbox: edge.gateway.begin(owner, info, &stage),
        parts: Some(parts),
        stage,
        key: head.key,
        gateway: edge.gateway.clone(),
        asked: None,
        answer: None,
        has_left: false,
    };
    let session = opening.run(edge).await;
    if session.is_some() {
        edge.gateway.metrics().edge.handshake_seconds.record(started.elapsed());
    }
    session
}

/// Whether the request leads anywhere, and there is a place for one more.
fn admit(
    edge: &Edge,
    head: &Head,
    peer: Peer,
    places: &mut Places,
) -> Result<Admitted, (Refused, Reply)> {
    let retry_after = || edge.admission.retry_after_s().to_string();
    let too_many = || Reply::message(429, "Too Many Requests").with("Retry-After", &retry_after());
    if let (Some(addresses), None) = (&edge.admission.addresses, &places.address) {
        let Client { ip, .. } = client(&edge.proxies, head, peer);
        places.address = addresses.enter(ip);
        if places.address.is_none() {
            return Err((Refused::TooManyOfAddress, too_many()));
        }
    }
    let admitted = match edge.gateway.admit(&head.host, &head.path) {
        Admission::Admitted(admitted) => admitted,
        Admission::UnknownStage => {
            return Err((Refused::UnknownStage, Reply::message(403, "Forbidden")));
        }
        Admission::Draining => {
            let reply = Reply::message(503, "Service Unavailable").with("Retry-After", "1");
            return Err((Refused::Draining, reply));
        }
        Admission::NotReady => {
            let reply = Reply::message(503, "Service Unavailable");
            let reply = reply.with("Retry-After", &retry_after());
            return Err((Refused::NotReady, reply));
        }
    };
    places.stage = admitted.stage.connections.enter(admitted.stage.connections_max);
    match places.stage {
        Some(_) => Ok(admitted),
        None => Err((Refused::TooManyOfStage, too_many())),
    }
}

/// Who sent a request, as far as proxies are believed.
struct Client {
    ip: IpAddr,
    /// The client and the proxies behind it.
    addresses: String,
    port: String,
    is_secure: bool,
}

fn client(proxies: &Proxies, head: &Head, peer: Peer) -> Client {
    let ip = peer.address.ip();
    let values = |name: &'static str| {
        let is_named = move |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
        head.headers.iter().filter(is_named).map(|(_, value)| value.trim())
    };
    let Chain { client, addresses } = proxies.chain(ip, values("x-forwarded-for"));
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let believed = |name| values(name).next_back().filter(|_| proxies.trust(ip));
    let is_port = |port: &&str| port.parse::<u16>().is_ok();
    let port = believed("x-forwarded-port").filter(is_port);
    Client {
        ip: client,
        addresses: addresses.join(", "),
        port: port.map_or_else(|| peer.local.port().to_string(), str::to_owned),
        is_secure: match believed("x-forwarded-proto") {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            Some(_) | None => peer.is_secure,
        },
    }
}

/// A new connection of the client that sent this request. None where the system has no random bits,
/// without which its ID could be guessed.
fn describe(head: &Head, stage: &Stage, source_ip: IpAddr) -> Option<ConnectionInfo> {
    let mut bits = [0; ConnectionId::BYTES];
    getrandom::fill(&mut bits).ok()?;
    let is_user_agent = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("user-agent");
    let user_agent = head.headers.iter().find(is_user_agent).map(|(_, value)| value.as_str());
    Some(ConnectionInfo {
        connection: ConnectionId::from_random(bits),
        api_id: stage.api_id.clone(),
        stage: stage.name.clone(),
        domain_name: without_port(&head.host).into(),
        host: head.host.as_str().into(),
        source_ip,
        user_agent: user_agent.map(Into::into),
        connected_at_ms: epoch_ms(),
        api_key: None,
        authorized: None,
        signer: None,
    })
}

/// None if it is too far away to come.
fn instant_of(epoch_s: u64) -> Option<Instant> {
    let left = Duration::from_secs(epoch_s).saturating_sub(Duration::from_millis(epoch_ms()));
    Instant::now().checked_add(left)
}

fn parts(head: Head, client: Client) -> HandshakeParts {
    let Client { ip: _, addresses, port, is_secure } = client;
    HandshakeParts {
        headers: head.headers,
        path: head.path,
        query: head.query.unwrap_or_default(),
        subprotocols: head.subprotocols,
        subprotocol_default: None,
        addresses,
        port,
        is_secure,
        authorizer_latency_ms: None,
    }
}

async fn refuse_head<S: AsyncRead + AsyncWrite + Unpin>(edge: &Edge, stream: &mut S, bad: BadHead) {
    let label = match bad {
        BadHead::Ended => Refused::ClientLeft,
        BadHead::Malformed(_) | BadHead::UrlTooLong | BadHead::HeadersTooLarge => {
            Refused::Malformed
        }
        BadHead::NotGet | BadHead::NotWebSocket | BadHead::WrongVersion => Refused::NotWebSocket,
    };
    let (status, header) = bad.status();
    let mut reply = Reply::message(status, &bad.to_string());
    reply.headers.extend(header.map(|(name, value)| (name.to_owned(), value.to_owned())));
    refuse(edge, stream, label, reply).await;
}

async fn refuse<S>(edge: &Edge, stream: &mut S, label: Refused, reply: Reply)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    edge.gateway.metrics().edge.refused.at(label).increment(1);
    reply.send(stream).await;
}

impl<S> Opening<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    async fn run(mut self, edge: &Edge) -> Option<Session<S>> {
        loop {
            while let Some(action) = self.machine.poll_action() {
                match action {
                    Action::Upgrade => return Some(self.upgrade(edge).await),
                    Action::Drop => {
                        self.gateway.let_go(&self.mailbox);
                        return None;
                    }
                    action => self.perform(action).await,
                }
            }
            let event = self.next_event().await;
            self.apply(event);
        }
    }

    /// Waits. What the client sends meanwhile is kept.
    async fn next_event(&mut self) -> Event {
        let asked = async {
            match &mut self.asked {
                Some(asked) => asked.await,
                None => std::future::pending().await,
            }
        };
        let (stream, early) = (&mut self.stream, &mut self.early);
        let left = async {
            while early.len() < EARLY_BYTES_MAX {
                match stream.read_buf(early).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => (),
                }
            }
            std::future::pending::<()>().await;
        };
        let mailbox = &self.mailbox;
        tokio::select! {
            event = asked => event,
            cause = std::future::poll_fn(|cx| mailbox.poll_wish(cx)) => Event::Wished(cause),
            () = left, if !self.has_left => Event::Left,
        }
    }

    fn apply(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Registered(is_registered) => {
                self.asked = None;
                match is_registered {
                    true => self.machine.on_registered(),
                    false => self.machine.on_fenced(now),
                }
            }
            Event::Wished(CloseCause::Fenced) => self.machine.on_fenced(now),
            Event::Wished(cause) => self.machine.close(now, cause),
            Event::Answered(answer) => {
                self.asked = None;
                let verdict = answer.verdict;
                self.answer = Some(answer);
                self.machine.on_verdict(now, verdict);
            }
            Event::Left => {
                self.has_left = true;
                self.machine.on_ended(CloseCause::Lost);
            }
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Register => {
                let registered = self.gateway.register(&self.mailbox);
                self.asked = Some(Box::pin(async { Event::Registered(registered.await) }));
            }
            Action::CallConnect => {
                let Some(parts) = self.parts.take() else { return };
                let stage = self.stage.clone();
                let answered = self.gateway.call_connect(stage, &self.mailbox, parts);
                self.asked = Some(Box::pin(async { Event::Answered(Box::new(answered.await)) }));
            }
            Action::Refuse { status } => self.refuse(status).await,
            Action::Retire { disconnect } => {
                self.mailbox.end();
                self.gateway.retire(&self.mailbox, disconnect);
            }
            // An opening ends before any of these.
            Action::Upgrade
            | Action::Dispatch
            | Action::Ping
            | Action::SendClose(_)
            | Action::Drop => (),
        }
    }

    async fn refuse(&mut self, status: u16) {
        let (label, reply) = match self.answer.take() {
            Some(answer) => (answer.label, Reply::of_backend(status, *answer)),
            None => {
                let reply = Reply::message(status, "Service Unavailable").with("Retry-After", "1");
                (Refused::NotReady, reply)
            }
        };
        self.gateway.metrics().edge.refused.at(label).increment(1);
        reply.send(&mut self.stream).await;
    }

    async fn upgrade(mut self, edge: &Edge) -> Session<S> {
        let accept = tungstenite::handshake::derive_accept_key(self.key.as_bytes());
        let mut response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n"
        );
        if let Some(subprotocol) = self.answer.take().and_then(|answer| answer.subprotocol) {
            response.push_str("Sec-WebSocket-Protocol: ");
            response.push_str(&subprotocol);
            response.push_str("\r\n");
        }
        response.push_str("\r\n");
        self.gateway.on_opened();
        // A failure shows when the session reads.
        let _ = self.stream.write_all(response.as_bytes()).await;
        let _ = self.stream.flush().await;
        let socket = Socket::new(self.stream, self.early, edge.frame_limits.clone());
        Session::new(self.machine, socket, self.mailbox, self.gateway, edge.pace.clone())
    }
}

/// An HTTP response that ends the connection.
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Reply {
    fn message(status: u16, message: &str) -> Reply {
        Reply::new(status, &serde_json::json!({ "message": message }))
    }

    fn new(status: u16, body: &serde_json::Value) -> Reply {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Reply { status, headers, body: body.to_string().into() }
    }

    fn turned_away(turned_away: &TurnedAway, info: &ConnectionInfo) -> Reply {
        let TurnedAway { status, message, exception, retry_after, request, .. } = turned_away;
        let mut reply = match exception {
            Some(exception) => {
                // AWS writes this one's in capitals.
                let key = if *exception == ACCESS_DENIED { "Message" } else { "message" };
                let reply = Reply::new(*status, &serde_json::json!({ key: message }));
                reply.with("x-amzn-ErrorType", exception)
            }
            None => {
                let body = serde_json::json!({
                    "message": message,
                    "connectionId": info.connection.to_string(),
                    "requestId": request.to_string(),
                });
                let content_type = "application/json; charset=UTF-8".to_owned();
                let headers = vec![("Content-Type".to_owned(), content_type)];
                Reply { status: *status, headers, body: body.to_string().into() }
            }
        };
        if let Some(retry_after) = retry_after {
            let seconds = retry_after.as_secs_f64().ceil();
            reply = reply.with("Retry-After", &seconds.to_string());
        }
        reply
    }

    /// What the backend said, where it said anything.
    fn of_backend(status: u16, answer: ConnectAnswer) -> Reply {
        Reply { status, headers: answer.headers, body: answer.body }
    }

    fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Who does not wait for it does not need it.
    async fn send<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S) {
        let bytes = self.bytes();
        if let Ok(Ok(())) = tokio::time::timeout(REPLY_MAX, stream.write_all(&bytes)).await {
            linger::end(stream).await;
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let Reply { status, headers, body } = self;
        let reason = hyper::StatusCode::from_u16(*status).ok();
        let reason = reason.and_then(|status| status.canonical_reason()).unwrap_or("");
        let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()));
        let mut response = head.into_bytes();
        response.extend_from_slice(body);
        response
    }
}
