//! A node leaves the cluster for good because an operator says so.

use posthorn_core::ids::NodeId;

use crate::consensus::RemovalError;
use crate::operator::{Operator, OperatorError};

impl Operator {
    pub(crate) async fn remove(&self, node: NodeId) -> Result<(), OperatorError> {
        self.consensus.remove(node).await.map_err(|error| match error {
            RemovalError::NoMember => OperatorError::UnknownNode(node),
            RemovalError::Refused => OperatorError::Indispensable(node),
            RemovalError::NoLeader(why) => OperatorError::NoLeader(why),
            RemovalError::Unknown(why) => OperatorError::Unknown(node, why),
        })
    }
}
