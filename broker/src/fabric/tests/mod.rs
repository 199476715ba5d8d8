//! The fabric as a whole, over loopback: nodes with real sockets, each with papers of its own.

mod calls;
mod faults;
mod lanes;
mod papers;
mod relay;
mod strangers;
mod trust;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use posthorn_core::ids::{ClusterName, NodeId};
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::*;

/// Nothing in these tests takes as long; who waits longer waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(60);

const ECHO: u8 = 1;
const REFUSE: u8 = 2;
/// Answers when the node's `gate` opens.
const WAIT: u8 = 3;

/// A cluster's authority, and where its nodes' papers lie.
struct Town {
    authority: DevAuthority,
    papers: TempDir,
}

struct Node {
    fabric: Fabric,
    service: Arc<Service>,
}

/// Answers calls, takes uploads and posts, and keeps what it was told.
#[derive(Default)]
struct Service {
    posts: Mutex<Vec<Bytes>>,
    manner: Mutex<Manner>,
    /// What is kept unanswered. Lanes take turns: its order is not that of `posts`.
    held: Mutex<Vec<(Reply, Bytes)>>,
    uploads: Mutex<Vec<Result<usize, UploadCut>>>,
    gate: Gate,
    froms: Mutex<Vec<PeerIdentity>>,
}

/// What is done with posts.
#[derive(Default, Clone, Copy)]
enum Manner {
    /// Answered at once, with the same bytes.
    #[default]
    Echo,
    /// Kept unanswered.
    Hold,
    Drop,
}

/// Closed until it is opened, and open from then on.
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Gate {
        Gate(Semaphore::new(0))
    }
}

impl Gate {
    fn open(&self) {
        self.0.add_permits(1);
    }

    async fn pass(&self) {
        drop(self.0.acquire().await.unwrap());
    }
}

impl Town {
    fn new() -> Town {
        let authority = DevAuthority::new(&cluster("posthorn")).unwrap();
        Town { authority, papers: tempfile::tempdir().unwrap() }
    }

    fn settings(&self, node: u32) -> FabricSettings {
        let files = self.authority.write(self.papers.path(), NodeId(node)).unwrap();
        settings(node, cluster("posthorn"), files)
    }

    fn start(&self, node: u32) -> Node {
        Node::start(self.settings(node))
    }
}

impl Node {
    fn start(settings: FabricSettings) -> Node {
        let fabric = Fabric::bind(settings).unwrap();
        let service = Arc::new(Service::default());
        fabric.serve(service.clone(), service.clone()).unwrap();
        Node { fabric, service }
    }

    fn peer(&self) -> Peer {
        peer(self.fabric.identity().node.0, self.fabric.local_address())
    }

    async fn call(&self, to: &Peer, method: u8, request: &str) -> Result<Bytes, CallError> {
        let request = Bytes::from(request.to_owned());
        within(self.fabric.call(to, method, request, PATIENCE)).await
    }

    /// Posts and waits for the outcome.
    async fn post(&self, to: &Peer, key: u64, frame: &str) -> Result<Bytes, PostError> {
        let (reply, outcome) = oneshot::channel();
        let frame = Bytes::from(frame.to_owned());
        self.fabric.post(to, key, frame, reply, PATIENCE).unwrap();
        within(outcome).await.unwrap()
    }
}

impl Service {
    fn take_held(&self) -> Vec<(Reply, Bytes)> {
        std::mem::take(&mut *self.held.lock())
    }
}

impl ControlService for Service {
    fn call(
        &self,
        from: PeerIdentity,
        method: u8,
        request: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        Box::pin(async move {
            self.froms.lock().push(from);
            match method {
                ECHO => Ok(request),
                WAIT => {
                    self.gate.pass().await;
                    Ok(request)
                }
                _ => Err(Refusal { code: 7, message: "not here".to_owned() }),
            }
        })
    }

    /// Reads when the gate is open, if the method says so.
    fn upload(
        &self,
        from: PeerIdentity,
        method: u8,
        _header: Bytes,
        mut body: UploadReader,
    ) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        Box::pin(async move {
            self.froms.lock().push(from);
            if method == REFUSE {
                return Err(Refusal { code: 7, message: "not here".to_owned() });
            }
            if method == WAIT {
                self.gate.pass().await;
            }
            let mut bytes = 0;
            loop {
                match body.read().await {
                    Ok(Some(piece)) => bytes += piece.len(),
                    Ok(None) => break,
                    Err(cut) => {
                        self.uploads.lock().push(Err(cut));
                        return Err(Refusal { code: 8, message: "cut".to_owned() });
                    }
                }
            }
            self.uploads.lock().push(Ok(bytes));
            Ok(Bytes::from(bytes.to_string()))
        })
    }
}

impl PostService for Service {
    fn on_frame(&self, _from: &PeerIdentity, frame: Bytes, reply: Reply) {
        self.posts.lock().push(frame.clone());
        match *self.manner.lock() {
            Manner::Echo => reply.send(frame),
            Manner::Hold => self.held.lock().push((reply, frame)),
            Manner::Drop => drop(reply),
        }
    }
}

/// Posts numbered frames on a few order keys, and checks what became of them.
struct Series {
    told: mpsc::UnboundedReceiver<(u64, Result<Bytes, PostError>)>,
    teller: mpsc::UnboundedSender<(u64, Result<Bytes, PostError>)>,
    posted: u64,
}

const KEYS: u64 = 7;

impl Series {
    fn new() -> Series {
        let (teller, told) = mpsc::unbounded_channel();
        Series { told, teller, posted: 0 }
    }

    fn post(&mut self, node: &Node, to: &Peer, deadline: Duration) -> Result<(), PostRefused> {
        let number = self.posted;
        let teller = self.teller.clone();
        let frame = Bytes::copy_from_slice(&number.to_be_bytes());
        let reply = move |outcome| teller.send((number, outcome)).unwrap();
        node.fabric.post(to, number % KEYS, frame, reply, deadline)?;
        self.posted += 1;
        Ok(())
    }

    /// Posts, waiting for outcomes where the lanes are full. Returns those.
    async fn post_many(
        &mut self,
        node: &Node,
        to: &Peer,
        count: u64,
    ) -> Vec<(u64, Result<Bytes, PostError>)> {
        let mut told = Vec::new();
        for _ in 0..count {
            while let Err(refused) = self.post(node, to, PATIENCE) {
                assert_eq!(refused, PostRefused::LaneFull);
                told.push(self.outcome().await);
            }
        }
        told
    }

    async fn outcome(&mut self) -> (u64, Result<Bytes, PostError>) {
        within(self.told.recv()).await.unwrap()
    }

    async fn outcomes(&mut self, count: u64) -> Vec<(u64, Result<Bytes, PostError>)> {
        let mut outcomes = Vec::new();
        for _ in 0..count {
            outcomes.push(self.outcome().await);
        }
        outcomes
    }
}

/// Each number was told once, and well.
fn assert_all_answered(mut told: Vec<(u64, Result<Bytes, PostError>)>, count: u64) {
    told.sort_by_key(|(number, _)| *number);
    let expected = |number: u64| (number, Ok(Bytes::copy_from_slice(&number.to_be_bytes())));
    assert_eq!(told.len() as u64, count);
    for (number, told) in (0..).zip(told) {
        assert_eq!(told, expected(number));
    }
}

/// The frames of each order key are in order, without gaps or doubles, and there are so many.
fn assert_in_order(posts: &[Bytes], count: u64) {
    let mut next: [u64; KEYS as usize] = std::array::from_fn(|key| key as u64);
    for post in posts {
        let number = u64::from_be_bytes(post[..].try_into().unwrap());
        let next = &mut next[(number % KEYS) as usize];
        assert_eq!(number, *next, "out of order");
        *next += KEYS;
    }
    assert_eq!(posts.len() as u64, count);
}

fn settings(node: u32, cluster: ClusterName, files: TlsFiles) -> FabricSettings {
    FabricSettings::new("127.0.0.1:0".parse().unwrap(), NodeId(node), cluster, files)
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::try_from(name).unwrap()
}

fn peer(node: u32, address: SocketAddr) -> Peer {
    Peer { node: NodeId(node), address: address.to_string().into() }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it took too long")
}

/// Waits for what changes without a word. The pause is short; the patience is long.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
