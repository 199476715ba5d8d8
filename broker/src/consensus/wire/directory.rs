//! The directory's commands, what they came to, and its parts in a snapshot.

use std::sync::Arc;

use bytes::Bytes;
use posthorn_core::directory::{Applied, Command, Context, Entry, Header, Run};
use posthorn_core::ids::{ConnectionId, DiskId, NodeId, NodeRun};
use posthorn_proto::cluster::v1 as proto;
use posthorn_proto::cluster::v1::applied::Outcome;
use posthorn_proto::cluster::v1::command::Command as Kind;

use super::{Wire, WireError, required};
use crate::consensus::types::Proposal;

impl From<Command> for Proposal {
    fn from(command: Command) -> Proposal {
        let encoded = command.to_bytes();
        Proposal::from_parts(command, encoded)
    }
}

impl Proposal {
    /// Keeps the bytes, so that handing the command on costs no encoding.
    pub(in crate::consensus) fn from_encoded(encoded: Bytes) -> Result<Proposal, WireError> {
        Ok(Proposal::from_parts(Command::from_bytes(encoded.clone())?, encoded))
    }
}

impl Wire for Command {
    type Message = proto::Command;
    const NAME: &'static str = "Command";

    fn to_message(&self) -> proto::Command {
        let kind = match self {
            Command::Join { run, disk, fabric_address } => Kind::Join(proto::Join {
                run: Some(run.to_message()),
                disk: disk.0,
                fabric_address: fabric_address.to_string(),
            }),
            Command::Raise { version } => Kind::Raise(proto::Raise { version: *version }),
            Command::Evict { run } => Kind::Evict(proto::Evict { run: Some(run.to_message()) }),
            Command::Update { run, number, opened, closed } => Kind::Update(proto::Update {
                run: Some(run.to_message()),
                number: *number,
                opened: opened.iter().map(opened_to_message).collect(),
                closed: closed.iter().map(id_to_message).collect(),
            }),
        };
        proto::Command { command: Some(kind) }
    }

    fn from_message(message: proto::Command) -> Result<Command, WireError> {
        let missing = WireError::Missing { message: Self::NAME, field: "command" };
        match message.command.ok_or(missing)? {
            Kind::Join(proto::Join { run, disk, fabric_address }) => Ok(Command::Join {
                run: required::<Command, _>("join.run", run)?,
                disk: DiskId(disk),
                fabric_address: Arc::from(fabric_address),
            }),
            Kind::Raise(proto::Raise { version }) => Ok(Command::Raise { version }),
            Kind::Evict(proto::Evict { run }) => {
                Ok(Command::Evict { run: required::<Command, _>("evict.run", run)? })
            }
            Kind::Update(proto::Update { run, number, opened, closed }) => Ok(Command::Update {
                run: required::<Command, _>("update.run", run)?,
                number,
                opened: opened.into_iter().map(opened_from_message).collect::<Result<_, _>>()?,
                closed: closed
                    .iter()
                    .map(|id| id_from_message("Update", "closed", id))
                    .collect::<Result<_, _>>()?,
            }),
        }
    }
}

impl Wire for NodeRun {
    type Message = proto::NodeRun;
    const NAME: &'static str = "NodeRun";

    fn to_message(&self) -> proto::NodeRun {
        proto::NodeRun { node: self.node.0, incarnation: self.incarnation }
    }

    fn from_message(message: proto::NodeRun) -> Result<NodeRun, WireError> {
        let proto::NodeRun { node, incarnation } = message;
        if incarnation == 0 {
            return Err(WireError::wrong(Self::NAME, "incarnation", incarnation));
        }
        Ok(NodeRun { node: NodeId(node), incarnation })
    }
}

impl Wire for Applied {
    type Message = proto::Applied;
    const NAME: &'static str = "Applied";

    fn to_message(&self) -> proto::Applied {
        let (outcome, incarnation) = match *self {
            Applied::Joined => (Outcome::Joined, 0),
            Applied::Occupied { current } => (Outcome::Occupied, current),
            Applied::Superseded { latest } => (Outcome::Superseded, latest),
            Applied::Evicted => (Outcome::Evicted, 0),
            Applied::Updated => (Outcome::Updated, 0),
            Applied::Repeated => (Outcome::Repeated, 0),
            Applied::Fenced => (Outcome::Fenced, 0),
            Applied::Raised => (Outcome::Raised, 0),
        };
        proto::Applied { outcome: outcome.into(), incarnation }
    }

    fn from_message(message: proto::Applied) -> Result<Applied, WireError> {
        let proto::Applied { outcome, incarnation } = message;
        match Outcome::try_from(outcome) {
            Ok(Outcome::Joined) => Ok(Applied::Joined),
            Ok(Outcome::Occupied) => Ok(Applied::Occupied { current: incarnation }),
            Ok(Outcome::Superseded) => Ok(Applied::Superseded { latest: incarnation }),
            Ok(Outcome::Evicted) => Ok(Applied::Evicted),
            Ok(Outcome::Updated) => Ok(Applied::Updated),
            Ok(Outcome::Repeated) => Ok(Applied::Repeated),
            Ok(Outcome::Fenced) => Ok(Applied::Fenced),
            Ok(Outcome::Raised) => Ok(Applied::Raised),
            Ok(Outcome::Unspecified) | Err(_) => {
                Err(WireError::wrong(Self::NAME, "outcome", outcome))
            }
        }
    }
}

impl Wire for Header {
    type Message = proto::DirectoryHeader;
    const NAME: &'static str = "DirectoryHeader";

    fn to_message(&self) -> proto::DirectoryHeader {
        let Header { epoch, version, runs, latest } = self;
        proto::DirectoryHeader {
            epoch: *epoch,
            version: *version,
            runs: runs.iter().map(Wire::to_message).collect(),
            latest: latest.iter().map(|(node, latest)| (node.0, *latest)).collect(),
        }
    }

    fn from_message(message: proto::DirectoryHeader) -> Result<Header, WireError> {
        let proto::DirectoryHeader { epoch, version, runs, latest } = message;
        Ok(Header {
            epoch,
            version: version.max(1),
            runs: runs.into_iter().map(Wire::from_message).collect::<Result<_, _>>()?,
            latest: latest.into_iter().map(|(node, latest)| (NodeId(node), latest)).collect(),
        })
    }
}

impl Wire for (NodeRun, Run) {
    type Message = proto::DirectoryRun;
    const NAME: &'static str = "DirectoryRun";

    fn to_message(&self) -> proto::DirectoryRun {
        let (id, run) = self;
        proto::DirectoryRun {
            run: Some(id.to_message()),
            fabric_address: run.fabric_address.to_string(),
            updates: run.updates,
            joined_at: run.joined_at,
            evicted_at: run.evicted_at.unwrap_or(0),
            disk: run.disk.0,
        }
    }

    fn from_message(message: proto::DirectoryRun) -> Result<(NodeRun, Run), WireError> {
        let proto::DirectoryRun { run, fabric_address, updates, joined_at, evicted_at, disk } =
            message;
        let id = required::<Self, _>("run", run)?;
        let mut run = Run::new(DiskId(disk), Arc::from(fabric_address), joined_at);
        run.updates = updates;
        run.evicted_at = Some(evicted_at).filter(|epoch| *epoch != 0);
        Ok((id, run))
    }
}

impl Wire for (ConnectionId, Entry) {
    type Message = proto::DirectoryEntry;
    const NAME: &'static str = "DirectoryEntry";

    fn to_message(&self) -> proto::DirectoryEntry {
        let (id, Entry { owner, context }) = self;
        proto::DirectoryEntry {
            connection_id: id_to_message(id),
            owner: Some(owner.to_message()),
            context: Bytes::copy_from_slice(context),
        }
    }

    fn from_message(message: proto::DirectoryEntry) -> Result<(ConnectionId, Entry), WireError> {
        let proto::DirectoryEntry { connection_id, owner, context } = message;
        let id = id_from_message(Self::NAME, "connection_id", &connection_id)?;
        let owner = required::<Self, _>("owner", owner)?;
        Ok((id, Entry { owner, context: Context::from(&context[..]) }))
    }
}

fn opened_to_message((id, context): &(ConnectionId, Context)) -> proto::Opened {
    let context = Bytes::copy_from_slice(context);
    proto::Opened { connection_id: id_to_message(id), context }
}

fn opened_from_message(message: proto::Opened) -> Result<(ConnectionId, Context), WireError> {
    let proto::Opened { connection_id, context } = message;
    let id = id_from_message("Opened", "connection_id", &connection_id)?;
    Ok((id, Context::from(&context[..])))
}

fn id_to_message(id: &ConnectionId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn id_from_message(
    message: &'static str,
    field: &'static str,
    bytes: &Bytes,
) -> Result<ConnectionId, WireError> {
    let wrong = |_| WireError::wrong(message, field, format_args!("{} bytes long", bytes.len()));
    ConnectionId::try_from(&bytes[..]).map_err(wrong)
}
