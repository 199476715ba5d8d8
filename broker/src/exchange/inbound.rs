//! From a client to its backend: `$connect`, messages, `$disconnect`.
//!
//! No call begins once our lease has ended: who speaks for the connection then is another.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use posthorn_core::access_log::EventType;
use posthorn_core::access_log::failure::Failure;
use posthorn_core::connection::{CloseCause, Verdict};
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::event::context::{Origin, Request};
use posthorn_core::event::handshake::{Forwarded, Handshake};
use posthorn_core::event::ids::{MessageId, RequestId};
use posthorn_core::event::proxy::{ConnectEvent, DisconnectEvent, Event, MessageEvent};
use posthorn_core::ids::NodeRun;
use posthorn_core::message::{Message, MessageKind};
use posthorn_core::model::Misfit;
use posthorn_core::route::error_frame::ErrorFrame;
use posthorn_core::route::table::{RouteKey, Selected};
use tracing::{debug, info};

use crate::clock::epoch_ms;
use crate::config::api::BinaryMessages;
use crate::consensus::Consensus;
use crate::exchange::account::Account;
use crate::exchange::mailbox::{CallUnderWay, Mailbox};
use crate::exchange::stage::{Route, Stage, Stages};
use crate::exchange::tail::{Glimpse, What};
use crate::exchange::throttles::Limiter;
use crate::integration::{Answer, CallError};
use crate::telemetry::{Refused, RouteMetrics};

/// So many messages in a row that were refused as too many close their connection.
const THROTTLED_MAX: u32 = 1000;
pub(super) const SUBPROTOCOL: &str = "sec-websocket-protocol";

#[derive(Clone)]
pub struct Inbound {
    consensus: Consensus,
    /// A larger answer to a message is not sent: the client is told of an error.
    reply_bytes_max: usize,
}

/// What a backend is told of a handshake.
#[derive(Debug, Clone)]
pub struct HandshakeParts {
    /// In the order and spelling of the client.
    pub headers: Vec<(String, String)>,
    /// Of the request, as it came.
    pub path: String,
    /// Without its `?`.
    pub query: String,
    pub subprotocols: Vec<String>,
    /// What the client is answered where the backend chooses none of them.
    pub subprotocol_default: Option<String>,
    /// The client's address, as `X-Forwarded-For` has it.
    pub addresses: String,
    /// The port that the client connected to.
    pub port: String,
    /// Whether the client came over TLS.
    pub is_secure: bool,
    /// How long the authorizer took, if there is one.
    pub authorizer_latency_ms: Option<u64>,
}

/// What `$connect` came to.
#[derive(Debug, Clone)]
pub struct ConnectAnswer {
    pub verdict: Verdict,
    /// One of those that the client offered.
    pub subprotocol: Option<String>,
    /// For a refusal: what the backend said.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// Where the backend said nothing that could be passed on.
    failure: Option<Failure<'static>>,
    pub label: Refused,
}

impl HandshakeParts {
    /// The first value of a header. Names are the same in any case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn headers(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (&**name, &**value)).collect()
    }

    /// `headers` are [`HandshakeParts::headers`].
    pub(super) fn handshake<'a>(
        &'a self,
        headers: &'a [(&'a str, &'a str)],
        trace_id: &'a str,
    ) -> Handshake<'a> {
        let forwarded = Forwarded {
            addresses: &self.addresses,
            port: &self.port,
            protocol: if self.is_secure { "https" } else { "http" },
            trace_id,
        };
        Handshake { headers, query: &self.query, forwarded }
    }
}

impl Inbound {
    pub(super) fn new(consensus: Consensus, reply_bytes_max: usize) -> Inbound {
        Inbound { consensus, reply_bytes_max }
    }

    /// Asks the backend whether a connection may be opened.
    pub(super) fn connect(
        &self,
        stage: Arc<Stage>,
        info: Arc<ConnectionInfo>,
        owner: NodeRun,
        parts: HandshakeParts,
    ) -> impl Future<Output = ConnectAnswer> + Send + 'static {
        let consensus = self.consensus.clone();
        async move {
            stage.metrics.connects.increment(1);
            let request = request();
            let Some(route) = stage.routes.connect() else {
                let account = Account::new(&stage, &info, request, EventType::Connect);
                account.with_route(Some(RouteKey::CONNECT)).end(200, None);
                return ConnectAnswer::accepted(parts.subprotocol_default);
            };
            if consensus.may_act() != Some(owner) {
                let verdict = Verdict::Refused { status: 503 };
                return ConnectAnswer::failed(verdict, &info, request.id);
            }
            let headers = parts.headers();
            let trace_id = trace_id();
            let event = Event::Connect(ConnectEvent {
                info: &info,
                request,
                handshake: parts.handshake(&headers, &trace_id),
                authorizer_latency_ms: parts.authorizer_latency_ms,
                stage_variables: &stage.variables,
                origin: Some(Origin { run: owner, sequence: 1 }),
            });
            let mut account = Account::of(&stage, &event);
            let answer = match account.call(route, &event).await {
                Ok(answer) => judge(answer, &parts)
                    .unwrap_or_else(|verdict| ConnectAnswer::failed(verdict, &info, request.id)),
                Err(error) => {
                    info!(api = %info.api_id, %error, "$connect failed");
                    let status = error.status();
                    let verdict = match error {
                        CallError::Overloaded
                        | CallError::QueuedTooLong(_)
                        | CallError::NotCalled(_)
                        | CallError::NotMapped(_)
                        | CallError::NoTemplate => Verdict::Refused { status },
                        CallError::Failed(_) | CallError::BadAnswer(_) | CallError::TimedOut(_) => {
                            Verdict::Unknown { status }
                        }
                    };
                    ConnectAnswer::failed(verdict, &info, request.id)
                }
            };
            account.end(answer.verdict.status(), answer.failure);
            answer
        }
    }

    /// Gives a client's message to its route. The mailbox is told when that is done.
    pub(super) fn dispatch(&self, stages: &Stages, mailbox: &Arc<Mailbox>, message: Message) {
        let stage = stages.of(&mailbox.info);
        if message.kind == MessageKind::Binary
            && stage.is_some_and(|stage| stage.binary_messages == BinaryMessages::Refuse)
        {
            show_received(mailbox, &message, None);
            // It may be closing already.
            let _ = mailbox.close(CloseCause::BinaryRefused);
            mailbox.on_dispatched();
            return;
        }
        let selected = stage.map(|stage| (stage, stage.routes.select(&message)));
        let (stage, key, route) = match selected {
            Some((stage, Selected::Route { key, value })) => (stage, key.as_str(), value),
            Some((stage, Selected::Default(value))) => (stage, RouteKey::DEFAULT, value),
            Some((_, Selected::None)) | None => {
                show_received(mailbox, &message, None);
                let metrics = &mailbox.metrics.unrouted;
                metrics.messages_received.increment(1);
                let frame = match is_granted(mailbox, stages.account(), None) {
                    true => ErrorFrame::Forbidden,
                    false => ErrorFrame::TooManyRequests,
                };
                refuse(stage, None, mailbox, metrics, (frame, None));
                return;
            }
        };
        show_received(mailbox, &message, Some(key));
        let metrics = &route.metrics;
        metrics.messages_received.increment(1);
        if !is_granted(mailbox, stage.account.as_ref(), route.limiter.as_ref()) {
            let frame = ErrorFrame::TooManyRequests;
            refuse(Some(stage), Some(key), mailbox, metrics, (frame, None));
            return;
        }
        let misfit = route.request_models.as_ref().and_then(|models| models.admit(&message).err());
        if let Some(misfit) = misfit {
            let id = MessageId::from_random(random(), mailbox.info.connection);
            let frame = |_| ErrorFrame::BadRequestBody(id);
            refuse(Some(stage), Some(key), mailbox, metrics, (frame, Some(&misfit)));
        } else if let Some(answer) = route.integration.answer_now(&mailbox.info, Some(&message)) {
            let started = Instant::now();
            let is_told = reply(mailbox, route, answer, self.reply_bytes_max);
            let told = (!is_told).then_some((500, "Internal server error"));
            show_handled(mailbox, Some(key), told, started);
            if stage.access_log.is_some() || !is_told {
                let request = request();
                let failed = (!is_told).then_some(ErrorFrame::InternalServerError(request.id));
                let account = Account::new(stage, &mailbox.info, request, EventType::Message);
                end(&account.with_route(Some(key)), mailbox, metrics, failed);
            }
            mailbox.on_dispatched();
        } else if self.consensus.may_act() != Some(mailbox.owner) {
            mailbox.on_dispatched();
        } else {
            let dispatched = Dispatched {
                stage: stage.clone(),
                key: key.to_owned(),
                route: route.clone(),
                mailbox: mailbox.clone(),
                origin: mailbox.next_origin(),
                _under_way: mailbox.begin_call(),
                request: request(),
                message,
                reply_bytes_max: self.reply_bytes_max,
            };
            tokio::spawn(dispatched.run());
        }
    }

    pub(super) fn has_disconnect(stages: &Stages, info: &ConnectionInfo) -> bool {
        stages.of(info).is_some_and(|stage| stage.routes.disconnect().is_some())
    }

    /// Tells the backend that a connection is over, once.
    pub(super) async fn disconnect(
        &self,
        stages: &Stages,
        info: &ConnectionInfo,
        origin: Origin,
        cause: &CloseCause,
    ) -> Result<(), CallError> {
        let Some(stage) = stages.of(info) else { return Ok(()) };
        let Some(route) = stage.routes.disconnect() else { return Ok(()) };
        let event = Event::Disconnect(DisconnectEvent {
            info,
            request: request(),
            status_code: cause.code(),
            reason: cause.reason(),
            stage_variables: &stage.variables,
            origin: Some(origin),
        });
        let mut account = Account::of(stage, &event);
        let called = account.call(route, &event).await;
        account.end(called.as_ref().map_or_else(CallError::status, |answer| answer.status), None);
        match called {
            // It would come to the same each time.
            Err(error @ (CallError::NotMapped(_) | CallError::NoTemplate)) => {
                info!(api = %info.api_id, %error, "$disconnect cannot be told");
                Ok(())
            }
            Err(error) => Err(error),
            Ok(Answer { status: status @ (429 | 500..), .. }) => {
                Err(CallError::Failed(format!("it answered {status}")))
            }
            _ => Ok(()),
        }
    }
}

/// One message on its way to its integration.
struct Dispatched {
    stage: Arc<Stage>,
    key: String,
    route: Route,
    mailbox: Arc<Mailbox>,
    origin: Origin,
    /// `$disconnect` waits for it.
    _under_way: CallUnderWay,
    request: Request,
    message: Message,
    reply_bytes_max: usize,
}

impl Dispatched {
    async fn run(self) {
        let Dispatched { stage, key, route, mailbox, request, message, reply_bytes_max, .. } =
            &self;
        let event = Event::Message(MessageEvent {
            info: &mailbox.info,
            request: *request,
            route_key: key,
            message_id: MessageId::from_random(random(), mailbox.info.connection),
            message,
            stage_variables: &stage.variables,
            origin: Some(self.origin),
        });
        let mut account = Account::of(stage, &event);
        let started = Instant::now();
        let failed = match account.call(route, &event).await {
            Ok(Answer { status: 500.., is_mapped: false, .. }) => {
                Some(ErrorFrame::InternalServerError(request.id))
            }
            Ok(answer) => {
                let is_told = reply(mailbox, route, answer, *reply_bytes_max);
                (!is_told).then_some(ErrorFrame::InternalServerError(request.id))
            }
            Err(error) => {
                info!(api = %mailbox.info.api_id, route = ?key, %error, "an integration failed");
                Some(frame_of(&error, request.id))
            }
        };
        let told = failed.map(|frame| (frame.status(), frame.failure().message));
        show_handled(mailbox, Some(key), told, started);
        end(&account, mailbox, &route.metrics, failed);
        mailbox.on_dispatched();
    }
}

impl ConnectAnswer {
    fn accepted(subprotocol: Option<String>) -> ConnectAnswer {
        let (verdict, headers, body) = (Verdict::Accepted, Vec::new(), Bytes::new());
        let label = Refused::BackendFailed;
        ConnectAnswer { verdict, subprotocol, headers, body, failure: None, label }
    }

    /// The backend said nothing that could be passed on. The client is told what it would be on a
    /// message.
    fn failed(verdict: Verdict, info: &ConnectionInfo, request: RequestId) -> ConnectAnswer {
        let frame = match verdict.status() {
            415 => ErrorFrame::UnsupportedMediaType(request),
            504 => ErrorFrame::TimedOut(request),
            _ => ErrorFrame::InternalServerError(request),
        };
        let content_type = "application/json; charset=UTF-8".to_owned();
        ConnectAnswer {
            verdict,
            headers: vec![("Content-Type".to_owned(), content_type)],
            body: frame.text(info.connection).into(),
            failure: Some(frame.failure()),
            ..ConnectAnswer::accepted(None)
        }
    }
}

/// What an answer means, or why it means nothing.
fn judge(answer: Answer, parts: &HandshakeParts) -> Result<ConnectAnswer, Verdict> {
    let Answer { status, headers, body, .. } = answer;
    if !(200..300).contains(&status) {
        // A status below says that another follows, or that the handshake has succeeded.
        let status = if status < 200 { 500 } else { status };
        return Ok(ConnectAnswer {
            verdict: Verdict::Refused { status },
            subprotocol: None,
            headers: headers.into_iter().filter(is_passed_on).collect(),
            body: body.map_or(Bytes::new(), |body| body.payload),
            failure: None,
            label: Refused::ByBackend,
        });
    }
    let is_subprotocol = |(name, _): &(String, String)| name.eq_ignore_ascii_case(SUBPROTOCOL);
    match headers.into_iter().find(is_subprotocol).map(|(_, chosen)| chosen) {
        Some(chosen) if !parts.subprotocols.contains(&chosen) => {
            debug!("a backend chose a subprotocol that the client did not offer");
            Err(Verdict::Refused { status: 500 })
        }
        subprotocol => {
            let subprotocol = subprotocol.or_else(|| parts.subprotocol_default.clone());
            Ok(ConnectAnswer::accepted(subprotocol))
        }
    }
}

/// Not so headers that belong to one hop, that we say ourselves, or that a function made up and that
/// would break the response apart.
fn is_passed_on((name, value): &(String, String)) -> bool {
    let is_header = HeaderName::from_bytes(name.as_bytes()).is_ok()
        && HeaderValue::from_bytes(value.as_bytes()).is_ok();
    let ours =
        ["connection", "content-length", "keep-alive", "transfer-encoding", "upgrade", "date"];
    let is_websockets =
        name.get(..14).is_some_and(|begin| begin.eq_ignore_ascii_case("sec-websocket-"));
    is_header && !is_websockets && !ours.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// Whether a message is within its limits. A client that too many in a row do not stop is closed.
fn is_granted(mailbox: &Mailbox, account: Option<&Limiter>, route: Option<&Limiter>) -> bool {
    if account.is_none() && route.is_none() {
        return true;
    }
    if Limiter::take_both(account, route, Instant::now()).is_ok() {
        mailbox.on_granted();
        return true;
    }
    if mailbox.on_throttled() >= THROTTLED_MAX {
        // Who is being closed already is closed.
        let _ = mailbox.close(CloseCause::Throttled);
    }
    false
}

/// Tells a client that its message came to nothing before any integration was called.
fn refuse(
    stage: Option<&Arc<Stage>>,
    key: Option<&str>,
    mailbox: &Mailbox,
    metrics: &RouteMetrics,
    (frame, misfit): (impl FnOnce(RequestId) -> ErrorFrame, Option<&Misfit>),
) {
    let request = request();
    let frame = frame(request.id);
    metrics.client_errors.increment(1);
    let told = (frame.status(), frame.failure().message);
    show_handled(mailbox, key, Some(told), Instant::now());
    reply_error(mailbox, metrics, frame);
    if let Some(stage) = stage {
        let account = Account::new(stage, &mailbox.info, request, EventType::Message);
        let account = account.with_route(key).with_misfit(misfit.map(|Misfit(why)| &**why));
        account.end(frame.status(), Some(frame.failure()));
    }
    mailbox.on_dispatched();
}

/// Accounts for a message, and tells its client what failed, if anything did.
fn end(
    account: &Account<'_>,
    mailbox: &Mailbox,
    metrics: &RouteMetrics,
    failed: Option<ErrorFrame>,
) {
    account.end(failed.map_or(200, ErrorFrame::status), failed.map(ErrorFrame::failure));
    if let Some(frame) = failed {
        reply_error(mailbox, metrics, frame);
    }
}

/// False if the answer should be told, and is too large for that.
fn reply(mailbox: &Mailbox, route: &Route, answer: Answer, bytes_max: usize) -> bool {
    match answer.body.filter(|_| route.is_two_way) {
        Some(body) if body.payload.len() > bytes_max => {
            info!(api = %mailbox.info.api_id, bytes = body.payload.len(), "an answer is too large");
            return false;
        }
        Some(body) => put(mailbox, &route.metrics, body),
        None => (),
    }
    true
}

fn frame_of(error: &CallError, request: RequestId) -> ErrorFrame {
    match error {
        CallError::TimedOut(_) => ErrorFrame::TimedOut(request),
        CallError::NoTemplate => ErrorFrame::UnsupportedMediaType(request),
        CallError::Overloaded
        | CallError::QueuedTooLong(_)
        | CallError::NotCalled(_)
        | CallError::NotMapped(_)
        | CallError::Failed(_)
        | CallError::BadAnswer(_) => ErrorFrame::InternalServerError(request),
    }
}

fn reply_error(mailbox: &Mailbox, metrics: &RouteMetrics, frame: ErrorFrame) {
    put(mailbox, metrics, Message::text(frame.text(mailbox.info.connection)));
}

/// To who looks on.
fn show_received(mailbox: &Mailbox, message: &Message, route: Option<&str>) {
    mailbox.tails.show(|with_payload| What::Received {
        message: Glimpse::of(message, with_payload),
        route: route.map(Into::into),
    });
}

/// To who looks on. `told` is the error that the client is told, if there is one.
fn show_handled(
    mailbox: &Mailbox,
    route: Option<&str>,
    told: Option<(u16, &str)>,
    started: Instant,
) {
    mailbox.tails.show(|_| What::Handled {
        route: route.map(Into::into),
        status: told.map_or(200, |(status, _)| status),
        error: told.map(|(_, error)| error.into()),
        latency: started.elapsed(),
    });
}

/// Who does not read misses the answers to what he sends.
fn put(mailbox: &Mailbox, metrics: &RouteMetrics, message: Message) {
    if mailbox.reply(message).is_ok() {
        metrics.messages_sent.increment(1);
    }
}

pub fn request() -> Request {
    Request { id: request_id(), at_ms: epoch_ms() }
}

fn request_id() -> RequestId {
    RequestId::from_random(random())
}

/// As X-Ray writes them: the time in seconds and 96 random bits, in hexadecimal.
pub(super) fn trace_id() -> String {
    let random: String = random::<12>().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("Root=1-{:08x}-{random}", epoch_ms() / 1000)
}

/// Names in logs, which need not be unguessable: without random bits, they are zeros.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bits = [0; N];
    let _ = getrandom::fill(&mut bits);
    bits
}
