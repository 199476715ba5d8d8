//! Which connections there are, as this node's replica shows them.
//!
//! A page is taken from a view, off the threads that carry messages, and few at once: whoever lists
//! slows nobody who posts.

use std::time::{Duration, Instant};

use posthorn_core::listing::{self, Filter, Limits, Page, Position};
use tokio::sync::Semaphore;

use crate::consensus::Consensus;
use crate::exchange::outcome::{DeliverError, Unavailable};
use crate::exchange::scope::Scope;

/// Further ones wait.
const PAGES_AT_ONCE: usize = 2;
/// What a page may cost: some hundredths of a second.
const LOOKS_MAX: usize = 50_000;
/// Of what is known of its connections: gRPC's clients take 4 MiB unless told otherwise.
const BYTES_MAX: usize = 1024 * 1024;
/// How long the cluster may take to say what this replica has missed.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) struct Listings {
    consensus: Consensus,
    places: Semaphore,
}

/// What a page is to show.
pub struct Wanted {
    pub filter: Filter,
    /// Nothing else is shown.
    pub scope: Scope,
    pub from: Position,
    pub connections_max: usize,
    /// All that was committed when it was asked for is to be seen.
    pub is_linearizable: bool,
}

impl Listings {
    pub(super) fn new(consensus: Consensus) -> Listings {
        Listings { consensus, places: Semaphore::new(PAGES_AT_ONCE) }
    }

    pub(super) async fn page(
        &self,
        wanted: Wanted,
        deadline: Instant,
    ) -> Result<Page, DeliverError> {
        let place = tokio::time::timeout_at(deadline.into(), self.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(DeliverError::Unavailable(Unavailable::Busy));
        };
        if wanted.is_linearizable {
            let settled = tokio::time::timeout(SETTLE_TIMEOUT, self.consensus.barrier()).await;
            if !matches!(settled, Ok(Ok(()))) {
                return Err(DeliverError::Unavailable(Unavailable::NoQuorum));
            }
        }
        let view = self.consensus.replica().read(Clone::clone);
        let Wanted { filter, scope, from, connections_max, is_linearizable: _ } = wanted;
        let limits = Limits { connections_max, bytes_max: BYTES_MAX, looks_max: LOOKS_MAX };
        let take = move || {
            let is_visible = |api: &str, stage: &str| scope.covers_stage(api, stage);
            listing::page(&view, &filter, from, limits, is_visible)
        };
        let taken = tokio::task::spawn_blocking(take).await;
        taken.map_err(|_| DeliverError::Unavailable(Unavailable::Busy))
    }
}
