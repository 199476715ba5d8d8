//! The receiving side of lanes: one task for each lane of each process that posts to us. It lives
//! on without a connection, so that the next one can resume.
//!
//! Invariants:
//!
//! * All frames of one lane of one process go through one task, over all connections and sessions:
//!   none overtakes another.
//! * Only the latest attachment of a lane is served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use posthorn_core::ids::NodeId;
use posthorn_proto::cluster::v1::{LaneAttach, LaneAttached};
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::super::common::Common;
use super::super::hello::PeerIdentity;
use super::super::lane::{Answer, LANES, LaneBroken, ReceiverLane, Record};
use super::super::wire::{CloseCode, read_message, write_message};
use super::service::{PostService, Reply};
use super::stream::{LaneStream, StreamEvent};
use super::wire_size;

/// Attachments that wait for a lane's task. More are refused, and the sender tries again.
const ATTACHES_MAX: usize = 4;

/// Answers taken from the mailbox at once.
const ANSWERS_MAX: usize = 512;

/// Processes of one node whose lanes are remembered. A node that restarts more often than lanes are
/// forgotten has the rest refused until they are.
const PROCESSES_MAX: usize = 64;

type Key = (NodeId, u64, u32);

/// Who is remembered. Locked only while attaching.
pub(in crate::fabric) struct Sessions {
    common: Arc<Common>,
    service: Arc<dyn PostService>,
    /// Where the numbers of sessions come from: random at first, so that a restart repeats none.
    numbers: AtomicU64,
    lanes: Mutex<BTreeMap<Key, mpsc::Sender<Attach>>>,
}

struct Attach {
    words: LaneAttach,
    streams: (SendStream, RecvStream),
}

struct ReceiverTask {
    sessions: Arc<Sessions>,
    from: PeerIdentity,
    attaches: mpsc::Receiver<Attach>,
    /// The latest attachment's.
    attempt: u64,
    session: u64,
    lane: ReceiverLane,
    /// What the sender takes, or we give, whichever is less.
    answer_bytes_max: usize,
    /// Where replies of this session go. Bounded by the window: the sender that could overfill it
    /// is refused before.
    answers: mpsc::Sender<(u64, Answer)>,
    answered: mpsc::Receiver<(u64, Answer)>,
    taken: Vec<(u64, Answer)>,
    stream: Option<Box<LaneStream>>,
    detached_at: Instant,
}

/// Everything that can happen to a lane.
enum Event {
    Attach(Option<Attach>),
    Answered,
    Stream(StreamEvent),
    TimedOut,
}

impl Sessions {
    pub(in crate::fabric) fn new(
        common: &Arc<Common>,
        service: Arc<dyn PostService>,
        first: u64,
    ) -> Arc<Sessions> {
        Arc::new(Sessions {
            common: common.clone(),
            service,
            numbers: AtomicU64::new(first),
            lanes: Mutex::default(),
        })
    }

    /// Serves a stream that a peer opened on its posts connection.
    pub(in crate::fabric) async fn attach(
        self: Arc<Self>,
        from: PeerIdentity,
        (send, mut recv): (SendStream, RecvStream),
    ) {
        let patience = self.common.settings.dial_timeout;
        let words: LaneAttach = match timeout(patience, read_message(&mut recv)).await {
            Ok(Ok(words)) => words,
            Ok(Err(_)) | Err(_) => return refuse((send, recv)),
        };
        let key = (from.node, from.process, words.lane);
        let attach = Attach { words, streams: (send, recv) };
        if key.2 as usize >= LANES {
            return refuse(attach.streams);
        }
        let Some(task) = self.task(key, from) else { return refuse(attach.streams) };
        if let Err(error) = task.try_send(attach) {
            let (mpsc::error::TrySendError::Full(attach)
            | mpsc::error::TrySendError::Closed(attach)) = error;
            refuse(attach.streams);
        }
    }

    /// The lane's task, started where there is none.
    fn task(self: &Arc<Self>, key: Key, from: PeerIdentity) -> Option<mpsc::Sender<Attach>> {
        let mut lanes = self.lanes.lock();
        if let Some(task) = lanes.get(&key).filter(|task| !task.is_closed()) {
            return Some(task.clone());
        }
        lanes.retain(|_, task| !task.is_closed());
        let (node, _, _) = key;
        let of_node = lanes.range((node, 0, 0)..=(node, u64::MAX, u32::MAX)).count();
        if of_node >= PROCESSES_MAX * LANES {
            return None;
        }
        let (task, attaches) = mpsc::channel(ATTACHES_MAX);
        lanes.insert(key, task.clone());
        let receiver = ReceiverTask::new(self.clone(), from, attaches);
        let closing = self.common.closing.clone();
        self.common.spawn(async move {
            closing.run_until_cancelled(receiver.run()).await;
        });
        Some(task)
    }

    /// Never 0, which is none.
    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed).max(1)
    }
}

impl ReceiverTask {
    fn new(
        sessions: Arc<Sessions>,
        from: PeerIdentity,
        attaches: mpsc::Receiver<Attach>,
    ) -> ReceiverTask {
        let (answers, answered) = mpsc::channel(1);
        ReceiverTask {
            sessions,
            from,
            attaches,
            attempt: 0,
            session: 0,
            lane: ReceiverLane::new(0),
            answer_bytes_max: 0,
            answers,
            answered,
            taken: Vec::new(),
            stream: None,
            detached_at: Instant::now(),
        }
    }

    async fn run(mut self) {
        loop {
            // Streams that are always ready would keep the thread from others.
            tokio::task::coop::consume_budget().await;
            match self.next_event().await {
                Event::Attach(Some(attach)) => self.on_attach(attach).await,
                Event::Answered => self.on_answered(),
                Event::Stream(StreamEvent::Read) => self.on_read(),
                Event::Stream(StreamEvent::Written(bytes)) => {
                    self.sessions.common.stats.lane_bytes_sent.add(bytes as u64);
                }
                Event::Stream(StreamEvent::Lost(error)) => {
                    tracing::debug!(node = %self.from.node, %error, "a lane was detached");
                    self.detach(CloseCode::Done);
                }
                Event::Attach(None) | Event::TimedOut => return,
            }
            self.settle();
        }
    }

    async fn next_event(&mut self) -> Event {
        let forget_at = self.detached_at + self.sessions.common.settings.lane_forgotten_after;
        tokio::select! {
            attach = self.attaches.recv() => Event::Attach(attach),
            // We hold a sender, so there is always one to come.
            _ = self.answered.recv_many(&mut self.taken, ANSWERS_MAX) => Event::Answered,
            event = next_of(&mut self.stream) => Event::Stream(event),
            () = sleep_until(forget_at), if self.stream.is_none() => Event::TimedOut,
        }
    }

    fn settle(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let lane = &mut self.lane;
        let mut answers = 0;
        stream.fill(|| {
            let record = lane.poll_transmit()?;
            answers += u64::from(matches!(record, Record::Answer { .. }));
            Some(record)
        });
        self.sessions.common.stats.answers_sent.add(answers);
    }

    async fn on_attach(&mut self, Attach { words, streams }: Attach) {
        // It was overtaken by a later one, which is the one that the sender knows of.
        if words.attempt <= self.attempt {
            return refuse(streams);
        }
        self.detach(CloseCode::Superseded);
        self.attempt = words.attempt;
        let limits = self.sessions.common.settings.limits.clone();
        self.answer_bytes_max = limits.answer_bytes_max.min(words.answer_bytes_max as usize);
        let is_known = self.session != 0 && words.session == self.session;
        let resumed = is_known.then(|| self.lane.on_attached(words.seen));
        let received = match resumed {
            Some(Ok(received)) => received,
            Some(Err(LaneBroken(_))) | None => self.start_session(),
        };
        let (mut send, recv) = streams;
        let answer = LaneAttached {
            session: self.session,
            received,
            unanswered_max: limits.lane_unanswered_max,
            frame_bytes_max: wire_size(limits.frame_bytes_max),
        };
        let common = &self.sessions.common;
        let written = timeout(common.settings.dial_timeout, write_message(&mut send, &answer));
        if !matches!(written.await, Ok(Ok(()))) {
            self.lane.on_detached();
            return;
        }
        let stream = LaneStream::new(send, recv, limits.frame_bytes_max);
        self.stream = Some(Box::new(stream));
    }

    fn start_session(&mut self) -> u64 {
        let unanswered_max = self.sessions.common.settings.limits.lane_unanswered_max;
        self.session = self.sessions.next_number();
        self.lane = ReceiverLane::new(unanswered_max);
        // Answers that are still to come belong to the session before, and go nowhere.
        let room = usize::try_from(unanswered_max).unwrap_or(usize::MAX);
        (self.answers, self.answered) = mpsc::channel(room);
        self.taken.clear();
        // Of a new lane no answer was seen.
        self.lane.on_attached(0).unwrap_or(0)
    }

    fn on_answered(&mut self) {
        for (sequence, answer) in self.taken.drain(..) {
            self.lane.on_answer(sequence, answer);
        }
    }

    fn on_read(&mut self) {
        if let Err(LaneBroken(reason)) = self.take_records() {
            tracing::warn!(node = %self.from.node, reason, "a peer broke a lane's protocol");
            self.sessions.common.stats.lanes_broken.add(1);
            self.detach(CloseCode::Broken);
            // It cannot be resumed: the next attachment starts anew.
            self.session = 0;
        }
    }

    fn take_records(&mut self) -> Result<(), LaneBroken> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let stats = &self.sessions.common.stats;
        stats.lane_bytes_received.add(stream.take_read() as u64);
        let mut frames = 0;
        while let Some(record) = stream.next_record()? {
            let Some((sequence, frame)) = self.lane.on_record(record)? else { continue };
            frames += 1;
            let reply = Reply::new(sequence, self.answer_bytes_max, self.answers.clone());
            self.sessions.service.on_frame(&self.from, frame, reply);
        }
        stats.frames_received.add(frames);
        Ok(())
    }

    fn detach(&mut self, code: CloseCode) {
        self.lane.on_detached();
        if let Some(stream) = self.stream.take() {
            stream.close(code);
            self.detached_at = Instant::now();
        }
    }
}

async fn next_of(stream: &mut Option<Box<LaneStream>>) -> StreamEvent {
    match stream {
        Some(stream) => stream.event().await,
        None => std::future::pending().await,
    }
}

fn refuse((mut send, mut recv): (SendStream, RecvStream)) {
    // They may be over already, which is as well.
    let _ = send.reset(CloseCode::Refused.into());
    let _ = recv.stop(CloseCode::Refused.into());
}
