//! What is asked of the leader about the membership.

use posthorn_core::admission::Admission;
use posthorn_core::membership::RemoveError;
use posthorn_proto::cluster::v1 as wire;

use super::{Wire, WireError};
use crate::consensus::members::{AdmitRequest, Removal};

impl Wire for AdmitRequest {
    type Message = wire::AdmitRequest;
    const NAME: &'static str = "AdmitRequest";

    fn to_message(&self) -> wire::AdmitRequest {
        let AdmitRequest { raft_id, fabric_address, was_member } = self;
        let fabric_address = fabric_address.to_string();
        wire::AdmitRequest { raft_id: *raft_id, fabric_address, was_member: *was_member }
    }

    fn from_message(message: wire::AdmitRequest) -> Result<AdmitRequest, WireError> {
        let wire::AdmitRequest { raft_id, fabric_address, was_member } = message;
        Ok(AdmitRequest { raft_id, fabric_address: fabric_address.into(), was_member })
    }
}

impl Wire for Admission {
    type Message = wire::AdmitAnswer;
    const NAME: &'static str = "AdmitAnswer";

    fn to_message(&self) -> wire::AdmitAnswer {
        use wire::admit_answer::Outcome;
        let outcome = match self {
            Admission::Member => Outcome::Member,
            Admission::Outside => Outcome::Outside,
            Admission::Occupied => Outcome::Occupied,
            Admission::Leaving => Outcome::Leaving,
        };
        wire::AdmitAnswer { outcome: outcome.into() }
    }

    fn from_message(message: wire::AdmitAnswer) -> Result<Admission, WireError> {
        use wire::admit_answer::Outcome;
        match message.outcome() {
            Outcome::Member => Ok(Admission::Member),
            Outcome::Outside => Ok(Admission::Outside),
            Outcome::Occupied => Ok(Admission::Occupied),
            Outcome::Leaving => Ok(Admission::Leaving),
            Outcome::Unspecified => Err(WireError::wrong(Self::NAME, "outcome", message.outcome)),
        }
    }
}

impl Wire for Removal {
    type Message = wire::RemoveAnswer;
    const NAME: &'static str = "RemoveAnswer";

    fn to_message(&self) -> wire::RemoveAnswer {
        use wire::remove_answer::Outcome;
        let outcome = match self {
            Ok(()) => Outcome::Removed,
            Err(RemoveError::NoMember) => Outcome::NoMember,
            Err(RemoveError::NoQuorum) => Outcome::NoQuorum,
        };
        wire::RemoveAnswer { outcome: outcome.into() }
    }

    fn from_message(message: wire::RemoveAnswer) -> Result<Removal, WireError> {
        use wire::remove_answer::Outcome;
        match message.outcome() {
            Outcome::Removed => Ok(Ok(())),
            Outcome::NoMember => Ok(Err(RemoveError::NoMember)),
            Outcome::NoQuorum => Ok(Err(RemoveError::NoQuorum)),
            Outcome::Unspecified => Err(WireError::wrong(Self::NAME, "outcome", message.outcome)),
        }
    }
}
