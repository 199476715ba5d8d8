//! Lanes in motion: the tasks that carry the pure lanes' wishes out on QUIC streams.

mod sender;
mod service;
mod sessions;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use posthorn_core::ids::NodeId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::common::Common;
use super::lane::{Held, LANES, PostError};
use super::link::Link;
use sender::{Inbox, LaneTask, Posted};

pub use service::{PostService, Reply};
pub(super) use sessions::Sessions;

/// Who is told what became of a post. Told from a lane's task, once: it must not block.
pub trait PostReply: Send + 'static {
    /// The service's answer, or how far the frame got without one.
    fn tell(self: Box<Self>, outcome: Result<Bytes, PostError>);
}

/// A post was turned away at once: it was not sent, and nobody is told but who posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostRefused {
    /// As much is held for this peer as may be.
    #[error("the peer's lanes are full")]
    LaneFull,
    #[error("{0} bytes are more than a frame may have")]
    TooLarge(usize),
    #[error("too many peers")]
    TooManyPeers,
    #[error("closed")]
    Closed,
}

/// The lanes to one peer.
pub(super) struct Lanes {
    budget: Arc<Budget>,
    mailboxes: [mpsc::Sender<Posted>; LANES],
    /// How often what was held was given up.
    given_up: watch::Sender<u64>,
}

/// What is held for a peer over all its lanes.
pub(super) struct Budget {
    frames_max: usize,
    bytes_max: usize,
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

impl Lanes {
    pub(super) fn start(
        common: &Arc<Common>,
        link: &Link,
        node: NodeId,
        address: &Arc<str>,
    ) -> Lanes {
        let limits = &common.settings.limits;
        let budget = Arc::new(Budget {
            frames_max: limits.lane_frames_max,
            bytes_max: limits.lane_bytes_max,
            frames: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        });
        let given_up = watch::Sender::new(0);
        let mailboxes = std::array::from_fn(|lane| {
            // The budget is what limits: it never lets in more than this.
            let (mailbox, posted) = mpsc::channel(limits.lane_frames_max);
            let inbox = Inbox { budget: budget.clone(), posted, given_up: given_up.subscribe() };
            let task = LaneTask::new(common, link, inbox, (node, lane, address.clone()));
            common.spawn(task.run());
            mailbox
        });
        Lanes { budget, mailboxes, given_up }
    }

    /// Holds nothing any more of what was posted so far.
    pub(super) fn give_up(&self) {
        self.given_up.send_modify(|times| *times += 1);
    }

    pub(super) fn post(
        &self,
        (address, order_key): (&Arc<str>, u64),
        frame: Bytes,
        reply: Box<dyn PostReply>,
        deadline: Instant,
    ) -> Result<(), PostRefused> {
        let bytes = frame.len();
        if !self.budget.take(bytes) {
            return Err(PostRefused::LaneFull);
        }
        let lane = usize::try_from(order_key % LANES as u64).unwrap_or(0);
        let address = address.clone();
        let era = *self.given_up.borrow();
        let posted = Posted { address, frame, deadline: deadline.into_std(), era, reply };
        match self.mailboxes[lane].try_send(posted) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.budget.give_back(Held { frames: 1, bytes });
                Err(match error {
                    mpsc::error::TrySendError::Full(_) => PostRefused::LaneFull,
                    mpsc::error::TrySendError::Closed(_) => PostRefused::Closed,
                })
            }
        }
    }
}

impl Budget {
    fn take(&self, bytes: usize) -> bool {
        let frames_before = self.frames.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = frames_before < self.frames_max && bytes_before + bytes <= self.bytes_max;
        if !fits {
            self.give_back(Held { frames: 1, bytes });
        }
        fits
    }

    fn give_back(&self, held: Held) {
        self.frames.fetch_sub(held.frames, Ordering::Relaxed);
        self.bytes.fetch_sub(held.bytes, Ordering::Relaxed);
    }
}

/// Limits on bytes are far below 2^32.
fn wire_size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl PostReply for oneshot::Sender<Result<Bytes, PostError>> {
    fn tell(self: Box<Self>, outcome: Result<Bytes, PostError>) {
        // Who no longer waits need not know.
        let _ = self.send(outcome);
    }
}

impl<F> PostReply for F
where
    F: FnOnce(Result<Bytes, PostError>) + Send + 'static,
{
    fn tell(self: Box<Self>, outcome: Result<Bytes, PostError>) {
        self(outcome);
    }
}
