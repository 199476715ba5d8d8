//! Posts a second from one node to clients of the two others, counted by who received them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use posthorn_chaos::cluster::Cluster;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{PostToConnectionRequest, PostToConnectionsRequest};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::LoadError;
use crate::client::{Client, edge};
use crate::report::{Figure, count, rate};
use crate::usage::Meter;

const SENDER: usize = 0;
const RECEIVERS: [usize; 2] = [1, 2];
const CLIENTS: usize = 200;
/// Each is a gRPC stream on a connection of its own.
const STREAMS: usize = 4;
/// Posts of a stream that are not answered yet.
const IN_FLIGHT: usize = 2048;
const PAYLOAD_BYTES: usize = 64;
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(10);
/// How long what was accepted may still be on its way when all was answered.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// What senders and receivers count while they run.
#[derive(Default)]
struct Counts {
    received: AtomicU64,
    is_over: AtomicBool,
}

/// What posts were answered with.
#[derive(Default)]
struct Answers {
    accepted: u64,
    refused: BTreeMap<String, u64>,
}

pub async fn run(cluster: &Cluster) -> Result<Vec<Figure>, LoadError> {
    let counts = Arc::new(Counts::default());
    let (ids, _receivers) = receivers(cluster, &counts).await?;
    let mut senders = JoinSet::new();
    for stream in 0..STREAMS {
        let grpc = cluster.grpc(SENDER).await;
        // Each has clients of its own, of both nodes.
        let ids = ids.iter().skip(stream).step_by(STREAMS).cloned().collect();
        senders.spawn(Sender { grpc, ids, counts: counts.clone() }.run());
    }
    tokio::time::sleep(WARM_UP).await;
    let (meter, started) = (Meter::start(cluster), Instant::now());
    let before = counts.received.load(Ordering::Relaxed);
    tokio::time::sleep(MEASURED).await;
    let received = counts.received.load(Ordering::Relaxed) - before;
    let (elapsed, usage) = (started.elapsed(), meter.stop());

    counts.is_over.store(true, Ordering::Relaxed);
    let mut answers = Answers::default();
    while let Some(ended) = senders.join_next().await {
        answers.add(ended.map_err(std::io::Error::other)??);
    }
    let missing = missing(&counts, answers.accepted).await;
    Ok(vec![
        Figure {
            what: format!("posts of {PAYLOAD_BYTES} bytes, across nodes"),
            value: rate(received, elapsed),
            limit: usage.to_string(),
        },
        Figure {
            what: "  accepted, and not received".to_owned(),
            value: count(missing),
            limit: answers.to_string(),
        },
    ])
}

/// Connects clients that count what they receive, and gives their IDs.
async fn receivers(
    cluster: &Cluster,
    counts: &Arc<Counts>,
) -> Result<(Vec<String>, JoinSet<()>), LoadError> {
    let (mut ids, mut receivers) = (Vec::new(), JoinSet::new());
    for number in 0..CLIENTS {
        let node = RECEIVERS[number / STREAMS % RECEIVERS.len()];
        let mut client = Client::connect(edge(cluster, node)).await?;
        ids.push(client.id().await?);
        let counts = counts.clone();
        receivers.spawn(async move {
            while client.next().await.is_ok() {
                let mut received = 1;
                while matches!(client.take(), Ok(Some(_))) {
                    received += 1;
                }
                counts.received.fetch_add(received, Ordering::Relaxed);
            }
        });
    }
    Ok((ids, receivers))
}

struct Sender {
    grpc: Grpc,
    ids: Vec<String>,
    counts: Arc<Counts>,
}

type Grpc = posthorn_proto::v1::connection_service_client::ConnectionServiceClient<
    tonic::transport::Channel,
>;

impl Sender {
    /// Posts to its clients in turn until it is over, and until all was answered.
    async fn run(self) -> Result<Answers, LoadError> {
        let Sender { mut grpc, ids, counts } = self;
        let (requests, outgoing) = mpsc::channel(IN_FLIGHT);
        let places = Arc::new(Semaphore::new(IN_FLIGHT));
        let free = places.clone();
        let feed = tokio::spawn(async move {
            for (sequence, id) in (0..).zip(ids.iter().cycle()) {
                let Ok(place) = free.acquire().await else { return };
                place.forget();
                let request = request(sequence, id);
                if counts.is_over.load(Ordering::Relaxed) || requests.send(request).await.is_err() {
                    return;
                }
            }
        });
        let mut incoming =
            grpc.post_to_connections(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut answers = Answers::default();
        while let Some(answer) = incoming.message().await? {
            places.add_permits(1);
            match answer.code {
                0 => answers.accepted += 1,
                _ => *answers.refused.entry(answer.reason).or_default() += 1,
            }
        }
        feed.abort();
        Ok(answers)
    }
}

fn request(sequence: u64, id: &str) -> PostToConnectionsRequest {
    let post = PostToConnectionRequest {
        connection_id: id.to_owned(),
        payload: Some(Payload::Text("x".repeat(PAYLOAD_BYTES))),
        ..Default::default()
    };
    PostToConnectionsRequest { sequence, post: Some(post) }
}

impl Answers {
    fn add(&mut self, other: Answers) {
        self.accepted += other.accepted;
        for (reason, count) in other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
    }
}

impl std::fmt::Display for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "of {} accepted", count(self.accepted))?;
        self.refused.iter().try_for_each(|(reason, n)| write!(f, ", {} {reason}", count(*n)))
    }
}

/// How many of those that were accepted did not come.
async fn missing(counts: &Counts, accepted: u64) -> u64 {
    let deadline = Instant::now() + STRAGGLERS;
    loop {
        let missing = accepted.saturating_sub(counts.received.load(Ordering::Relaxed));
        if missing == 0 || Instant::now() > deadline {
            return missing;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
