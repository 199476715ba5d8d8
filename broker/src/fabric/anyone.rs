//! Asking whoever is at a name: how a node that knows no other finds some.
//!
//! A name may lead to many nodes: a headless Service's answers with every pod. All are asked, each on
//! a connection of its own that is closed with the answer.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use quinn::Endpoint;
use tokio::time::{Instant, timeout_at};

use super::accept::holder_of;
use super::common::Common;
use super::control::{self, CallError};
use super::hello::{PeerIdentity, TurnedAway};
use super::link::{DialError, connect, introduce, resolve};
use super::stats::Purpose;
use super::wire::CloseCode;

/// Addresses of one name that are asked. Later ones are not.
const ADDRESSES_MAX: usize = 64;
const ASKED_AT_ONCE: usize = 8;

/// An answer, and whose.
pub type Told = (PeerIdentity, Bytes);

/// Who does not answer, or is we ourselves, is left out.
pub(super) async fn ask(
    common: &Common,
    endpoint: &Endpoint,
    name: &str,
    question: (u8, Bytes),
    deadline: Instant,
) -> Result<Vec<Told>, DialError> {
    let addresses = match timeout_at(deadline, resolve(common, name, ADDRESSES_MAX)).await {
        Ok(addresses) => addresses?,
        Err(_) => return Err(DialError::Deadline),
    };
    let ask = |address| {
        let asked = ask_one(common, endpoint, address, question.clone(), deadline);
        async move {
            match timeout_at(deadline, asked).await {
                Ok(Ok(told)) => Some(told),
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "nobody answers");
                    None
                }
                Err(_) => None,
            }
        }
    };
    let asked = stream::iter(addresses).map(ask).buffer_unordered(ASKED_AT_ONCE);
    let told = asked.filter_map(|told| async { told.filter(|(who, _)| *who != common.identity) });
    Ok(told.collect().await)
}

async fn ask_one(
    common: &Common,
    endpoint: &Endpoint,
    address: SocketAddr,
    question: (u8, Bytes),
    deadline: Instant,
) -> Result<Told, CallError> {
    let name = common.settings.cluster.to_string();
    let connection = connect(common, endpoint, Purpose::Control, address, &name).await?;
    let node = holder_of(&connection, &common.papers()).map_err(|cause| {
        let reason = cause.label().replace('_', " ");
        DialError::Refused(TurnedAway { cause, reason })
    })?;
    let established = introduce(common, connection, node).await?;
    let answer = control::call_on(common, &established.connection, question, deadline).await;
    established.connection.close(CloseCode::Done.into(), b"");
    Ok((established.peer, answer?))
}
