//! From a backend to a client, wherever that is connected.
//!
//! * Posts are handed on at once or queued, never awaited: two posts of one sender to one connection
//!   keep their order on every path.
//! * *Gone* is said by the owner, or after the cluster was asked for what this replica may have
//!   missed. Nobody else knows.
//! * Nothing is sent twice: a post that was handed to a peer is the fabric's, which knows how far it
//!   came.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use posthorn_core::ids::{ConnectionId, NodeRun};
use posthorn_core::placement::{self, Located};

use crate::consensus::Consensus;
use crate::exchange::mail::{Answered, Mail, decode_answer, encode_mail};
use crate::exchange::mailbox::{Mailbox, Mailboxes};
use crate::exchange::outcome::{DeliverError, Unavailable, label};
use crate::fabric::{Fabric, Peer, PostError, PostRefused, PostReply};
use crate::telemetry::Metrics;

/// Mail that waits, on this node, for the cluster to say whether its connection exists. Further mail
/// is refused as busy.
const UNSETTLED_MAX: usize = 16 * 1024;
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
}

/// Mail for connections that this replica does not know, in the order of its coming.
#[derive(Default)]
struct Unsettled {
    waiting: HashMap<ConnectionId, Vec<Parcel>>,
    parcels: usize,
}

struct Parcel {
    mail: Mail,
    deadline: Instant,
    tell: Tell,
}

impl Outbound {
    pub fn new(
        mailboxes: Arc<Mailboxes>,
        consensus: Consensus,
        fabric: Fabric,
        metrics: Arc<Metrics>,
    ) -> Outbound {
        let (unsettled, settling) = (Mutex::default(), AtomicUsize::new(0));
        Outbound { mailboxes, consensus, fabric, metrics, unsettled, settling }
    }

    /// Sends mail to its connection. Whoever sends two in turn has them arrive in turn.
    pub fn send(self: &Arc<Outbound>, mail: Mail, deadline: Instant, tell: Tell) {
        let parcel = Parcel { mail, deadline, tell };
        let Some(parcel) = self.queue_behind_unsettled(parcel) else { return };
        if let Some(parcel) = self.try_send(parcel) {
            self.settle(parcel);
        }
    }

    /// Sends mail where the directory says. Gives it back if it does not know.
    fn try_send(&self, parcel: Parcel) -> Option<Parcel> {
        let connection = parcel.mail.connection;
        if let Some(mailbox) = self.mailboxes.get(connection) {
            self.deliver(&mailbox, parcel);
            return None;
        }
        let located = self.consensus.replica().read(|directory| {
            match placement::locate(directory, connection) {
                Located::At(owner) => {
                    let address = directory.run(owner).map(|run| run.fabric_address.clone());
                    (Located::At(owner), address)
                }
                located => (located, None),
            }
        });
        match located {
            (Located::At(owner), Some(address)) if owner.node != self.consensus.node() => {
                self.forward(owner, address, parcel);
            }
            // Ours, or an earlier run's of this node, and there is no mailbox for it.
            (Located::At(_) | Located::Over, _) => self.tell_gone(parcel),
            (Located::Unknown, _) => return Some(parcel),
        }
        None
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
        let parcel = Parcel { mail, deadline: Instant::now(), tell };
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
        let Parcel { mail, deadline, tell } = parcel;
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
            let asked = tokio::time::timeout(SETTLE_TIMEOUT, outbound.consensus.barrier()).await;
            let is_settled = matches!(asked, Ok(Ok(())));
            while let Some(parcels) = outbound.take_unsettled(connection) {
                parcels.into_iter().for_each(|parcel| outbound.send_settled(parcel, is_settled));
            }
        });
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
            (parcel.tell)(Err(DeliverError::Unavailable(Unavailable::NoQuorum)));
        } else if let Some(parcel) = self.try_send(parcel) {
            self.tell_gone(parcel);
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
