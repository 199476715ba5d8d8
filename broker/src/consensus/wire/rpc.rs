//! What members of the raft group ask each other, and what they answer.

use openraft::raft::{StreamAppendError, TransferLeaderError};
use posthorn_proto::cluster::v1 as proto;
use posthorn_proto::cluster::v1::raft_append_response::Outcome as AppendOutcome;
use posthorn_proto::cluster::v1::raft_transfer_leader_response::Outcome as TransferOutcome;

use super::{Wire, WireError, optional, required, to_optional};
use crate::consensus::types::{
    AppendRequest, AppendResponse, LogId, RaftVote, SnapshotRequest, SnapshotResponse,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

impl Wire for AppendRequest {
    type Message = proto::RaftAppendRequest;
    const NAME: &'static str = "RaftAppendRequest";

    fn to_message(&self) -> proto::RaftAppendRequest {
        let AppendRequest { vote, prev_log_id, entries, leader_commit } = self;
        proto::RaftAppendRequest {
            vote: Some(vote.to_message()),
            previous: to_optional(prev_log_id.as_ref()),
            entries: entries.iter().map(Wire::to_message).collect(),
            committed: to_optional(leader_commit.as_ref()),
        }
    }

    fn from_message(message: proto::RaftAppendRequest) -> Result<AppendRequest, WireError> {
        let proto::RaftAppendRequest { vote, previous, entries, committed } = message;
        Ok(AppendRequest {
            vote: required::<Self, _>("vote", vote)?,
            prev_log_id: optional(previous)?,
            entries: entries.into_iter().map(Wire::from_message).collect::<Result<_, _>>()?,
            leader_commit: optional(committed)?,
        })
    }
}

impl Wire for AppendResponse {
    type Message = proto::RaftAppendResponse;
    const NAME: &'static str = "RaftAppendResponse";

    fn to_message(&self) -> proto::RaftAppendResponse {
        match self {
            AppendResponse::Success => append_response(AppendOutcome::Success, None, None),
            AppendResponse::PartialSuccess(matching) => {
                append_response(AppendOutcome::PartialSuccess, matching.as_ref(), None)
            }
            AppendResponse::Conflict => append_response(AppendOutcome::Conflict, None, None),
            AppendResponse::HigherVote(vote) => {
                append_response(AppendOutcome::HigherVote, None, Some(vote))
            }
        }
    }

    fn from_message(message: proto::RaftAppendResponse) -> Result<AppendResponse, WireError> {
        let proto::RaftAppendResponse { outcome, log_id, vote } = message;
        match AppendOutcome::try_from(outcome) {
            Ok(AppendOutcome::Success) => Ok(AppendResponse::Success),
            Ok(AppendOutcome::PartialSuccess) => {
                Ok(AppendResponse::PartialSuccess(optional(log_id)?))
            }
            Ok(AppendOutcome::Conflict) => Ok(AppendResponse::Conflict),
            Ok(AppendOutcome::HigherVote) => {
                Ok(AppendResponse::HigherVote(required::<Self, _>("vote", vote)?))
            }
            Ok(AppendOutcome::Unspecified) | Err(_) => {
                Err(WireError::wrong(Self::NAME, "outcome", outcome))
            }
        }
    }
}

/// One answer in a stream of appends. It shares its message with the answer to a lone append.
impl Wire for StreamAppendResult {
    type Message = proto::RaftAppendResponse;
    const NAME: &'static str = "RaftAppendResponse";

    fn to_message(&self) -> proto::RaftAppendResponse {
        match self {
            Ok(matching) => append_response(AppendOutcome::Success, matching.as_ref(), None),
            Err(StreamAppendError::Conflict(at)) => {
                append_response(AppendOutcome::Conflict, Some(at), None)
            }
            Err(StreamAppendError::HigherVote(vote)) => {
                append_response(AppendOutcome::HigherVote, None, Some(vote))
            }
        }
    }

    fn from_message(message: proto::RaftAppendResponse) -> Result<StreamAppendResult, WireError> {
        let proto::RaftAppendResponse { outcome, log_id, vote } = message;
        match AppendOutcome::try_from(outcome) {
            Ok(AppendOutcome::Success | AppendOutcome::PartialSuccess) => Ok(Ok(optional(log_id)?)),
            Ok(AppendOutcome::Conflict) => {
                Ok(Err(StreamAppendError::Conflict(required::<Self, _>("log_id", log_id)?)))
            }
            Ok(AppendOutcome::HigherVote) => {
                Ok(Err(StreamAppendError::HigherVote(required::<Self, _>("vote", vote)?)))
            }
            Ok(AppendOutcome::Unspecified) | Err(_) => {
                Err(WireError::wrong(Self::NAME, "outcome", outcome))
            }
        }
    }
}

impl Wire for VoteRequest {
    type Message = proto::RaftVoteRequest;
    const NAME: &'static str = "RaftVoteRequest";

    fn to_message(&self) -> proto::RaftVoteRequest {
        let VoteRequest { vote, last_log_id, leadership_transfer } = self;
        proto::RaftVoteRequest {
            vote: Some(vote.to_message()),
            last_log_id: to_optional(last_log_id.as_ref()),
            leadership_transfer: *leadership_transfer,
        }
    }

    fn from_message(message: proto::RaftVoteRequest) -> Result<VoteRequest, WireError> {
        let proto::RaftVoteRequest { vote, last_log_id, leadership_transfer } = message;
        let vote = required::<Self, _>("vote", vote)?;
        Ok(VoteRequest { vote, last_log_id: optional(last_log_id)?, leadership_transfer })
    }
}

impl Wire for VoteResponse {
    type Message = proto::RaftVoteResponse;
    const NAME: &'static str = "RaftVoteResponse";

    fn to_message(&self) -> proto::RaftVoteResponse {
        let VoteResponse { vote, vote_granted, last_log_id } = self;
        proto::RaftVoteResponse {
            vote: Some(vote.to_message()),
            granted: *vote_granted,
            last_log_id: to_optional(last_log_id.as_ref()),
        }
    }

    fn from_message(message: proto::RaftVoteResponse) -> Result<VoteResponse, WireError> {
        let proto::RaftVoteResponse { vote, granted, last_log_id } = message;
        let vote = required::<Self, _>("vote", vote)?;
        Ok(VoteResponse { vote, vote_granted: granted, last_log_id: optional(last_log_id)? })
    }
}

impl Wire for TransferLeaderRequest {
    type Message = proto::RaftTransferLeaderRequest;
    const NAME: &'static str = "RaftTransferLeaderRequest";

    fn to_message(&self) -> proto::RaftTransferLeaderRequest {
        proto::RaftTransferLeaderRequest {
            from: Some(self.from_leader().to_message()),
            to: *self.to_node_id(),
            last_log_id: to_optional(self.last_log_id()),
        }
    }

    fn from_message(
        message: proto::RaftTransferLeaderRequest,
    ) -> Result<TransferLeaderRequest, WireError> {
        let proto::RaftTransferLeaderRequest { from, to, last_log_id } = message;
        let from = required::<Self, _>("from", from)?;
        Ok(TransferLeaderRequest::new(from, to, optional(last_log_id)?))
    }
}

impl Wire for TransferLeaderResponse {
    type Message = proto::RaftTransferLeaderResponse;
    const NAME: &'static str = "RaftTransferLeaderResponse";

    fn to_message(&self) -> proto::RaftTransferLeaderResponse {
        match self {
            Ok(()) => proto::RaftTransferLeaderResponse {
                outcome: TransferOutcome::Accepted.into(),
                ..Default::default()
            },
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                proto::RaftTransferLeaderResponse {
                    outcome: TransferOutcome::VoteChanged.into(),
                    expected_vote: Some(expected.to_message()),
                    actual_vote: Some(actual.to_message()),
                    ..Default::default()
                }
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                proto::RaftTransferLeaderResponse {
                    outcome: TransferOutcome::LogNotFlushed.into(),
                    expected_log_id: to_optional(expected.as_ref()),
                    actual_log_id: to_optional(actual.as_ref()),
                    ..Default::default()
                }
            }
        }
    }

    fn from_message(
        message: proto::RaftTransferLeaderResponse,
    ) -> Result<TransferLeaderResponse, WireError> {
        let proto::RaftTransferLeaderResponse {
            outcome,
            expected_vote,
            actual_vote,
            expected_log_id,
            actual_log_id,
        } = message;
        match TransferOutcome::try_from(outcome) {
            Ok(TransferOutcome::Accepted) => Ok(Ok(())),
            Ok(TransferOutcome::VoteChanged) => Ok(Err(TransferLeaderError::VoteChanged {
                expected: required::<Self, _>("expected_vote", expected_vote)?,
                actual: required::<Self, _>("actual_vote", actual_vote)?,
            })),
            Ok(TransferOutcome::LogNotFlushed) => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: optional(expected_log_id)?,
                actual: optional(actual_log_id)?,
            })),
            Ok(TransferOutcome::Unspecified) | Err(_) => {
                Err(WireError::wrong(Self::NAME, "outcome", outcome))
            }
        }
    }
}

impl Wire for SnapshotRequest {
    type Message = proto::RaftSnapshotRequest;
    const NAME: &'static str = "RaftSnapshotRequest";

    fn to_message(&self) -> proto::RaftSnapshotRequest {
        let SnapshotRequest { vote, meta, bytes } = self;
        proto::RaftSnapshotRequest {
            vote: Some(vote.to_message()),
            meta: Some(meta.to_message()),
            bytes: *bytes,
        }
    }

    fn from_message(message: proto::RaftSnapshotRequest) -> Result<SnapshotRequest, WireError> {
        let proto::RaftSnapshotRequest { vote, meta, bytes } = message;
        let vote = required::<Self, _>("vote", vote)?;
        Ok(SnapshotRequest { vote, meta: required::<Self, _>("meta", meta)?, bytes })
    }
}

impl Wire for SnapshotResponse {
    type Message = proto::RaftSnapshotResponse;
    const NAME: &'static str = "RaftSnapshotResponse";

    fn to_message(&self) -> proto::RaftSnapshotResponse {
        proto::RaftSnapshotResponse { vote: Some(self.vote.to_message()) }
    }

    fn from_message(message: proto::RaftSnapshotResponse) -> Result<SnapshotResponse, WireError> {
        let proto::RaftSnapshotResponse { vote } = message;
        Ok(SnapshotResponse::new(required::<Self, _>("vote", vote)?))
    }
}

fn append_response(
    outcome: AppendOutcome,
    log_id: Option<&LogId>,
    vote: Option<&RaftVote>,
) -> proto::RaftAppendResponse {
    proto::RaftAppendResponse {
        outcome: outcome.into(),
        log_id: to_optional(log_id),
        vote: to_optional(vote),
    }
}
