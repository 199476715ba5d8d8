//! `posthorn.v1.AdminService.Tail`: what a connection does, as long as its caller reads.

use std::sync::Arc;
use std::time::Duration;

use posthorn_proto::v1::TailResponse;
use tokio::sync::mpsc;
use tonic::Status;

use crate::api::status::Told;
use crate::operator::{Onlooker, Operator};

/// Events on their way to the caller. While there are so many, the connection's owner gathers the
/// others, and then loses them.
pub(super) const EVENTS_MAX: usize = 16;
/// How long a caller may leave them unread before he is given up.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// How long a node that ends waits for a caller to make room for being told so.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

type Events = mpsc::Sender<Result<TailResponse, Status>>;

/// Ends with the connection, with its caller, or with this node.
pub(super) async fn show(operator: Arc<Operator>, onlooker: Onlooker, events: Events) {
    let told = tokio::select! {
        told = pass_on(onlooker, &events) => told,
        () = events.closed() => return,
        () = operator.leaving() => Some(Told::draining()),
    };
    if let Some(told) = told {
        // Who does not read is not to hold up the end of this node.
        let _ = tokio::time::timeout(FAREWELL_MAX, events.send(Err(told.into()))).await;
    }
}

/// Returns what went wrong, if anything did.
async fn pass_on(mut onlooker: Onlooker, events: &Events) -> Option<Told> {
    loop {
        let seen = match onlooker.next().await {
            Ok(seen) if seen.is_empty() => return None,
            Ok(seen) => seen,
            Err(error) => return Some(error.into()),
        };
        for event in seen {
            match tokio::time::timeout(UNREAD_MAX, events.send(Ok(event))).await {
                Ok(Ok(())) => (),
                Ok(Err(_)) => return None,
                Err(_) => return Some(Told::unread()),
            }
        }
    }
}
