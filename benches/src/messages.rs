//! Messages of clients: in, to their route, to a mock, and out again.

use std::time::{Duration, Instant};

use posthorn_chaos::cluster::Cluster;
use tokio::task::JoinSet;

use crate::LoadError;
use crate::client::{Client, edge};
use crate::frames;
use crate::report::{Figure, Times, rate};
use crate::usage::Meter;

const CLIENTS: usize = 64;
/// Of one client, not answered yet. A node reads 16 before it makes a client wait.
const IN_FLIGHT: usize = 8;
const DURATION: Duration = Duration::from_secs(5);
/// Its key is the name of no route: it is looked for in the message, and then `$default` echoes.
const MESSAGE: &[u8] = br#"{"action":"sendmessage","requestId":"b2c5e9d8","data":{"room":"lobby","text":"good morning to all of you"}}"#;

pub async fn run(cluster: &Cluster) -> Result<Vec<Figure>, LoadError> {
    let mut tasks = JoinSet::new();
    let meter = Meter::start(cluster);
    let started = Instant::now();
    for _ in 0..CLIENTS {
        let client = Client::connect(edge(cluster, 0)).await?;
        tasks.spawn(echo_until(client, started + DURATION));
    }
    let (mut count, mut times) = (0, Times::default());
    while let Some(echoed) = tasks.join_next().await {
        let echoed: std::io::Result<_> = echoed.map_err(std::io::Error::other)?;
        let (echoes, of_client) = echoed?;
        count += echoes;
        times.merge(&of_client);
    }
    Ok(vec![
        Figure {
            what: "messages, in and out, 1 node".to_owned(),
            value: rate(count, started.elapsed()),
            limit: meter.stop().to_string(),
        },
        Figure {
            what: format!("  until the echo, {} at once", CLIENTS * IN_FLIGHT),
            value: times.to_string(),
            limit: "the queue of them".to_owned(),
        },
    ])
}

/// Keeps messages on their way, and counts those that came back.
async fn echo_until(mut client: Client, end: Instant) -> std::io::Result<(u64, Times)> {
    let message = frames::masked(frames::TEXT, MESSAGE);
    let (mut echoes, mut times) = (0, Times::default());
    while Instant::now() < end {
        let sent = Instant::now();
        client.send(&message.repeat(IN_FLIGHT)).await?;
        for _ in 0..IN_FLIGHT {
            client.next().await?;
            times.record(sent.elapsed());
            echoes += 1;
        }
    }
    Ok((echoes, times))
}
