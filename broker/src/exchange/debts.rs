//! `$disconnect`, at least once, for every connection whose `$connect` was answered: for our own
//! when they end, and for those of dead runs that are left to us.
//!
//! * The directory keeps a connection until its `$disconnect` was answered: should we die first, it
//!   is another's to call.
//! * It is the last that a backend hears of a connection: what its client sent before comes first.
//! * A call that was not answered is repeated, ever more slowly, for so long and no longer. Nobody
//!   else's waits for that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use posthorn_core::connection::CloseCause;
use posthorn_core::directory::Context;
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::event::context::Origin;
use posthorn_core::ids::{ConnectionId, NodeRun};
use posthorn_core::placement;
use tracing::{info, warn};

use crate::consensus::Consensus;
use crate::exchange::inbound::{Inbound, random};
use crate::exchange::mailbox::Mailbox;
use crate::exchange::stage::Stages;
use crate::telemetry::Metrics;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// Debts that are tried at once.
const INHERITED_AT_ONCE: usize = 256;
/// Debts are looked for when runs join or leave, and as often as this to be sure.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Disconnects {
    consensus: Consensus,
    inbound: Inbound,
    metrics: Arc<Metrics>,
    /// How long a call that is not answered is repeated.
    retry_max: Duration,
    under_way: AtomicUsize,
    inherited: Mutex<Inherited>,
}

/// What we settle or have settled, until the directory has forgotten it.
#[derive(Default)]
struct Inherited {
    /// As which run. What one could not settle before it ended is left to the next as to anybody.
    run: Option<NodeRun>,
    debts: BTreeSet<ConnectionId>,
}

type Debt = (ConnectionId, Context);

/// A connection that is over.
struct Ended {
    info: Arc<ConnectionInfo>,
    cause: CloseCause,
    /// Calls for it, as long as the run may act.
    origin: Origin,
}

/// What one call came to.
enum Attempt {
    /// Nothing is owed any more.
    Settled,
    Unanswered,
    /// Our lease has ended: it is another's to call.
    NotOurs,
}

/// Between attempts.
struct Retries {
    began: Instant,
    pause: Duration,
}

impl Disconnects {
    pub(super) fn new(
        consensus: Consensus,
        inbound: Inbound,
        retry_max: Duration,
        metrics: Arc<Metrics>,
    ) -> Disconnects {
        let (under_way, inherited) = (AtomicUsize::new(0), Mutex::default());
        Disconnects { consensus, inbound, metrics, retry_max, under_way, inherited }
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
    }

    /// One of our own connections has ended.
    pub(super) fn begin(
        self: Arc<Disconnects>,
        stages: Arc<Stages>,
        mailbox: Arc<Mailbox>,
        cause: CloseCause,
    ) {
        let (info, origin) = (mailbox.info.clone(), mailbox.next_origin());
        let (id, by) = (info.connection, origin.run);
        if !Inbound::has_disconnect(&stages, &info) {
            self.consensus.registrar().close(by, id);
            return;
        }
        self.under_way.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(async move {
            mailbox.quiet().await;
            drop(mailbox);
            if self.call_until_settled(&stages, &Ended { info, cause, origin }).await {
                self.consensus.registrar().close(by, id);
            }
            self.under_way.fetch_sub(1, Ordering::AcqRel);
        });
    }

    /// Settles what dead runs leave to us, for ever.
    pub(super) async fn inherit(self: Arc<Disconnects>, stages: impl Fn() -> Arc<Stages>) {
        let mut epoch = self.consensus.replica().watch_epoch();
        let mut ready = self.consensus.watch_ready();
        loop {
            if let Some(run) = self.consensus.may_act() {
                let debts = self.debts_of(run);
                if !debts.is_empty() {
                    info!(debts = debts.len(), %run, "settling what dead runs have left");
                    // Those that come later do not wait for one whose backend does not answer.
                    tokio::spawn(self.clone().settle(run, stages(), debts));
                }
            }
            tokio::select! {
                _ = epoch.changed() => (),
                _ = ready.changed() => (),
                () = tokio::time::sleep(LOOK_INTERVAL) => (),
            }
        }
    }

    /// Tries all, then again those that were not answered.
    async fn settle(
        self: Arc<Disconnects>,
        run: NodeRun,
        stages: Arc<Stages>,
        mut debts: Vec<Debt>,
    ) {
        let mut retries = Retries::new();
        loop {
            let attempt = |debt: Debt| {
                let (disconnects, stages) = (&self, &stages);
                async move { (disconnects.attempt_debt(run, stages, &debt).await, debt) }
            };
            let unanswered =
                futures_util::stream::iter(debts).map(attempt).buffer_unordered(INHERITED_AT_ONCE);
            let unanswered = unanswered.filter_map(|(attempt, debt)| {
                let is_over = match attempt {
                    Attempt::Settled => {
                        self.metrics.directory.debts_settled.increment(1);
                        true
                    }
                    Attempt::Unanswered => retries.began.elapsed() > self.retry_max,
                    Attempt::NotOurs => return std::future::ready(None),
                };
                if matches!(attempt, Attempt::Unanswered) && is_over {
                    self.give_up(debt.0);
                }
                if is_over {
                    self.consensus.registrar().close(run, debt.0);
                }
                std::future::ready((!is_over).then_some(debt))
            });
            debts = unanswered.collect().await;
            if debts.is_empty() {
                return;
            }
            retries.pause().await;
        }
    }

    async fn attempt_debt(&self, run: NodeRun, stages: &Stages, debt: &Debt) -> Attempt {
        match ConnectionInfo::decode(debt.0, &debt.1) {
            Ok(info) if Inbound::has_disconnect(stages, &info) => {
                let origin = Origin { run, sequence: 1 };
                let ended = Ended { info: Arc::new(info), cause: CloseCause::Lost, origin };
                self.attempt(stages, &ended).await
            }
            Ok(_) => Attempt::Settled,
            // Written by a later version: nobody of this one can tell its backend.
            Err(error) => {
                warn!(%error, "a connection's context cannot be read");
                Attempt::Settled
            }
        }
    }

    /// The debts that are ours and that nobody here has begun to settle.
    fn debts_of(&self, run: NodeRun) -> Vec<Debt> {
        // A view, so that nobody waits while all entries are gone through.
        let directory = self.consensus.replica().read(Clone::clone);
        let mut inherited = self.inherited.lock();
        if inherited.run.replace(run) != Some(run) {
            inherited.debts.clear();
        }
        let mut owed = BTreeSet::new();
        let mut debts = Vec::new();
        for (id, entry) in directory.debts() {
            owed.insert(id);
            if placement::heir(&directory, id, entry.owner) == Some(run)
                && inherited.debts.insert(id)
            {
                debts.push((id, entry.context.clone()));
            }
        }
        inherited.debts.retain(|id| owed.contains(id));
        debts
    }

    /// True once nothing is owed any more. False if that is another's to see to.
    async fn call_until_settled(&self, stages: &Stages, ended: &Ended) -> bool {
        let mut retries = Retries::new();
        loop {
            match self.attempt(stages, ended).await {
                Attempt::Settled => return true,
                Attempt::NotOurs => return false,
                Attempt::Unanswered if retries.began.elapsed() > self.retry_max => {
                    self.give_up(ended.info.connection);
                    return true;
                }
                Attempt::Unanswered => retries.pause().await,
            }
        }
    }

    async fn attempt(&self, stages: &Stages, ended: &Ended) -> Attempt {
        let Ended { info, cause, origin } = ended;
        if self.consensus.may_act() != Some(origin.run) {
            return Attempt::NotOurs;
        }
        match self.inbound.disconnect(stages, info, *origin, cause).await {
            Ok(()) => Attempt::Settled,
            Err(error) => {
                info!(%error, api = %info.api_id, "$disconnect was not answered");
                Attempt::Unanswered
            }
        }
    }

    fn give_up(&self, connection: ConnectionId) {
        warn!(%connection, "gave $disconnect up");
        self.metrics.directory.disconnects_given_up.increment(1);
    }
}

impl Retries {
    fn new() -> Retries {
        Retries { began: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Half of a pause and a part of the other, by chance: those that failed together are not repeated
    /// together.
    async fn pause(&mut self) {
        let [chance] = random::<1>();
        tokio::time::sleep(self.pause.mul_f64(0.5 + f64::from(chance) / 512.0)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}
