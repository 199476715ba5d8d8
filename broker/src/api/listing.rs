//! `ListConnections`: what is asked, what is answered, and how it goes on.

use posthorn_core::ids::NodeId;
use posthorn_core::listing::token::{Question, TokenKey};
use posthorn_core::listing::{Filter, Listed, Page, Position};
use posthorn_proto::v1::{Connection, ListConnectionsRequest, ListConnectionsResponse};

use crate::api::callers::Caller;
use crate::api::status::{BadRequest, Told};
use crate::clock;
use crate::exchange::Gateway;
use crate::exchange::listing::Wanted;
use crate::exchange::outcome::{DeliverError, Unavailable};
use crate::exchange::scope::Scope;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

/// How the next page can be asked for.
pub(super) struct Sequel {
    question: Question,
    key: TokenKey,
}

/// What the page is to show, and how it goes on.
pub(super) fn parse(
    mut request: ListConnectionsRequest,
    gateway: &Gateway,
    caller: &Caller,
    scope: Scope,
) -> Result<(Wanted, Sequel), Told> {
    let cluster_id = gateway.cluster_id();
    let cluster_id = cluster_id.ok_or(DeliverError::Unavailable(Unavailable::NoQuorum))?;
    let key = TokenKey::of_cluster(&cluster_id);
    let connections_max = page_size_of(request.page_size)?;
    let token = std::mem::take(&mut request.page_token);
    let is_linearizable = request.linearizable;
    let filter = filter_of(request)?;
    let question = Question::new(caller.name(), &filter);
    let from = match &*token {
        "" => Position::FIRST,
        token => key.open(token, question, clock::epoch_ms()).map_err(BadRequest::PageToken)?,
    };
    let wanted = Wanted { filter, scope, from, connections_max, is_linearizable };
    Ok((wanted, Sequel { question, key }))
}

impl Sequel {
    pub(super) fn answer(&self, page: &Page) -> ListConnectionsResponse {
        let seal = |next| self.key.seal(self.question, next, clock::epoch_ms());
        ListConnectionsResponse {
            connections: page.connections.iter().map(connection_of).collect(),
            next_page_token: page.next.map_or_else(String::new, seal),
        }
    }
}

fn page_size_of(page_size: i32) -> Result<usize, BadRequest> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(page_size) => Ok(page_size.min(PAGE_MAX)),
        Err(_) => Err(BadRequest::Invalid("page_size: it is not negative")),
    }
}

fn filter_of(request: ListConnectionsRequest) -> Result<Filter, BadRequest> {
    let text = |text: String| (!text.is_empty()).then(|| text.into_boxed_str());
    let time = |ms: Option<i64>, fault| {
        ms.map(|ms| u64::try_from(ms).map_err(|_| BadRequest::Invalid(fault))).transpose()
    };
    let source_ip = text(request.source_ip).map(|ip| ip.parse()).transpose();
    let source_ip = source_ip.map_err(|_| BadRequest::Invalid("source_ip: it is an IP address"))?;
    let (after, before) = (request.connected_after_ms, request.connected_before_ms);
    Ok(Filter {
        api_id: text(request.api_id),
        stage: text(request.stage),
        owner: request.node_id.map(NodeId),
        source_ip,
        connected_after_ms: time(after, "connected_after_ms: it is not negative")?,
        connected_before_ms: time(before, "connected_before_ms: it is not negative")?,
    })
}

fn connection_of(listed: &Listed) -> Connection {
    let Listed { info, owner } = listed;
    Connection {
        connection_id: info.connection.to_string(),
        api_id: info.api_id.to_string(),
        stage: info.stage.to_string(),
        connected_at_ms: info.connected_at_ms.cast_signed(),
        // Only its owner knows.
        last_active_at_ms: 0,
        source_ip: info.source_ip.to_string(),
        user_agent: info.user_agent.as_deref().unwrap_or_default().to_owned(),
        node_id: owner.node.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_capped_and_not_negative() {
        for (asked, size) in [(0, 100), (1, 1), (1000, 1000), (1001, 1000), (1_000_000_000, 1000)] {
            assert_eq!(page_size_of(asked), Ok(size));
        }
        for asked in [-1, i32::MIN] {
            assert!(page_size_of(asked).is_err());
        }
    }

    #[test]
    fn filters_that_make_no_sense_are_refused() {
        let empty = ListConnectionsRequest::default();
        assert_eq!(filter_of(empty.clone()), Ok(Filter::default()));
        for bad in [
            ListConnectionsRequest { source_ip: "(a+)+$".into(), ..empty.clone() },
            ListConnectionsRequest { source_ip: "192.0.2.0/24".into(), ..empty.clone() },
            ListConnectionsRequest { connected_after_ms: Some(-1), ..empty.clone() },
            ListConnectionsRequest { connected_before_ms: Some(i64::MIN), ..empty },
        ] {
            assert!(filter_of(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
