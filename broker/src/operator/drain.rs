//! A node ends in order because an operator says so.

use posthorn_core::ids::NodeId;

use crate::operator::{Operator, OperatorError};

impl Operator {
    pub(crate) async fn drain(&self, node: NodeId) -> Result<(), OperatorError> {
        self.peer(node)?;
        Err(OperatorError::NotOffered)
    }
}
