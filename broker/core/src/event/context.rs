//! The `requestContext` that all events share.
//!
//! Members that do not apply are left out. Their order is as recorded from API Gateway: `authorizer`
//! stands before `messageId`, what the authorizer said before its `principalId`, and its
//! `integrationLatency` on CONNECT only. Our own member, `posthorn`, is the last.

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use crate::event::connection_info::{Authorized, ConnectionInfo};
use crate::event::ids::{MessageId, RequestId};
use crate::event::time::CommonLogTime;
use crate::ids::{ConnectionId, NodeRun};

/// One call of an integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub id: RequestId,
    pub at_ms: u64,
}

/// Which run sent an event, and as its which one of the connection: by this a backend tells an event
/// of a run that was cut off from those of its heir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub run: NodeRun,
    pub sequence: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestContext<'a> {
    route_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_status_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorizer: Option<Authorizer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<MessageId>,
    event_type: &'static str,
    extended_request_id: RequestId,
    request_time: CommonLogTime,
    message_direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_reason: Option<&'a str>,
    stage: &'a str,
    connected_at: u64,
    request_time_epoch: u64,
    identity: Identity<'a>,
    request_id: RequestId,
    domain_name: &'a str,
    #[serde(serialize_with = "as_text")]
    connection_id: ConnectionId,
    api_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    posthorn: Option<PosthornMember>,
}

/// What an event is about.
pub(super) enum Occasion<'a> {
    Connect { authorizer_latency_ms: Option<u64> },
    Message { route_key: &'a str, id: MessageId },
    Disconnect { status_code: u16, reason: &'a str },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_arn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    source_ip: std::net::IpAddr,
}

struct Authorizer<'a> {
    authorized: &'a Authorized,
    latency_ms: Option<u64>,
}

#[derive(Serialize)]
struct PosthornMember {
    #[serde(serialize_with = "as_text")]
    run: NodeRun,
    sequence: u64,
}

impl<'a> RequestContext<'a> {
    pub(super) fn new(
        info: &'a ConnectionInfo,
        request: Request,
        occasion: &Occasion<'a>,
        origin: Option<Origin>,
    ) -> RequestContext<'a> {
        let (route_key, event_type) = match occasion {
            Occasion::Connect { .. } => ("$connect", "CONNECT"),
            Occasion::Message { route_key, .. } => (*route_key, "MESSAGE"),
            Occasion::Disconnect { .. } => ("$disconnect", "DISCONNECT"),
        };
        let (mut latency_ms, mut message_id, mut disconnect) = (None, None, None);
        match occasion {
            Occasion::Connect { authorizer_latency_ms } => latency_ms = *authorizer_latency_ms,
            Occasion::Message { id, .. } => message_id = Some(*id),
            Occasion::Disconnect { status_code, reason } => {
                disconnect = Some((*status_code, *reason));
            }
        }
        let authorized = info.authorized.as_ref();
        RequestContext {
            route_key,
            disconnect_status_code: disconnect.map(|(status_code, _)| status_code),
            authorizer: authorized.map(|authorized| Authorizer { authorized, latency_ms }),
            message_id,
            event_type,
            extended_request_id: request.id,
            request_time: CommonLogTime(request.at_ms),
            message_direction: "IN",
            disconnect_reason: disconnect.map(|(_, reason)| reason),
            stage: &info.stage,
            connected_at: info.connected_at_ms,
            request_time_epoch: request.at_ms,
            identity: Identity::new(info),
            request_id: request.id,
            domain_name: &info.domain_name,
            connection_id: info.connection,
            api_id: &info.api_id,
            posthorn: origin.map(|Origin { run, sequence }| PosthornMember { run, sequence }),
        }
    }
}

impl<'a> Identity<'a> {
    fn new(info: &'a ConnectionInfo) -> Identity<'a> {
        let (api_key, signer) = (info.api_key.as_ref(), info.signer.as_ref());
        // Of a user, both are its ID: they differ where a role was assumed.
        let user = signer.map(|signer| &*signer.user);
        Identity {
            account_id: signer.map(|signer| &*signer.account_id),
            caller: user,
            user,
            access_key: signer.map(|signer| &*signer.access_key),
            user_arn: signer.map(|signer| &*signer.user_arn),
            api_key: api_key.map(|key| &*key.value),
            api_key_id: api_key.map(|key| &*key.id),
            user_agent: info.user_agent.as_deref(),
            source_ip: info.source_ip,
        }
    }
}

impl Serialize for Authorizer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Authorized { principal_id, context } = self.authorized;
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in context {
            // These two are ours to say: no object of ours has a member twice.
            if !matches!(&**key, "principalId" | "integrationLatency") {
                map.serialize_entry(key, value)?;
            }
        }
        map.serialize_entry("principalId", principal_id)?;
        if let Some(latency_ms) = self.latency_ms {
            map.serialize_entry("integrationLatency", &latency_ms)?;
        }
        map.end()
    }
}

fn as_text<S: Serializer>(
    value: &impl std::fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
