//! An operator looks on at one connection, whichever node owns it: the owner keeps what is yet to be seen,
//! and is asked for it again and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use posthorn_core::close::CloseFrame;
use posthorn_core::ids::ConnectionId;
use posthorn_core::message::MessageKind;
use posthorn_proto::cluster::v1::tail_answer::Outcome;
use posthorn_proto::cluster::v1::{TailAnswer, TailCall};
use posthorn_proto::v1::{TailEvent, TailResponse};
use prost::Message as _;
use tokio::sync::OwnedSemaphorePermit;

use crate::exchange::cause_name;
use crate::exchange::outcome::DeliverError;
use crate::exchange::scope::Scope;
use crate::exchange::tail::{Event, Glimpse, NoTail, Tail, What};
use crate::fabric::{CallError, Peer, Refusal};
use crate::operator::{Method, Operator, OperatorError};

/// How long it may take to find the connection.
const FIND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the owner waits for something to be seen before it says that there is nothing.
const WAIT_MAX: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Of events given out at once.
const BATCH_BYTES: usize = 64 * 1024;
/// What nobody has asked for after this is given up: longer than a caller may leave a stream unread.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(90);

/// Why nobody looks on.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TailError {
    #[error(transparent)]
    NotFound(DeliverError),
    #[error("too many look on at connections of a node already")]
    TooMany,
    #[error(transparent)]
    Owner(OperatorError),
}

/// Somebody who looks on. To drop it is to look away.
pub(crate) struct Onlooker {
    source: Source,
    /// At this node, where it was asked.
    _place: OwnedSemaphorePermit,
}

enum Source {
    Here(Arc<Tail>),
    There(Remote),
}

/// The owner's side is asked by a number that it gave out.
struct Remote {
    operator: Arc<Operator>,
    peer: Peer,
    number: u64,
    is_over: bool,
}

/// What another node has somebody look on by.
pub(super) struct Watched {
    tail: Arc<Tail>,
    asked_at: Instant,
}

pub(super) type AllWatched = Arc<Mutex<BTreeMap<u64, Watched>>>;

impl Operator {
    /// Looks on at an open connection.
    pub(crate) async fn tail(
        self: &Arc<Operator>,
        id: ConnectionId,
        with_payloads: bool,
    ) -> Result<Onlooker, TailError> {
        let place = self.onlookers.clone().try_acquire_owned();
        let place = place.map_err(|_| TailError::TooMany)?;
        let deadline = Instant::now() + FIND_TIMEOUT;
        let found = self.gateway.get(id, Scope::Everyone, deadline).await;
        let owner = found.map_err(TailError::NotFound)?.owner;
        let source = if owner.node == self.consensus.node() {
            Source::Here(self.gateway.tail(id, with_payloads)?)
        } else {
            let peer = self.peer(owner.node).map_err(TailError::Owner)?;
            let id = Bytes::copy_from_slice(id.as_bytes());
            let call = TailCall { connection_id: id, with_payloads, ..TailCall::default() };
            let begun = self.ask_owner(&peer, &call).await?;
            let operator = self.clone();
            Source::There(Remote { operator, peer, number: begun.number, is_over: false })
        };
        Ok(Onlooker { source, _place: place })
    }

    async fn ask_owner(&self, peer: &Peer, call: &TailCall) -> Result<TailAnswer, TailError> {
        let (method, request) = (Method::Tail as u8, call.encode_to_vec().into());
        let node = peer.node;
        let answer = self.fabric.call(peer, method, request, ANSWER_TIMEOUT).await;
        let answer = answer.map_err(|error| match error {
            // It is of a release that does not know what it was asked.
            CallError::Refused(_) => OperatorError::NotOffered,
            CallError::Unreachable(_) | CallError::Unknown(_) | CallError::TooLarge(_) => {
                OperatorError::Unreachable(node, error.to_string())
            }
        });
        let answer = answer.and_then(|answer| {
            let nonsense = |error| OperatorError::Unreachable(node, format!("{error}"));
            TailAnswer::decode(answer).map_err(nonsense)
        });
        let answer = answer.map_err(TailError::Owner)?;
        match answer.outcome() {
            Outcome::Unspecified => Ok(answer),
            Outcome::Gone => Err(TailError::NotFound(DeliverError::Gone)),
            Outcome::TooMany => Err(TailError::TooMany),
        }
    }

    /// What another node asks on behalf of who looks on there.
    pub(super) async fn answer_tail(&self, request: Bytes) -> Result<Bytes, Refusal> {
        let malformed = |_| Refusal { code: 0, message: "malformed".to_owned() };
        let call = TailCall::decode(request).map_err(malformed)?;
        let answer = match (call.number, call.is_last) {
            (0, _) => self.begin_tail(&call),
            (number, true) => {
                self.watched.lock().remove(&number);
                TailAnswer::default()
            }
            (number, false) => self.go_on(number).await,
        };
        Ok(answer.encode_to_vec().into())
    }

    fn begin_tail(&self, call: &TailCall) -> TailAnswer {
        let refused =
            |outcome: Outcome| TailAnswer { outcome: outcome.into(), ..Default::default() };
        let Ok(id) = ConnectionId::try_from(&*call.connection_id) else {
            return refused(Outcome::Gone);
        };
        let tail = match self.gateway.tail(id, call.with_payloads) {
            Ok(tail) => tail,
            Err(NoTail::Gone) => return refused(Outcome::Gone),
            Err(NoTail::TooMany) => return refused(Outcome::TooMany),
        };
        // By chance, so that it names no other one's, nor one of a later run of this node.
        let Ok(number) = getrandom::u64().map(|number| number.max(1)) else {
            return refused(Outcome::TooMany);
        };
        self.watched.lock().insert(number, Watched { tail, asked_at: Instant::now() });
        tokio::spawn(forget(self.watched.clone(), number));
        TailAnswer { number, ..TailAnswer::default() }
    }

    async fn go_on(&self, number: u64) -> TailAnswer {
        let tail = self.watched.lock().get_mut(&number).map(|watched| {
            watched.asked_at = Instant::now();
            watched.tail.clone()
        });
        // Another run of this node owned it.
        let Some(tail) = tail else {
            return TailAnswer { outcome: Outcome::Gone.into(), ..TailAnswer::default() };
        };
        let waited = tokio::time::timeout(WAIT_MAX, tail.next(BATCH_BYTES)).await;
        let events = waited.unwrap_or_default().into_iter().map(shown).collect();
        let is_over = tail.is_over();
        if is_over {
            self.watched.lock().remove(&number);
        }
        TailAnswer { number, events, is_over, ..TailAnswer::default() }
    }
}

/// Takes away what nobody asks for any more.
async fn forget(watched: AllWatched, number: u64) {
    loop {
        tokio::time::sleep(FORGOTTEN_AFTER).await;
        let mut watched = watched.lock();
        let Some(one) = watched.get(&number) else { return };
        if one.asked_at.elapsed() >= FORGOTTEN_AFTER {
            watched.remove(&number);
            return;
        }
    }
}

impl Onlooker {
    /// Waits for what is next to be seen. Empty once the connection is over and all was seen.
    pub(crate) async fn next(&mut self) -> Result<Vec<TailResponse>, TailError> {
        match &mut self.source {
            Source::Here(tail) => Ok(tail.next(BATCH_BYTES).await.into_iter().map(shown).collect()),
            Source::There(remote) => remote.next().await,
        }
    }
}

impl Remote {
    async fn next(&mut self) -> Result<Vec<TailResponse>, TailError> {
        while !self.is_over {
            let call = TailCall { number: self.number, ..TailCall::default() };
            let TailAnswer { events, is_over, .. } =
                self.operator.ask_owner(&self.peer, &call).await?;
            self.is_over = is_over;
            if !events.is_empty() {
                return Ok(events);
            }
        }
        Ok(Vec::new())
    }
}

impl Drop for Remote {
    /// Tells the owner, who otherwise finds out later.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (operator, peer) = (self.operator.clone(), self.peer.clone());
        let call = TailCall { number: self.number, is_last: true, ..TailCall::default() };
        tokio::spawn(async move { operator.ask_owner(&peer, &call).await });
    }
}

impl From<NoTail> for TailError {
    fn from(error: NoTail) -> TailError {
        match error {
            NoTail::Gone => TailError::NotFound(DeliverError::Gone),
            NoTail::TooMany => TailError::TooMany,
        }
    }
}

/// As callers are shown it.
fn shown((lost, Event { at_ms, what }): (u64, Event)) -> TailResponse {
    let shown = |event: TailEvent| TailResponse {
        at_ms: at_ms.cast_signed(),
        lost,
        event: event.into(),
        ..TailResponse::default()
    };
    let with_message = |event, Glimpse { kind, bytes, payload }: Glimpse| TailResponse {
        bytes: bytes as u64,
        is_binary: kind == MessageKind::Binary,
        payload: payload.unwrap_or_default(),
        ..shown(event)
    };
    let with_frame = |event, frame: Option<CloseFrame>| {
        let (code, reason) =
            frame.map_or((1005, String::new()), |frame| (frame.code, frame.reason.to_string()));
        TailResponse { close_code: code.into(), close_reason: reason, ..shown(event) }
    };
    match what {
        What::Began => shown(TailEvent::Began),
        What::Received { message, route } => TailResponse {
            route: route.map(String::from),
            ..with_message(TailEvent::Received, message)
        },
        What::Handled { route, status, error, latency } => TailResponse {
            route: route.map(String::from),
            status: status.into(),
            error: error.map(String::from).unwrap_or_default(),
            latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
            ..shown(TailEvent::Handled)
        },
        What::Sent(message) => with_message(TailEvent::Sent, message),
        What::Refused { message, why } => {
            TailResponse { error: why.to_string(), ..with_message(TailEvent::Refused, message) }
        }
        What::PingReceived => shown(TailEvent::PingReceived),
        What::PongReceived => shown(TailEvent::PongReceived),
        What::PingSent => shown(TailEvent::PingSent),
        What::CloseReceived(frame) => with_frame(TailEvent::CloseReceived, frame),
        What::CloseSent(frame) => with_frame(TailEvent::CloseSent, Some(frame)),
        What::Ended(None) => shown(TailEvent::Ended),
        What::Ended(Some(cause)) => TailResponse {
            cause: cause_name(&cause).to_owned(),
            close_code: cause.code().into(),
            close_reason: cause.reason().to_owned(),
            ..shown(TailEvent::Ended)
        },
    }
}
