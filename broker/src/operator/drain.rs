//! A node ends in order because an operator says so.

use std::time::Duration;

use bytes::Bytes;
use posthorn_core::ids::NodeId;

use crate::fabric::CallError;
use crate::operator::{Method, Operator, OperatorError};

/// How long the node may take to say that it has begun.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Operator {
    /// Returns once the drain of a node has begun. To ask again does no harm.
    pub(crate) async fn drain(&self, node: NodeId) -> Result<(), OperatorError> {
        let peer = self.peer(node)?;
        if node == self.consensus.node() {
            self.gateway.draining().begin();
            return Ok(());
        }
        let method = Method::Drain as u8;
        let begun = self.fabric.call(&peer, method, Bytes::new(), BEGIN_TIMEOUT).await;
        begun.map(drop).map_err(|error| match error {
            CallError::Unreachable(_) => OperatorError::Unreachable(node, error.to_string()),
            // It is of a release that does not know what it was asked.
            CallError::Refused(_) => OperatorError::NotOffered,
            CallError::Unknown(_) | CallError::TooLarge(_) => {
                OperatorError::Unknown(node, error.to_string())
            }
        })
    }
}
