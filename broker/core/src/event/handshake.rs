//! What events show of the request that a client opens its WebSocket with.

use crate::event::fields::Fields;

/// As far as events are concerned. How much of it there may be is the listener's to limit.
#[derive(Debug, Clone, Copy)]
pub struct Handshake<'a> {
    /// As the client sent them, in its order and spelling.
    pub headers: &'a [(&'a str, &'a str)],
    /// Without its `?`; empty if there is none.
    pub query: &'a str,
    pub forwarded: Forwarded<'a>,
}

/// What we add ourselves. It replaces what a client says of the same: whom to believe about proxies
/// was decided before.
#[derive(Debug, Clone, Copy)]
pub struct Forwarded<'a> {
    /// The client's address, behind those of the proxies that we believe.
    pub addresses: &'a str,
    /// The port that the client connected to.
    pub port: &'a str,
    /// `https` or `http`.
    pub protocol: &'a str,
    /// `Root=1-…`
    pub trace_id: &'a str,
}

const TRACE_ID: &str = "X-Amzn-Trace-Id";
const FORWARDED_FOR: &str = "X-Forwarded-For";
const FORWARDED_PORT: &str = "X-Forwarded-Port";
const FORWARDED_PROTO: &str = "X-Forwarded-Proto";
const CONTENT_LENGTH: &str = "content-length";

impl<'a> Handshake<'a> {
    pub fn query_fields(&self) -> Fields<'a> {
        Fields::of_query(self.query)
    }

    /// For `$connect`: without the two headers that ask for the upgrade.
    pub fn integration_headers(&self) -> Fields<'a> {
        let is_asking = |name: &str| is_any(name, &["Connection", "Upgrade"]);
        let headers = self.headers().filter(|(name, _)| !is_asking(name));
        Fields::of_headers(headers)
    }

    /// For an authorizer: all of them, and the length of a body that a handshake does not have.
    pub(super) fn authorizer_headers(&self) -> Fields<'a> {
        let sent = self.headers().any(|(name, _)| is_any(name, &[CONTENT_LENGTH]));
        let content_length = (!sent).then_some((CONTENT_LENGTH, "0"));
        Fields::of_headers(self.headers().chain(content_length))
    }

    fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let Forwarded { addresses, port, protocol, trace_id } = self.forwarded;
        let ours = [
            (TRACE_ID, trace_id),
            (FORWARDED_FOR, addresses),
            (FORWARDED_PORT, port),
            (FORWARDED_PROTO, protocol),
        ];
        let is_ours =
            |name: &str| is_any(name, &[TRACE_ID, FORWARDED_FOR, FORWARDED_PORT, FORWARDED_PROTO]);
        self.headers.iter().copied().filter(move |(name, _)| !is_ours(name)).chain(ours)
    }
}

/// For `$disconnect`, which has no request: always just these four.
pub(super) fn disconnect_headers(host: &str) -> Fields<'_> {
    Fields::of_headers([("Host", host), ("x-api-key", ""), (FORWARDED_FOR, ""), ("x-restapi", "")])
}

fn is_any(name: &str, names: &[&str]) -> bool {
    names.iter().any(|other| other.eq_ignore_ascii_case(name))
}
