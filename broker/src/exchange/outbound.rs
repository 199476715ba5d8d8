//! From a backend to a client, wherever that is connected.
//!
//! * Posts are handed on at once or queued, never awaited: two posts of one sender to one connection
//!   keep their order on every path.
//! * *Gone* is said by the owner, or after the cluster was asked for what this replica may have
//!   missed. Nobody else knows.
//! * A connection that is none of its sender's business looks to him as one that does not exist, in
//!   what he is told and in the time it takes.
//! * Nothing is sent twice: a post that was handed to a peer is the fabric's, which knows how far it
//!   came.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use posthorn_core::directory::Entry;
use posthorn_core::ids::{ConnectionId, NodeRun};
use posthorn_core::placement::{self, Located};
use tokio::sync::Semaphore;

use crate::consensus::Consensus;
use crate::exchange::mail::{Answered, Mail, decode_answer, encode_mail};
use crate::exchange::mailbox::{Mailbox, Mailboxes};
use crate::exchange::outcome::{DeliverError, Unavailable, label};
use crate::exchange::scope::Scope;
use crate::fabric::{Fabric, Peer, PostError, PostRefused, PostReply};
use crate::telemetry::Metrics;

/// Mail that waits, on this node, for the cluster to say whether its connection exists. Further mail
/// is refused as busy.
const UNSETTLED_MAX: usize = 16 * 1024;
/// Mail that waits as long for connections outside its sender's scope. Further mail is refused as busy.
const FOREIGN_MAX: usize = 16 * 1024;
/// How long the cluster may take to say so.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Told once what some mail came to, now or later, from whatever thread learns it.
pub type Tell = Box<dyn FnOnce(Result<Answered, DeliverError>) + Send>;

pub struct Outbound {
    mailboxes: Arc<Mailboxes>,
    consensus: Consensus,
    fabric: Fabric,
    metrics: Arc<Metrics>,
    unsettled: Mutex<Unsettled>,
    /// How many connections are being settled: most of the time none, and then nobody locks.
    settling: AtomicUsize,
    foreign: Arc<Semaphore>,
}

/// Mail for connections that this replica does not know, in the order of its coming.
#[derive(Default)]
struct Unsettled {
    waiting: HashMap<ConnectionId, Vec<Parcel>>,
    parcels: usize,
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
            unsettled: Mutex::default(),
            settling: AtomicUsize::new(0),
            foreign: Arc::new(Semaphore::new(FOREIGN_MAX)),
        }
    }

    /// Sends mail to its connection. Whoever sends two in turn has them arrive in turn.
    pub fn send(self: &Arc<Outbound>, mail: Mail, scope: Scope, deadline: Instant, tell: Tell) {
        let parcel = Parcel { mail, scope, deadline, tell };
        let Some(parcel) = self.queue_behind_unsettled(parcel) else { return };
        match self.try_send(parcel) {
            Tried::Sent => (),
            Tried::Unknown(parcel) => self.settle(parcel),
            Tried::Foreign(parcel) => self.deny(parcel),
        }
    }

    /// Sends mail where the directory says.
    fn try_send(&self, parcel: Parcel) -> Tried {
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
            (Located::At(_) | Located::Over, _) => self.tell_gone(parcel),
            (Located::Unknown, _) => return Tried::Unknown(parcel),
        }
        Tried::Sent
    }

    /// Puts mail into a mailbox of this node, unless our lease has ended.
    fn deliver(&self, mailbox: &Mailbox, parcel: Parcel) {
        let Parcel { mail, tell, .. } = parcel;
        let metrics = self.metrics.clone();
        let tell: Tell = Box::new(move |answered| {
            metrics.posts.local.at(label(&answered)).increment(1);
            tell(answered);
        });
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
            None => match self.consensus.may_act() {
                // What our mailboxes do not have is over, for this run and all before it.
                Some(run) if run.node == owner.node && owner.incarnation <= run.incarnation => {
                    self.tell_gone(parcel);
                }
                Some(_) | None => {
                    (parcel.tell)(Err(DeliverError::Unavailable(Unavailable::Fenced)));
                }
            },
        }
    }

    fn forward(&self, owner: NodeRun, address: Arc<str>, parcel: Parcel) {
        let Parcel { mail, scope: _, deadline, tell } = parcel;
        let frame = encode_mail(owner, &mail);
        // Told from where it was posted or from a lane's task, whichever it comes to.
        let tell = Arc::new(Mutex::new(Some(tell)));
        let reply = Forwarded {
            connection: mail.connection,
            metrics: self.metrics.clone(),
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
            self.metrics.posts.peer.at(error.label()).increment(1);
            tell(Err(error));
        }
    }

    fn tell_gone(&self, parcel: Parcel) {
        self.metrics.posts.local.at(crate::telemetry::Posted::Gone).increment(1);
        (parcel.tell)(Err(DeliverError::Gone));
    }

    /// Mail must not overtake other mail for the same connection that waits to be settled.
    fn queue_behind_unsettled(&self, parcel: Parcel) -> Option<Parcel> {
        if self.settling.load(Ordering::Acquire) == 0 {
            return Some(parcel);
        }
        let mut unsettled = self.unsettled.lock();
        if !unsettled.waiting.contains_key(&parcel.mail.connection) {
            return Some(parcel);
        }
        let refused = unsettled.queue(parcel);
        drop(unsettled);
        refused.into_iter().for_each(tell_busy);
        None
    }

    /// This replica does not know the connection: it may be behind. Asks the cluster, then looks
    /// again.
    fn settle(self: &Arc<Outbound>, parcel: Parcel) {
        let connection = parcel.mail.connection;
        let mut unsettled = self.unsettled.lock();
        let is_first = !unsettled.waiting.contains_key(&connection);
        if let Some(parcel) = unsettled.queue(parcel) {
            drop(unsettled);
            tell_busy(parcel);
            return;
        }
        if !is_first {
            return;
        }
        self.settling.fetch_add(1, Ordering::AcqRel);
        drop(unsettled);
        let outbound = self.clone();
        tokio::spawn(async move {
            let is_settled = outbound.ask_cluster().await;
            while let Some(parcels) = outbound.take_unsettled(connection) {
                parcels.into_iter().for_each(|parcel| outbound.send_settled(parcel, is_settled));
            }
        });
    }

    /// Lets mail for a connection outside its sender's scope wait as if that did not exist. It waits
    /// apart, so that nobody else's mail queues behind it.
    fn deny(self: &Arc<Outbound>, parcel: Parcel) {
        let Ok(place) = self.foreign.clone().try_acquire_owned() else { return tell_busy(parcel) };
        let outbound = self.clone();
        tokio::spawn(async move {
            let is_settled = outbound.ask_cluster().await;
            drop(place);
            outbound.tell_absent(parcel, is_settled);
        });
    }

    /// Whether this replica now knows all that was known anywhere when it was asked.
    async fn ask_cluster(&self) -> bool {
        let asked = tokio::time::timeout(SETTLE_TIMEOUT, self.consensus.barrier()).await;
        matches!(asked, Ok(Ok(())))
    }

    /// Takes what waits for a connection. Once nothing does, others need no longer wait behind it.
    fn take_unsettled(&self, connection: ConnectionId) -> Option<Vec<Parcel>> {
        let mut unsettled = self.unsettled.lock();
        let parcels = std::mem::take(unsettled.waiting.get_mut(&connection)?);
        if parcels.is_empty() {
            unsettled.waiting.remove(&connection);
            self.settling.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        unsettled.parcels -= parcels.len();
        Some(parcels)
    }

    fn send_settled(&self, parcel: Parcel, is_settled: bool) {
        if !is_settled {
            return self.tell_absent(parcel, is_settled);
        }
        match self.try_send(parcel) {
            Tried::Sent => (),
            Tried::Unknown(parcel) | Tried::Foreign(parcel) => self.tell_absent(parcel, true),
        }
    }

    fn tell_absent(&self, parcel: Parcel, is_settled: bool) {
        match is_settled {
            true => self.tell_gone(parcel),
            false => (parcel.tell)(Err(DeliverError::Unavailable(Unavailable::NoQuorum))),
        }
    }
}

/// Mail that is on its way to a peer.
struct Forwarded {
    connection: ConnectionId,
    metrics: Arc<Metrics>,
    tell: Arc<Mutex<Option<Tell>>>,
}

impl PostReply for Forwarded {
    fn tell(self: Box<Self>, outcome: Result<Bytes, PostError>) {
        let answered = match outcome {
            Ok(answer) => decode_answer(self.connection, answer),
            Err(PostError::NotSent) => {
                Err(DeliverError::Unavailable(Unavailable::OwnerUnreachable))
            }
            Err(PostError::Unknown) => Err(DeliverError::Unknown),
        };
        self.metrics.posts.peer.at(label(&answered)).increment(1);
        if let Some(tell) = self.tell.lock().take() {
            tell(answered);
        }
    }
}

impl Unsettled {
    /// Gives the parcel back if too many wait.
    fn queue(&mut self, parcel: Parcel) -> Option<Parcel> {
        if self.parcels >= UNSETTLED_MAX {
            return Some(parcel);
        }
        self.parcels += 1;
        self.waiting.entry(parcel.mail.connection).or_default().push(parcel);
        None
    }
}

fn tell_busy(parcel: Parcel) {
    (parcel.tell)(Err(DeliverError::Unavailable(Unavailable::Busy)));
}
