//! Tokens that clients show at the door.
//!
//! A token is taken out of the handshake where it was: neither the `$connect` integration nor an
//! answer nor a log sees it.

use std::sync::Arc;

use posthorn_core::auth::jwt::{Claims, ClaimsError, Rules};
use posthorn_core::auth::token_source::TokenSource;
use posthorn_core::event::fields::Fields;
use tracing::{debug, info};

use crate::config::api::JwtAuthorizerSettings;
use crate::exchange::inbound::{HandshakeParts, SUBPROTOCOL};
use crate::integration::Clients;
use crate::integration::key_sets::{IssuerKeys, NotVerified};

/// Lets in who shows a token of one issuer.
pub struct JwtAuthorizer {
    token_sources: Vec<TokenSource>,
    rules: Rules,
    keys: Arc<IssuerKeys>,
    closes_on_expiry: bool,
}

/// Why a token does not let its bearer in.
pub(super) enum NotBelieved {
    /// There is none, or it is not good.
    Unauthorized,
    /// It is good, but not for this.
    OutOfScope,
    /// The issuer's keys cannot be had.
    NoKeys,
}

impl JwtAuthorizer {
    pub(super) fn new(settings: &JwtAuthorizerSettings, clients: &Clients) -> JwtAuthorizer {
        let JwtAuthorizerSettings { token_sources, jwt, closes_on_expiry } = settings.clone();
        let keys = clients.key_sets().of(&jwt.keys);
        JwtAuthorizer { token_sources, rules: jwt.rules, keys, closes_on_expiry }
    }

    pub(super) async fn judge(
        &self,
        parts: &mut HandshakeParts,
        now_s: u64,
    ) -> Result<Claims, NotBelieved> {
        let token = take(&self.token_sources, parts).ok_or(NotBelieved::Unauthorized)?;
        let claims = self.keys.verify(&token).await.map_err(|error| match error {
            NotVerified::Token(error) => {
                debug!(%error, "a token is not believed");
                NotBelieved::Unauthorized
            }
            NotVerified::NoKeys(_) => {
                info!(%error, "a token cannot be verified");
                NotBelieved::NoKeys
            }
        })?;
        claims.check(&self.rules, now_s).map_err(|error| {
            debug!(%error, "a token is not good");
            match error {
                ClaimsError::Scope => NotBelieved::OutOfScope,
                ClaimsError::Issuer
                | ClaimsError::Audience
                | ClaimsError::NoExpiry
                | ClaimsError::Expired
                | ClaimsError::NotYetValid
                | ClaimsError::IssuedInTheFuture => NotBelieved::Unauthorized,
            }
        })?;
        Ok(claims)
    }

    /// When a connection ends that a token with these claims has opened, in seconds since 1970.
    pub(super) fn end_of(&self, claims: &Claims) -> Option<u64> {
        let expires_at_s = claims.expires_at_s().filter(|_| self.closes_on_expiry)?;
        Some(expires_at_s.saturating_add(self.rules.leeway_s))
    }
}

/// The first token there is. Every place that could hold one is emptied.
fn take(sources: &[TokenSource], parts: &mut HandshakeParts) -> Option<String> {
    let mut token = None;
    for source in sources {
        let taken = match source {
            TokenSource::Header(name) => take_header(name, parts),
            TokenSource::Query(name) => take_parameter(name, parts),
            TokenSource::Subprotocol(name) => take_subprotocol(source, name, parts),
        };
        token = token.or(taken);
    }
    token
}

fn take_header(name: &str, parts: &mut HandshakeParts) -> Option<String> {
    let token = parts.header(name).and_then(TokenSource::token_in).map(str::to_owned);
    parts.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    token
}

fn take_parameter(name: &str, parts: &mut HandshakeParts) -> Option<String> {
    let fields = Fields::of_query(&parts.query);
    let token = fields.last(name).and_then(TokenSource::token_in).map(str::to_owned);
    let is_other = |pair: &&str| Fields::of_query(pair).all(name).is_empty();
    let others: Vec<_> = parts.query.split('&').filter(is_other).collect();
    parts.query = others.join("&");
    token
}

/// Where a client offers the source's name beside the token, that is what it is answered if the
/// backend chooses nothing: browsers insist on some answer.
fn take_subprotocol(
    source: &TokenSource,
    name: &str,
    parts: &mut HandshakeParts,
) -> Option<String> {
    let (tokens, others): (Vec<_>, Vec<_>) = std::mem::take(&mut parts.subprotocols)
        .into_iter()
        .partition(|offered| source.token_in_subprotocol(offered).is_some());
    parts.subprotocols = others;
    let token = tokens.first().and_then(|offered| source.token_in_subprotocol(offered))?;
    if parts.subprotocols.iter().any(|other| other == name) {
        parts.subprotocol_default = Some(name.to_owned());
    }
    let mut offered = Some(parts.subprotocols.join(", ")).filter(|others| !others.is_empty());
    parts.headers = std::mem::take(&mut parts.headers)
        .into_iter()
        .filter_map(|(name, value)| match name.eq_ignore_ascii_case(SUBPROTOCOL) {
            true => offered.take().map(|others| (name, others)),
            false => Some((name, value)),
        })
        .collect();
    Some(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_out_of_where_it_was() {
        let sources = [
            "route.request.header.Authorization",
            "route.request.querystring.access_token",
            "route.request.subprotocol.bearer",
        ];
        let sources = sources.map(|text| text.parse().expect("it is one"));
        let mut by_header = parts("a=1", &[("authorization", "Bearer t"), ("Host", "h")]);
        assert_eq!(take(&sources, &mut by_header).as_deref(), Some("t"));
        assert_eq!(by_header.headers, [("Host".to_owned(), "h".to_owned())]);

        let mut by_query = parts("a=1&access%5Ftoken=t&b=2", &[]);
        assert_eq!(take(&sources, &mut by_query).as_deref(), Some("t"));
        assert_eq!(by_query.query, "a=1&b=2");

        let offered = "chat, bearer.t, bearer";
        let mut by_subprotocol = parts("", &[("Sec-WebSocket-Protocol", offered)]);
        assert_eq!(take(&sources, &mut by_subprotocol).as_deref(), Some("t"));
        assert_eq!(by_subprotocol.subprotocols, ["chat", "bearer"]);
        assert_eq!(by_subprotocol.header("sec-websocket-protocol"), Some("chat, bearer"));
        assert_eq!(by_subprotocol.subprotocol_default.as_deref(), Some("bearer"));

        let mut alone = parts("", &[("Sec-WebSocket-Protocol", "bearer.t")]);
        assert_eq!(take(&sources, &mut alone).as_deref(), Some("t"));
        assert_eq!((alone.headers.len(), alone.subprotocol_default), (0, None));

        let mut thrice = parts("access_token=q", &[("Authorization", "t")]);
        assert_eq!(take(&sources, &mut thrice).as_deref(), Some("t"));
        assert_eq!((thrice.headers.len(), &*thrice.query), (0, ""));
        assert_eq!(take(&sources, &mut parts("a=1", &[("Host", "h")])), None);
    }

    fn parts(query: &str, headers: &[(&str, &str)]) -> HandshakeParts {
        let offered = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(SUBPROTOCOL));
        let offered = offered.map_or("", |(_, value)| value).split(", ");
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        HandshakeParts {
            headers: headers.iter().map(own).collect(),
            path: "/".to_owned(),
            query: query.to_owned(),
            subprotocols: offered.filter(|one| !one.is_empty()).map(str::to_owned).collect(),
            subprotocol_default: None,
            addresses: String::new(),
            port: String::new(),
            is_secure: false,
            authorizer_latency_ms: None,
        }
    }
}
