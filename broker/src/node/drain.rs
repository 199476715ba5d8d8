//! Takes this node's leave of its clients: does what [`Drain`] decides.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use posthorn_core::connection::{CloseCause, CloseFrame};
use posthorn_core::drain::{Action, Drain, Left, Pace, Phase};
use posthorn_core::ids::ConnectionId;
use tracing::{info, warn};

use crate::config::Config;
use crate::config::drain::DrainSettings;
use crate::consensus::Consensus;
use crate::draining::Progress;
use crate::exchange::Gateway;

/// Beside what each connection may take to close.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

pub(super) struct Shell<'a> {
    gateway: &'a Gateway,
    consensus: &'a Consensus,
    pace: Pace,
    cause: CloseCause,
}

impl<'a> Shell<'a> {
    pub(super) fn new(
        config: &Config,
        gateway: &'a Gateway,
        consensus: &'a Consensus,
    ) -> Shell<'a> {
        let DrainSettings { grace_s, window_s, close_code, close_reason, disconnect_timeout_s } =
            &config.drain;
        let pace = Pace {
            grace: grace_s.0,
            window: window_s.0,
            straggling_max: config.edge.close_timeout_ms.0 + CLOSE_GRACE,
            settling_max: disconnect_timeout_s.0,
        };
        let frame = CloseFrame { code: *close_code, reason: close_reason.clone() };
        Shell { gateway, consensus, pace, cause: CloseCause::Drained(frame) }
    }

    /// Waits until the node is to be drained, and returns once nothing more can be waited for.
    pub(super) async fn run(&self) {
        self.gateway.draining().begun().await;
        tokio::select! {
            () = self.take_leave() => (),
            () = self.lead_no_longer() => (),
        }
    }

    /// For a node that can go on no longer. Who does not close in time is cut off.
    pub(super) async fn close_all(&self) {
        self.gateway.close_all(&self.cause);
        let closed = async {
            while self.gateway.connections() > 0 {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        if tokio::time::timeout(CLOSE_GRACE, closed).await.is_err() {
            warn!(left = self.gateway.connections(), "clients did not close in time");
        }
    }

    async fn take_leave(&self) {
        let mut machine = Drain::begin(Instant::now(), self.pace);
        let mut clients = VecDeque::new();
        info!(connections = self.gateway.connections(), "draining");
        loop {
            let (left, chance) = (self.left(), getrandom::u64().unwrap_or_default());
            machine.handle_timeout(Instant::now(), left, chance);
            // Whoever asks for the phase must not see an earlier one than what is done already.
            self.tell(&machine, left);
            while let Some(action) = machine.poll_action() {
                match action {
                    Action::Refuse => clients.extend(self.gateway.connection_ids()),
                    Action::Close { count } => self.close(&mut clients, count),
                    Action::CloseRest => self.gateway.close_all(&self.cause),
                    Action::Leave => return self.on_leave(left),
                }
            }
            let look_at = Instant::now() + LOOK_INTERVAL;
            let due = machine.poll_timeout().map_or(look_at, |due| due.min(look_at));
            tokio::time::sleep_until(due.into()).await;
        }
    }

    async fn lead_no_longer(&self) {
        let mut progress = self.gateway.draining().watch();
        let is_closing = |told: &Option<Progress>| told.is_some_and(|p| p.phase >= Phase::Closing);
        // It is told of for as long as we are.
        let _ = progress.wait_for(is_closing).await;
        self.consensus.lead_no_longer().await;
    }

    fn left(&self) -> Left {
        Left {
            connections: self.gateway.connections(),
            unsettled: self.gateway.disconnects_under_way() + self.consensus.registrar().backlog(),
        }
    }

    fn tell(&self, machine: &Drain, left: Left) {
        let metrics = &self.gateway.metrics().drain;
        metrics.phase.set(match machine.phase() {
            Phase::Announced => 1.0,
            Phase::Closing => 2.0,
            Phase::Settling => 3.0,
            Phase::Leaving => 4.0,
        });
        metrics.connections_left.set(left.connections as f64);
        let (phase, ends_by) = (machine.phase(), machine.ends_by());
        self.gateway.draining().tell(Progress { phase, left, ends_by });
    }

    fn close(&self, clients: &mut VecDeque<ConnectionId>, count: u64) {
        let mut asked = 0;
        while asked < count
            && let Some(id) = clients.pop_front()
        {
            asked += u64::from(self.gateway.close_here(id, self.cause.clone()));
        }
        self.gateway.metrics().drain.closes.increment(asked);
    }

    fn on_leave(&self, left: Left) {
        let Left { connections, unsettled } = left;
        if connections + unsettled > 0 {
            warn!(connections, unsettled, "what is left is left to the other nodes");
        }
    }
}
