//! AWS Signature Version 4: signing what we send to AWS, and verifying what AWS's SDKs send to us.
//!
//! ```text
//! canonical request = method path query headers signed-headers payload-hash, one a line
//! string to sign    = "AWS4-HMAC-SHA256" time scope hash(canonical request), one a line
//! scope             = day "/" region "/" service "/aws4_request"
//! signature         = HMAC(HMAC(HMAC(HMAC(HMAC("AWS4" secret, day), region), service),
//!                     "aws4_request"), string to sign)
//! ```
//!
//! The signature stands in the `Authorization` header, or in the query of a presigned URL.

mod canonical;
mod error;
mod present;
mod sign;
mod verify;

use std::fmt;

pub(crate) use canonical::encode as percent_encode;
pub use error::{Absent, Incomplete, Place, VerifyError};
pub use sign::{presign, sign};
pub use verify::{Expectation, UnsignedPayload, Verified, check_head, verify};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";

/// How far the clocks of signer and verifier may be apart, and how long a signature without a
/// lifetime of its own is good.
pub const SKEW_MAX_MS: u64 = 5 * 60 * 1000;
/// The longest lifetime of a presigned URL: a week.
pub const EXPIRES_MAX_S: u64 = 7 * 24 * 60 * 60;

/// What is signed of an HTTP request, as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Percent-encoded as it was received, or is to be sent.
    pub path: &'a str,
    /// Without its `?`; empty if there is none.
    pub query: &'a str,
    /// In their order. `host` must be among them; where HTTP/2 has `:authority`, the caller says
    /// `host`.
    pub headers: &'a [(&'a str, &'a [u8])],
    pub body: &'a [u8],
}

/// An access key.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
    /// Of temporary credentials.
    pub session_token: Option<&'a str>,
}

/// For what a signature is good.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    pub region: &'a str,
    /// `execute-api` for `@connections` and `$connect`, `lambda` for Lambda's Invoke API.
    pub service: &'a str,
}

impl<'a> Request<'a> {
    /// The first value of a header. Names are in any case.
    fn header(&self, name: &str) -> Option<&'a [u8]> {
        let mut headers = self.headers.iter();
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.access_key_id;
        f.debug_struct("Credentials").field("access_key_id", id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
