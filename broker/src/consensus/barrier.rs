//! One question to the cluster for all who wait: has this replica seen everything committed so far?

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::consensus::machine::Replica;
use crate::consensus::proposals::Proposals;

const ATTEMPTS: u32 = 20;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The cluster did not answer: this node may be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no quorum answers")]
pub struct NoQuorum;

type Waiter = oneshot::Sender<Result<(), NoQuorum>>;

#[derive(Clone, Default)]
pub(super) struct Barrier {
    /// Who came since the last question was asked. A question asked before somebody came says
    /// nothing to him.
    waiting: Arc<Mutex<Vec<Waiter>>>,
    came: Arc<Notify>,
}

impl Barrier {
    /// Returns once this replica has applied all that was committed before the call.
    pub(super) async fn wait(&self) -> Result<(), NoQuorum> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().push(sender);
        self.came.notify_one();
        receiver.await.unwrap_or(Err(NoQuorum))
    }

    /// Asks, for ever, whenever somebody waits.
    pub(super) async fn serve(self, proposals: Proposals, replica: Replica) {
        loop {
            self.came.notified().await;
            let waiting = std::mem::take(&mut *self.waiting.lock());
            if waiting.is_empty() {
                continue;
            }
            let passed = pass(&proposals, &replica).await;
            for waiter in waiting {
                // Who no longer waits need not be told.
                let _ = waiter.send(passed);
            }
        }
    }
}

async fn pass(proposals: &Proposals, replica: &Replica) -> Result<(), NoQuorum> {
    for _ in 0..ATTEMPTS {
        if let Ok(index) = proposals.read_index(ATTEMPT_TIMEOUT).await {
            let applied = tokio::time::timeout(ATTEMPT_TIMEOUT, replica.wait_applied(index)).await;
            return applied.map_err(|_| NoQuorum);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    Err(NoQuorum)
}
