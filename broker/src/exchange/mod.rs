//! Where the rooms meet: from clients to backends, from backends to clients, and the debts of runs
//! that are over.
//!
//! All retries live here.

mod account;
mod api_keys;
mod bearer;
mod debts;
pub mod gate;
pub mod inbound;
pub mod listing;
mod mail;
pub mod mailbox;
pub mod outbound;
pub mod outboxes;
pub mod outcome;
pub mod population;
pub mod scope;
mod signed;
pub mod stage;
pub mod tail;
mod throttles;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::RwLock;
use posthorn_core::auth::throttle::Throttled;
use posthorn_core::connection::{CloseCause, CloseFrame};
use posthorn_core::drain::Phase;
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::ids::{ConnectionId, NodeRun};
use posthorn_core::listing::Page;
use posthorn_core::message::Message;
use posthorn_core::outbox::Progress;
use posthorn_core::placement::{self, Located};
use tokio::sync::Semaphore;

use crate::consensus::Consensus;
use crate::draining::Draining;
use crate::exchange::debts::Disconnects;
use crate::exchange::gate::{Entry, TurnedAway};
use crate::exchange::inbound::{ConnectAnswer, HandshakeParts, Inbound};
use crate::exchange::listing::{Listings, Wanted};
use crate::exchange::mail::{Answered, Mail, Wish, decode_mail, encode_answer, malformed_answer};
use crate::exchange::mailbox::{Answer, Mailbox, Mailboxes, Post};
use crate::exchange::outbound::{Outbound, Tell};
use crate::exchange::outboxes::Outboxes;
use crate::exchange::outcome::{DeliverError, Outcome, label};
use crate::exchange::scope::Scope;
use crate::exchange::stage::{Stage, Stages};
use crate::exchange::tail::{NoTail, TAILS_MAX, Tail};
use crate::fabric::{Fabric, PeerIdentity, PostService, Reply};
use crate::telemetry::{Closed, Label as _, Metrics};

/// The hall of a node: what the edge and the api call.
pub struct Gateway {
    mailboxes: Arc<Mailboxes>,
    outbound: Arc<Outbound>,
    inbound: Inbound,
    disconnects: Arc<Disconnects>,
    listings: Listings,
    consensus: Consensus,
    draining: Draining,
    stages: RwLock<Arc<Stages>>,
    outboxes: Arc<Outboxes>,
    /// For those who look on at connections of this node.
    tail_places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// What is enough.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A larger answer to a message is not sent: the client is told of an error.
    pub reply_bytes_max: usize,
    /// How long a `$disconnect` that is not answered is repeated.
    pub disconnect_retry_max: Duration,
}

/// Whether a handshake may go on.
pub enum Admission {
    Admitted(Admitted),
    UnknownStage,
    /// This node cannot register connections just now.
    NotReady,
    /// This node lets nobody in any more.
    Draining,
}

/// A handshake that may go on.
pub struct Admitted {
    pub stage: Arc<Stage>,
    pub owner: NodeRun,
}

/// An open connection.
#[derive(Debug, Clone)]
pub struct Found {
    pub info: Arc<ConnectionInfo>,
    pub last_active_at_ms: u64,
    pub owner: NodeRun,
}

impl Gateway {
    pub fn new(
        consensus: Consensus,
        fabric: Fabric,
        stages: Stages,
        outboxes: Arc<Outboxes>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Arc<Gateway> {
        let mailboxes = Arc::new(Mailboxes::default());
        let outbound = Outbound::new(mailboxes.clone(), consensus.clone(), fabric, metrics.clone());
        let stages = RwLock::new(Arc::new(stages));
        let Limits { reply_bytes_max, disconnect_retry_max } = limits;
        let inbound = Inbound::new(consensus.clone(), reply_bytes_max);
        Arc::new(Gateway {
            mailboxes,
            outbound: Arc::new(outbound),
            disconnects: Arc::new(Disconnects::new(
                consensus.clone(),
                inbound.clone(),
                disconnect_retry_max,
                metrics.clone(),
            )),
            inbound,
            listings: Listings::new(consensus.clone()),
            consensus,
            draining: Draining::default(),
            stages,
            outboxes,
            tail_places: Arc::new(Semaphore::new(TAILS_MAX)),
            metrics,
        })
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Waits until the access logs are written, for a while.
    pub async fn flush_access_logs(&self) {
        let metrics = self.metrics.clone();
        // It ends by itself.
        let _ = tokio::task::spawn_blocking(move || metrics.access_logs.flush()).await;
    }

    /// Tells, now and at each change, whether clients should come to this node. Ends never.
    pub async fn on_readiness<F: Future<Output = ()>>(&self, mut tell: impl FnMut(bool) -> F) {
        let (mut ready, mut draining) = (self.consensus.watch_ready(), self.draining.watch());
        loop {
            let is_ready = *ready.borrow_and_update() && draining.borrow_and_update().is_none();
            tell(is_ready).await;
            // Neither ends before we do.
            tokio::select! {
                _ = ready.changed() => (),
                _ = draining.changed() => (),
            }
        }
    }

    /// The drain of this node, begun or not.
    pub fn draining(&self) -> &Draining {
        &self.draining
    }

    pub fn stages(&self) -> Arc<Stages> {
        self.stages.read().clone()
    }

    // ---- for the edge ----

    pub fn admit(&self, host: &str, path: &str) -> Admission {
        let stages = self.stages();
        // One slash behind the stage is tolerated, as API Gateway does.
        let Some((stage, "" | "/")) = stages.resolve(host, path) else {
            return Admission::UnknownStage;
        };
        if self.draining.phase() >= Some(Phase::Closing) {
            return Admission::Draining;
        }
        match self.consensus.may_act() {
            Some(owner) => Admission::Admitted(Admitted { stage: stage.clone(), owner }),
            None => Admission::NotReady,
        }
    }

    /// Whether a client may open a connection at all. What it showed to be let in is taken out of
    /// `parts`.
    pub fn judge<'a>(
        &self,
        stage: &'a Stage,
        info: &'a ConnectionInfo,
        parts: &'a mut HandshakeParts,
    ) -> impl Future<Output = Result<Entry, TurnedAway>> + Send + use<'a> {
        async move {
            let judged = gate::judge(stage, info, parts).await;
            judged.inspect_err(|turned_away| account::turned_away(stage, info, turned_away))
        }
    }

    /// A connection begins: from here on it can be posted to on this node.
    pub fn begin(&self, owner: NodeRun, info: ConnectionInfo, stage: &Stage) -> Arc<Mailbox> {
        let (info, metrics) = (Arc::new(info), stage.metrics.clone());
        let mailbox = Arc::new(Mailbox::new(info, owner, metrics, self.outboxes.clone()));
        self.mailboxes.insert(mailbox.clone());
        mailbox
    }

    /// Tells the directory of a connection. True once that is committed, false if it never will be.
    pub fn register(&self, mailbox: &Mailbox) -> impl Future<Output = bool> + Send + 'static {
        let id = mailbox.info.connection;
        self.consensus.registrar().open(mailbox.owner, id, mailbox.info.encode().into())
    }

    /// Asks the backend whether a connection may be opened.
    pub fn call_connect(
        &self,
        stage: Arc<Stage>,
        mailbox: &Mailbox,
        parts: HandshakeParts,
    ) -> impl Future<Output = ConnectAnswer> + Send + 'static {
        self.inbound.connect(stage, mailbox.info.clone(), mailbox.owner, parts)
    }

    /// The client has been answered with 101.
    pub fn on_opened(&self) {
        self.metrics.edge.opened.increment(1);
        self.metrics.edge.connections.increment(1);
    }

    /// Gives a client's message to its route.
    pub fn dispatch(&self, mailbox: &Arc<Mailbox>, message: Message) {
        self.metrics.edge.messages_received.increment(1);
        self.inbound.dispatch(&self.stages(), mailbox, message);
    }

    /// A connection of ours is over: owes it its `$disconnect`, if a cause is given, and then takes
    /// it out of the directory.
    pub fn retire(&self, mailbox: &Arc<Mailbox>, disconnect: Option<CloseCause>) {
        self.mailboxes.remove(mailbox.info.connection);
        mailbox.tails.end(disconnect.as_ref());
        match disconnect {
            Some(cause) => self.disconnects.clone().begin(self.stages(), mailbox.clone(), cause),
            None => self.consensus.registrar().close(mailbox.owner, mailbox.info.connection),
        }
    }

    /// An open connection has ended.
    pub fn on_closed(&self, cause: &CloseCause) {
        self.metrics.edge.connections.decrement(1);
        self.metrics.edge.closed.at(closed_label(cause)).increment(1);
    }

    /// The socket of a connection was let go.
    pub fn let_go(&self, mailbox: &Mailbox) {
        self.mailboxes.remove(mailbox.info.connection);
    }

    // ---- for the api ----

    /// Charges the account for a call of the management API.
    pub fn charge_call(&self) -> Result<(), Throttled> {
        self.stages().account().map_or(Ok(()), |account| account.take(Instant::now()))
    }

    /// Posts and waits for the outcome.
    pub async fn post(
        &self,
        id: ConnectionId,
        scope: Scope,
        post: Post,
        deadline: Instant,
    ) -> Outcome {
        let mail = Mail { connection: id, wish: Wish::Post(post) };
        let answered = self.outbound.ask(mail, scope, deadline).await;
        self.metrics.posts.told.at(label(&answered)).increment(1);
        answered.map(|_| ())
    }

    /// Posts, and has the outcome told. Posts keep the order of the calls.
    pub fn post_then(
        &self,
        id: ConnectionId,
        scope: Scope,
        post: Post,
        deadline: Instant,
        answer: Answer,
    ) {
        let may_wait = post.progress != Progress::Accepted;
        let mail = Mail { connection: id, wish: Wish::Post(post) };
        let metrics = self.metrics.clone();
        let tell: Tell = Box::new(move |answered| {
            metrics.posts.told.at(label(&answered)).increment(1);
            answer(answered.map(|_| ()));
        });
        if may_wait {
            // The owner answers when the client does, which may be never.
            let asked = self.outbound.ask(mail, scope, deadline);
            tokio::spawn(async move { tell(asked.await) });
        } else {
            self.outbound.send(mail, scope, deadline, tell);
        }
    }

    pub async fn get(
        &self,
        id: ConnectionId,
        scope: Scope,
        deadline: Instant,
    ) -> Result<Found, DeliverError> {
        let answered =
            self.outbound.ask(Mail { connection: id, wish: Wish::Get }, scope, deadline).await?;
        let located = self.consensus.replica().read(|directory| placement::locate(directory, id));
        match (answered, located) {
            (Answered::Found { info, last_active_at_ms }, Located::At(owner)) => {
                Ok(Found { info, last_active_at_ms, owner })
            }
            (Answered::Found { info, last_active_at_ms }, _) => {
                // Ours, and so new that our own replica has not heard of it.
                let mailbox = self.mailboxes.get(id).ok_or(DeliverError::Gone)?;
                Ok(Found { info, last_active_at_ms, owner: mailbox.owner })
            }
            (Answered::Done, _) => Err(DeliverError::Unknown),
        }
    }

    pub async fn close(
        &self,
        id: ConnectionId,
        scope: Scope,
        frame: CloseFrame,
        deadline: Instant,
    ) -> Outcome {
        let mail = Mail { connection: id, wish: Wish::Close(frame) };
        self.outbound.ask(mail, scope, deadline).await.map(|_| ())
    }

    /// Which connections there are, those included whose `$connect` is being answered.
    pub async fn list(&self, wanted: Wanted, deadline: Instant) -> Result<Page, DeliverError> {
        self.listings.page(wanted, deadline).await
    }

    /// None while this node belongs to no cluster.
    pub fn cluster_id(&self) -> Option<[u8; 16]> {
        self.consensus.cluster_id()
    }

    /// Looks on at a connection of this node.
    pub fn tail(&self, id: ConnectionId, with_payloads: bool) -> Result<Arc<Tail>, NoTail> {
        let place = self.tail_places.clone().try_acquire_owned();
        let place = place.map_err(|_| NoTail::TooMany)?;
        let mailbox = self.mailboxes.get(id).ok_or(NoTail::Gone)?;
        mailbox.tails.attach(with_payloads, place)
    }

    // ---- for the node ----

    /// From here on these are the stages, also for connections that are open.
    pub fn set_stages(&self, stages: Stages) {
        *self.stages.write() = Arc::new(stages);
    }

    /// Wishes every connection of this node closed.
    pub fn close_all(&self, cause: &CloseCause) {
        self.mailboxes.for_each(|mailbox| {
            // Who is being closed already is closed.
            let _ = mailbox.close(cause.clone());
        });
    }

    /// Of all connections of this node, in an order that says nothing.
    pub fn connection_ids(&self) -> Vec<ConnectionId> {
        self.mailboxes.ids()
    }

    /// Wishes one connection of this node closed. False if it is over or being closed already.
    pub fn close_here(&self, id: ConnectionId, cause: CloseCause) -> bool {
        self.mailboxes.get(id).is_some_and(|mailbox| mailbox.close(cause).is_ok())
    }

    /// How many connections this node has, those that are being opened and closed included.
    pub fn connections(&self) -> usize {
        self.mailboxes.len()
    }

    /// Brings the gauge of what waits in outboxes up to date.
    pub fn measure_outboxes(&self) {
        self.metrics.edge.outbox_bytes.set(self.outboxes.bytes() as f64);
    }

    /// Calls `$disconnect` for what runs that are over have left to us, and has nobody wait for them,
    /// for ever.
    pub async fn follow_evictions(self: Arc<Gateway>) {
        let gateway = self.clone();
        let inheriting = self.disconnects.clone().inherit(move || gateway.stages());
        tokio::join!(inheriting, self.outbound.clone().give_up_the_evicted());
    }

    /// How many `$disconnect` calls are under way or waiting to be repeated.
    pub fn disconnects_under_way(&self) -> usize {
        self.disconnects.under_way()
    }
}

impl PostService for Gateway {
    fn on_frame(&self, _from: &PeerIdentity, frame: Bytes, reply: Reply) {
        match decode_mail(frame) {
            Ok((owner, mail)) => {
                let tell: Tell = Box::new(move |answered| reply.send(encode_answer(&answered)));
                self.outbound.on_mail(owner, mail, tell);
            }
            Err(_) => reply.send(malformed_answer()),
        }
    }
}

/// What metrics call it.
pub fn cause_name(cause: &CloseCause) -> &'static str {
    closed_label(cause).name()
}

fn closed_label(cause: &CloseCause) -> Closed {
    match cause {
        CloseCause::ByClient(_) => Closed::ByClient,
        CloseCause::ByBackend(_) => Closed::ByBackend,
        CloseCause::Idle => Closed::Idle,
        CloseCause::Lifetime => Closed::Lifetime,
        CloseCause::Unresponsive => Closed::Unresponsive,
        CloseCause::TooSlow => Closed::TooSlow,
        CloseCause::Lost => Closed::Lost,
        CloseCause::ProtocolError => Closed::ProtocolError,
        CloseCause::NotUtf8 => Closed::NotUtf8,
        CloseCause::MessageTooBig => Closed::MessageTooBig,
        CloseCause::TooManyFragments => Closed::TooManyFragments,
        CloseCause::Unfinished => Closed::Unfinished,
        CloseCause::TooManyControlFrames => Closed::TooManyControlFrames,
        CloseCause::BinaryRefused => Closed::BinaryRefused,
        CloseCause::Throttled => Closed::Throttled,
        CloseCause::Expired => Closed::Expired,
        CloseCause::Drained(_) => Closed::Drained,
        CloseCause::Fenced => Closed::Fenced,
    }
}
