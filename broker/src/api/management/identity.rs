//! Who makes a request over HTTP: by a bearer token or by Signature Version 4.

use std::sync::Arc;

use axum::http::header;
use axum::http::request::Parts;
use posthorn_core::auth::principal::{Principal, Principals};
use posthorn_core::auth::sigv4::{self, Expectation, Request, UnsignedPayload, VerifyError};

use crate::api::callers::{Caller, Certified, Known, Unauthenticated, token_of};
use crate::api::management::answer::Refusal;
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
pub(super) async fn precheck(known: &Known, head: &Parts) -> Result<Identity, Refusal> {
    if let Some(anyone) = known.anyone() {
        return Ok(Identity::Known(anyone));
    }
    if !is_signed(head) {
        let certified = head.extensions.get::<Certified>();
        let caller = known.identify(&head.headers, certified).await;
        return caller.map(Identity::Known).map_err(|why| match why {
            Unauthenticated::Missing => Refusal::Unauthenticated(VerifyError::Missing),
            Unauthenticated::UnknownToken => Refusal::Unauthenticated(VerifyError::UnknownKey),
            Unauthenticated::NoKeys => Refusal::NoKeys,
        });
    }
    with_request(head, &[], |request| {
        let find = |id: &str| known.principals().credentials(id);
        sigv4::check_head(request, &EXPECTATION, clock::epoch_ms(), find)
    })
    .map_err(Refusal::Unauthenticated)?;
    Ok(Identity::Signed)
}

/// Whether there is what could be a signature. What is no bearer token either, is taken for one, so
/// that it is refused as such.
fn is_signed(head: &Parts) -> bool {
    let has_header = head.headers.contains_key(header::AUTHORIZATION);
    let is_presigned = head.uri.query().is_some_and(|query| query.contains("X-Amz-Algorithm="));
    is_presigned || has_header && token_of(&head.headers).is_none()
}

impl Identity {
    pub(super) fn confirm(
        self,
        known: &Known,
        head: &Parts,
        body: &[u8],
    ) -> Result<Caller, VerifyError> {
        match self {
            Identity::Known(caller) => Ok(caller),
            Identity::Signed => Ok(known.caller(verify(known.principals(), head, body)?)),
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
