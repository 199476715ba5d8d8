//! `posthorn cluster`: what is known of the whole.

use std::fmt::Write as _;

use posthorn_proto::v1::admin_service_client::AdminServiceClient;
use posthorn_proto::v1::{
    Cluster, Drain, DrainPhase, GetClusterRequest, NodeState, NodeStatus, RaftMember, Run,
};
use serde_json::{Value, json};

use crate::cli::Exit;
use crate::cli::access::{ApiArguments, tell};
use crate::cli::print::{self, Cell, Colour, Table, plain};

#[derive(clap::Subcommand)]
pub(super) enum ClusterCommand {
    /// Show nodes, leader, connections, debts. Exit code 7: no leader is followed by a quorum.
    Status(StatusArguments),
}

#[derive(clap::Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: ClusterCommand) -> Exit {
    let ClusterCommand::Status(arguments) = command;
    status(&arguments).await.unwrap_or_else(|exit| exit)
}

async fn status(arguments: &StatusArguments) -> Result<Exit, Exit> {
    let access = arguments.api.connect().await?;
    let request = access.request(GetClusterRequest {});
    let answer = AdminServiceClient::new(access.channel).get_cluster(request).await;
    let cluster = answer.map_err(|status| tell(&status))?.into_inner().cluster.unwrap_or_default();
    match arguments.json {
        true => print::json(&json_of(&cluster))?,
        false => print::text(&text_of(&cluster, print::is_coloured()))?,
    }
    Ok(cluster.leader_node_id.map_or(Exit::NoLeader, |_| Exit::Success))
}

// ---- for programs ----

/// The names are documented in docs/operating.md: programs rely on them.
fn json_of(cluster: &Cluster) -> Value {
    let Cluster { cluster_id, name, asked_node_id, leader_node_id, term, .. } = cluster;
    json!({
        "cluster_id": cluster_id,
        "name": name,
        "asked_node": asked_node_id,
        "leader_node": leader_node_id,
        "term": term,
        "connections": cluster.connections,
        "debts": cluster.debts,
        "members": cluster.members.iter().map(member_json).collect::<Vec<_>>(),
        "runs": cluster.runs.iter().map(run_json).collect::<Vec<_>>(),
        "nodes": cluster.nodes.iter().map(node_json).collect::<Vec<_>>(),
    })
}

fn member_json(member: &RaftMember) -> Value {
    let RaftMember { raft_id, node_id, address, is_voter } = member;
    json!({
        "raft_id": raft_id_of(*raft_id), "node": node_id, "address": address, "is_voter": is_voter,
    })
}

fn run_json(run: &Run) -> Value {
    let state = state_of(run.state());
    let Run { node_id, incarnation, state: _, connections, address } = run;
    json!({
        "node": node_id, "incarnation": incarnation, "state": state, "connections": connections,
        "address": address,
    })
}

fn node_json(node: &NodeStatus) -> Value {
    let because = Some(&node.not_ready_because).filter(|why| !why.is_empty());
    let mut status = json!({
        "node": node.node_id,
        "address": node.address,
        "state": state_of(node.state()),
        "is_ready": node.is_ready,
        "not_ready_because": because,
    });
    if let (true, Value::Object(status)) = (is_reachable(node), &mut status) {
        let known = json!({
            "incarnation": incarnation_of(node),
            "raft_id": raft_id_of(node.raft_id),
            "term": node.term,
            "leader_node": node.leader_node_id,
            "is_leading": node.is_leading,
            "applied_index": node.applied_index,
            "committed_index": node.committed_index,
            "lag": node.lag,
            "last_log_index": node.last_log_index,
            "purged_index": node.purged_index,
            "snapshot_index": node.snapshot_index,
            "connections": node.connections,
            "disconnects_under_way": node.disconnects_under_way,
            "software": node.software,
            "protocol_version_min": node.protocol_version_min,
            "protocol_version_max": node.protocol_version_max,
            "uptime_ms": node.uptime_ms,
            "drain": node.drain.as_ref().map(drain_json),
        });
        status.extend(known.as_object().cloned().unwrap_or_default());
    }
    status
}

pub(super) fn drain_json(drain: &Drain) -> Value {
    let phase = phase_of(drain.phase());
    let Drain { phase: _, connections_left, disconnects_left, ends_within_ms } = drain;
    json!({
        "phase": phase, "connections_left": connections_left, "disconnects_left": disconnects_left,
        "ends_within_ms": ends_within_ms,
    })
}

pub(super) fn phase_of(phase: DrainPhase) -> &'static str {
    match phase {
        DrainPhase::Unspecified => "unknown",
        DrainPhase::Announced => "announced",
        DrainPhase::Closing => "closing",
        DrainPhase::Settling => "settling",
        DrainPhase::Leaving => "leaving",
    }
}

// ---- for people ----

fn text_of(cluster: &Cluster, is_coloured: bool) -> String {
    let id = match &*cluster.cluster_id {
        "" => "not formed".to_owned(),
        id => plain(id),
    };
    let leader = match cluster.leader_node_id {
        Some(node) => format!("node {node} leads in term {}", cluster.term),
        None => format!("nobody leads in term {}", cluster.term),
    };
    let mut text = format!(
        "cluster {} ({id}): {leader}\n{}, {}\n\n",
        plain(&cluster.name),
        plural(cluster.connections, "connection"),
        plural(cluster.debts, "debt"),
    );
    text += &nodes_of(cluster).render(is_coloured);
    text.push('\n');
    text += &members_of(cluster).render(is_coloured);
    let over: Vec<_> = cluster.runs.iter().filter(|run| run.state() == NodeState::Gone).collect();
    if !over.is_empty() {
        let mut table = Table::new(&["RUN", "STATE", "DEBTS", "ADDRESS"]);
        for run in over {
            table.push(vec![
                format!("{}/{}", run.node_id, run.incarnation).into(),
                state_cell(run.state()),
                run.connections.to_string().into(),
                run.address.clone().into(),
            ]);
        }
        text.push('\n');
        text += &table.render(is_coloured);
    }
    let unwell = cluster.nodes.iter().filter(|node| !node.not_ready_because.is_empty());
    for (number, node) in unwell.enumerate() {
        let separator = if number == 0 { "\n" } else { "" };
        let (id, why) = (node.node_id, plain(&node.not_ready_because));
        let _ = writeln!(text, "{separator}node {id} is not ready: {why}");
    }
    text
}

fn nodes_of(cluster: &Cluster) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "STATE",
        "RUN",
        "CONNECTIONS",
        "OWN COUNT",
        "APPLIED",
        "LAG",
        "LOG",
        "SNAPSHOT",
        "UPTIME",
        "VERSION",
    ]);
    for node in &cluster.nodes {
        let run = cluster
            .runs
            .iter()
            .find(|run| run.node_id == node.node_id && run.state() != NodeState::Gone);
        let known = Some(node).filter(|node| is_reachable(node));
        let state = match cluster.leader_node_id == Some(node.node_id) {
            true => Cell::coloured(format!("{}, leads", state_of(node.state())), Colour::Green),
            false => state_cell(node.state()),
        };
        table.push(vec![
            node.node_id.to_string().into(),
            state,
            run.map(|run| format!("{}/{}", run.node_id, run.incarnation)).into(),
            run.map(|run| run.connections).into(),
            known.map(|node| node.connections).into(),
            node.applied_index.into(),
            node.lag.into(),
            log_of(node).into(),
            node.snapshot_index.into(),
            known.map(|node| print::duration(node.uptime_ms)).into(),
            known.map(|node| node.software.clone()).into(),
        ]);
    }
    table
}

fn members_of(cluster: &Cluster) -> Table {
    let mut table = Table::new(&["RAFT ID", "NODE", "ROLE", "ADDRESS"]);
    for member in &cluster.members {
        let role = if member.is_voter { "voter" } else { "learner" };
        table.push(vec![
            raft_id_of(member.raft_id).into(),
            member.node_id.to_string().into(),
            role.to_owned().into(),
            member.address.clone().into(),
        ]);
    }
    table
}

/// The first and the last entry of a log.
fn log_of(node: &NodeStatus) -> Option<String> {
    let last = node.last_log_index?;
    let first = node.purged_index.map_or(0, |purged| purged + 1);
    Some(format!("{first}-{last}"))
}

fn state_cell(state: NodeState) -> Cell {
    let colour = match state {
        NodeState::Serving => Colour::Green,
        NodeState::Joining | NodeState::Draining => Colour::Yellow,
        NodeState::Fenced | NodeState::Gone | NodeState::Unreachable | NodeState::Unspecified => {
            Colour::Red
        }
    };
    Cell::coloured(state_of(state), colour)
}

fn state_of(state: NodeState) -> &'static str {
    match state {
        NodeState::Unspecified => "unknown",
        NodeState::Joining => "joining",
        NodeState::Serving => "serving",
        NodeState::Fenced => "fenced",
        NodeState::Draining => "draining",
        NodeState::Gone => "gone",
        NodeState::Unreachable => "unreachable",
    }
}

fn is_reachable(node: &NodeStatus) -> bool {
    node.state() != NodeState::Unreachable
}

fn incarnation_of(node: &NodeStatus) -> Option<u32> {
    Some(node.incarnation).filter(|incarnation| *incarnation != 0)
}

/// As a text: not every JSON parser keeps 64 bits of a number.
fn raft_id_of(raft_id: u64) -> String {
    format!("{raft_id:016x}")
}

fn plural(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}
