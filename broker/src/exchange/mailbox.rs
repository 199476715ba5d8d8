//! The only way to a connection's task: what others want its client to read, and their wish that it
//! be closed.
//!
//! A mailbox exists from before the directory learns of its connection until the socket is let go.
//! So the owner's mailboxes are the authority: what has none there, is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};
use posthorn_core::connection::CloseCause;
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::event::context::Origin;
use posthorn_core::ids::{ConnectionId, NodeRun};
use posthorn_core::message::Message;
use posthorn_core::outbox::{Outbox, Position, Progress};
use posthorn_core::recent::{Recent, Seen};

use crate::config::node::SlowClients;
use crate::exchange::outboxes::Outboxes;
use crate::exchange::outcome::{DeliverError, Outcome, Unavailable};
use crate::exchange::tail::{Glimpse, Tails, What};
use crate::telemetry::StageMetrics;

const SHARDS: usize = 64;

/// Told once, now or later, from whatever thread learns it.
pub type Answer = Box<dyn FnOnce(Outcome) + Send>;

/// One message for a client.
#[derive(Debug, Clone)]
pub struct Post {
    pub message: Message,
    /// How far it must get before its sender is answered.
    pub progress: Progress,
    pub idempotency_key: Option<Box<str>>,
}

/// Shared by the connection's task, which takes, and everyone else, who puts.
pub struct Mailbox {
    pub info: Arc<ConnectionInfo>,
    /// The run that owns the connection. A later run of this process has nothing to do with it.
    pub owner: NodeRun,
    /// Of its stage.
    pub metrics: Arc<StageMetrics>,
    outboxes: Arc<Outboxes>,
    /// Milliseconds since 1970-01-01 UTC.
    last_active_at_ms: AtomicU64,
    /// How many events of the connection backends were told of.
    events: AtomicU64,
    /// How many messages of the client were refused as too many since the last that was not.
    throttled: AtomicU32,
    /// Locked for moments only, never across a wait.
    state: Mutex<State>,
    waker: AtomicWaker,
    /// Messages of the client that its backend is being told of.
    calls: AtomicU32,
    /// Who waits until there is none.
    quiet: AtomicWaker,
    /// Who looks on.
    pub tails: Tails,
}

/// A message of the client that its backend is being told of, until it is dropped.
pub(super) struct CallUnderWay {
    mailbox: Arc<Mailbox>,
}

#[derive(Default)]
struct State {
    outbox: Outbox<Answer>,
    /// Made when the first key comes: most connections never see one.
    recent: Option<Box<Recent>>,
    wish: Option<CloseCause>,
    /// Dispatched messages that have been dealt with since the task last looked.
    dispatched: u32,
    is_shut: bool,
}

/// What the task finds when it looks.
#[derive(Debug, Default)]
pub struct Mail {
    pub messages: Vec<Message>,
    /// A Ping to send right behind the messages.
    pub ping: Option<Position>,
    pub close: Option<CloseCause>,
    pub dispatched: u32,
}

impl Mailbox {
    pub fn new(
        info: Arc<ConnectionInfo>,
        owner: NodeRun,
        metrics: Arc<StageMetrics>,
        outboxes: Arc<Outboxes>,
    ) -> Mailbox {
        let last_active_at_ms = AtomicU64::new(info.connected_at_ms);
        Mailbox {
            info,
            owner,
            metrics,
            outboxes,
            last_active_at_ms,
            // The first is `$connect`.
            events: AtomicU64::new(1),
            throttled: AtomicU32::new(0),
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            calls: AtomicU32::new(0),
            quiet: AtomicWaker::new(),
            tails: Tails::default(),
        }
    }

    pub(super) fn begin_call(self: &Arc<Mailbox>) -> CallUnderWay {
        self.calls.fetch_add(1, Ordering::AcqRel);
        CallUnderWay { mailbox: self.clone() }
    }

    /// Returns once the backend is told of no message any more. Only one may wait, and no call may
    /// begin meanwhile.
    pub(super) async fn quiet(&self) {
        std::future::poll_fn(|context| {
            self.quiet.register(context.waker());
            match self.calls.load(Ordering::Acquire) {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    /// Puts a message in. The answer comes at once unless its sender wants to wait for more.
    pub fn post(&self, now: Instant, post: &Post, answer: Answer) {
        let mut state = self.state.lock();
        match state.accept(now, &self.outboxes, post) {
            Ok((position, seen)) => {
                if seen == Seen::Never {
                    self.metrics.unrouted.messages_sent.increment(1);
                }
                let told = state.outbox.wait(position, post.progress, answer);
                drop(state);
                self.waker.wake();
                if let Some(answer) = told {
                    answer(Ok(()));
                }
            }
            Err(error) => {
                let is_to_be_closed = state.wish.is_some();
                drop(state);
                self.tails.show(|with_payload| What::Refused {
                    message: Glimpse::of(&post.message, with_payload),
                    why: error,
                });
                if is_to_be_closed {
                    self.waker.wake();
                }
                answer(Err(error));
            }
        }
    }

    /// Puts in what the broker itself has to say. Lost where the outbox is full or shut: who does
    /// not read misses the answers to what he sends.
    pub fn reply(&self, message: Message) -> Outcome {
        let mut state = self.state.lock();
        if state.is_shut {
            return Err(DeliverError::Gone);
        }
        let pushed = state.push(&self.outboxes, message);
        drop(state);
        self.waker.wake();
        pushed.map(|_| ())
    }

    /// Wishes the connection closed. The first wish counts.
    pub fn close(&self, cause: CloseCause) -> Outcome {
        let mut state = self.state.lock();
        if state.is_shut || state.wish.is_some() {
            return Err(DeliverError::Gone);
        }
        state.wish = Some(cause);
        drop(state);
        self.waker.wake();
        Ok(())
    }

    /// A message of the client was refused as one too many: how many in a row that makes.
    pub fn on_throttled(&self) -> u32 {
        self.throttled.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// One was not.
    pub fn on_granted(&self) {
        if self.throttled.load(Ordering::Relaxed) != 0 {
            self.throttled.store(0, Ordering::Relaxed);
        }
    }

    /// A message that the client sent has been dealt with.
    pub fn on_dispatched(&self) {
        self.state.lock().dispatched += 1;
        self.waker.wake();
    }

    /// Whether posts are still taken.
    pub fn is_open(&self) -> bool {
        !self.state.lock().is_shut
    }

    /// A message went either way.
    pub fn on_active(&self, now_ms: u64) {
        self.last_active_at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Names the next event that a backend is told of.
    pub fn next_origin(&self) -> Origin {
        let sequence = self.events.fetch_add(1, Ordering::Relaxed) + 1;
        Origin { run: self.owner, sequence }
    }

    pub fn last_active_at_ms(&self) -> u64 {
        self.last_active_at_ms.load(Ordering::Relaxed)
    }

    // ---- for the connection's task ----

    /// Has the task woken by the next thing that is put in.
    pub fn register(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
    }

    /// Whether [`Mailbox::take`] would find anything.
    pub fn has_mail(&self) -> bool {
        let state = self.state.lock();
        !state.outbox.is_empty() || state.wish.is_some() || state.dispatched > 0
    }

    /// Takes a wish alone, whatever else is in the mailbox.
    pub fn poll_wish(&self, context: &Context<'_>) -> Poll<CloseCause> {
        self.register(context);
        let mut state = self.state.lock();
        match state.wish.take() {
            Some(cause) => {
                state.is_shut = true;
                Poll::Ready(cause)
            }
            None => Poll::Pending,
        }
    }

    /// Takes messages of about `bytes_max` in all, and all wishes.
    pub fn take(&self, bytes_max: usize) -> Mail {
        let mut state = self.state.lock();
        let mut mail = Mail { dispatched: state.dispatched, ..Mail::default() };
        state.dispatched = 0;
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(message) = state.outbox.take()
        {
            bytes += message.payload.len();
            mail.messages.push(message);
        }
        self.outboxes.release(mail.messages.len(), bytes);
        mail.ping = state.outbox.poll_ping();
        // What was accepted before the wish is sent before the farewell.
        if state.outbox.is_empty() {
            mail.close = state.wish.take();
            state.is_shut |= mail.close.is_some();
        }
        mail
    }

    /// Everything taken so far was given to the kernel.
    pub fn on_written(&self) {
        let told = self.state.lock().outbox.on_written();
        tell(told);
    }

    /// False if it answers no Ping that bore a number.
    pub fn on_pong(&self, position: Position) -> bool {
        let Some(told) = self.state.lock().outbox.on_pong(position) else { return false };
        tell(told);
        true
    }

    /// Takes no more posts; what was taken is still sent.
    pub fn shut(&self) {
        self.state.lock().is_shut = true;
    }

    /// The connection is over: tells everyone who still waits.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.is_shut = true;
        self.outboxes.release(state.outbox.len(), state.outbox.bytes());
        let unfinished: Vec<_> = state.outbox.close().collect();
        drop(state);
        for (answer, unfinished) in unfinished {
            answer(Err(unfinished.into()));
        }
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.mailbox.calls.fetch_sub(1, Ordering::AcqRel);
        self.mailbox.quiet.wake();
    }
}

impl Drop for Mailbox {
    /// Where it was never ended, what it held is given back here.
    fn drop(&mut self) {
        let outbox = &self.state.get_mut().outbox;
        self.outboxes.release(outbox.len(), outbox.bytes());
    }
}

impl State {
    fn accept(
        &mut self,
        now: Instant,
        outboxes: &Outboxes,
        post: &Post,
    ) -> Result<(Position, Seen), DeliverError> {
        if self.is_shut || self.wish.is_some() {
            return Err(DeliverError::Gone);
        }
        let Some(key) = &post.idempotency_key else {
            return Ok((self.push(outboxes, post.message.clone())?, Seen::Never));
        };
        let seen = self.recent.get_or_insert_default().look_up(now, key, &post.message);
        match seen {
            Seen::Accepted(position) => Ok((position, seen)),
            Seen::Otherwise => Err(DeliverError::KeyReused),
            Seen::Never => {
                let position = self.push(outboxes, post.message.clone())?;
                let recent = self.recent.get_or_insert_default();
                recent.on_accepted(now, key, &post.message, position);
                Ok((position, seen))
            }
        }
    }

    /// A client that does not take what is queued for it is refused more of it or, where it is so
    /// set, closed.
    fn push(&mut self, outboxes: &Outboxes, message: Message) -> Result<Position, DeliverError> {
        let limits = outboxes.limits;
        if self.outbox.has_room(limits, message.payload.len()) {
            let before = (self.outbox.len(), self.outbox.bytes());
            let busy = |_| DeliverError::Unavailable(Unavailable::Busy);
            outboxes.reserve(&message, before).map_err(busy)?;
            return self.outbox.push(limits, message).map_err(|_| DeliverError::TooSlow);
        }
        if outboxes.slow_clients == SlowClients::Close && self.wish.is_none() {
            self.wish = Some(CloseCause::TooSlow);
        }
        Err(DeliverError::TooSlow)
    }
}

fn tell(answers: Vec<Answer>) {
    for answer in answers {
        answer(Ok(()));
    }
}

/// The mailboxes of this node.
pub struct Mailboxes {
    shards: Vec<RwLock<HashMap<ConnectionId, Arc<Mailbox>>>>,
}

impl Default for Mailboxes {
    fn default() -> Mailboxes {
        Mailboxes { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }
}

impl Mailboxes {
    pub fn insert(&self, mailbox: Arc<Mailbox>) {
        let id = mailbox.info.connection;
        self.shard(id).write().insert(id, mailbox);
    }

    pub fn remove(&self, id: ConnectionId) {
        self.shard(id).write().remove(&id);
    }

    pub fn get(&self, id: ConnectionId) -> Option<Arc<Mailbox>> {
        self.shard(id).read().get(&id).cloned()
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.read().is_empty())
    }

    /// Of every mailbox there is now, in an order that says nothing.
    pub fn ids(&self) -> Vec<ConnectionId> {
        self.shards
            .iter()
            .flat_map(|shard| shard.read().keys().copied().collect::<Vec<_>>())
            .collect()
    }

    /// Every mailbox there is now, a shard at a time.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<Mailbox>)) {
        for shard in &self.shards {
            let mailboxes: Vec<_> = shard.read().values().cloned().collect();
            mailboxes.iter().for_each(&mut visit);
        }
    }

    fn shard(&self, id: ConnectionId) -> &RwLock<HashMap<ConnectionId, Arc<Mailbox>>> {
        &self.shards[id.spread() as usize % SHARDS]
    }
}
