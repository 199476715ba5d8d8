//! A node leaves the cluster for good because an operator says so.

use posthorn_core::ids::NodeId;

use crate::operator::{Operator, OperatorError};

impl Operator {
    pub(crate) async fn remove(&self, node: NodeId) -> Result<(), OperatorError> {
        self.peer(node)?;
        Err(OperatorError::NotOffered)
    }
}
