//! That this node takes its leave, for everybody who has to know.

use std::time::Instant;

use posthorn_core::drain::{Left, Phase};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A cheap handle. Whoever holds one can begin the drain and see how far it has come.
#[derive(Debug, Clone)]
pub struct Draining {
    begun: CancellationToken,
    leaving: CancellationToken,
    progress: watch::Sender<Option<Progress>>,
}

/// How far a drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub left: Left,
    /// When the node leaves at the latest.
    pub ends_by: Instant,
}

impl Default for Draining {
    fn default() -> Draining {
        let (begun, leaving) = (CancellationToken::new(), CancellationToken::new());
        Draining { begun, leaving, progress: watch::Sender::new(None) }
    }
}

impl Draining {
    /// Begins the drain. It cannot be called off.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// None while nobody has asked for a drain.
    pub fn progress(&self) -> Option<Progress> {
        *self.progress.borrow()
    }

    /// None while nobody has asked for a drain.
    pub fn phase(&self) -> Option<Phase> {
        self.progress().map(|progress| progress.phase)
    }

    pub fn watch(&self) -> watch::Receiver<Option<Progress>> {
        self.progress.subscribe()
    }

    /// Returns once this node serves nobody any more.
    pub async fn leaving(&self) {
        self.leaving.cancelled().await;
    }

    pub(crate) fn tell(&self, progress: Progress) {
        if progress.phase == Phase::Leaving {
            self.leaving.cancel();
        }
        self.progress.send_if_modified(|told| told.replace(progress) != Some(progress));
    }
}
