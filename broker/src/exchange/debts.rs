//! `$disconnect`, at least once, for every connection whose `$connect` was answered: for our own
//! when they end, and for those of dead runs that are left to us.
//!
//! * The directory keeps a connection until its `$disconnect` was answered: should we die first, it
//!   is another's to call.
//! * A call that was not answered is repeated, ever more slowly, for so long and no longer.

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
use crate::exchange::inbound::Inbound;
use crate::exchange::stage::Stages;
use crate::telemetry::Metrics;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What could not be told for so long is given up, counted and logged.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Debts that are settled at once.
const INHERITED_AT_ONCE: usize = 256;
/// Debts are looked for when runs join or leave, and as often as this to be sure.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Disconnects {
    consensus: Consensus,
    inbound: Inbound,
    metrics: Arc<Metrics>,
    under_way: AtomicUsize,
    /// Debts that we are settling or have settled, until the directory has forgotten them.
    inherited: Mutex<BTreeSet<ConnectionId>>,
}

type Debt = (ConnectionId, Context);

/// A connection that is over.
struct Ended {
    info: Arc<ConnectionInfo>,
    cause: CloseCause,
    /// Calls for it, as long as the run may act.
    origin: Origin,
}

impl Disconnects {
    pub(super) fn new(
        consensus: Consensus,
        inbound: Inbound,
        metrics: Arc<Metrics>,
    ) -> Disconnects {
        let (under_way, inherited) = (AtomicUsize::new(0), Mutex::default());
        Disconnects { consensus, inbound, metrics, under_way, inherited }
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
    }

    /// One of our own connections has ended.
    pub(super) fn begin(
        self: Arc<Disconnects>,
        stages: Arc<Stages>,
        info: Arc<ConnectionInfo>,
        origin: Origin,
        cause: CloseCause,
    ) {
        let (id, by) = (info.connection, origin.run);
        if !Inbound::has_disconnect(&stages, &info) {
            self.consensus.registrar().close(by, id);
            return;
        }
        self.under_way.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(async move {
            if self.call_until_answered(&stages, Ended { info, cause, origin }).await {
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

    async fn settle(self: Arc<Disconnects>, run: NodeRun, stages: Arc<Stages>, debts: Vec<Debt>) {
        let settle = |debt: Debt| {
            let (disconnects, stages) = (&self, &stages);
            async move {
                if disconnects.settle_one(run, stages, &debt).await {
                    disconnects.consensus.registrar().close(run, debt.0);
                    disconnects.metrics.directory.debts_settled.increment(1);
                }
            }
        };
        futures_util::stream::iter(debts).for_each_concurrent(INHERITED_AT_ONCE, settle).await;
    }

    async fn settle_one(&self, run: NodeRun, stages: &Stages, debt: &Debt) -> bool {
        match ConnectionInfo::decode(debt.0, &debt.1) {
            Ok(info) if Inbound::has_disconnect(stages, &info) => {
                let origin = Origin { run, sequence: 1 };
                let ended = Ended { info: Arc::new(info), cause: CloseCause::Lost, origin };
                self.call_until_answered(stages, ended).await
            }
            Ok(_) => true,
            // Written by a later version: nobody of this one can tell its backend.
            Err(error) => {
                warn!(%error, "a connection's context cannot be read");
                true
            }
        }
    }

    /// The debts that are ours and that nobody here has begun to settle.
    fn debts_of(&self, run: NodeRun) -> Vec<Debt> {
        // A view, so that nobody waits while all entries are gone through.
        let directory = self.consensus.replica().read(Clone::clone);
        let mut inherited = self.inherited.lock();
        let mut owed = BTreeSet::new();
        let mut debts = Vec::new();
        for (id, entry) in directory.debts() {
            owed.insert(id);
            if placement::heir(&directory, id, entry.owner) == Some(run) && inherited.insert(id) {
                debts.push((id, entry.context.clone()));
            }
        }
        inherited.retain(|id| owed.contains(id));
        debts
    }

    /// True once nothing is owed any more. False if that is another's to see to.
    async fn call_until_answered(&self, stages: &Stages, ended: Ended) -> bool {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        // Once our lease has ended, it is another's to call.
        while self.consensus.may_act() == Some(ended.origin.run) {
            let Ended { info, cause, origin } = &ended;
            match self.inbound.disconnect(stages, info, *origin, cause).await {
                Ok(()) => return true,
                Err(error) if started.elapsed() > AGE_MAX => {
                    warn!(%error, api = %info.api_id, "gave $disconnect up");
                    return true;
                }
                Err(error) => info!(%error, api = %info.api_id, "$disconnect was not answered"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        false
    }
}
