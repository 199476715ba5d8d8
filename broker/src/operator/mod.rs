//! What operators ask of the cluster, from any node: each question is a file.
//!
//! A node that is asked asks the others over the fabric. Beside the control methods of `consensus`,
//! which it passes on, it answers its own.

mod drain;
mod measure;
mod remove;
mod reserve;
mod status;
mod survey;
mod tail;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use posthorn_core::ids::{ClusterName, NodeId};
use prost::Message as _;
use tokio::sync::Semaphore;

use crate::consensus::{Consensus, NotReady};
use crate::exchange::Gateway;
use crate::exchange::tail::TAILS_MAX;
use crate::fabric::{ControlService, Fabric, PeerIdentity, Refusal, UploadReader};
use crate::operator::tail::AllWatched;
pub(crate) use crate::operator::tail::{Onlooker, TailError};

/// What a node can be asked on behalf of operators, by the number that goes over the wire. Smaller
/// numbers are of `consensus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Method {
    Status = 64,
    Drain = 65,
    Tail = 66,
}

/// Answers operators, and what other nodes ask on their behalf.
pub(crate) struct Operator {
    cluster: ClusterName,
    consensus: Consensus,
    gateway: Arc<Gateway>,
    fabric: Fabric,
    started_at: Instant,
    /// For those who look on at connections of other nodes, too.
    onlookers: Arc<Semaphore>,
    /// By the numbers that other nodes ask by.
    watched: AllWatched,
    /// For all that is not ours.
    control: Arc<dyn ControlService>,
}

/// Why what an operator asked for was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OperatorError {
    #[error("this release cannot do that")]
    NotOffered,
    #[error("there is no node {0}")]
    UnknownNode(NodeId),
    /// Certainly not done.
    #[error("node {0} cannot be reached: {1}")]
    Unreachable(NodeId, String),
    /// Perhaps done.
    #[error("node {0} did not answer: {1}")]
    Unknown(NodeId, String),
    #[error("without node {0}, too few that can vote would be left to agree on anything")]
    Indispensable(NodeId),
    #[error("nothing was done: {0}")]
    NoLeader(String),
}

impl Operator {
    pub(crate) fn new(
        cluster: ClusterName,
        consensus: Consensus,
        gateway: Arc<Gateway>,
        fabric: Fabric,
        control: Arc<dyn ControlService>,
    ) -> Arc<Operator> {
        let started_at = Instant::now();
        Arc::new(Operator {
            cluster,
            consensus,
            gateway,
            fabric,
            started_at,
            onlookers: Arc::new(Semaphore::new(TAILS_MAX)),
            watched: AllWatched::default(),
            control,
        })
    }

    /// Returns once this node serves nobody any more.
    pub(crate) fn leaving(&self) -> impl Future<Output = ()> + use<> {
        let draining = self.gateway.draining().clone();
        async move { draining.leaving().await }
    }

    /// None while this node can register connections, and means to stay.
    pub(crate) fn not_ready(&self) -> Option<NotReady> {
        let draining = self.gateway.draining().phase().map(|_| NotReady::Draining);
        draining.or_else(|| self.consensus.not_ready())
    }
}

impl ControlService for Operator {
    fn call(
        &self,
        from: PeerIdentity,
        method: u8,
        request: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        match Method::of(method) {
            Some(Method::Status) => {
                Box::pin(async { Ok(self.own_status().encode_to_vec().into()) })
            }
            Some(Method::Drain) => {
                self.gateway.draining().begin();
                Box::pin(async { Ok(Bytes::new()) })
            }
            Some(Method::Tail) => Box::pin(self.answer_tail(request)),
            None => self.control.call(from, method, request),
        }
    }

    fn upload(
        &self,
        from: PeerIdentity,
        method: u8,
        header: Bytes,
        body: UploadReader,
    ) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        self.control.upload(from, method, header, body)
    }
}

impl Method {
    fn of(number: u8) -> Option<Method> {
        [Method::Status, Method::Drain, Method::Tail]
            .into_iter()
            .find(|method| *method as u8 == number)
    }
}
