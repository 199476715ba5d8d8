//! Votes, log entries and memberships.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use posthorn_core::ids::NodeId;
use posthorn_proto::cluster::v1 as proto;
use posthorn_proto::cluster::v1::raft_entry::Payload;

use super::{Wire, WireError, optional, required, to_optional};
use crate::consensus::types::{
    LeaderId, LogId, Member, Membership, Proposal, RaftEntry, RaftVote, SnapshotMeta,
    StoredMembership,
};

impl Wire for RaftVote {
    type Message = proto::RaftVote;
    const NAME: &'static str = "RaftVote";

    fn to_message(&self) -> proto::RaftVote {
        let LeaderId { term, node_id } = self.leader_id;
        proto::RaftVote { term, raft_id: node_id, committed: self.committed }
    }

    fn from_message(message: proto::RaftVote) -> Result<RaftVote, WireError> {
        let proto::RaftVote { term, raft_id, committed } = message;
        Ok(RaftVote { leader_id: LeaderId { term, node_id: raft_id }, committed })
    }
}

impl Wire for LogId {
    type Message = proto::RaftLogId;
    const NAME: &'static str = "RaftLogId";

    fn to_message(&self) -> proto::RaftLogId {
        let LeaderId { term, node_id } = self.leader_id;
        proto::RaftLogId { term, raft_id: node_id, index: self.index }
    }

    fn from_message(message: proto::RaftLogId) -> Result<LogId, WireError> {
        let proto::RaftLogId { term, raft_id, index } = message;
        Ok(LogId::new(LeaderId { term, node_id: raft_id }, index))
    }
}

impl Wire for RaftEntry {
    type Message = proto::RaftEntry;
    const NAME: &'static str = "RaftEntry";

    fn to_message(&self) -> proto::RaftEntry {
        let payload = match &self.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(proposal) => Some(Payload::Command(proposal.encoded().clone())),
            EntryPayload::Membership(membership) => {
                Some(Payload::Membership(membership.to_message()))
            }
        };
        proto::RaftEntry { log_id: Some(self.log_id.to_message()), payload }
    }

    fn from_message(message: proto::RaftEntry) -> Result<RaftEntry, WireError> {
        let proto::RaftEntry { log_id, payload } = message;
        let payload = match payload {
            None => EntryPayload::Blank,
            Some(Payload::Command(encoded)) => {
                EntryPayload::Normal(Proposal::from_encoded(encoded)?)
            }
            Some(Payload::Membership(membership)) => {
                EntryPayload::Membership(Membership::from_message(membership)?)
            }
        };
        Ok(RaftEntry::new(required::<Self, _>("log_id", log_id)?, payload))
    }
}

impl Wire for Member {
    type Message = proto::RaftMember;
    const NAME: &'static str = "RaftMember";

    fn to_message(&self) -> proto::RaftMember {
        let Member { node, fabric_address } = self;
        proto::RaftMember { node: node.0, fabric_address: fabric_address.to_string() }
    }

    fn from_message(message: proto::RaftMember) -> Result<Member, WireError> {
        let proto::RaftMember { node, fabric_address } = message;
        Ok(Member { node: NodeId(node), fabric_address: Arc::from(fabric_address) })
    }
}

impl Wire for Membership {
    type Message = proto::RaftMembership;
    const NAME: &'static str = "RaftMembership";

    fn to_message(&self) -> proto::RaftMembership {
        let config = |voters: &BTreeSet<u64>| proto::raft_membership::Config {
            voters: voters.iter().copied().collect(),
        };
        proto::RaftMembership {
            configs: self.get_joint_config().iter().map(config).collect(),
            members: self.nodes().map(|(id, member)| (*id, member.to_message())).collect(),
        }
    }

    fn from_message(message: proto::RaftMembership) -> Result<Membership, WireError> {
        let proto::RaftMembership { configs, members } = message;
        let configs = configs.into_iter().map(|config| config.voters.into_iter().collect());
        let members = members
            .into_iter()
            .map(|(id, member)| Ok((id, Member::from_message(member)?)))
            .collect::<Result<BTreeMap<_, _>, WireError>>()?;
        Membership::new(configs.collect(), members)
            .map_err(|error| WireError::wrong(Self::NAME, "configs", error))
    }
}

impl Wire for StoredMembership {
    type Message = proto::RaftStoredMembership;
    const NAME: &'static str = "RaftStoredMembership";

    fn to_message(&self) -> proto::RaftStoredMembership {
        proto::RaftStoredMembership {
            log_id: to_optional(self.log_id().as_ref()),
            membership: Some(self.membership().to_message()),
        }
    }

    fn from_message(message: proto::RaftStoredMembership) -> Result<StoredMembership, WireError> {
        let proto::RaftStoredMembership { log_id, membership } = message;
        let membership = required::<Self, _>("membership", membership)?;
        Ok(StoredMembership::new(optional(log_id)?, membership))
    }
}

impl Wire for SnapshotMeta {
    type Message = proto::RaftSnapshotMeta;
    const NAME: &'static str = "RaftSnapshotMeta";

    fn to_message(&self) -> proto::RaftSnapshotMeta {
        let SnapshotMeta { last_log_id, last_membership } = self;
        proto::RaftSnapshotMeta {
            last_log_id: to_optional(last_log_id.as_ref()),
            membership: Some(last_membership.to_message()),
        }
    }

    fn from_message(message: proto::RaftSnapshotMeta) -> Result<SnapshotMeta, WireError> {
        let proto::RaftSnapshotMeta { last_log_id, membership } = message;
        Ok(SnapshotMeta {
            last_log_id: optional(last_log_id)?,
            last_membership: required::<Self, _>("membership", membership)?,
        })
    }
}
