//! Checking signatures.
//!
//! AWS encodes the path of the canonical request once more than it is on the wire, and so do its
//! SDKs. Signers written for S3 do not. Both are accepted: what a signature says of a path is then
//! ambiguous only for paths with an escaped `%`, and no API, stage or connection ID has one.

use ring::hmac;

use crate::auth::hash::{Sha256, is_same_secret};
use crate::auth::sigv4::canonical::{self, Form, PathEncoding};
use crate::auth::sigv4::error::Place;
use crate::auth::sigv4::present::Presented;
use crate::auth::sigv4::sign::{signing_key, string_to_sign};
use crate::auth::sigv4::{Credentials, Request, SKEW_MAX_MS, Scope, TERMINATOR, VerifyError};
use crate::auth::time::{BasicDay, BasicTime};

/// For what a signature must be good.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    pub service: &'a str,
    /// None: any. Callers of a broker that is nowhere in AWS have some region all the same.
    pub region: Option<&'a str>,
    pub unsigned_payload: UnsignedPayload,
}

/// What of a request with `x-amz-content-sha256: UNSIGNED-PAYLOAD`, whose body anyone on the way
/// could have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsignedPayload {
    Refused,
    Accepted,
}

/// Whose key a request was signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub access_key_id: String,
}

/// Checks the signature in the `Authorization` header, or that in the query. `find` knows the
/// credentials of an access key ID, if there are any.
pub fn verify<'k>(
    request: &Request<'_>,
    expectation: &Expectation<'_>,
    now_ms: u64,
    find: impl FnOnce(&str) -> Option<Credentials<'k>>,
) -> Result<Verified, VerifyError> {
    let (presented, credentials) = judge_head(request, expectation, now_ms, find)?;
    let payload_hash = payload_hash(request, expectation.unsigned_payload)?;
    check_signature(request, &presented, &credentials, &payload_hash)?;
    let [access_key_id, ..] = presented.credential;
    Ok(Verified { access_key_id })
}

/// Finds what is wrong whatever the body may be, so that a stranger's need not be read. A request that
/// passes is not verified yet.
pub fn check_head<'k>(
    request: &Request<'_>,
    expectation: &Expectation<'_>,
    now_ms: u64,
    find: impl FnOnce(&str) -> Option<Credentials<'k>>,
) -> Result<(), VerifyError> {
    judge_head(request, expectation, now_ms, find).map(|_| ())
}

fn judge_head<'k>(
    request: &Request<'_>,
    expectation: &Expectation<'_>,
    now_ms: u64,
    find: impl FnOnce(&str) -> Option<Credentials<'k>>,
) -> Result<(Presented, Credentials<'k>), VerifyError> {
    let presented = Presented::of(request)?;
    check_time(&presented, BasicTime(now_ms))?;
    if !presented.signed_headers.iter().any(|name| name == "host") {
        return Err(VerifyError::HostNotSigned);
    }
    check_scope(&presented, expectation)?;
    let [access_key_id, ..] = &presented.credential;
    let credentials = find(access_key_id).ok_or(VerifyError::UnknownKey)?;
    check_session_token(&presented, &credentials)?;
    if !presented.signed_headers.iter().all(|name| request.header(name).is_some()) {
        return Err(VerifyError::SignedHeaderAbsent);
    }
    Ok((presented, credentials))
}

fn check_time(presented: &Presented, now: BasicTime) -> Result<(), VerifyError> {
    let Presented { signed_at, expires_s, .. } = *presented;
    if signed_at.0 > now.0.saturating_add(SKEW_MAX_MS) {
        return Err(VerifyError::NotYetCurrent { signed_at, now });
    }
    match expires_s {
        Some(expires_s) => {
            let expired_at = BasicTime(signed_at.0 + expires_s * 1000);
            let is_over = expired_at.0 < now.0;
            if is_over { Err(VerifyError::LifetimeOver { expired_at, now }) } else { Ok(()) }
        }
        None if signed_at.0.saturating_add(SKEW_MAX_MS) < now.0 => {
            Err(VerifyError::Expired { signed_at, now })
        }
        None => Ok(()),
    }
}

fn check_scope(presented: &Presented, expectation: &Expectation<'_>) -> Result<(), VerifyError> {
    let [_, day, region, service, terminator] = &presented.credential;
    if terminator != TERMINATOR {
        return Err(VerifyError::WrongTerminator);
    }
    if expectation.region.is_some_and(|expected| expected != region) {
        return Err(VerifyError::WrongRegion);
    }
    if service != expectation.service {
        return Err(VerifyError::WrongService { service: expectation.service.into() });
    }
    if *day != BasicDay(presented.signed_at.0).to_string() {
        return Err(VerifyError::WrongDay);
    }
    Ok(())
}

fn check_session_token(
    presented: &Presented,
    credentials: &Credentials<'_>,
) -> Result<(), VerifyError> {
    let is_right = match (&presented.session_token, credentials.session_token) {
        (None, None) => true,
        (Some(token), Some(expected)) => is_same_secret(token.as_bytes(), expected.as_bytes()),
        (Some(_), None) | (None, Some(_)) => false,
    };
    if is_right { Ok(()) } else { Err(VerifyError::UnknownKey) }
}

/// The last line of the canonical request.
fn payload_hash(
    request: &Request<'_>,
    unsigned_payload: UnsignedPayload,
) -> Result<String, VerifyError> {
    let computed = Sha256::of(request.body);
    let Some(declared) = request.header("x-amz-content-sha256").map(<[u8]>::trim_ascii) else {
        return Ok(computed.to_string());
    };
    if declared == b"UNSIGNED-PAYLOAD" && unsigned_payload == UnsignedPayload::Accepted {
        return Ok("UNSIGNED-PAYLOAD".to_owned());
    }
    if declared == b"UNSIGNED-PAYLOAD" || declared.starts_with(b"STREAMING-") {
        return Err(VerifyError::UnsignedPayload);
    }
    let computed = computed.to_string();
    if declared == computed.as_bytes() { Ok(computed) } else { Err(VerifyError::WrongPayload) }
}

fn check_signature(
    request: &Request<'_>,
    presented: &Presented,
    credentials: &Credentials<'_>,
    payload_hash: &str,
) -> Result<(), VerifyError> {
    let signature = presented.signature.ok_or(VerifyError::Mismatch)?;
    let [_, _, region, service, _] = &presented.credential;
    let scope = Scope { region, service };
    let key = signing_key(credentials.secret_access_key, &scope, presented.signed_at);
    let query_without = match presented.place {
        Place::Header => None,
        Place::Query => Some("X-Amz-Signature"),
    };
    let is_signed = |path_encoding| {
        let signed_headers = &presented.signed_headers;
        let form = Form { path_encoding, query_without, signed_headers, payload_hash };
        let canonical = canonical::hash(request, &form);
        let text = string_to_sign(&scope, presented.signed_at, canonical);
        hmac::verify(&key, text.as_bytes(), &signature.0).is_ok()
    };
    let is_right = [PathEncoding::Again, PathEncoding::Once].into_iter().any(is_signed);
    if is_right { Ok(()) } else { Err(VerifyError::Mismatch) }
}
