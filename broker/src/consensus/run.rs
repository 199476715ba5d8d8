//! Holds on to a run of this node: does what [`Tenure`] decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use posthorn_core::directory::{Applied, Command};
use posthorn_core::ids::{DiskId, NodeId, NodeRun};
use posthorn_core::liveness::BootTime;
use posthorn_core::tenure::{Action, Phase, Tenure};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::clock::boot_now;
use crate::consensus::machine::Replica;
use crate::consensus::proposals::{AskError, Proposals};
use crate::consensus::registrar::Registrar;
use crate::consensus::store::LogStore;

const JOIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest sleep: a timer does not run while the machine is suspended, the lease does.
const SLEEP_MAX: Duration = Duration::from_millis(250);
const EVENTS_MAX: usize = 64;

/// What everybody may ask at any moment: whether we may act, and as which run.
///
/// The end of the lease is looked at each time, by the clock: a timer that comes too late must not
/// let anything pass.
pub(super) struct Standing {
    node: NodeId,
    incarnation: AtomicU64,
    /// By the boot clock, in microseconds. 0 while we do not serve.
    lease_ends_at: AtomicU64,
    /// The incarnation that has left the directory. 0 before that.
    left: AtomicU64,
    ready: watch::Sender<bool>,
    /// None until the node belongs to a cluster.
    phase: Mutex<Option<Phase>>,
}

/// Everything that the run owned is to be ended; `done` is told when it is.
pub struct Fence {
    pub run: NodeRun,
    pub done: oneshot::Sender<()>,
}

pub(super) struct RunHolder {
    pub(super) tenure: Tenure,
    pub(super) disk: DiskId,
    pub(super) fabric_address: Arc<str>,
    pub(super) store: LogStore,
    pub(super) replica: Replica,
    pub(super) proposals: Proposals,
    pub(super) registrar: Registrar,
    pub(super) standing: Arc<Standing>,
    pub(super) fences: mpsc::Sender<Fence>,
    pub(super) beat_timeout: Duration,
}

/// A word to the holder of the run, from whoever asked on its behalf.
#[derive(Debug)]
pub(super) enum Word {
    Joined(NodeRun, Applied),
    Acknowledged(NodeRun, BootTime),
    Fenced(NodeRun),
    Ended,
    Leaving,
}

impl Standing {
    pub(super) fn new(node: NodeId) -> Standing {
        Standing {
            node,
            incarnation: AtomicU64::new(0),
            lease_ends_at: AtomicU64::new(0),
            left: AtomicU64::new(0),
            ready: watch::Sender::new(false),
            phase: Mutex::new(None),
        }
    }

    /// The run as which we may accept a post or start a call at this moment.
    pub(super) fn may_act(&self) -> Option<NodeRun> {
        let ends_at = self.lease_ends_at.load(Ordering::SeqCst);
        if ends_at == 0 || micros(boot_now()) >= ends_at {
            return None;
        }
        let incarnation = self.incarnation.load(Ordering::SeqCst) as u32;
        Some(NodeRun { node: self.node, incarnation })
    }

    /// The run that has left.
    pub(super) fn left(&self) -> Option<NodeRun> {
        match self.left.load(Ordering::SeqCst) {
            0 => None,
            incarnation => Some(NodeRun { node: self.node, incarnation: incarnation as u32 }),
        }
    }

    /// From here on the run is over, and all that it owned.
    pub(super) fn leave(&self, run: NodeRun) {
        self.left.store(run.incarnation.into(), Ordering::SeqCst);
        self.end();
    }

    pub(super) fn watch_ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    pub(super) fn phase(&self) -> Option<Phase> {
        *self.phase.lock()
    }

    fn begin(&self, run: NodeRun) {
        self.incarnation.store(run.incarnation.into(), Ordering::SeqCst);
    }

    fn extend(&self, ends_at: BootTime) {
        self.lease_ends_at.store(micros(ends_at), Ordering::SeqCst);
    }

    fn end(&self) {
        self.lease_ends_at.store(0, Ordering::SeqCst);
        self.ready.send_replace(false);
    }
}

impl RunHolder {
    /// Runs until the store fails. `words` come from [`RunHolder::channel`].
    pub(super) async fn hold(
        mut self,
        sender: mpsc::Sender<Word>,
        mut words: mpsc::Receiver<Word>,
    ) -> std::io::Error {
        loop {
            while let Some(action) = self.tenure.poll_action() {
                if let Err(error) = self.perform(action, &sender).await {
                    self.standing.end();
                    return error;
                }
            }
            *self.standing.phase.lock() = Some(self.tenure.phase());
            let now = boot_now();
            let due = self.tenure.poll_timeout().unwrap_or(now + SLEEP_MAX);
            let sleep = due.0.saturating_sub(now.0).min(SLEEP_MAX);
            tokio::select! {
                // Never closed: we hold a sender ourselves.
                Some(word) = words.recv() => self.hear(&word),
                () = tokio::time::sleep(sleep) => self.tenure.handle_timeout(boot_now()),
            }
        }
    }

    pub(super) fn channel() -> (mpsc::Sender<Word>, mpsc::Receiver<Word>) {
        mpsc::channel(EVENTS_MAX)
    }

    fn hear(&mut self, word: &Word) {
        match *word {
            Word::Joined(run, applied) => {
                match applied {
                    Applied::Joined => info!(%run, "joined"),
                    applied => warn!(%run, ?applied, "cannot join"),
                }
                self.tenure.on_join(boot_now(), run, applied);
            }
            Word::Acknowledged(run, sent_at) => self.tenure.on_acknowledged(run, sent_at),
            Word::Fenced(run) => self.tenure.on_fenced(run),
            Word::Ended => self.tenure.on_ended(),
            Word::Leaving => self.tenure.leave(),
        }
    }

    async fn perform(
        &mut self,
        action: Action,
        sender: &mpsc::Sender<Word>,
    ) -> std::io::Result<()> {
        match action {
            Action::Persist { incarnation } => {
                self.store.save_incarnation(incarnation).await?;
                self.tenure.on_persisted(boot_now());
            }
            Action::Join { run } => self.join(run, sender.clone()),
            Action::Beat { run } => self.beat(run, sender.clone()),
            Action::Serve { run } => {
                info!(%run, "serving");
                self.registrar.begin(run);
                self.standing.ready.send_replace(true);
            }
            Action::Extend { ends_at } => {
                if let Some(run) = self.tenure.serving() {
                    self.standing.begin(run);
                    self.standing.extend(ends_at);
                }
            }
            Action::Fence { run } => self.fence(run, sender.clone()).await,
        }
        Ok(())
    }

    fn join(&self, run: NodeRun, sender: mpsc::Sender<Word>) {
        let (disk, fabric_address) = (self.disk, self.fabric_address.clone());
        let (proposals, replica) = (self.proposals.clone(), self.replica.clone());
        tokio::spawn(async move {
            let join = Command::Join { run, disk, fabric_address };
            // Who serves must not be far behind: what its replica lacks, it could not post to.
            let joined = async {
                let index = proposals.read_index(JOIN_TIMEOUT).await?;
                replica.wait_applied(index).await;
                proposals.propose(join, JOIN_TIMEOUT).await
            };
            match tokio::time::timeout(2 * JOIN_TIMEOUT, joined).await {
                // Where nobody listens any more, the process is ending.
                Ok(Ok(applied)) => drop(sender.send(Word::Joined(run, applied)).await),
                Ok(Err(error)) => info!(%run, %error, "waiting to join"),
                Err(_) => info!(%run, "waiting to join: catching up"),
            }
        });
    }

    fn beat(&self, run: NodeRun, sender: mpsc::Sender<Word>) {
        let (proposals, timeout) = (self.proposals.clone(), self.beat_timeout);
        tokio::spawn(async move {
            let sent_at = boot_now();
            let word = match proposals.beat(run, timeout).await {
                Ok(true) => Word::Acknowledged(run, sent_at),
                Ok(false) => Word::Fenced(run),
                Err(AskError::NoLeader(_) | AskError::NotAMember | AskError::Unknown(_)) => return,
            };
            drop(sender.send(word).await);
        });
    }

    /// Ends all that the run owned. Its lease has ended, or it is over: nothing is accepted any
    /// more from this moment on.
    async fn fence(&mut self, run: NodeRun, sender: mpsc::Sender<Word>) {
        warn!(%run, "fenced: this node has lost its lease or was evicted");
        self.standing.end();
        self.registrar.end(run);
        let (done, ended) = oneshot::channel();
        if self.fences.send(Fence { run, done }).await.is_err() {
            return;
        }
        tokio::spawn(async move {
            // Dropped unanswered, it means that the node is being taken down.
            if ended.await.is_ok() {
                drop(sender.send(Word::Ended).await);
            }
        });
    }
}

fn micros(time: BootTime) -> u64 {
    u64::try_from(time.0.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_acts_beyond_the_end_of_the_lease_however_late_a_timer_is() {
        let run = NodeRun { node: NodeId(3), incarnation: 7 };
        let standing = Standing::new(run.node);
        standing.begin(run);
        assert_eq!(standing.may_act(), None, "without a lease");
        let now = boot_now();
        standing.extend(now + Duration::from_secs(3600));
        assert_eq!(standing.may_act(), Some(run));
        standing.extend(now);
        assert_eq!(standing.may_act(), None);
    }

    #[test]
    fn a_run_that_has_left_acts_no_longer_and_is_known() {
        let run = NodeRun { node: NodeId(3), incarnation: 7 };
        let standing = Standing::new(run.node);
        standing.begin(run);
        standing.extend(boot_now() + Duration::from_secs(3600));
        standing.leave(run);
        assert_eq!((standing.may_act(), standing.left()), (None, Some(run)));
    }
}
