//! `posthorn node`: has a node end, or leave for good.

use std::time::Duration;

use posthorn_proto::v1::admin_service_client::AdminServiceClient;
use posthorn_proto::v1::{
    Cluster, Drain, DrainNodeRequest, GetClusterRequest, NodeState, RemoveNodeRequest,
};
use serde_json::json;

use crate::cli::access::{ApiArguments, tell};
use crate::cli::cluster::{drain_json, phase_of};
use crate::cli::{Exit, print};

const LOOK_INTERVAL: Duration = Duration::from_millis(250);

#[derive(clap::Subcommand)]
pub(super) enum NodeCommand {
    /// Have a node end in order: its clients are closed bit by bit, then it leaves.
    Drain(DrainArguments),
    /// Take a node that is gone out of the cluster for good.
    Remove(NodeArguments),
}

#[derive(clap::Args)]
pub(super) struct NodeArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// The node's number.
    #[arg(value_name = "ID")]
    node: u32,
    /// Print JSON: `node`, `done`.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(super) struct DrainArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Show how far it has come until it has left. Otherwise the command ends once the drain has begun.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(command: NodeCommand) -> Exit {
    let done = match command {
        NodeCommand::Drain(arguments) => drain(&arguments).await,
        NodeCommand::Remove(arguments) => remove(&arguments).await,
    };
    done.unwrap_or_else(|exit| exit)
}

async fn drain(arguments: &DrainArguments) -> Result<Exit, Exit> {
    let DrainArguments { node: arguments, wait } = arguments;
    let access = arguments.api.connect().await?;
    let mut client = AdminServiceClient::new(access.channel.clone());
    // So that a restart of it is not taken for the same life.
    let cluster = client.get_cluster(access.request(GetClusterRequest {})).await;
    let before = cluster.map_err(|status| tell(&status))?.into_inner().cluster.unwrap_or_default();
    let request = access.request(DrainNodeRequest { node_id: arguments.node });
    client.drain_node(request).await.map_err(|status| tell(&status))?;
    if !wait {
        return arguments.say("is being drained");
    }
    let mut last = None;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let cluster = match client.get_cluster(access.request(GetClusterRequest {})).await {
            Ok(answer) => answer.into_inner().cluster.unwrap_or_default(),
            // The API is the last of a node that ends in order.
            Err(_) if before.asked_node_id == arguments.node => break,
            Err(status) => return Err(tell(&status)),
        };
        if has_left(&before, &cluster, arguments.node) {
            break;
        }
        let node = cluster.nodes.into_iter().find(|node| node.node_id == arguments.node);
        if let Some(drain) = node.and_then(|node| node.drain)
            && last.as_ref() != Some(&drain)
        {
            arguments.show(&drain)?;
            last = Some(drain);
        }
    }
    arguments.say("has left")
}

/// Whether the life of a node that was current before is over.
fn has_left(before: &Cluster, now: &Cluster, node: u32) -> bool {
    let current = |cluster: &Cluster| {
        let mut runs = cluster.runs.iter();
        let current = runs.find(|run| run.node_id == node && run.state() != NodeState::Gone);
        current.map(|run| run.incarnation)
    };
    current(now).is_none() || current(now) != current(before)
}

async fn remove(arguments: &NodeArguments) -> Result<Exit, Exit> {
    let access = arguments.api.connect().await?;
    let request = access.request(RemoveNodeRequest { node_id: arguments.node });
    let mut client = AdminServiceClient::new(access.channel);
    client.remove_node(request).await.map_err(|status| tell(&status))?;
    arguments.say("removed")
}

impl NodeArguments {
    fn show(&self, drain: &Drain) -> Result<(), Exit> {
        if self.json {
            return print::json(&json!({ "node": self.node, "drain": drain_json(drain) }));
        }
        let Drain { connections_left, disconnects_left, ends_within_ms, .. } = drain;
        print::line(&format!(
            "node {}: {}, {connections_left} connections and {disconnects_left} $disconnect calls left, \
             at most {} s",
            self.node,
            phase_of(drain.phase()),
            ends_within_ms.div_ceil(1000),
        ))
    }

    fn say(&self, done: &str) -> Result<Exit, Exit> {
        match self.json {
            true => print::json(&json!({ "node": self.node, "done": done }))?,
            false => print::line(&format!("node {} {done}", self.node))?,
        }
        Ok(Exit::Success)
    }
}
