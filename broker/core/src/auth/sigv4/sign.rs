//! Making signatures.

use ring::hmac;

use crate::auth::hash::Sha256;
use crate::auth::sigv4::canonical::{self, Form, PathEncoding, encode};
use crate::auth::sigv4::{ALGORITHM, Credentials, Request, Scope, TERMINATOR};
use crate::auth::time::{BasicDay, BasicTime};

/// The headers to add to a request. All headers that it already has are signed.
pub fn sign(
    request: &Request<'_>,
    credentials: &Credentials<'_>,
    scope: &Scope<'_>,
    now_ms: u64,
) -> Vec<(&'static str, String)> {
    let time = BasicTime(now_ms);
    let mut added = vec![("x-amz-date", time.to_string())];
    if let Some(token) = credentials.session_token {
        added.push(("x-amz-security-token", token.to_owned()));
    }
    let mut headers = request.headers.to_vec();
    headers.extend(added.iter().map(|(name, value)| (*name, value.as_bytes())));
    let signed_headers = names_of(&headers);
    let form = Form {
        path_encoding: PathEncoding::Again,
        query_without: None,
        signed_headers: &signed_headers,
        payload_hash: &Sha256::of(request.body).to_string(),
    };
    let canonical = canonical::hash(&Request { headers: &headers, ..*request }, &form);
    let signature = signature(credentials, scope, time, canonical);
    let authorization = format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={signature}",
        credentials.access_key_id,
        scope_text(scope, time),
        signed_headers.join(";"),
    );
    added.push(("authorization", authorization));
    added
}

/// The query of a presigned URL: that of the request, and behind it the signature's members. The
/// headers of the request are signed, so its user must send them: commonly that is `host` alone.
pub fn presign(
    request: &Request<'_>,
    credentials: &Credentials<'_>,
    scope: &Scope<'_>,
    now_ms: u64,
    expires_s: Option<u32>,
) -> String {
    let time = BasicTime(now_ms);
    let signed_headers = names_of(request.headers);
    let credential = format!("{}/{}", credentials.access_key_id, scope_text(scope, time));
    let mut query = String::from(request.query);
    let mut put = |name: &str, value: &str| {
        let separator = if query.is_empty() { "" } else { "&" };
        query.push_str(&format!("{separator}{name}={}", encode(value.as_bytes())));
    };
    put("X-Amz-Algorithm", ALGORITHM);
    put("X-Amz-Credential", &credential);
    put("X-Amz-Date", &time.to_string());
    if let Some(expires_s) = expires_s {
        put("X-Amz-Expires", &expires_s.to_string());
    }
    put("X-Amz-SignedHeaders", &signed_headers.join(";"));
    if let Some(token) = credentials.session_token {
        put("X-Amz-Security-Token", token);
    }
    let form = Form {
        path_encoding: PathEncoding::Again,
        query_without: None,
        signed_headers: &signed_headers,
        payload_hash: &Sha256::of(request.body).to_string(),
    };
    let canonical = canonical::hash(&Request { query: &query, ..*request }, &form);
    let signature = signature(credentials, scope, time, canonical);
    format!("{query}&X-Amz-Signature={signature}")
}

fn names_of(headers: &[(&str, &[u8])]) -> Vec<String> {
    let mut names: Vec<_> = headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    names.dedup();
    names
}

fn signature(
    credentials: &Credentials<'_>,
    scope: &Scope<'_>,
    time: BasicTime,
    canonical: Sha256,
) -> Sha256 {
    let key = signing_key(credentials.secret_access_key, scope, time);
    let tag = hmac::sign(&key, string_to_sign(scope, time, canonical).as_bytes());
    let mut signature = [0; 32];
    signature.copy_from_slice(tag.as_ref());
    Sha256(signature)
}

pub(super) fn signing_key(secret: &str, scope: &Scope<'_>, time: BasicTime) -> hmac::Key {
    let Scope { region, service } = scope;
    let day = BasicDay(time.0).to_string();
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{secret}").as_bytes());
    for part in [&*day, region, service, TERMINATOR] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    key
}

pub(super) fn string_to_sign(scope: &Scope<'_>, time: BasicTime, canonical: Sha256) -> String {
    format!("{ALGORITHM}\n{time}\n{}\n{canonical}", scope_text(scope, time))
}

fn scope_text(scope: &Scope<'_>, time: BasicTime) -> String {
    let Scope { region, service } = scope;
    format!("{}/{region}/{service}/{TERMINATOR}", BasicDay(time.0))
}
