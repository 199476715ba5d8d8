//! What was written comes back equal, and what nobody wrote is refused by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use openraft::entry::RaftEntry as _;
use openraft::raft::{StreamAppendError, TransferLeaderError};
use posthorn_core::directory::{Applied, Command, Context, Entry, Header, Run};
use posthorn_core::ids::{ConnectionId, DiskId, NodeId, NodeRun};
use posthorn_proto::cluster::v1 as proto;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::consensus::types::{
    AppendRequest, AppendResponse, LeaderId, LogId, Member, Membership, Proposal, RaftEntry,
    RaftPayload, RaftVote, SnapshotMeta, SnapshotRequest, SnapshotResponse, StoredMembership,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

proptest! {
    #[test]
    fn commands_and_what_came_of_them_come_back(
        command in command(),
        applied in applied(),
        header in header(),
        entry in (id(), run(), context()),
    ) {
        comes_back(&command)?;
        comes_back(&applied)?;
        comes_back(&header)?;
        let (id, owner, context) = entry;
        comes_back(&(id, Entry { owner, context }))?;
    }

    #[test]
    fn entries_and_memberships_come_back(
        entry in entry(),
        vote in vote(),
        meta in meta(),
        bytes: u64,
    ) {
        comes_back(&entry)?;
        comes_back(&vote)?;
        comes_back(&meta)?;
        comes_back(&SnapshotRequest { vote, meta, bytes })?;
        comes_back(&SnapshotResponse::new(vote))?;
    }

    #[test]
    fn requests_come_back(
        vote in vote(),
        previous in option::of(log_id()),
        committed in option::of(log_id()),
        entries in vec(entry(), 0..4),
        leadership_transfer: bool,
        to: u64,
    ) {
        let request = AppendRequest {
            vote, prev_log_id: previous, entries, leader_commit: committed,
        };
        // It has no equality of its own.
        let found = AppendRequest::from_bytes(request.to_bytes())?;
        prop_assert_eq!(format!("{found:?}"), format!("{request:?}"));
        comes_back(&VoteRequest { vote, last_log_id: previous, leadership_transfer })?;
        comes_back(&VoteResponse { vote, vote_granted: leadership_transfer, last_log_id: previous })?;
        comes_back(&TransferLeaderRequest::new(vote, to, previous))?;
    }

    #[test]
    fn answers_come_back(
        vote in vote(),
        other in vote(),
        at in log_id(),
        log_id in option::of(log_id()),
    ) {
        comes_back(&AppendResponse::Success)?;
        comes_back(&AppendResponse::PartialSuccess(log_id))?;
        comes_back(&AppendResponse::Conflict)?;
        comes_back(&AppendResponse::HigherVote(vote))?;
        let results: [StreamAppendResult; 3] = [
            Ok(log_id),
            Err(StreamAppendError::Conflict(at)),
            Err(StreamAppendError::HigherVote(vote)),
        ];
        results.iter().try_for_each(comes_back)?;
        let expected = Some(at);
        let responses: [TransferLeaderResponse; 3] = [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: vote, actual: other }),
            Err(TransferLeaderError::LogNotFlushed { expected, actual: log_id }),
        ];
        responses.iter().try_for_each(comes_back)?;
    }

    #[test]
    fn noise_is_an_error_or_a_value_and_never_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        drop(Command::from_bytes(bytes.clone()));
        drop(RaftEntry::from_bytes(bytes.clone()));
        drop(AppendRequest::from_bytes(bytes.clone()));
        drop(SnapshotMeta::from_bytes(bytes.clone()));
        drop(TransferLeaderResponse::from_bytes(bytes));
    }
}

#[test]
fn what_is_missing_is_named() {
    let missing = |message, field| WireError::Missing { message, field };
    let empty = Bytes::new();
    assert_eq!(Command::from_bytes(empty.clone()), Err(missing("Command", "command")));
    assert_eq!(RaftEntry::from_bytes(empty.clone()), Err(missing("RaftEntry", "log_id")));
    assert_eq!(VoteRequest::from_bytes(empty.clone()), Err(missing("RaftVoteRequest", "vote")));
    assert_eq!(
        SnapshotMeta::from_bytes(empty.clone()),
        Err(missing("RaftSnapshotMeta", "membership"))
    );
    let outcome = WireError::wrong("Applied", "outcome", 0);
    assert_eq!(Applied::from_bytes(empty), Err(outcome));
}

#[test]
fn what_is_wrong_is_named() {
    let opened = proto::Opened { connection_id: Bytes::from_static(b"short"), ..<_>::default() };
    let run = Some(proto::NodeRun { node: 1, incarnation: 1 });
    let update = proto::Update { run, number: 1, opened: vec![opened], closed: vec![] };
    let command = proto::Command { command: Some(proto::command::Command::Update(update)) };
    let wrong = WireError::wrong("Opened", "connection_id", "5 bytes long");
    assert_eq!(Command::from_message(command), Err(wrong));

    let never = proto::NodeRun { node: 1, incarnation: 0 };
    let wrong = WireError::wrong("NodeRun", "incarnation", 0);
    assert_eq!(NodeRun::from_message(never), Err(wrong));

    let config = proto::raft_membership::Config { voters: vec![1] };
    let headless = proto::RaftMembership { configs: vec![config], members: BTreeMap::new() };
    let refused = Membership::from_message(headless);
    let message = "RaftMembership";
    assert!(
        matches!(&refused, Err(WireError::Wrong { message: named, .. }) if *named == message),
        "{refused:?}"
    );
    let noise = Bytes::from_static(&[0xff; 4]);
    let refused = RaftVote::from_bytes(noise);
    assert!(matches!(refused, Err(WireError::NotProtobuf { message: "RaftVote", .. })));
}

/// The bytes that arrived are the bytes that go on.
#[test]
fn a_proposal_is_not_encoded_again() {
    let run = NodeRun { node: NodeId(1), incarnation: 1 };
    let proposal = Proposal::from(Command::Evict { run });
    let encoded = proposal.encoded().clone();
    let received = Proposal::from_encoded(encoded.clone()).unwrap();
    assert_eq!(received, proposal);
    assert_eq!(received.encoded().as_ptr(), encoded.as_ptr());
}

fn comes_back<T: Wire + PartialEq + Debug>(value: &T) -> Result<(), TestCaseError> {
    let found = T::from_bytes(value.to_bytes());
    prop_assert_eq!(found.as_ref(), Ok(value));
    Ok(())
}

fn run() -> impl Strategy<Value = NodeRun> {
    (any::<u32>(), 1..u32::MAX)
        .prop_map(|(node, incarnation)| NodeRun { node: NodeId(node), incarnation })
}

fn id() -> impl Strategy<Value = ConnectionId> {
    any::<[u8; 16]>().prop_map(ConnectionId::from_random)
}

fn context() -> impl Strategy<Value = Context> {
    vec(any::<u8>(), 0..20).prop_map(Context::from)
}

fn address() -> impl Strategy<Value = Arc<str>> {
    "[a-z.]{0,9}:[0-9]{1,5}".prop_map(Arc::from)
}

fn command() -> impl Strategy<Value = Command> {
    let join = (run(), any::<u64>(), address()).prop_map(|(run, disk, fabric_address)| {
        Command::Join { run, disk: DiskId(disk), fabric_address }
    });
    let evict = run().prop_map(|run| Command::Evict { run });
    let update = (run(), any::<u64>(), vec((id(), context()), 0..5), vec(id(), 0..5))
        .prop_map(|(run, number, opened, closed)| Command::Update { run, number, opened, closed });
    let raise = any::<u32>().prop_map(|version| Command::Raise { version });
    prop_oneof![join, evict, update, raise]
}

fn applied() -> impl Strategy<Value = Applied> {
    prop_oneof![
        Just(Applied::Joined),
        any::<u32>().prop_map(|current| Applied::Occupied { current }),
        any::<u32>().prop_map(|latest| Applied::Superseded { latest }),
        Just(Applied::Evicted),
        Just(Applied::Updated),
        Just(Applied::Repeated),
        Just(Applied::Fenced),
        Just(Applied::Raised),
    ]
}

fn header() -> impl Strategy<Value = Header> {
    let parts = (any::<u64>(), address(), any::<u64>(), any::<u64>(), option::of(1..u64::MAX));
    let state = parts.prop_map(|(disk, address, updates, joined_at, evicted_at)| {
        let mut run = Run::new(DiskId(disk), address, joined_at);
        (run.updates, run.evicted_at) = (updates, evicted_at);
        run
    });
    let latest = btree_map(any::<u32>(), any::<u32>(), 0..5);
    let parts = (any::<u64>(), 1..u32::MAX, vec((run(), state), 0..5), latest);
    parts.prop_map(|(epoch, version, runs, latest)| {
        let latest = latest.into_iter().map(|(node, latest)| (NodeId(node), latest)).collect();
        Header { epoch, version, runs, latest }
    })
}

fn leader_id() -> impl Strategy<Value = LeaderId> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, node_id)| LeaderId { term, node_id })
}

fn vote() -> impl Strategy<Value = RaftVote> {
    (leader_id(), any::<bool>())
        .prop_map(|(leader_id, committed)| RaftVote { leader_id, committed })
}

fn log_id() -> impl Strategy<Value = LogId> {
    (leader_id(), any::<u64>()).prop_map(|(leader_id, index)| LogId::new(leader_id, index))
}

fn membership() -> impl Strategy<Value = Membership> {
    let member = (any::<u32>(), address())
        .prop_map(|(node, fabric_address)| Member { node: NodeId(node), fabric_address });
    (btree_map(any::<u64>(), member, 2..6), any::<bool>()).prop_map(|(members, is_joint)| {
        let voters: BTreeSet<u64> = members.keys().copied().take(2).collect();
        let first = voters.iter().copied().take(1).collect();
        let configs = if is_joint { vec![voters, first] } else { vec![voters] };
        Membership::new(configs, members).expect("each voter is a member")
    })
}

fn stored_membership() -> impl Strategy<Value = StoredMembership> {
    let membership = prop_oneof![Just(Membership::default()), membership()];
    (option::of(log_id()), membership)
        .prop_map(|(log_id, membership)| StoredMembership::new(log_id, membership))
}

fn meta() -> impl Strategy<Value = SnapshotMeta> {
    (option::of(log_id()), stored_membership())
        .prop_map(|(last_log_id, last_membership)| SnapshotMeta { last_log_id, last_membership })
}

fn entry() -> impl Strategy<Value = RaftEntry> {
    let payload = prop_oneof![
        Just(RaftPayload::Blank),
        command().prop_map(|command| RaftPayload::Normal(Proposal::from(command))),
        membership().prop_map(RaftPayload::Membership),
    ];
    (log_id(), payload).prop_map(|(log_id, payload)| RaftEntry::new(log_id, payload))
}
