//! From a backend to a client, wherever that is connected.
//!
//! * Posts are handed on at once or queued, never awaited: two posts of one sender to one connection
//!   keep their order on every path.
//! * *Gone* is said by the owner, or after the cluster was asked for what this replica may have
//!   missed. Nobody else knows.
//! * A connection that is none of its sender's business looks to him as one that does not exist, in
//!   what he is told and in the time it takes.
//! * What still waits for the cluster at its deadline was not sent and never will be, and its sender is
//!   told so.
//! * Nobody waits for a run that was evicted: what had not left is gone with it, and of what had, nobody
//!   knows.
//! * Nothing is sent twice: a post that was handed to a peer is the fabric's, which knows how far it
//!   came.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use posthorn_core::directory::Entry;
use posthorn_core::ids::{ConnectionId, NodeRun};
use posthorn_core::placement::{self, Located};
use tokio::sync::oneshot;

use crate::consensus::Consensus;
use crate::exchange::mail::{Answered, Mail, Wish, decode_answer, encode_mail};
use crate::exchange::mailbox::{Mailbox, Mailboxes};
use crate::exchange::outcome::{DeliverError, Unavailable, label};
use crate::exchange::scope::Scope;
use crate::fabric::{Fabric, Peer, PostError, PostRefused, PostReply};
use crate::telemetry::Metrics;

/// What one queue of mail holds that waits for the cluster. Further mail is refused as busy.
const WAITING_MAX: usize = 16 * 1024;
/// How long the cluster may take to say so.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Told once what some mail came to, now or later, from whatever thread learns it.
pub type Tell = Box<dyn FnOnce(Result<Answered, DeliverError>) + Send>;

pub struct Outbound {
    mailboxes: Arc<Mailboxes>,
    consensus: Consensus,
    fabric: Fabric,
    metrics: Arc<Metrics>,
    /// For connections that this replica does not know.
    unsettled: Queue,
    /// For connections outside their senders' scope. It waits as if they did not exist, and apart, so
    /// that nobody else's mail queues behind it.
    foreign: Queue,
}

/// Mail that waits for the cluster to say whether its connection exists, in the order of its coming.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// How many connections it is for: most of the time none, and then nobody locks.
    connections: AtomicUsize,
}

#[derive(Default)]
struct Waiting {
    by_connection: HashMap<ConnectionId, Vec<Parcel>>,
    parcels: usize,
}

/// Why mail waits.
#[derive(Clone, Copy)]
enum Reason {
    Unknown,
    Foreign,
}

/// What became of mail that was to wait.
enum Queued {
    /// Nobody has asked the cluster yet.
    First,
    Behind,
    /// Too much waits.
    Refused(Parcel),
}

struct Parcel {
    mail: Mail,
    scope: Scope,
    deadline: Instant,
    tell: Tell,
}

/// What became of mail that was to be sent at once.
enum Tried {
    Sent,
    /// This replica does not know the connection.
    Unknown(Parcel),
    /// The connection is outside its sender's scope.
    Foreign(Parcel),
}

impl Outbound {
    pub fn new(
        mailboxes: Arc<Mailboxes>,
        consensus: Consensus,
        fabric: Fabric,
        metrics: Arc<Metrics>,
    ) -> Outbound {
        Outbound {
            mailboxes,
            consensus,
            fabric,
            metrics,
            unsettled: Queue::default(),
            foreign: Queue::default(),
        }
    }

    /// Sends mail to its connection. Whoever sends two in turn has them arrive in turn.
    pub fn send(self: &Arc<Outbound>, mail: Mail, scope: Scope, deadline: Instant, tell: Tell) {
        let parcel = Parcel { mail, scope, deadline, tell };
        let Some(parcel) = self.unsettled.push_behind(parcel) else { return };
        match self.try_send(parcel) {
            Tried::Sent => (),
            Tried::Unknown(parcel) => self.settle(parcel, Reason::Unknown),
            Tried::Foreign(parcel) => self.settle(parcel, Reason::Foreign),
        }
    }

    /// Sends mail, now, and waits for the answer.
    pub fn ask(
        self: &Arc<Outbound>,
        mail: Mail,
        scope: Scope,
        deadline: Instant,
    ) -> impl Future<Output = Result<Answered, DeliverError>> + Send + use<> {
        let connection = mail.connection;
        let (sender, mut answered) = oneshot::channel();
        self.send(mail, scope, deadline, Box::new(|answer| drop(sender.send(answer))));
        let outbound = self.clone();
        async move {
            if let Ok(answer) = tokio::time::timeout_at(deadline.into(), &mut answered).await {
                return answer.unwrap_or(Err(DeliverError::Unknown));
            }
            // What still waits was not sent, and is now told so.
            outbound.withdraw_late(connection);
            answered.try_recv().unwrap_or(Err(DeliverError::Unknown))
        }
    }

    /// Sends mail where the directory says.
    fn try_send(self: &Arc<Outbound>, parcel: Parcel) -> Tried {
        let connection = parcel.mail.connection;
        if let Some(mailbox) = self.mailboxes.get(connection) {
            if !parcel.scope.covers(&mailbox.info) {
                return Tried::Foreign(parcel);
            }
            self.deliver(&mailbox, parcel);
            return Tried::Sent;
        }
        let located = self.consensus.replica().read(|directory| {
            let is_foreign = |entry: &Entry| !parcel.scope.covers_encoded(&entry.context);
            if directory.entry(connection).is_some_and(is_foreign) {
                return None;
            }
            Some(match placement::locate(directory, connection) {
                Located::At(owner) => {
                    let address = directory.run(owner).map(|run| run.fabric_address.clone());
                    (Located::At(owner), address)
                }
                located => (located, None),
            })
        });
        let Some(located) = located else { return Tried::Foreign(parcel) };
        match located {
            (Located::At(owner), Some(address)) if owner.node != self.consensus.node() => {
                self.forward(owner, address, parcel);
            }
            // Ours, or an earlier run's of this node, and there is no mailbox for it.
            (Located::At(_) | Located::Over, _) => (parcel.tell)(Err(DeliverError::Gone)),
            (Located::Unknown, _) => return Tried::Unknown(parcel),
        }
        Tried::Sent
    }

    /// Puts mail into a mailbox of this node, unless our lease has ended.
    fn deliver(&self, mailbox: &Mailbox, parcel: Parcel) {
        let Parcel { mail, tell, .. } = parcel;
        match self.consensus.may_act() {
            Some(run) if run == mailbox.owner => mail.put_into(mailbox, tell),
            Some(_) | None => tell(Err(DeliverError::Unavailable(Unavailable::Fenced))),
        }
    }

    /// Mail from another node, which believes that `owner` owns the connection.
    pub fn on_mail(&self, owner: NodeRun, mail: Mail, tell: Tell) {
        // Whether its sender may was asked where he asked.
        let parcel = Parcel { mail, scope: Scope::Everyone, deadline: Instant::now(), tell };
        match self.mailboxes.get(parcel.mail.connection) {
            Some(mailbox) if mailbox.owner == owner => self.deliver(&mailbox, parcel),
            Some(_) => (parcel.tell)(Err(DeliverError::Gone)),
            None => match self.consensus.known_run() {
                // What our mailboxes do not have is over, for this run and all before it.
                Some(run) if run.node == owner.node && owner.incarnation <= run.incarnation => {
                    (parcel.tell)(Err(DeliverError::Gone));
                }
                Some(_) | None => {
                    (parcel.tell)(Err(DeliverError::Unavailable(Unavailable::Fenced)));
                }
            },
        }
    }

    fn forward(self: &Arc<Outbound>, owner: NodeRun, address: Arc<str>, parcel: Parcel) {
        let Parcel { mail, scope: _, deadline, tell } = parcel;
        let frame = encode_mail(owner, &mail);
        let is_post = matches!(mail.wish, Wish::Post(_));
        // Told from where it was posted or from a lane's task, whichever it comes to.
        let tell = Arc::new(Mutex::new(Some(tell)));
        let reply = Forwarded {
            connection: mail.connection,
            is_post,
            owner,
            outbound: self.clone(),
            started: Instant::now(),
            tell: tell.clone(),
        };
        let peer = Peer { node: owner.node, address };
        let patience = deadline.saturating_duration_since(Instant::now());
        let posted = self.fabric.post(&peer, mail.connection.spread(), frame, reply, patience);
        if let Err(refused) = posted
            && let Some(tell) = tell.lock().take()
        {
            let error = DeliverError::Unavailable(match refused {
                PostRefused::LaneFull => Unavailable::Busy,
                PostRefused::TooLarge(_) | PostRefused::TooManyPeers | PostRefused::Closed => {
                    Unavailable::OwnerUnreachable
                }
            });
            if is_post {
                self.metrics.posts.forwarded.at(error.label()).increment(1);
            }
            tell(Err(error));
        }
    }

    /// Has nobody wait for a node that no longer has a run, for ever.
    pub async fn give_up_the_evicted(self: Arc<Outbound>) {
        let mut epoch = self.consensus.replica().watch_epoch();
        let mut known = BTreeSet::new();
        loop {
            let current: BTreeSet<_> = self
                .consensus
                .replica()
                .read(|directory| directory.current_runs().map(|(run, _)| run.node).collect());
            for gone in known.difference(&current) {
                self.fabric.give_up(*gone);
            }
            known = current;
            if epoch.changed().await.is_err() {
                return;
            }
        }
    }

    /// This replica does not know the connection, as it may be behind, or its sender is not to know it.
    /// Asks the cluster, then looks again.
    fn settle(self: &Arc<Outbound>, parcel: Parcel, reason: Reason) {
        let connection = parcel.mail.connection;
        match self.queue(reason).push(parcel) {
            Queued::First => (),
            Queued::Behind => return,
            Queued::Refused(parcel) => return tell_busy(parcel),
        }
        let outbound = self.clone();
        tokio::spawn(async move {
            let is_settled = outbound.ask_cluster().await;
            while let Some(parcels) = outbound.queue(reason).take(connection) {
                for parcel in parcels {
                    match reason {
                        Reason::Unknown => outbound.send_settled(parcel, is_settled),
                        Reason::Foreign => tell_absent(parcel, is_settled),
                    }
                }
            }
        });
    }

    fn queue(&self, reason: Reason) -> &Queue {
        match reason {
            Reason::Unknown => &self.unsettled,
            Reason::Foreign => &self.foreign,
        }
    }

    /// Whether this replica now knows all that was known anywhere when it was asked.
    async fn ask_cluster(&self) -> bool {
        let asked = tokio::time::timeout(SETTLE_TIMEOUT, self.consensus.barrier()).await;
        matches!(asked, Ok(Ok(())))
    }

    /// Mail for a connection that waits beyond its deadline is never sent.
    fn withdraw_late(&self, connection: ConnectionId) {
        for queue in [&self.unsettled, &self.foreign] {
            let late = queue.take_late(connection, Instant::now());
            late.into_iter().for_each(|parcel| tell_absent(parcel, false));
        }
    }

    fn send_settled(self: &Arc<Outbound>, parcel: Parcel, is_settled: bool) {
        if !is_settled {
            return tell_absent(parcel, is_settled);
        }
        match self.try_send(parcel) {
            Tried::Sent => (),
            Tried::Unknown(parcel) | Tried::Foreign(parcel) => tell_absent(parcel, true),
        }
    }
}

/// Mail that is on its way to a peer.
struct Forwarded {
    connection: ConnectionId,
    /// Only posts are counted.
    is_post: bool,
    owner: NodeRun,
    outbound: Arc<Outbound>,
    started: Instant,
    tell: Arc<Mutex<Option<Tell>>>,
}

impl PostReply for Forwarded {
    fn tell(self: Box<Self>, outcome: Result<Bytes, PostError>) {
        let answered = match outcome {
            Ok(answer) => decode_answer(self.connection, answer),
            Err(PostError::NotSent) => Err(match self.is_over() {
                true => DeliverError::Gone,
                false => DeliverError::Unavailable(Unavailable::OwnerUnreachable),
            }),
            Err(PostError::Unknown) => Err(DeliverError::Unknown),
        };
        if self.is_post {
            let (outcome, posts) = (label(&answered), &self.outbound.metrics.posts);
            posts.forwarded.at(outcome).increment(1);
            posts.forward_seconds.at(outcome).record(self.started.elapsed());
        }
        if let Some(tell) = self.tell.lock().take() {
            tell(answered);
        }
    }
}

impl Forwarded {
    /// Whether the owner was evicted, and its connections with it.
    fn is_over(&self) -> bool {
        let replica = self.outbound.consensus.replica();
        !replica.read(|directory| directory.is_current(self.owner))
    }
}

impl Queue {
    fn push(&self, parcel: Parcel) -> Queued {
        let mut waiting = self.waiting.lock();
        let is_first = !waiting.by_connection.contains_key(&parcel.mail.connection);
        if let Some(parcel) = waiting.push(parcel) {
            return Queued::Refused(parcel);
        }
        if !is_first {
            return Queued::Behind;
        }
        self.connections.fetch_add(1, Ordering::AcqRel);
        Queued::First
    }

    /// Mail must not overtake other mail for the same connection. Gives it back if there is none.
    fn push_behind(&self, parcel: Parcel) -> Option<Parcel> {
        if self.connections.load(Ordering::Acquire) == 0 {
            return Some(parcel);
        }
        let mut waiting = self.waiting.lock();
        if !waiting.by_connection.contains_key(&parcel.mail.connection) {
            return Some(parcel);
        }
        let refused = waiting.push(parcel);
        drop(waiting);
        refused.into_iter().for_each(tell_busy);
        None
    }

    /// Takes what waits for a connection. Once nothing does, others need no longer wait behind it.
    fn take(&self, connection: ConnectionId) -> Option<Vec<Parcel>> {
        let mut waiting = self.waiting.lock();
        let parcels = std::mem::take(waiting.by_connection.get_mut(&connection)?);
        if parcels.is_empty() {
            waiting.by_connection.remove(&connection);
            self.connections.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        waiting.parcels -= parcels.len();
        Some(parcels)
    }

    /// Takes what waits for a connection and has waited long enough.
    fn take_late(&self, connection: ConnectionId, now: Instant) -> Vec<Parcel> {
        if self.connections.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut waiting = self.waiting.lock();
        let Some(parcels) = waiting.by_connection.get_mut(&connection) else { return Vec::new() };
        let late: Vec<_> = parcels.extract_if(.., |parcel| parcel.deadline <= now).collect();
        waiting.parcels -= late.len();
        late
    }
}

impl Waiting {
    /// Gives the parcel back if too many wait.
    fn push(&mut self, parcel: Parcel) -> Option<Parcel> {
        if self.parcels >= WAITING_MAX {
            return Some(parcel);
        }
        self.parcels += 1;
        self.by_connection.entry(parcel.mail.connection).or_default().push(parcel);
        None
    }
}

fn tell_absent(parcel: Parcel, is_settled: bool) {
    (parcel.tell)(Err(match is_settled {
        true => DeliverError::Gone,
        false => DeliverError::Unavailable(Unavailable::NoQuorum),
    }));
}

fn tell_busy(parcel: Parcel) {
    (parcel.tell)(Err(DeliverError::Unavailable(Unavailable::Busy)));
}
