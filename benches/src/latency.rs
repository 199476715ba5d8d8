//! One post at a time, from one node to a client of another.

use std::time::{Duration, Instant};

use posthorn_chaos::cluster::Cluster;
use posthorn_proto::v1::PostToConnectionRequest;
use posthorn_proto::v1::post_to_connection_request::Payload;
use tokio::sync::mpsc;

use crate::LoadError;
use crate::client::{Client, edge};
use crate::report::{Figure, Times};
use crate::usage::Meter;

const SENDER: usize = 0;
const RECEIVER: usize = 1;
const WARM_UP_POSTS: usize = 500;
const POSTS_MAX: usize = 10_000;
const TIME_MAX: Duration = Duration::from_secs(20);

pub async fn run(cluster: &Cluster) -> Result<Vec<Figure>, LoadError> {
    let mut client = Client::connect(edge(cluster, RECEIVER)).await?;
    let id = client.id().await?;
    let (sender, mut receipts) = mpsc::channel(16);
    let receiver = tokio::spawn(async move {
        while client.next().await.is_ok() && sender.send(Instant::now()).await.is_ok() {}
    });
    let mut grpc = cluster.grpc(SENDER).await;
    let post = PostToConnectionRequest {
        connection_id: id,
        payload: Some(Payload::Text("x".repeat(64))),
        ..Default::default()
    };
    let (mut to_receipt, mut to_answer) = (Times::default(), Times::default());
    let (mut meter, began) = (Meter::start(cluster), Instant::now());
    for number in 0..WARM_UP_POSTS + POSTS_MAX {
        if number == WARM_UP_POSTS {
            (to_receipt, to_answer) = Default::default();
            meter = Meter::start(cluster);
        }
        let posted = Instant::now();
        grpc.post_to_connection(post.clone()).await?;
        to_answer.record(posted.elapsed());
        let lost = || std::io::Error::other("a post was accepted, and the client is gone");
        let received = receipts.recv().await.ok_or_else(lost)?;
        to_receipt.record(received.saturating_duration_since(posted));
        if began.elapsed() > TIME_MAX {
            break;
        }
    }
    let usage = meter.stop();
    receiver.abort();
    let figure = |what: &str, times: &Times, limit| Figure {
        what: what.to_owned(),
        value: times.to_string(),
        limit,
    };
    Ok(vec![
        figure("one post across nodes, until received", &to_receipt, usage.to_string()),
        figure("  until answered", &to_answer, "one more way back".to_owned()),
    ])
}
