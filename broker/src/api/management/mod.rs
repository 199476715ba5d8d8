//! API Gateway's `@connections` API over HTTP, as AWS's SDKs call it.
//!
//! A request is judged in this order: its path and method, who calls, how often he may, which stage
//! that is, whether he may do that there, and only then the connection. What is of another API than
//! the path says does not exist.

mod answer;
mod body;
mod call;
mod identity;
mod target;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::response::Response;
use posthorn_core::auth::principal::Verb;
use posthorn_core::connection::CloseFrame;
use posthorn_core::ids::ConnectionId;
use posthorn_core::message::{Message, MessageKind};
use posthorn_core::outbox::Progress;
use tonic::Status;

use crate::api::callers::{Caller, Callers};
use crate::api::connections::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::api::management::answer::{Done, Refusal};
use crate::api::management::body::Bodies;
use crate::api::management::call::Call;
use crate::api::management::target::Target;
use crate::config::node::{ApiSettings, NonUtf8Payload};
use crate::exchange::mailbox::Post;
use crate::exchange::scope::Scope;
use crate::exchange::stage::Stage;
use crate::exchange::{Gateway, inbound};

/// One of these per call that an SDK makes, the same in all its repetitions.
const INVOCATION_ID: &str = "amz-sdk-invocation-id";

pub(super) struct Management {
    gateway: Arc<Gateway>,
    callers: Arc<Callers>,
    bodies: Bodies,
    non_utf8_payload: NonUtf8Payload,
    timeout: Duration,
}

impl Management {
    pub(super) fn new(
        settings: &ApiSettings,
        gateway: Arc<Gateway>,
        callers: Arc<Callers>,
    ) -> Management {
        Management {
            gateway,
            callers,
            bodies: Bodies::new(settings.payload_bytes_max as usize),
            non_utf8_payload: settings.non_utf8_payload,
            timeout: settings.post_timeout_ms.0,
        }
    }

    /// `call` is what the access log of the stage is to say, once that is known.
    async fn answer(&self, request: Request, call: &mut Option<Call>) -> Result<Done, Refusal> {
        let (head, body) = request.into_parts();
        let target = Target::parse(head.uri.path()).ok_or(Refusal::NoSuchPlace)?;
        let verb = verb_of(&head.method).ok_or(Refusal::Method)?;
        let known = self.callers.known();
        let identity = identity::precheck(&known, &head).await?;
        // The signature of a request without a body is over the empty one.
        let body = self.bodies.read(body).await?;
        let caller = identity.confirm(&known, &head, &body);
        let caller = caller.map_err(Refusal::Unauthenticated)?;
        caller.take().map_err(Refusal::Throttled)?;
        self.gateway.charge_call().map_err(Refusal::Throttled)?;
        let stages = self.gateway.stages();
        let Some((stage, "" | "/")) = stages.resolve(host_of(&head), &target.prefix) else {
            return Err(Refusal::NoSuchPlace);
        };
        let id: Result<ConnectionId, _> = target.id.parse();
        *call = id.as_ref().ok().and_then(|id| Call::of(stage, *id, &head));
        if !caller.may(verb, &stage.api_id, &stage.name) {
            return Err(Refusal::Denied(denial(&caller, &head.method, stage)));
        }
        let id = id.map_err(|_| Refusal::ConnectionId(target.id))?;
        self.act(verb, id, stage, &head, body).await
    }

    async fn act(
        &self,
        verb: Verb,
        id: ConnectionId,
        stage: &Stage,
        head: &Parts,
        body: Bytes,
    ) -> Result<Done, Refusal> {
        // Every stage of an API reaches the connections of all its stages, as with API Gateway.
        let scope = Scope::Api(stage.api_id.clone());
        let deadline = Instant::now() + self.timeout;
        let done = match verb {
            Verb::Post => {
                let post = self.post_of(head, body)?;
                self.gateway.post(id, scope, post, deadline).await.map(|()| Done::Posted)
            }
            Verb::Get => {
                let found = self.gateway.get(id, scope, deadline).await;
                found.map(|found| Done::Found(Box::new(found)))
            }
            Verb::Delete => {
                let frame = CloseFrame { code: 1000, reason: "Connection Closed Normally".into() };
                self.gateway.close(id, scope, frame, deadline).await.map(|()| Done::Deleted)
            }
            Verb::List | Verb::Connect | Verb::Admin => return Err(Refusal::Method),
        };
        done.map_err(Refusal::Undelivered)
    }

    fn post_of(&self, head: &Parts, body: Bytes) -> Result<Post, Refusal> {
        let message = match (str::from_utf8(&body), self.non_utf8_payload) {
            (Ok(_), _) => Message { kind: MessageKind::Text, payload: body },
            (Err(_), NonUtf8Payload::Replace) => {
                Message::text(String::from_utf8_lossy(&body).into_owned())
            }
            (Err(_), NonUtf8Payload::Binary) => {
                Message { kind: MessageKind::Binary, payload: body }
            }
        };
        let idempotency_key = match head.headers.get(INVOCATION_ID).map(|id| id.to_str()) {
            None => None,
            Some(Ok(id)) if id.len() <= IDEMPOTENCY_KEY_BYTES_MAX => Some(id.into()),
            Some(_) => return Err(Refusal::InvocationId),
        };
        Ok(Post { message, progress: Progress::Accepted, idempotency_key })
    }
}

/// Answers whatever is not for a gRPC service.
pub(super) async fn handle(
    State(management): State<Arc<Management>>,
    request: Request,
) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Status::unimplemented("there is no such service").into_http();
    }
    let begun = inbound::request();
    let mut call = None;
    let response = match management.answer(request, &mut call).await {
        Ok(done) => done.into_response(begun.id),
        Err(refusal) => refusal.into_response(begun.id),
    };
    if let Some(call) = call {
        call.log(begun, &response);
    }
    response
}

fn verb_of(method: &Method) -> Option<Verb> {
    match *method {
        Method::POST => Some(Verb::Post),
        Method::GET => Some(Verb::Get),
        Method::DELETE => Some(Verb::Delete),
        _ => None,
    }
}

/// HTTP/2 has it in the address.
fn host_of(head: &Parts) -> &str {
    let header = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = || head.uri.authority().map(|authority| authority.as_str());
    header.or_else(authority).unwrap_or_default()
}

/// As API Gateway puts it: the account is masked, and connections have no resources of their own.
fn denial(caller: &Caller, method: &Method, stage: &Stage) -> String {
    let Stage { api_id, name, region, account_id, .. } = stage;
    let account = &account_id[account_id.len().saturating_sub(4)..];
    format!(
        "User: {} is not authorized to perform: execute-api:ManageConnections on resource: \
         arn:aws:execute-api:{region}:********{account}:{api_id}/{name}/{method}/@connections/\
         {{connectionId}} because no permission allows the execute-api:ManageConnections action",
        caller.name()
    )
}
