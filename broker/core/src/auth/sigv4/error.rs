//! Why a signature is not accepted, in AWS's words where they are known.
//!
//! AWS's texts quote the `Authorization` header, or its hash. Ours do not: who logs an answer must
//! not thereby log a token.

use std::fmt;

use crate::auth::time::BasicTime;

/// All of them are a 403. What is displayed is the `message` of the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("Missing Authentication Token")]
    Missing,
    #[error("{0}")]
    Incomplete(#[from] Incomplete),
    #[error(
        "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
    )]
    TwoPlaces,
    #[error("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")]
    HostNotSigned,
    /// In the future, by more than the clocks may be apart.
    #[error(
        "Signature not yet current: {signed_at} is still later than {} ({now} + 5 min.)",
        BasicTime(.now.0.saturating_add(super::SKEW_MAX_MS))
    )]
    NotYetCurrent { signed_at: BasicTime, now: BasicTime },
    #[error(
        "Signature expired: {signed_at} is now earlier than {} ({now} - 5 min.)",
        BasicTime(.now.0.saturating_sub(super::SKEW_MAX_MS))
    )]
    Expired { signed_at: BasicTime, now: BasicTime },
    /// A presigned URL that lived as long as it says.
    #[error("Signature expired: {expired_at} is now earlier than {now}")]
    LifetimeOver { expired_at: BasicTime, now: BasicTime },
    #[error(
        "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP."
    )]
    WrongDay,
    #[error("Credential should be scoped to a valid region. ")]
    WrongRegion,
    #[error("Credential should be scoped to correct service: '{service}'. ")]
    WrongService { service: Box<str> },
    #[error("Credential should be scoped with a valid terminator: 'aws4_request'. ")]
    WrongTerminator,
    /// No such access key ID, or a session token that is not that of the key.
    #[error("The security token included in the request is invalid.")]
    UnknownKey,
    /// The body is not the one that was signed.
    #[error("The provided 'x-amz-content-sha256' header does not match what was computed.")]
    WrongPayload,
    /// `UNSIGNED-PAYLOAD` or a streamed signature, where the body must be signed as a whole.
    #[error("The payload of the request must be signed.")]
    UnsignedPayload,
    /// A header is named as signed, and not sent.
    #[error("{MISMATCH}")]
    SignedHeaderAbsent,
    #[error("{MISMATCH}")]
    Mismatch,
}

const MISMATCH: &str = "The request signature we calculated does not match the signature you \
    provided. Check your AWS Secret Access Key and signing method. Consult the service \
    documentation for details.";

/// The request is not signed in a form that could be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    #[error("Invalid key=value pair (missing equal-sign) in Authorization header.")]
    NoEqualSign,
    #[error("A parameter is given twice.")]
    Repeated,
    #[error("{0}")]
    Absent(Absent),
    #[error("Unsupported AWS 'algorithm' (only AWS4-HMAC-SHA256 for now). ")]
    Algorithm,
    #[error("Date must be in ISO-8601 'basic format'. See http://en.wikipedia.org/wiki/ISO_8601")]
    Date,
    #[error(
        "Credential must have exactly 5 slash-delimited elements, e.g. \
         keyid/date/region/service/term."
    )]
    Credential,
    #[error("SignedHeaders must be sorted, and none of them may be named twice.")]
    SignedHeaders,
    #[error("X-Amz-Expires must be a number of seconds from 1 to 604800.")]
    Expires,
}

/// What is not there. At least one of them is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absent {
    pub place: Place,
    pub credential: bool,
    pub signature: bool,
    pub signed_headers: bool,
    pub date: bool,
}

/// Where a signature stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Header,
    Query,
}

impl VerifyError {
    /// The name of AWS's exception: the answer's `x-amzn-ErrorType`.
    pub fn exception(&self) -> &'static str {
        match self {
            VerifyError::Missing => "MissingAuthenticationTokenException",
            VerifyError::Incomplete(_) => "IncompleteSignatureException",
            VerifyError::UnknownKey => "UnrecognizedClientException",
            VerifyError::TwoPlaces
            | VerifyError::HostNotSigned
            | VerifyError::NotYetCurrent { .. }
            | VerifyError::Expired { .. }
            | VerifyError::LifetimeOver { .. }
            | VerifyError::WrongDay
            | VerifyError::WrongRegion
            | VerifyError::WrongService { .. }
            | VerifyError::WrongTerminator
            | VerifyError::WrongPayload
            | VerifyError::UnsignedPayload
            | VerifyError::SignedHeaderAbsent
            | VerifyError::Mismatch => "InvalidSignatureException",
        }
    }
}

impl Absent {
    pub(super) fn is_any(self) -> bool {
        let Absent { place: _, credential, signature, signed_headers, date } = self;
        credential || signature || signed_headers || date
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let Absent { place: _, credential, signature, signed_headers, date } = self;
        let names = [
            (credential, "Credential"),
            (signature, "Signature"),
            (signed_headers, "SignedHeaders"),
            (date, "Date"),
        ];
        names.into_iter().filter_map(|(is_absent, name)| is_absent.then_some(name))
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Header => {
                for (index, name) in self.names().enumerate() {
                    let space = if index > 0 { " " } else { "" };
                    match name {
                        "Date" => write!(
                            f,
                            "{space}Authorization header requires existence of either a \
                             'X-Amz-Date' or a 'Date' header."
                        )?,
                        name => {
                            write!(f, "{space}Authorization header requires '{name}' parameter.")?;
                        }
                    }
                }
                Ok(())
            }
            Place::Query => {
                for name in self.names() {
                    write!(f, "AWS query-string parameters must include 'X-Amz-{name}'. ")?;
                }
                f.write_str("Re-examine the query-string parameters.")
            }
        }
    }
}
