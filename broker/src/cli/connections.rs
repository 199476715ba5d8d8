//! `posthorn connections`: sees and closes them.

use posthorn_core::event::time::IsoTime;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::{Connection, DeleteConnectionRequest, GetConnectionRequest};
use serde_json::{Value, json};

use crate::cli::access::{ApiArguments, tell};
use crate::cli::print::plain;
use crate::cli::{Exit, print};

/// The last millisecond of the year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

#[derive(clap::Subcommand)]
pub(super) enum ConnectionsCommand {
    /// Show what is known of an open connection.
    Get(GetArguments),
    /// Close a connection.
    Close(CloseArguments),
}

#[derive(clap::Args)]
pub(super) struct GetArguments {
    #[command(flatten)]
    api: ApiArguments,
    connection_id: String,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(super) struct CloseArguments {
    #[command(flatten)]
    api: ApiArguments,
    connection_id: String,
    /// The WebSocket close code that the client is sent: 1000 to 1003, 1007 to 1014 or 3000 to 4999.
    #[arg(long, default_value_t = 1000)]
    code: u32,
    /// What the client is told, in at most 123 bytes.
    #[arg(long, default_value = "")]
    reason: String,
    /// Print JSON: `connection_id`, `done`.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: ConnectionsCommand) -> Exit {
    let done = match command {
        ConnectionsCommand::Get(arguments) => get(&arguments).await,
        ConnectionsCommand::Close(arguments) => close(&arguments).await,
    };
    done.unwrap_or_else(|exit| exit)
}

async fn get(arguments: &GetArguments) -> Result<Exit, Exit> {
    let access = arguments.api.connect().await?;
    let connection_id = arguments.connection_id.clone();
    let request = access.request(GetConnectionRequest { connection_id });
    let answer = ConnectionServiceClient::new(access.channel).get_connection(request).await;
    let answer = answer.map_err(|status| tell(&status))?.into_inner();
    let connection = answer.connection.unwrap_or_default();
    match arguments.json {
        true => print::json(&json_of(&connection))?,
        false => print::text(&text_of(&connection))?,
    }
    Ok(Exit::Success)
}

async fn close(arguments: &CloseArguments) -> Result<Exit, Exit> {
    let access = arguments.api.connect().await?;
    let request = access.request(DeleteConnectionRequest {
        connection_id: arguments.connection_id.clone(),
        close_code: arguments.code,
        close_reason: arguments.reason.clone(),
    });
    let answer = ConnectionServiceClient::new(access.channel).delete_connection(request).await;
    answer.map_err(|status| tell(&status))?;
    match arguments.json {
        true => {
            print::json(&json!({ "connection_id": arguments.connection_id, "done": "closed" }))?;
        }
        false => print::line("closed")?,
    }
    Ok(Exit::Success)
}

/// The names are documented in the README: programs rely on them.
fn json_of(connection: &Connection) -> Value {
    let user_agent = Some(&connection.user_agent).filter(|agent| !agent.is_empty());
    json!({
        "connection_id": connection.connection_id,
        "api": connection.api_id,
        "stage": connection.stage,
        "node": connection.node_id,
        "source_ip": connection.source_ip,
        "user_agent": user_agent,
        "connected_at_ms": connection.connected_at_ms,
        "last_active_at_ms": connection.last_active_at_ms,
    })
}

fn text_of(connection: &Connection) -> String {
    let lines = [
        ("connection", connection.connection_id.clone()),
        ("api", connection.api_id.clone()),
        ("stage", connection.stage.clone()),
        ("node", connection.node_id.to_string()),
        ("source IP", connection.source_ip.clone()),
        ("user agent", connection.user_agent.clone()),
        ("connected", time_of(connection.connected_at_ms)),
        ("last active", time_of(connection.last_active_at_ms)),
    ];
    let known = lines.iter().filter(|(_, value)| !value.is_empty());
    known.map(|(name, value)| format!("{name:12}{}\n", plain(value))).collect()
}

fn time_of(ms: i64) -> String {
    IsoTime(ms.clamp(0, LAST_MS).cast_unsigned()).to_string()
}
