//! How long it takes until all is well again: after the loss of the leader, and of any other node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use posthorn_chaos::cluster::Cluster;
use posthorn_proto::v1::PostToConnectionRequest;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Channel;

use crate::LoadError;
use crate::client::{Client, edge};
use crate::report::{Figure, Times, count};

const ROUNDS: usize = 7;
const POST_INTERVAL: Duration = Duration::from_millis(1);
const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// So that the load is there before the loss, and what came late is counted.
const LEAD_IN: Duration = Duration::from_millis(300);

/// Posts through a node that lives to a client of another, one after the other.
struct Posting {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Posts>,
}

#[derive(Default)]
struct Posts {
    sent: u64,
    failed: u64,
    times: Times,
}

/// What a loss came to, round by round.
#[derive(Default)]
struct Losses {
    recovered: Vec<Duration>,
    posts: Posts,
}

pub async fn run(cluster: &mut Cluster) -> Result<Vec<Figure>, LoadError> {
    let (mut leaders, mut others) = (Losses::default(), Losses::default());
    for _ in 0..ROUNDS {
        lose_leader(cluster, &mut leaders).await?;
        lose_owner(cluster, &mut others).await?;
    }
    let mut figures = leaders.figures("leader lost, until a connect elsewhere", "an election");
    let limit = "`patience_ms`, 5 s, counted from its last beat";
    figures.extend(others.figures("node lost, until NOT_FOUND for its clients", limit));
    Ok(figures)
}

async fn lose_leader(cluster: &mut Cluster, losses: &mut Losses) -> Result<(), LoadError> {
    let leader = leader(cluster).await;
    let (one, other) = ((leader + 1) % cluster.len(), (leader + 2) % cluster.len());
    let posting = Posting::start(cluster, one, other).await?;
    let lost_at = kill(cluster, leader).await;
    while Client::connect(edge(cluster, one)).await.is_err() {
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    losses.recovered.push(lost_at.elapsed());
    losses.posts.add(posting.stop().await);
    bring_back(cluster, leader).await;
    Ok(())
}

async fn lose_owner(cluster: &mut Cluster, losses: &mut Losses) -> Result<(), LoadError> {
    let leader = leader(cluster).await;
    let (owner, other) = ((leader + 1) % cluster.len(), (leader + 2) % cluster.len());
    let mut lost = Client::connect(edge(cluster, owner)).await?;
    let id = lost.id().await?;
    let posting = Posting::start(cluster, leader, other).await?;
    let mut grpc = cluster.grpc(other).await;
    let lost_at = kill(cluster, owner).await;
    loop {
        let asked = posthorn_proto::v1::GetConnectionRequest { connection_id: id.clone() };
        match grpc.get_connection(asked).await {
            Err(status) if status.code() == Code::NotFound => break,
            Ok(_) | Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
    losses.recovered.push(lost_at.elapsed());
    losses.posts.add(posting.stop().await);
    bring_back(cluster, owner).await;
    Ok(())
}

async fn leader(cluster: &Cluster) -> usize {
    loop {
        for node in 0..cluster.len() {
            if cluster.metric(node, "posthorn_raft_is_leader").await == Some(1.0) {
                return node;
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn kill(cluster: &mut Cluster, node: usize) -> Instant {
    tokio::time::sleep(LEAD_IN).await;
    let process = cluster.take(node);
    let lost_at = Instant::now();
    process.kill().await;
    lost_at
}

async fn bring_back(cluster: &mut Cluster, node: usize) {
    cluster.spawn(node).await;
    cluster.wait_ready(node).await;
}

impl Posting {
    async fn start(cluster: &Cluster, through: usize, to: usize) -> Result<Posting, LoadError> {
        let mut client = Client::connect(edge(cluster, to)).await?;
        let id = client.id().await?;
        let grpc = cluster.grpc(through).await;
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let stop = stop.clone();
            async move {
                let reading = tokio::spawn(async move { while client.next().await.is_ok() {} });
                let posts = post_until(grpc, &id, &stop).await;
                reading.abort();
                posts
            }
        });
        Ok(Posting { stop, task })
    }

    async fn stop(self) -> Posts {
        tokio::time::sleep(LEAD_IN).await;
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_default()
    }
}

async fn post_until(
    mut grpc: ConnectionServiceClient<Channel>,
    id: &str,
    stop: &AtomicBool,
) -> Posts {
    let mut posts = Posts::default();
    while !stop.load(Ordering::Relaxed) {
        let post = PostToConnectionRequest {
            connection_id: id.to_owned(),
            payload: Some(Payload::Text("x".repeat(64))),
            ..Default::default()
        };
        let posted = Instant::now();
        let is_failed = grpc.post_to_connection(post).await.is_err();
        posts.times.record(posted.elapsed());
        posts.sent += 1;
        posts.failed += u64::from(is_failed);
        tokio::time::sleep(POST_INTERVAL).await;
    }
    posts
}

impl Posts {
    fn add(&mut self, other: Posts) {
        let Posts { sent, failed, times } = other;
        self.sent += sent;
        self.failed += failed;
        self.times.merge(&times);
    }
}

impl Losses {
    fn figures(mut self, what: &str, limit: &str) -> Vec<Figure> {
        self.recovered.sort();
        let middle = self.recovered[self.recovered.len() / 2];
        let worst = self.recovered[self.recovered.len() - 1];
        let Posts { sent, failed, times } = self.posts;
        vec![
            Figure {
                what: what.to_owned(),
                value: format!("p50 {} ms, worst {} ms", middle.as_millis(), worst.as_millis()),
                limit: format!("{limit}; {ROUNDS} times"),
            },
            Figure {
                what: "  posts to other nodes' clients meanwhile".to_owned(),
                value: times.to_string(),
                limit: format!("{} of {} failed", count(failed), count(sent)),
            },
        ]
    }
}
