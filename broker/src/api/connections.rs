//! `posthorn.v1.ConnectionService`: from messages to posts, from outcomes to answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use posthorn_core::auth::principal::Verb;
use posthorn_core::connection::CloseFrame;
use posthorn_core::ids::ConnectionId;
use posthorn_core::message::{Message, MessageKind};
use posthorn_core::outbox::Progress;
use posthorn_proto::v1::connection_service_server::ConnectionService;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{
    Connection, DeleteConnectionRequest, DeleteConnectionResponse, GetConnectionRequest,
    GetConnectionResponse, ListConnectionsRequest, ListConnectionsResponse,
    PostToConnectionRequest, PostToConnectionResponse, PostToConnectionsRequest,
    PostToConnectionsResponse, WaitFor,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::callers::Caller;
use crate::api::guard::caller_of;
use crate::api::listing;
use crate::api::status::{BadRequest, Told};
use crate::config::node::ApiSettings;
use crate::exchange::Gateway;
use crate::exchange::mailbox::Post;
use crate::exchange::scope::Scope;

pub(super) const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// No caller may occupy us longer than this.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// How long a stream may leave its answers unread before it is given up.
const UNREAD_MAX: Duration = Duration::from_secs(60);

pub(super) struct Connections {
    gateway: Arc<Gateway>,
    payload_bytes_max: usize,
    post_timeout: Duration,
    stream_posts_in_flight_max: usize,
}

impl Connections {
    pub(super) fn new(gateway: Arc<Gateway>, settings: &ApiSettings) -> Connections {
        Connections {
            gateway,
            payload_bytes_max: settings.payload_bytes_max as usize,
            post_timeout: settings.post_timeout_ms.0,
            stream_posts_in_flight_max: settings.stream_posts_in_flight_max as usize,
        }
    }

    /// Counts a call, and says with whose connections it may do that.
    fn judge<T>(&self, request: &Request<T>, verb: Verb) -> Result<Scope, Status> {
        let caller = caller_of(request)?;
        let scope = caller.scope(verb).map_err(Told::from)?;
        let charged = caller.take().and_then(|()| self.gateway.charge_call());
        charged.map_err(Told::from)?;
        Ok(scope)
    }

    fn deadline<T>(&self, request: &Request<T>) -> Instant {
        let asked = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
        let timeout = asked.and_then(parse_timeout).unwrap_or(self.post_timeout);
        Instant::now() + timeout.min(TIMEOUT_MAX)
    }
}

#[tonic::async_trait]
impl ConnectionService for Connections {
    async fn post_to_connection(
        &self,
        request: Request<PostToConnectionRequest>,
    ) -> Result<Response<PostToConnectionResponse>, Status> {
        let deadline = self.deadline(&request);
        let scope = self.judge(&request, Verb::Post)?;
        let (id, post) =
            post_of(request.into_inner(), self.payload_bytes_max).map_err(Told::from)?;
        self.gateway.post(id, scope, post, deadline).await.map_err(Told::from)?;
        Ok(Response::new(PostToConnectionResponse {}))
    }

    type PostToConnectionsStream = ReceiverStream<Result<PostToConnectionsResponse, Status>>;

    async fn post_to_connections(
        &self,
        request: Request<Streaming<PostToConnectionsRequest>>,
    ) -> Result<Response<Self::PostToConnectionsStream>, Status> {
        let caller = caller_of(&request)?;
        let scope = caller.scope(Verb::Post).map_err(Told::from)?;
        // A post holds a place in the channel of answers from its arrival on: who does not read its
        // answers cannot send more posts.
        let (answers, answered) = mpsc::channel(self.stream_posts_in_flight_max);
        let posts = Posts {
            gateway: self.gateway.clone(),
            caller,
            scope,
            payload_bytes_max: self.payload_bytes_max,
            post_timeout: self.post_timeout,
            answers,
        };
        tokio::spawn(posts.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(answered)))
    }

    async fn get_connection(
        &self,
        request: Request<GetConnectionRequest>,
    ) -> Result<Response<GetConnectionResponse>, Status> {
        let deadline = self.deadline(&request);
        let scope = self.judge(&request, Verb::Get)?;
        let id = id_of(&request.get_ref().connection_id).map_err(Told::from)?;
        let found = self.gateway.get(id, scope, deadline).await.map_err(Told::from)?;
        let info = found.info;
        let connection = Connection {
            connection_id: id.to_string(),
            api_id: info.api_id.to_string(),
            stage: info.stage.to_string(),
            connected_at_ms: info.connected_at_ms.cast_signed(),
            last_active_at_ms: found.last_active_at_ms.cast_signed(),
            source_ip: info.source_ip.to_string(),
            user_agent: info.user_agent.as_deref().unwrap_or_default().to_owned(),
            node_id: found.owner.node.0,
        };
        Ok(Response::new(GetConnectionResponse { connection: Some(connection) }))
    }

    async fn list_connections(
        &self,
        request: Request<ListConnectionsRequest>,
    ) -> Result<Response<ListConnectionsResponse>, Status> {
        let deadline = self.deadline(&request);
        let scope = self.judge(&request, Verb::List)?;
        let caller = caller_of(&request)?;
        let (wanted, sequel) = listing::parse(request.into_inner(), &self.gateway, &caller, scope)?;
        let page = self.gateway.list(wanted, deadline).await.map_err(Told::from)?;
        Ok(Response::new(sequel.answer(&page)))
    }

    async fn delete_connection(
        &self,
        request: Request<DeleteConnectionRequest>,
    ) -> Result<Response<DeleteConnectionResponse>, Status> {
        let deadline = self.deadline(&request);
        let scope = self.judge(&request, Verb::Delete)?;
        let DeleteConnectionRequest { connection_id, close_code, close_reason } =
            request.into_inner();
        let id = id_of(&connection_id).map_err(Told::from)?;
        let frame = close_frame_of(close_code, &close_reason).map_err(Told::from)?;
        self.gateway.close(id, scope, frame, deadline).await.map_err(Told::from)?;
        Ok(Response::new(DeleteConnectionResponse {}))
    }
}

/// One stream of posts.
struct Posts {
    gateway: Arc<Gateway>,
    caller: Caller,
    scope: Scope,
    payload_bytes_max: usize,
    post_timeout: Duration,
    answers: mpsc::Sender<Result<PostToConnectionsResponse, Status>>,
}

impl Posts {
    /// Takes posts in their order until the caller ends the stream or goes away.
    async fn run(self, mut requests: Streaming<PostToConnectionsRequest>) {
        let mut leaving = std::pin::pin!(self.gateway.draining().leaving());
        while let Ok(Ok(place)) =
            tokio::time::timeout(UNREAD_MAX, self.answers.clone().reserve_owned()).await
        {
            let request = tokio::select! {
                request = requests.message() => request,
                // What was taken is answered; what was not, is another node's to take.
                () = &mut leaving => {
                    drop(place.send(Err(Told::draining().into())));
                    return;
                }
            };
            let PostToConnectionsRequest { sequence, post } = match request {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(status) => {
                    drop(place.send(Err(status)));
                    return;
                }
            };
            let answer = move |outcome: Result<(), Told>| {
                drop(place.send(Ok(answer_of(sequence, outcome))));
            };
            if let Err(throttled) = self.caller.take().and_then(|()| self.gateway.charge_call()) {
                answer(Err(throttled.into()));
                continue;
            }
            match post_of(post.unwrap_or_default(), self.payload_bytes_max) {
                Ok((id, post)) => {
                    let deadline = Instant::now() + self.post_timeout;
                    let answer = Box::new(|outcome: Result<(), _>| {
                        answer(outcome.map_err(Told::from));
                    });
                    self.gateway.post_then(id, self.scope.clone(), post, deadline, answer);
                }
                Err(bad) => answer(Err(bad.into())),
            }
        }
    }
}

fn answer_of(sequence: u64, outcome: Result<(), Told>) -> PostToConnectionsResponse {
    match outcome {
        Ok(()) => PostToConnectionsResponse { sequence, ..Default::default() },
        Err(Told { code, reason, message, retry_after: _ }) => PostToConnectionsResponse {
            sequence,
            code: code.into(),
            reason: reason.to_owned(),
            message,
        },
    }
}

fn post_of(
    request: PostToConnectionRequest,
    payload_bytes_max: usize,
) -> Result<(ConnectionId, Post), BadRequest> {
    let progress = match request.wait_for() {
        WaitFor::Unspecified | WaitFor::Accepted => Progress::Accepted,
        WaitFor::Written => Progress::Written,
        WaitFor::Answered => Progress::Answered,
    };
    let PostToConnectionRequest { connection_id, payload, wait_for: _, idempotency_key } = request;
    let connection = id_of(&connection_id)?;
    let message = match payload {
        Some(Payload::Text(text)) => {
            Message { kind: MessageKind::Text, payload: Bytes::from(text) }
        }
        Some(Payload::Binary(payload)) => Message { kind: MessageKind::Binary, payload },
        None => Message::text(""),
    };
    let bytes = message.payload.len();
    if bytes > payload_bytes_max {
        return Err(BadRequest::PayloadTooLarge { bytes, bytes_max: payload_bytes_max });
    }
    if idempotency_key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        return Err(BadRequest::Invalid("idempotency_key: it has at most 128 bytes"));
    }
    let idempotency_key = (!idempotency_key.is_empty()).then(|| idempotency_key.into_boxed_str());
    Ok((connection, Post { message, progress, idempotency_key }))
}

pub(super) fn id_of(text: &str) -> Result<ConnectionId, BadRequest> {
    text.parse().map_err(|_| BadRequest::ConnectionId)
}

fn close_frame_of(code: u32, reason: &str) -> Result<CloseFrame, BadRequest> {
    let code = match code {
        0 => 1000,
        code => match u16::try_from(code) {
            Ok(code) if CloseFrame::is_code_for_servers(code) => code,
            Ok(_) | Err(_) => {
                return Err(BadRequest::Invalid("close_code: no server may send that code"));
            }
        },
    };
    if reason.len() > CloseFrame::REASON_BYTES_MAX {
        return Err(BadRequest::Invalid("close_reason: it has at most 123 bytes"));
    }
    Ok(CloseFrame { code, reason: reason.into() })
}

/// `grpc-timeout`: at most 8 digits and a unit. What is malformed is ignored, as gRPC has it.
fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number * 3600)),
        'M' => Some(Duration::from_secs(number * 60)),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for malformed in ["", "m", "1", "123456789S", "-1S", "1x", "1\u{fffd}"] {
            assert_eq!(parse_timeout(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn codes_that_no_server_may_send_are_refused() {
        for code in [1, 999, 1004, 1005, 1006, 1015, 2999, 5000, 70_000] {
            assert!(close_frame_of(code, "").is_err(), "{code}");
        }
        let frame = CloseFrame { code: 1000, reason: "bye".into() };
        assert_eq!(close_frame_of(0, "bye"), Ok(frame));
        assert!(close_frame_of(4999, &"x".repeat(124)).is_err());
    }
}
