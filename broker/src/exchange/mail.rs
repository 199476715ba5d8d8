//! What can be asked of a connection's owner, and its wire form between nodes.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use posthorn_core::connection::{CloseCause, CloseFrame};
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::ids::{ConnectionId, NodeId, NodeRun};
use posthorn_core::message::{Message, MessageKind};
use posthorn_core::outbox::Progress;
use posthorn_proto::cluster::v1 as wire;
use posthorn_proto::cluster::v1::mail_answer::Outcome;
use posthorn_proto::cluster::v1::mail_post::Payload;
use posthorn_proto::cluster::v1::mail_request::Wish as WireWish;
use prost::Message as _;

use crate::exchange::mailbox::{Mailbox, Post};
use crate::exchange::outbound::Tell;
use crate::exchange::outcome::{DeliverError, Unavailable};

#[derive(Debug, Clone)]
pub struct Mail {
    pub connection: ConnectionId,
    pub wish: Wish,
}

#[derive(Debug, Clone)]
pub enum Wish {
    Post(Post),
    Close(CloseFrame),
    Get,
}

/// What the owner answered where the wish came true.
#[derive(Debug, Clone)]
pub enum Answered {
    Done,
    Found { info: Arc<ConnectionInfo>, last_active_at_ms: u64 },
}

/// A peer sent what no node of any version would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed mail")]
pub struct Malformed;

impl Mail {
    /// Makes the wish true in the owner's mailbox.
    pub(super) fn put_into(self, mailbox: &Mailbox, tell: Tell) {
        match self.wish {
            Wish::Post(post) => {
                let answer = |outcome: Result<(), _>| tell(outcome.map(|()| Answered::Done));
                mailbox.post(Instant::now(), &post, Box::new(answer));
            }
            Wish::Close(frame) => {
                tell(mailbox.close(CloseCause::ByBackend(frame)).map(|()| Answered::Done));
            }
            Wish::Get if !mailbox.is_open() => tell(Err(DeliverError::Gone)),
            Wish::Get => tell(Ok(Answered::Found {
                info: mailbox.info.clone(),
                last_active_at_ms: mailbox.last_active_at_ms(),
            })),
        }
    }
}

pub(super) fn encode_mail(owner: NodeRun, mail: &Mail) -> Bytes {
    let wish = match &mail.wish {
        Wish::Post(Post { message, progress, idempotency_key }) => {
            let payload = message.payload.clone();
            WireWish::Post(wire::MailPost {
                payload: Some(match message.kind {
                    MessageKind::Text => Payload::Text(payload),
                    MessageKind::Binary => Payload::Binary(payload),
                }),
                progress: match progress {
                    Progress::Accepted => 0,
                    Progress::Written => 1,
                    Progress::Answered => 2,
                },
                idempotency_key: idempotency_key.as_deref().unwrap_or_default().to_owned(),
            })
        }
        Wish::Close(frame) => WireWish::Close(wire::MailClose {
            code: frame.code.into(),
            reason: frame.reason.to_string(),
        }),
        Wish::Get => WireWish::Get(wire::MailGet {}),
    };
    let owner = wire::NodeRun { node: owner.node.0, incarnation: owner.incarnation };
    let connection_id = Bytes::copy_from_slice(mail.connection.as_bytes());
    let request = wire::MailRequest { owner: Some(owner), connection_id, wish: Some(wish) };
    request.encode_to_vec().into()
}

pub(super) fn decode_mail(frame: Bytes) -> Result<(NodeRun, Mail), Malformed> {
    let request = wire::MailRequest::decode(frame).map_err(|_| Malformed)?;
    let owner = request.owner.ok_or(Malformed)?;
    let owner = NodeRun { node: NodeId(owner.node), incarnation: owner.incarnation };
    let connection = ConnectionId::try_from(&*request.connection_id).map_err(|_| Malformed)?;
    let wish = match request.wish.ok_or(Malformed)? {
        WireWish::Post(wire::MailPost { payload, progress, idempotency_key }) => {
            let message = match payload.ok_or(Malformed)? {
                Payload::Text(payload) => Message { kind: MessageKind::Text, payload },
                Payload::Binary(payload) => Message { kind: MessageKind::Binary, payload },
            };
            let progress = match progress {
                0 => Progress::Accepted,
                1 => Progress::Written,
                2 => Progress::Answered,
                _ => return Err(Malformed),
            };
            let idempotency_key =
                (!idempotency_key.is_empty()).then(|| idempotency_key.into_boxed_str());
            Wish::Post(Post { message, progress, idempotency_key })
        }
        WireWish::Close(wire::MailClose { code, reason }) => {
            let code = u16::try_from(code).map_err(|_| Malformed)?;
            Wish::Close(CloseFrame { code, reason: reason.into() })
        }
        WireWish::Get(wire::MailGet {}) => Wish::Get,
    };
    Ok((owner, Mail { connection, wish }))
}

pub(super) fn encode_answer(answered: &Result<Answered, DeliverError>) -> Bytes {
    let (outcome, connection) = match answered {
        // The empty message, which most answers are.
        Ok(Answered::Done) => return Bytes::new(),
        Ok(Answered::Found { info, last_active_at_ms }) => {
            let last_active_at_ms = last_active_at_ms.cast_signed();
            let context = info.encode().into();
            (Outcome::Ok, Some(wire::MailConnection { context, last_active_at_ms }))
        }
        Err(DeliverError::Gone) => (Outcome::Gone, None),
        Err(DeliverError::TooSlow) => (Outcome::TooSlow, None),
        Err(DeliverError::KeyReused) => (Outcome::KeyReused, None),
        Err(DeliverError::Unavailable(_)) => (Outcome::Fenced, None),
        Err(DeliverError::Unknown) => (Outcome::Unknown, None),
    };
    wire::MailAnswer { outcome: outcome.into(), connection }.encode_to_vec().into()
}

pub(super) fn malformed_answer() -> Bytes {
    let answer = wire::MailAnswer { outcome: Outcome::Malformed.into(), connection: None };
    answer.encode_to_vec().into()
}

pub(super) fn decode_answer(
    connection_id: ConnectionId,
    answer: Bytes,
) -> Result<Answered, DeliverError> {
    // What cannot be read may mean anything: the mail has arrived, and no more is known.
    let answer = wire::MailAnswer::decode(answer).map_err(|_| DeliverError::Unknown)?;
    match answer.outcome() {
        Outcome::Ok => Ok(match answer.connection {
            None => Answered::Done,
            Some(wire::MailConnection { context, last_active_at_ms }) => Answered::Found {
                info: ConnectionInfo::decode(connection_id, &context)
                    .map(Arc::new)
                    .map_err(|_| DeliverError::Unknown)?,
                last_active_at_ms: last_active_at_ms.cast_unsigned(),
            },
        }),
        Outcome::Gone => Err(DeliverError::Gone),
        Outcome::TooSlow => Err(DeliverError::TooSlow),
        Outcome::KeyReused => Err(DeliverError::KeyReused),
        Outcome::Fenced => Err(DeliverError::Unavailable(Unavailable::Fenced)),
        Outcome::Unknown | Outcome::Malformed => Err(DeliverError::Unknown),
    }
}
