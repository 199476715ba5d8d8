//! `posthorn node`: has a node end, or leave for good.

use posthorn_proto::v1::admin_service_client::AdminServiceClient;
use posthorn_proto::v1::{DrainNodeRequest, RemoveNodeRequest};
use serde_json::json;

use crate::cli::access::{ApiArguments, tell};
use crate::cli::{Exit, print};

#[derive(clap::Subcommand)]
pub(super) enum NodeCommand {
    /// Have a node end in order.
    Drain(NodeArguments),
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

pub(super) async fn run(command: NodeCommand) -> Exit {
    let done = match command {
        NodeCommand::Drain(arguments) => drain(&arguments).await,
        NodeCommand::Remove(arguments) => remove(&arguments).await,
    };
    done.unwrap_or_else(|exit| exit)
}

async fn drain(arguments: &NodeArguments) -> Result<Exit, Exit> {
    let access = arguments.api.connect().await?;
    let request = access.request(DrainNodeRequest { node_id: arguments.node });
    let mut client = AdminServiceClient::new(access.channel);
    client.drain_node(request).await.map_err(|status| tell(&status))?;
    arguments.say("drained")
}

async fn remove(arguments: &NodeArguments) -> Result<Exit, Exit> {
    let access = arguments.api.connect().await?;
    let request = access.request(RemoveNodeRequest { node_id: arguments.node });
    let mut client = AdminServiceClient::new(access.channel);
    client.remove_node(request).await.map_err(|status| tell(&status))?;
    arguments.say("removed")
}

impl NodeArguments {
    fn say(&self, done: &str) -> Result<Exit, Exit> {
        match self.json {
            true => print::json(&json!({ "node": self.node, "done": done }))?,
            false => print::line(&format!("node {} {done}", self.node))?,
        }
        Ok(Exit::Success)
    }
}
