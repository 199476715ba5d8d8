//! Clients that come back whenever their connection ends, and senders that post to them: all that they
//! see goes into a history.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use posthorn_proto::v1::PostToConnectionRequest;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use tungstenite::Message;

use crate::history::{Event, History, Outcome};
use crate::witness::Witness;

/// A handshake that is not answered for so long has failed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// Between two messages of a client, which are Pings as well.
const CHATTER_INTERVAL: Duration = Duration::from_millis(700);
/// A client that hears nothing for so long gives its connection up.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A post that is not answered for so long is not answered at all. Must be above the `post_timeout_ms`
/// of the nodes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// Where one node listens.
#[derive(Debug, Clone, Copy)]
pub struct Doors {
    pub edge: SocketAddr,
    pub api: SocketAddr,
}

pub struct Plan {
    pub clients_per_node: usize,
    /// From each of as many senders as there are nodes to a client, in turn.
    pub post_interval: Duration,
    /// After how long a client leaves by itself and comes anew, if it does.
    pub stay: Option<Duration>,
    /// The token that senders show.
    pub token: Option<&'static str>,
}

/// Dropping it ends it at once; [`Load::end`] does so in order.
pub struct Load {
    shared: Arc<Shared>,
    /// Senders end before clients, so that nothing that was accepted finds nobody.
    senders: Crew,
    clients: Crew,
}

/// Tasks that end when they are told to.
#[derive(Default)]
struct Crew {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

struct Shared {
    doors: Vec<Doors>,
    history: Arc<History>,
    witness: Arc<Witness>,
    next_client: AtomicU64,
    seats: Vec<Seat>,
    /// Whoever sat down before and is not at home is to go there.
    go_home_before: AtomicU64,
}

/// Where one client sits, and the next when it has gone.
#[derive(Default)]
struct Seat {
    home: usize,
    sitting: Mutex<Option<Sitting>>,
}

/// A client that is connected.
#[derive(Debug, Clone)]
pub struct Sitting {
    pub client: u64,
    pub connection: String,
    pub node: usize,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Load {
    pub fn start(
        doors: Vec<Doors>,
        history: Arc<History>,
        witness: Arc<Witness>,
        plan: &Plan,
    ) -> Load {
        let nodes = doors.len();
        let seat = |place| Seat { home: place % nodes, ..Seat::default() };
        let seats = (0..nodes * plan.clients_per_node).map(seat).collect();
        let next_client = AtomicU64::new(1);
        let go_home_before = AtomicU64::new(0);
        let shared = Shared { doors, history, witness, next_client, seats, go_home_before };
        let shared = Arc::new(shared);
        let (mut senders, mut clients) = (Crew::default(), Crew::default());
        for place in 0..shared.seats.len() {
            let stop = clients.stop.clone();
            clients.tasks.spawn(shared.clone().occupy(place, plan.stay, stop));
        }
        for node in 0..nodes {
            let stop = senders.stop.clone();
            senders.tasks.spawn(shared.clone().send(node, plan.post_interval, plan.token, stop));
        }
        Load { shared, senders, clients }
    }

    /// All clients that are connected just now.
    pub fn sitting(&self) -> Vec<Sitting> {
        self.shared.sitting()
    }

    /// Whether every seat is taken, by a client that is at its seat's home.
    pub fn is_at_home(&self) -> bool {
        let is_at_home = |seat: &Seat| {
            seat.sitting.lock().as_ref().is_some_and(|sitting| sitting.node == seat.home)
        };
        self.shared.seats.iter().all(is_at_home)
    }

    /// Has the clients that had to sit elsewhere leave, and try their seat's home.
    pub fn go_home(&self) {
        let next_client = self.shared.next_client.load(Ordering::Relaxed);
        self.shared.go_home_before.store(next_client, Ordering::Relaxed);
    }

    /// One more client, once, that stays until it is dropped or closed.
    pub async fn visit(&self, node: usize) -> Result<Sitting, Option<u16>> {
        let (sitting, mut socket) = self.shared.open(node).await?;
        self.shared.history.record(Event::CloseBegin { client: sitting.client });
        let code = farewell(&mut socket).await;
        self.shared.history.record(Event::Closed { client: sitting.client, code });
        Ok(sitting)
    }

    /// No more posts; once the last is answered, every client leaves, and takes what was on its way.
    pub async fn end(&mut self) {
        self.senders.end().await;
        self.clients.end().await;
    }
}

impl Crew {
    async fn end(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Shared {
    fn sitting(&self) -> Vec<Sitting> {
        self.seats.iter().filter_map(|seat| seat.sitting.lock().clone()).collect()
    }

    /// Keeps a seat taken, at its home node or wherever it is let in.
    async fn occupy(
        self: Arc<Shared>,
        place: usize,
        stay: Option<Duration>,
        stop: CancellationToken,
    ) {
        let seat = &self.seats[place];
        let mut attempt = 0;
        while !stop.is_cancelled() {
            let node = (seat.home + attempt) % self.doors.len();
            let Ok((sitting, socket)) = self.open(node).await else {
                attempt += 1;
                tokio::time::sleep(RECONNECT_PAUSE).await;
                continue;
            };
            attempt = 0;
            *seat.sitting.lock() = Some(sitting.clone());
            // By a part that differs from seat to seat, so that not all leave at once.
            let part = 1.0 + place as f64 / self.seats.len() as f64;
            let leave_at = stay.map(|stay| Instant::now() + stay.mul_f64(part));
            self.sit(&sitting, socket, leave_at, &stop, seat).await;
        }
    }

    /// A connection, or the status that it was refused with.
    async fn open(&self, node: usize) -> Result<(Sitting, Socket), Option<u16>> {
        let client = self.next_client.fetch_add(1, Ordering::Relaxed);
        let url = format!("ws://{}/dev?client={client}", self.doors[node].edge);
        self.history.record(Event::OpenBegin { client, node });
        let answer = tokio::time::timeout(HANDSHAKE_TIMEOUT, connect_async(url)).await;
        let status = match answer {
            Ok(Ok((socket, _))) => {
                let connection = self.witness.connection_of(client);
                let connection = connection.expect("$connect comes before 101");
                let opened = Event::Opened { client, connection: connection.clone() };
                self.history.record(opened);
                return Ok((Sitting { client, connection, node }, socket));
            }
            Ok(Err(tungstenite::Error::Http(response))) => Some(response.status().as_u16()),
            Ok(Err(_)) | Err(_) => None,
        };
        self.history.record(Event::OpenFailed { client, status });
        Err(status)
    }

    /// Until the connection ends or is to end.
    async fn sit(
        &self,
        sitting: &Sitting,
        mut socket: Socket,
        leave_at: Option<Instant>,
        stop: &CancellationToken,
        seat: &Seat,
    ) {
        let client = sitting.client;
        let mut chatter = tokio::time::interval(CHATTER_INTERVAL);
        let mut heard_at = Instant::now();
        let code = loop {
            let leaves = stop.is_cancelled() || leave_at.is_some_and(|at| at <= Instant::now());
            let is_away =
                sitting.node != seat.home && client < self.go_home_before.load(Ordering::Relaxed);
            if leaves || is_away || heard_at.elapsed() > SILENCE_MAX {
                *seat.sitting.lock() = None;
                self.history.record(Event::CloseBegin { client });
                break self.read_out(client, &mut socket).await;
            }
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(message)) => {
                        heard_at = Instant::now();
                        if let Message::Close(frame) = &message {
                            break Some(frame.as_ref().map_or(1005, |frame| frame.code.into()));
                        }
                        self.receive(client, &message);
                    }
                    Some(Err(_)) | None => break None,
                },
                _ = chatter.tick() => chat(&mut socket).await,
                () = stop.cancelled() => (),
            }
        };
        *seat.sitting.lock() = None;
        self.history.record(Event::Closed { client, code });
        if code.is_some() {
            // So that the node sees our half of the farewell.
            let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(None)).await;
        }
    }

    /// Closes, and takes what was on its way.
    async fn read_out(&self, client: u64, socket: &mut Socket) -> Option<u16> {
        let reading = async {
            socket.close(None).await.ok()?;
            while let Some(Ok(message)) = socket.next().await {
                match &message {
                    Message::Close(frame) => {
                        return Some(frame.as_ref().map_or(1005, |frame| frame.code.into()));
                    }
                    message => self.receive(client, message),
                }
            }
            None
        };
        tokio::time::timeout(Duration::from_secs(2), reading).await.ok().flatten()
    }

    fn receive(&self, client: u64, message: &Message) {
        let Message::Text(text) = message else { return };
        let told: Value = serde_json::from_str(text).expect("what we sent is JSON");
        let number = |name: &str| told[name].as_u64().expect("what we sent has numbers");
        let target = told["to"].as_str().unwrap_or_default().to_owned();
        let (sender, sequence) = (number("sender"), number("sequence"));
        self.history.record(Event::Received { client, target, sender, sequence });
    }

    /// Posts through one node to every client, in turn.
    async fn send(
        self: Arc<Shared>,
        node: usize,
        interval: Duration,
        token: Option<&'static str>,
        stop: CancellationToken,
    ) {
        let sender = node as u64;
        let mut grpc = ConnectionServiceClient::new(channel(self.doors[node].api));
        let mut turns = tokio::time::interval(interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for sequence in 0.. {
            if stop.run_until_cancelled(turns.tick()).await.is_none() {
                return;
            }
            let sitting = self.sitting();
            let Some(target) = sitting.get(sequence as usize % sitting.len().max(1)) else {
                continue;
            };
            let connection = target.connection.clone();
            let begun = Event::PostBegin { sender, sequence, connection, node };
            self.history.record(begun);
            let mut post = Request::new(post(&target.connection, sender, sequence));
            if let Some(token) = token {
                let bearer = format!("Bearer {token}").parse().expect("a token is plain text");
                post.metadata_mut().insert("authorization", bearer);
            }
            let outcome = ask(&mut grpc, post).await;
            self.history.record(Event::PostEnd { sender, sequence, outcome });
        }
    }
}

/// Posts once, and says what that came to.
pub async fn ask(
    grpc: &mut ConnectionServiceClient<Channel>,
    post: impl tonic::IntoRequest<PostToConnectionRequest>,
) -> Outcome {
    match tokio::time::timeout(ANSWER_TIMEOUT, grpc.post_to_connection(post)).await {
        Ok(Ok(_)) => Outcome::Ok,
        Ok(Err(status)) => outcome_of(&status),
        Err(_) => Outcome::Silence,
    }
}

/// What a node said. What only the way to it says is silence.
fn outcome_of(status: &Status) -> Outcome {
    if status.get_details_error_info().is_none() {
        return Outcome::Silence;
    }
    match status.code() {
        Code::NotFound => Outcome::Gone,
        Code::ResourceExhausted => Outcome::Busy,
        Code::Unavailable => Outcome::Unavailable,
        Code::DeadlineExceeded => Outcome::Unknown,
        _ => panic!("a sound post was answered with {status:?}"),
    }
}

pub fn post(connection: &str, sender: u64, sequence: u64) -> PostToConnectionRequest {
    let text = json!({ "to": connection, "sender": sender, "sequence": sequence }).to_string();
    PostToConnectionRequest {
        connection_id: connection.to_owned(),
        payload: Some(Payload::Text(text)),
        ..Default::default()
    }
}

/// Connects when it is used, and finds out when nobody is there any more.
pub fn channel(api: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{api}")).expect("an address is a URL");
    endpoint
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(4))
        .keep_alive_while_idle(true)
        .connect_lazy()
}

async fn chat(socket: &mut Socket) {
    let both = async {
        socket.feed(Message::Ping(Vec::new().into())).await?;
        socket.send(Message::text(r#"{"action":"chat"}"#)).await
    };
    // Where it does not go through, reading tells.
    let _ = tokio::time::timeout(Duration::from_secs(1), both).await;
}

/// The code of the node's Close frame, if it comes.
async fn farewell(socket: &mut Socket) -> Option<u16> {
    let farewell = async {
        socket.close(None).await.ok()?;
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(frame) = message {
                return Some(frame.map_or(1005, |frame| frame.code.into()));
            }
        }
        None
    };
    tokio::time::timeout(Duration::from_secs(2), farewell).await.ok().flatten()
}
