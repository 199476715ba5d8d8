//! Tells the directory which connections this run opens and closes.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use posthorn_core::directory::{Applied, Command, Context};
use posthorn_core::ids::{ConnectionId, NodeRun};
use posthorn_core::roster::{Roster, Update};
use tokio::sync::{Notify, oneshot};
use tracing::warn;

use crate::consensus::proposals::Proposals;
use crate::telemetry::Metrics;

const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A cheap handle. What it is told is proposed in batches, one on its way at a time.
#[derive(Clone)]
pub struct Registrar {
    books: Arc<Mutex<Option<Books>>>,
    changed: Arc<Notify>,
}

/// What a run has to tell. A new run begins with new books.
struct Books {
    run: NodeRun,
    roster: Roster,
    waiting: HashMap<ConnectionId, oneshot::Sender<()>>,
}

impl Default for Registrar {
    fn default() -> Registrar {
        Registrar { books: Arc::default(), changed: Arc::new(Notify::new()) }
    }
}

impl Registrar {
    /// Registers a connection of `run`. True once that is committed; false if the run is over
    /// before.
    pub fn open(
        &self,
        run: NodeRun,
        connection: ConnectionId,
        context: Context,
    ) -> impl Future<Output = bool> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        self.change(run, |books| {
            books.roster.on_open(connection, context);
            books.waiting.insert(connection, sender);
        });
        async { receiver.await.is_ok() }
    }

    /// Takes a connection out of the directory: one of the run's own, or a debt that it settled.
    /// Does nothing if the run is over: others will settle it.
    pub fn close(&self, run: NodeRun, connection: ConnectionId) {
        self.change(run, |books| books.roster.on_close(connection));
    }

    /// How many changes wait to be proposed or to be committed.
    pub fn backlog(&self) -> usize {
        let books = self.books.lock();
        let in_flight = |update: &Update| update.opened.len() + update.closed.len();
        books.as_ref().map_or(0, |books| {
            books.roster.waiting() + books.roster.in_flight().map_or(0, in_flight)
        })
    }

    pub(super) fn begin(&self, run: NodeRun) {
        let (roster, waiting) = (Roster::default(), HashMap::new());
        *self.books.lock() = Some(Books { run, roster, waiting });
    }

    /// The run is over. Who waits is told so. Does nothing where the next has begun: that an earlier one
    /// is fenced may be learned long after.
    pub(super) fn end(&self, run: NodeRun) {
        let ended = self.books.lock().take_if(|books| books.run == run);
        drop(ended);
        self.changed.notify_one();
    }

    /// Proposes updates, for ever. Returns each run that turns out to be fenced to `fenced`.
    pub(super) async fn serve(
        self,
        proposals: Proposals,
        metrics: Arc<Metrics>,
        fenced: impl Fn(NodeRun),
    ) {
        loop {
            let Some((run, update)) = self.next_update() else {
                self.changed.notified().await;
                continue;
            };
            let started = Instant::now();
            metrics
                .directory
                .update_changes
                .record((update.opened.len() + update.closed.len()) as f64);
            if self.commit(&proposals, run, &update).await == Some(Applied::Fenced) {
                self.end(run);
                fenced(run);
            }
            metrics.directory.commit_seconds.record(started.elapsed());
        }
    }

    fn next_update(&self) -> Option<(NodeRun, Update)> {
        let mut books = self.books.lock();
        let books = books.as_mut()?;
        books.roster.poll_update().map(|update| (books.run, update.clone()))
    }

    /// Proposes one update until its fate is known. None if the run ended meanwhile.
    async fn commit(
        &self,
        proposals: &Proposals,
        run: NodeRun,
        update: &Update,
    ) -> Option<Applied> {
        let mut attempts = 0_u32;
        loop {
            let Update { number, opened, closed } = update.clone();
            let command = Command::Update { run, number, opened, closed };
            match proposals.propose(command, PROPOSAL_TIMEOUT).await {
                Ok(Applied::Fenced) => return Some(Applied::Fenced),
                Ok(applied) => {
                    self.on_committed(run);
                    return Some(applied);
                }
                Err(error) => {
                    attempts += 1;
                    if attempts.is_multiple_of(50) {
                        warn!(%run, number, %error, attempts, "cannot register connections");
                    }
                }
            }
            if self.books.lock().as_ref().is_none_or(|books| books.run != run) {
                return None;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn on_committed(&self, run: NodeRun) {
        let mut books = self.books.lock();
        let Some(books) = books.as_mut().filter(|books| books.run == run) else { return };
        for (connection, _) in books.roster.on_committed().into_iter().flat_map(|u| u.opened) {
            if let Some(waiting) = books.waiting.remove(&connection) {
                // Who gave up waiting will close it.
                let _ = waiting.send(());
            }
        }
    }

    fn change(&self, run: NodeRun, change: impl FnOnce(&mut Books)) {
        let mut books = self.books.lock();
        if let Some(books) = books.as_mut().filter(|books| books.run == run) {
            change(books);
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use posthorn_core::ids::NodeId;

    use super::*;

    #[test]
    fn that_an_earlier_run_is_over_does_not_end_its_successor() {
        let registrar = Registrar::default();
        let run = |incarnation| NodeRun { node: NodeId(0), incarnation };
        registrar.begin(run(2));
        registrar.end(run(1));
        drop(registrar.open(run(2), ConnectionId::from_random([1; 16]), Arc::from([])));
        assert_eq!(registrar.backlog(), 1);
        registrar.end(run(2));
        assert_eq!(registrar.backlog(), 0);
    }
}
