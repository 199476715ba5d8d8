//! The task of one lane to one peer, as its sender.
//!
//! ```text
//!   Detached --something to send--> Attaching --attached--> Attached
//!      ^                                |                       |
//!      +------------ failed ------------+-------- lost ---------+
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use posthorn_core::ids::NodeId;
use posthorn_proto::cluster::v1::{LaneAttach, LaneAttached};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::super::common::Common;
use super::super::lane::{Held, LaneBroken, Record, SenderLane, Session, Terms};
use super::super::link::{DialError, Link};
use super::super::wire::{CloseCode, MessageError, read_message, write_message};
use super::stream::{LaneStream, StreamEvent, StreamLost};
use super::{Budget, PostReply, wire_size};

/// Posts taken from the mailbox at once.
const POSTED_MAX: usize = 512;

/// Between one attachment and the next. The link has pauses of its own; this one is for peers that
/// can be reached and do not keep the lane.
const PAUSE: Duration = Duration::from_millis(50);

/// A frame on its way from who posts to the lane.
pub(super) struct Posted {
    pub(super) address: Arc<str>,
    pub(super) frame: Bytes,
    pub(super) deadline: std::time::Instant,
    /// How often the peer had been given up when it was posted.
    pub(super) era: u64,
    pub(super) reply: Box<dyn PostReply>,
}

/// What a lane hears from who posts.
pub(super) struct Inbox {
    pub(super) budget: Arc<Budget>,
    /// Bounded by the budget: who overfills it is told that the lane is full.
    pub(super) posted: mpsc::Receiver<Posted>,
    pub(super) given_up: watch::Receiver<u64>,
}

pub(super) struct LaneTask {
    common: Arc<Common>,
    link: Link,
    inbox: Inbox,
    node: NodeId,
    number: usize,
    /// Where the peer was last said to be.
    address: Arc<str>,
    posted: Vec<Posted>,
    /// Of what the lane holds.
    era: u64,
    lane: SenderLane<Box<dyn PostReply>>,
    /// What the budget was charged for and not given back.
    charged: Held,
    attempt: u64,
    attachment: Attachment,
}

enum Attachment {
    Detached {
        /// No attempt before then.
        until: Instant,
        /// Since when the lane's session has had no stream.
        since: Instant,
    },
    Attaching {
        attempt: BoxFuture<'static, Result<Attached, AttachError>>,
        since: Instant,
    },
    Attached {
        stream: Box<LaneStream>,
        since: Instant,
    },
}

struct Attached {
    stream: Box<LaneStream>,
    session: Session,
    received: u64,
    terms: Terms,
}

#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error("{0}")]
    Unreachable(#[from] DialError),
    #[error("{0}")]
    Lost(#[from] MessageError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("no answer")]
    TimedOut,
}

/// Everything that can happen to a lane.
enum Event {
    Posted,
    Attached(Result<Attached, AttachError>),
    Stream(StreamEvent),
    TimedOut,
    /// Nobody wants to hear of this peer any more.
    GivenUp,
    /// Nobody can post any more.
    Closed,
}

impl LaneTask {
    pub(super) fn new(
        common: &Arc<Common>,
        link: &Link,
        inbox: Inbox,
        (node, number, address): (NodeId, usize, Arc<str>),
    ) -> LaneTask {
        let now = Instant::now();
        LaneTask {
            common: common.clone(),
            link: link.clone(),
            inbox,
            node,
            number,
            address,
            posted: Vec::with_capacity(POSTED_MAX),
            era: 0,
            lane: SenderLane::new(common.settings.window()),
            charged: Held::default(),
            attempt: 0,
            attachment: Attachment::Detached { until: now, since: now },
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            // Streams that are always ready would keep the thread from others.
            tokio::task::coop::consume_budget().await;
            let event = self.next_event().await;
            if matches!(event, Event::Closed) {
                break;
            }
            self.apply(event);
            self.settle();
        }
        self.lane.lose_session();
        self.settle();
    }

    async fn next_event(&mut self) -> Event {
        let timeout = self.timeout();
        tokio::select! {
            count = self.inbox.posted.recv_many(&mut self.posted, POSTED_MAX) => match count {
                0 => Event::Closed,
                _ => Event::Posted,
            },
            Ok(()) = self.inbox.given_up.changed() => Event::GivenUp,
            event = self.attachment.event() => event,
            () = sleep_until(timeout.unwrap_or_else(Instant::now)), if timeout.is_some() => {
                Event::TimedOut
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Posted => self.on_posted(),
            Event::Attached(Ok(attached)) => self.on_attached(attached),
            Event::Attached(Err(error)) => {
                tracing::debug!(node = %self.node, lane = self.number, %error, "not attached");
                self.detach(Instant::now() + PAUSE);
            }
            Event::Stream(StreamEvent::Read) => {
                if let Err(broken) = self.on_read() {
                    self.on_lost(&StreamLost::Broken(broken));
                }
            }
            Event::Stream(StreamEvent::Written(bytes)) => {
                self.common.stats.lane_bytes_sent.add(bytes as u64);
            }
            Event::Stream(StreamEvent::Lost(error)) => self.on_lost(&error),
            Event::TimedOut => self.on_timeout(),
            Event::GivenUp => self.give_up(),
            // Handled by the loop.
            Event::Closed => {}
        }
    }

    /// Does what the lane wants after a change.
    fn settle(&mut self) {
        if let Attachment::Attached { stream, .. } = &mut self.attachment {
            let lane = &mut self.lane;
            let mut frames = 0;
            stream.fill(|| {
                let record = lane.poll_transmit()?;
                frames += u64::from(matches!(record, Record::Frame { .. }));
                Some(record)
            });
            self.common.stats.frames_sent.add(frames);
        }
        while let Some((reply, outcome)) = self.lane.poll_told() {
            reply.tell(outcome);
        }
        let held = self.lane.held();
        self.inbox.budget.give_back(Held {
            frames: self.charged.frames - held.frames,
            bytes: self.charged.bytes - held.bytes,
        });
        self.charged = held;
        if let Attachment::Detached { until, since } = self.attachment
            && !self.lane.is_idle()
            && until <= Instant::now()
        {
            self.attachment = Attachment::Attaching { attempt: self.attach(), since };
        }
    }

    fn on_posted(&mut self) {
        let mut batch = std::mem::take(&mut self.posted);
        for Posted { address, frame, deadline, era, reply } in batch.drain(..) {
            self.begin_era(era);
            self.charged.frames += 1;
            self.charged.bytes += frame.len();
            self.address = address;
            self.lane.post(frame, deadline, reply);
        }
        // Its room is used again.
        self.posted = batch;
    }

    fn on_attached(&mut self, Attached { stream, session, received, terms }: Attached) {
        let before = self.lane.session();
        let had_more = !self.lane.is_idle();
        if let Err(broken) = self.lane.on_attached(session, received, terms) {
            return self.on_lost(&StreamLost::Broken(broken));
        }
        match before {
            Some(before) if before == session => self.common.stats.lanes_resumed.add(1),
            Some(_) if had_more => self.common.stats.lanes_lost.add(1),
            Some(_) | None => {}
        }
        self.attachment = Attachment::Attached { stream, since: Instant::now() };
    }

    fn on_read(&mut self) -> Result<(), LaneBroken> {
        let Attachment::Attached { stream, .. } = &mut self.attachment else { return Ok(()) };
        self.common.stats.lane_bytes_received.add(stream.take_read() as u64);
        let mut answers = 0;
        while let Some(record) = stream.next_record()? {
            answers += u64::from(matches!(record, Record::Answer { .. }));
            self.lane.on_record(record)?;
        }
        self.common.stats.answers_received.add(answers);
        Ok(())
    }

    fn on_lost(&mut self, error: &StreamLost) {
        tracing::debug!(node = %self.node, lane = self.number, %error, "lost a lane's stream");
        if let StreamLost::Broken(_) = error {
            self.common.stats.lanes_broken.add(1);
            self.lane.lose_session();
        }
        let until = match &self.attachment {
            Attachment::Attached { since, .. } => *since + PAUSE,
            Attachment::Detached { .. } | Attachment::Attaching { .. } => Instant::now() + PAUSE,
        };
        self.detach(until);
    }

    fn detach(&mut self, until: Instant) {
        self.lane.on_detached();
        let since = match &self.attachment {
            Attachment::Detached { since, .. } | Attachment::Attaching { since, .. } => *since,
            Attachment::Attached { .. } => Instant::now(),
        };
        let detached = Attachment::Detached { until, since };
        let before = std::mem::replace(&mut self.attachment, detached);
        if let Attachment::Attached { stream, .. } = before {
            stream.close(CloseCode::Done);
        }
    }

    fn on_timeout(&mut self) {
        let now = Instant::now();
        self.lane.handle_timeout(now.into_std());
        if self.forget_at().is_some_and(|at| at <= now) {
            self.common.stats.lanes_lost.add(1);
            self.lane.lose_session();
        }
    }

    /// What was posted before is told how far it got, also what has not reached the lane yet; what was
    /// posted since is sent as ever.
    fn give_up(&mut self) {
        let era = *self.inbox.given_up.borrow_and_update();
        while let Ok(posted) = self.inbox.posted.try_recv() {
            self.posted.push(posted);
        }
        self.on_posted();
        self.begin_era(era);
    }

    /// Whoever posts in it may be heard before it is heard that it has begun.
    fn begin_era(&mut self, era: u64) {
        if era > self.era {
            self.era = era;
            self.lane.lose_session();
            self.detach(Instant::now() + PAUSE);
        }
    }

    fn timeout(&self) -> Option<Instant> {
        let deadline = self.lane.poll_timeout().map(Instant::from_std);
        let attach_at = match &self.attachment {
            Attachment::Detached { until, .. } if !self.lane.is_idle() => Some(*until),
            Attachment::Detached { .. } | Attachment::Attaching { .. } => None,
            Attachment::Attached { .. } => None,
        };
        [deadline, attach_at, self.forget_at()].into_iter().flatten().min()
    }

    fn forget_at(&self) -> Option<Instant> {
        self.lane.session()?;
        match &self.attachment {
            Attachment::Detached { since, .. } | Attachment::Attaching { since, .. } => {
                Some(*since + self.common.settings.lane_forgotten_after)
            }
            Attachment::Attached { .. } => None,
        }
    }

    fn attach(&mut self) -> BoxFuture<'static, Result<Attached, AttachError>> {
        self.attempt += 1;
        let attempt = attach(
            self.common.clone(),
            self.link.clone(),
            self.address.clone(),
            LaneAttach {
                lane: u32::try_from(self.number).unwrap_or(u32::MAX),
                attempt: self.attempt,
                session: 0,
                seen: 0,
                answer_bytes_max: wire_size(self.common.settings.limits.answer_bytes_max),
            },
            self.lane.session().map(|session| (session, self.lane.seen())),
        );
        let patience = self.common.settings.dial_timeout * 2;
        Box::pin(
            async move { timeout(patience, attempt).await.unwrap_or(Err(AttachError::TimedOut)) },
        )
    }
}

async fn attach(
    common: Arc<Common>,
    link: Link,
    address: Arc<str>,
    mut words: LaneAttach,
    session: Option<(Session, u64)>,
) -> Result<Attached, AttachError> {
    // The caller has a shorter deadline of its own over all of this.
    let deadline = Instant::now() + common.settings.dial_timeout * 2;
    let established = link.connection(&address, deadline).await?;
    let process = established.peer.process;
    if let Some((session, seen)) = session.filter(|(session, _)| session.process == process) {
        (words.session, words.seen) = (session.number, seen);
    }
    let (mut send, mut recv) = established.connection.open_bi().await?;
    write_message(&mut send, &words).await?;
    let LaneAttached { session, received, unanswered_max, frame_bytes_max } =
        read_message(&mut recv).await?;
    let stream = LaneStream::new(send, recv, common.settings.limits.answer_bytes_max);
    let session = Session { process, number: session };
    let terms = Terms { unanswered_max, frame_bytes_max: frame_bytes_max as usize };
    Ok(Attached { stream: Box::new(stream), session, received, terms })
}

impl Attachment {
    async fn event(&mut self) -> Event {
        match self {
            Attachment::Detached { .. } => std::future::pending().await,
            Attachment::Attaching { attempt, .. } => Event::Attached(attempt.await),
            Attachment::Attached { stream, .. } => Event::Stream(stream.event().await),
        }
    }
}
