//! Every node of a cluster is restarted in its turn, under load, and nobody loses anything that was
//! promised.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;
use posthorn_proto::v1::PostToConnectionRequest;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use serde_json::Value;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tungstenite::Message;

const CLIENTS: usize = 30;
const SENDERS: usize = 3;
/// Posts that must be accepted before the next node is restarted.
const POSTS_BETWEEN: u64 = 300;

/// What clients and senders know of the cluster, and what happened to them.
struct World {
    nodes: Vec<RwLock<Door>>,
    connections: RwLock<Vec<Arc<Connection>>>,
    /// Nobody posts any more.
    is_quiet: AtomicBool,
    /// Who has read everything leaves.
    is_over: AtomicBool,
    accepted: AtomicU64,
    gone: AtomicU64,
    retried: AtomicU64,
    connects: AtomicU64,
    slowest_connect: Mutex<Duration>,
    faults: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Door {
    url: String,
    api: Channel,
    /// Nobody has asked it to end.
    is_serving: bool,
    /// How often it was started.
    lives: usize,
}

/// One connection of one client, as all that took part in it saw it.
struct Connection {
    id: String,
    node: usize,
    is_open: AtomicBool,
    /// What each sender was told OK for: numbers from 0 on.
    accepted: Vec<AtomicU64>,
    /// What the client read of each sender.
    read: Mutex<Vec<u64>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let settings = "drain: { grace_s: 0, window_s: 2 }\n".to_owned();
    let options = Options { nodes: 3, apis: apis(&backend.url()), settings };
    let mut cluster = Cluster::start(options).await;
    let world = Arc::new(World::new(&cluster));
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| spawn(world.clone().connect_always(number))).collect();
    let senders: Vec<_> =
        (0..SENDERS).map(|number| spawn(world.clone().post_always(number))).collect();
    world.await_posts().await;

    for node in 0..cluster.len() {
        world.set(node, |door| door.is_serving = false);
        let process = cluster.take(node);
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait().await.code(), Some(0));
        world.await_posts().await;
        cluster.spawn(node).await;
        cluster.wait_ready(node).await;
        let (url, api) = (cluster.url(node), channel(&cluster, node));
        world.set(node, |door| *door = Door { url, api, is_serving: true, lives: door.lives + 1 });
        world.await_posts().await;
        world.assert_no_faults();
    }

    world.is_quiet.store(true, Ordering::SeqCst);
    join_all(senders).await.into_iter().for_each(Result::unwrap);
    world.is_over.store(true, Ordering::SeqCst);
    join_all(clients).await.into_iter().for_each(Result::unwrap);
    world.assert_no_faults();
    world.assert_all_arrived();
    assert_each_left_once(&backend, &cluster).await;
    for node in 0..cluster.len() {
        let evictions = cluster.metric(node, "posthorn_evictions_total").await.unwrap_or_default();
        assert_eq!(evictions, 0.0, "nobody was given up for its silence");
    }
    println!(
        "{} connects, the slowest took {:?}; {} posts accepted, {} gone, {} tried again elsewhere",
        world.connects.load(Ordering::SeqCst),
        world.slowest_connect.lock().unwrap(),
        world.accepted.load(Ordering::SeqCst),
        world.gone.load(Ordering::SeqCst),
        world.retried.load(Ordering::SeqCst),
    );
}

impl World {
    fn new(cluster: &Cluster) -> World {
        let door = |node| {
            let (url, api) = (cluster.url(node), channel(cluster, node));
            RwLock::new(Door { url, api, is_serving: true, lives: 1 })
        };
        World {
            nodes: (0..cluster.len()).map(door).collect(),
            connections: RwLock::default(),
            is_quiet: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            slowest_connect: Mutex::default(),
            faults: Mutex::default(),
        }
    }

    fn door(&self, node: usize) -> Door {
        self.nodes[node].read().unwrap().clone()
    }

    fn set(&self, node: usize, change: impl FnOnce(&mut Door)) {
        change(&mut self.nodes[node].write().unwrap());
    }

    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    fn assert_no_faults(&self) {
        let faults = self.faults.lock().unwrap();
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    }

    /// Returns once clients and senders have done something since.
    async fn await_posts(&self) {
        let enough = self.accepted.load(Ordering::SeqCst) + POSTS_BETWEEN;
        eventually("posts that are accepted", || async {
            let open = self.connections.read().unwrap();
            let open = open.iter().filter(|one| one.is_open.load(Ordering::SeqCst)).count();
            let is_enough = self.accepted.load(Ordering::SeqCst) >= enough;
            let has_fault = !self.faults.lock().unwrap().is_empty();
            (has_fault || is_enough && open == CLIENTS).then_some(())
        })
        .await;
    }

    // ---- clients ----

    /// One client: it connects to nodes in turn, and reads until it is closed.
    async fn connect_always(self: Arc<World>, number: usize) {
        let mut next = number;
        while !self.is_over.load(Ordering::SeqCst) {
            let node = next % self.nodes.len();
            next += 1;
            let door = self.door(node);
            if !door.is_serving {
                continue;
            }
            let started = Instant::now();
            let client = match Client::connect(&door.url).await {
                Ok(client) => client,
                // Asked to end while it was being asked.
                Err(_) if !self.is_as_before(node, &door) => continue,
                Err(error) => {
                    self.fault(format!("connecting to node {node}: {error}"));
                    continue;
                }
            };
            self.on_connected(started.elapsed());
            self.read_until_closed(node, client).await;
        }
    }

    fn on_connected(&self, took: Duration) {
        self.connects.fetch_add(1, Ordering::SeqCst);
        let mut slowest = self.slowest_connect.lock().unwrap();
        *slowest = slowest.max(took);
    }

    fn is_as_before(&self, node: usize, before: &Door) -> bool {
        let now = self.door(node);
        now.is_serving && now.lives == before.lives
    }

    async fn read_until_closed(&self, node: usize, mut client: Client) {
        client.send(r#"{"action":"whoami"}"#).await;
        let id = match client.next().await {
            Ok(Message::Text(id)) => id.as_str().to_owned(),
            Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1012 => return,
            other => return self.fault(format!("who am I at node {node}: {other:?}")),
        };
        let connection = Arc::new(Connection {
            id,
            node,
            is_open: AtomicBool::new(true),
            accepted: (0..SENDERS).map(|_| AtomicU64::new(0)).collect(),
            read: Mutex::new(vec![0; SENDERS]),
        });
        self.connections.write().unwrap().push(connection.clone());
        let looking = Duration::from_millis(100);
        loop {
            match tokio::time::timeout(looking, client.next()).await {
                Ok(Ok(Message::Text(text))) => self.on_read(&connection, &text),
                Ok(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1012 => break,
                Ok(other) => {
                    self.fault(format!("a client of node {node} got {other:?}"));
                    break;
                }
                Err(_) if self.is_over.load(Ordering::SeqCst) => {
                    if connection.has_all() {
                        client.close().await;
                        break;
                    }
                }
                Err(_) => (),
            }
        }
        connection.is_open.store(false, Ordering::SeqCst);
    }

    fn on_read(&self, connection: &Connection, text: &str) {
        let (sender, number) = text.split_once(' ').expect("it names its sender");
        let (sender, number): (usize, u64) = (sender.parse().unwrap(), number.parse().unwrap());
        let expected = &mut connection.read.lock().unwrap()[sender];
        if number != *expected {
            self.fault(format!("of sender {sender}, {number} came instead of {expected}"));
        }
        *expected = number + 1;
    }

    // ---- senders ----

    /// One sender: it posts to each open connection in turn, through each node in turn.
    async fn post_always(self: Arc<World>, sender: usize) {
        let (turn, mut over) = (AtomicUsize::new(sender), Vec::new());
        let mut rounds = tokio::time::interval(Duration::from_millis(1));
        while !self.is_quiet.load(Ordering::SeqCst) {
            let connections = self.connections.read().unwrap().clone();
            for (index, connection) in connections.iter().enumerate() {
                over.resize(connections.len(), false);
                if !over[index] {
                    over[index] = self.post(sender, connection, &turn).await;
                }
            }
            rounds.tick().await;
        }
    }

    /// True if the connection is over.
    async fn post(&self, sender: usize, connection: &Connection, turn: &AtomicUsize) -> bool {
        let number = connection.accepted[sender].load(Ordering::SeqCst);
        for attempt in 0..2 {
            let node = turn.fetch_add(1, Ordering::SeqCst) % self.nodes.len();
            let request = PostToConnectionRequest {
                connection_id: connection.id.clone(),
                payload: Some(Payload::Text(format!("{sender} {number}"))),
                ..Default::default()
            };
            let mut grpc = ConnectionServiceClient::new(self.door(node).api);
            match grpc.post_to_connection(request).await.map_err(|status| status.code()) {
                Ok(_) => {
                    connection.accepted[sender].store(number + 1, Ordering::SeqCst);
                    self.accepted.fetch_add(1, Ordering::SeqCst);
                    return false;
                }
                Err(Code::NotFound) => {
                    self.gone.fetch_add(1, Ordering::SeqCst);
                    return true;
                }
                // Cancelled is said by the library, of a call that it had not sent when the
                // connection ended, and Internal of one that crossed the node's GOAWAY: nodes
                // never say it. Were that not so, the number would come twice.
                Err(Code::Unavailable | Code::Cancelled | Code::Internal) if attempt == 0 => {
                    self.retried.fetch_add(1, Ordering::SeqCst);
                }
                Err(code) => {
                    let owner = connection.node;
                    self.fault(format!("post through {node} to a client of {owner}: {code:?}"));
                    return true;
                }
            }
        }
        true
    }

    /// Everything that was accepted was read, and nothing else, before the connection was closed.
    fn assert_all_arrived(&self) {
        for connection in self.connections.read().unwrap().iter() {
            assert!(connection.has_all(), "{} of node {}", connection.id, connection.node);
        }
    }
}

impl Connection {
    fn has_all(&self) -> bool {
        let read = self.read.lock().unwrap();
        let accepted = self.accepted.iter().map(|accepted| accepted.load(Ordering::SeqCst));
        accepted.eq(read.iter().copied())
    }
}

/// As many `$disconnect` calls as `$connect` calls that were answered, one for each connection.
async fn assert_each_left_once(backend: &Backend, cluster: &Cluster) {
    for node in 0..cluster.len() {
        eventually("an empty directory", || async {
            let entries = cluster.metric(node, "posthorn_directory_entries").await?;
            (entries == 0.0).then_some(())
        })
        .await;
    }
    let mut calls: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for event in backend.drain().await {
        let (connects, disconnects) = calls.entry(text(&event, "connectionId")).or_default();
        match &*text(&event, "eventType") {
            "CONNECT" => *connects += 1,
            "DISCONNECT" => *disconnects += 1,
            other => panic!("{other}"),
        }
    }
    let wrong: Vec<_> = calls.iter().filter(|(_, calls)| **calls != (1, 1)).collect();
    assert!(wrong.is_empty(), "of {} connections: {wrong:?}", calls.len());
}

fn text(event: &Value, key: &str) -> String {
    event["requestContext"][key].as_str().expect("an event has it").to_owned()
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(task)
}

/// Connects when it is used.
fn channel(cluster: &Cluster, node: usize) -> Channel {
    let address = cluster.node(node).at("api");
    Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy()
}

fn apis(url: &str) -> String {
    format!(
        "apis:\n  dev:\n    route_selection_expression: $request.body.action\n    routes:\n      \
         $connect: {{ target: integrations/backend }}\n      \
         $disconnect: {{ target: integrations/backend }}\n      \
         whoami: {{ target: integrations/whoami, route_response_selection_expression: $default }}\n    \
         integrations:\n      \
         backend: {{ integration_type: HTTP_EVENT, integration_uri: \"{url}\" }}\n      \
         whoami: {{ integration_type: MOCK, mock_response: {{ body: '$context.connectionId' }} }}\n    \
         stages:\n      dev: {{}}\n"
    )
}
