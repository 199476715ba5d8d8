//! Who makes a request over HTTP: by a bearer token or by Signature Version 4.

use std::sync::Arc;

use axum::http::header;
use axum::http::request::Parts;
use posthorn_core::auth::principal::{Principal, Principals, bearer_token};
use posthorn_core::auth::sigv4::{self, Expectation, Request, UnsignedPayload, VerifyError};

use crate::api::callers::{Caller, Callers};
use crate::api::management::host_of;
use crate::clock;

/// What AWS's SDKs sign calls of this API for. Any region is good: we are in none.
const EXPECTATION: Expectation<'static> = Expectation {
    service: "execute-api",
    region: None,
    unsigned_payload: UnsignedPayload::Refused,
};

/// What the head alone tells of the caller.
pub(super) enum Identity {
    Known(Caller),
    /// A known key, and a signature that can be checked with the body only.
    Signed,
}

/// Refuses strangers before their bodies are read.
pub(super) fn precheck(callers: &Callers, head: &Parts) -> Result<Identity, VerifyError> {
    if let Some(anyone) = callers.anyone() {
        return Ok(Identity::Known(anyone));
    }
    let authorization = head.headers.get(header::AUTHORIZATION);
    let token = authorization.and_then(|value| bearer_token(value.to_str().ok()?));
    if let Some(token) = token {
        let principal = callers.known().with_token(token).ok_or(VerifyError::UnknownKey)?;
        return Ok(Identity::Known(callers.caller(principal)));
    }
    with_request(head, &[], |request| {
        let find = |id: &str| callers.known().credentials(id);
        sigv4::check_head(request, &EXPECTATION, clock::epoch_ms(), find)
    })?;
    Ok(Identity::Signed)
}

impl Identity {
    pub(super) fn confirm(
        self,
        callers: &Callers,
        head: &Parts,
        body: &[u8],
    ) -> Result<Caller, VerifyError> {
        match self {
            Identity::Known(caller) => Ok(caller),
            Identity::Signed => Ok(callers.caller(verify(callers.known(), head, body)?)),
        }
    }
}

fn verify<'a>(
    known: &'a Principals,
    head: &Parts,
    body: &[u8],
) -> Result<&'a Arc<Principal>, VerifyError> {
    let verified = with_request(head, body, |request| {
        sigv4::verify(request, &EXPECTATION, clock::epoch_ms(), |id| known.credentials(id))
    })?;
    known.with_access_key(&verified.access_key_id).ok_or(VerifyError::UnknownKey)
}

fn with_request<T>(head: &Parts, body: &[u8], ask: impl FnOnce(&Request<'_>) -> T) -> T {
    let mut headers: Vec<_> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    if !head.headers.contains_key(header::HOST) {
        headers.push(("host", host_of(head).as_bytes()));
    }
    ask(&Request {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        headers: &headers,
        body,
    })
}
