//! `posthorn connections`: sees and closes them.

use std::net::IpAddr;

use posthorn_core::auth::time::parse_extended;
use posthorn_core::event::time::IsoTime;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::{
    Connection, DeleteConnectionRequest, GetConnectionRequest, ListConnectionsRequest,
    ListConnectionsResponse,
};
use serde_json::{Value, json};

use crate::cli::access::{ApiArguments, tell};
use crate::cli::print::plain;
use crate::cli::{Exit, print};

/// The last millisecond of the year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

#[derive(clap::Subcommand)]
pub(super) enum ConnectionsCommand {
    /// List connections, page by page, as the node's replica of the directory shows them.
    List(ListArguments),
    /// Show what is known of an open connection.
    Get(GetArguments),
    /// Close a connection.
    Close(CloseArguments),
}

#[derive(clap::Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    access: ApiArguments,
    /// Only those of this API.
    #[arg(long, value_name = "ID", default_value = "")]
    api_id: String,
    /// Only those of stages with this name.
    #[arg(long, default_value = "")]
    stage: String,
    /// Only those that this node owns.
    #[arg(long, value_name = "ID")]
    node: Option<u32>,
    /// Only those that connected at this time or later, as in 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    connected_after: Option<i64>,
    /// Only those that connected before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    connected_before: Option<i64>,
    /// Only those from this address.
    #[arg(long, value_name = "IP")]
    source_ip: Option<IpAddr>,
    /// First ask the leader what the node may have missed.
    #[arg(long)]
    linearizable: bool,
    /// How many a page has at most: what is printed at once.
    #[arg(long, value_name = "COUNT", default_value_t = 1000,
          value_parser = clap::value_parser!(i32).range(1..=1000))]
    page_size: i32,
    /// Print a line of JSON for each connection.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(super) struct GetArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// As the list shows it.
    connection_id: String,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(super) struct CloseArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// As the list shows it.
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
        ConnectionsCommand::List(arguments) => list(arguments).await,
        ConnectionsCommand::Get(arguments) => get(&arguments).await,
        ConnectionsCommand::Close(arguments) => close(&arguments).await,
    };
    done.unwrap_or_else(|exit| exit)
}

async fn list(arguments: ListArguments) -> Result<Exit, Exit> {
    let access = arguments.access.connect().await?;
    let mut client = ConnectionServiceClient::new(access.channel.clone());
    let mut asked = ListConnectionsRequest {
        page_size: arguments.page_size,
        page_token: String::new(),
        api_id: arguments.api_id,
        stage: arguments.stage,
        node_id: arguments.node,
        connected_after_ms: arguments.connected_after,
        connected_before_ms: arguments.connected_before,
        source_ip: arguments.source_ip.map_or_else(String::new, |ip| ip.to_string()),
        linearizable: arguments.linearizable,
    };
    let mut is_first = true;
    loop {
        let answer = client.list_connections(access.request(asked.clone())).await;
        let ListConnectionsResponse { connections, next_page_token } =
            answer.map_err(|status| tell(&status))?.into_inner();
        match arguments.json {
            true => print::text(&connections.iter().map(json_line).collect::<String>())?,
            false => print::text(&table_of(&connections, is_first))?,
        }
        if next_page_token.is_empty() {
            return Ok(Exit::Success);
        }
        (asked.page_token, is_first) = (next_page_token, false);
    }
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

fn json_line(connection: &Connection) -> String {
    format!("{}\n", json_of(connection))
}

/// The columns of all pages are as wide, unless something in them is very long.
fn table_of(connections: &[Connection], is_first: bool) -> String {
    let line = |cells: [&str; 6]| {
        let [id, api, stage, node, connected, source_ip] = cells;
        format!("{id:22}  {api:12}  {stage:12}  {node:>4}  {connected:24}  {source_ip}\n")
    };
    let head = ["CONNECTION", "API", "STAGE", "NODE", "CONNECTED", "SOURCE IP"];
    let mut text = if is_first { line(head) } else { String::new() };
    for connection in connections {
        let [id, api, stage, source_ip] = [
            &connection.connection_id,
            &connection.api_id,
            &connection.stage,
            &connection.source_ip,
        ]
        .map(|cell| plain(cell));
        let node = connection.node_id.to_string();
        let connected = time_of(connection.connected_at_ms);
        text += &line([&id, &api, &stage, &node, &connected, &source_ip]);
    }
    text
}

/// The names are documented in docs/operating.md: programs rely on them.
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
        "last_active_at_ms": Some(connection.last_active_at_ms).filter(|ms| *ms != 0),
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

/// Milliseconds since 1970.
fn time(text: &str) -> Result<i64, String> {
    let ms = parse_extended(text).and_then(|ms| i64::try_from(ms).ok());
    ms.ok_or_else(|| "a time is written as in 2026-01-31T12:00:00Z, in UTC".to_owned())
}

fn time_of(ms: i64) -> String {
    IsoTime(ms.clamp(0, LAST_MS).cast_unsigned()).to_string()
}
