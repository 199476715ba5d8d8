//! What a request presents as its signature, read from its headers or its query.

use std::collections::BTreeMap;

use crate::auth::hash::Sha256;
use crate::auth::sigv4::canonical::pairs_of;
use crate::auth::sigv4::error::{Absent, Place};
use crate::auth::sigv4::{ALGORITHM, EXPIRES_MAX_S, Incomplete, Request, VerifyError};
use crate::auth::time::BasicTime;

pub(super) struct Presented {
    pub place: Place,
    pub signed_at: BasicTime,
    /// The lifetime that a presigned URL gives itself.
    pub expires_s: Option<u64>,
    /// Access key ID, day, region, service, terminator.
    pub credential: [String; 5],
    /// Sorted, none twice.
    pub signed_headers: Vec<String>,
    /// None if it is not even the text of a signature.
    pub signature: Option<Sha256>,
    pub session_token: Option<String>,
}

/// As it stands in the request.
struct Raw {
    place: Place,
    algorithm: String,
    credential: Option<String>,
    signed_headers: Option<String>,
    signature: Option<String>,
    date: Option<String>,
    expires: Option<String>,
    session_token: Option<String>,
}

impl Presented {
    pub fn of(request: &Request<'_>) -> Result<Presented, VerifyError> {
        let authorization = request.header("authorization");
        let members = query_members(request.query)?;
        let raw = match (authorization, members.contains_key("X-Amz-Algorithm")) {
            (Some(_), true) => return Err(VerifyError::TwoPlaces),
            (Some(value), false) => Raw::of_header(request, value)?,
            (None, true) => Raw::of_query(members),
            (None, false) => return Err(VerifyError::Missing),
        };
        Ok(raw.parse()?)
    }
}

/// The members that the signature is made of.
fn query_members(query: &str) -> Result<BTreeMap<String, String>, Incomplete> {
    let mut members = BTreeMap::new();
    for (name, value) in pairs_of(query) {
        let (Ok(name), Ok(value)) = (String::from_utf8(name), String::from_utf8(value)) else {
            continue;
        };
        if name.starts_with("X-Amz-") && members.insert(name, value).is_some() {
            return Err(Incomplete::Repeated);
        }
    }
    Ok(members)
}

impl Raw {
    /// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`
    fn of_header(request: &Request<'_>, authorization: &[u8]) -> Result<Raw, Incomplete> {
        let text = String::from_utf8_lossy(authorization);
        let (algorithm, parameters) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut members = BTreeMap::new();
        for parameter in parameters.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or(Incomplete::NoEqualSign)?;
            if members.insert(name, value.to_owned()).is_some() {
                return Err(Incomplete::Repeated);
            }
        }
        let header = |name| {
            let value: Option<&[u8]> = request.header(name);
            value.map(|value| String::from_utf8_lossy(value.trim_ascii()).into_owned())
        };
        Ok(Raw {
            place: Place::Header,
            algorithm: algorithm.to_owned(),
            credential: members.remove("Credential"),
            signed_headers: members.remove("SignedHeaders"),
            signature: members.remove("Signature"),
            date: header("x-amz-date"),
            expires: None,
            session_token: header("x-amz-security-token"),
        })
    }

    fn of_query(mut members: BTreeMap<String, String>) -> Raw {
        Raw {
            place: Place::Query,
            algorithm: members.remove("X-Amz-Algorithm").unwrap_or_default(),
            credential: members.remove("X-Amz-Credential"),
            signed_headers: members.remove("X-Amz-SignedHeaders"),
            signature: members.remove("X-Amz-Signature"),
            date: members.remove("X-Amz-Date"),
            expires: members.remove("X-Amz-Expires"),
            session_token: members.remove("X-Amz-Security-Token"),
        }
    }

    fn parse(self) -> Result<Presented, Incomplete> {
        let absent = Absent {
            place: self.place,
            credential: self.credential.is_none(),
            signature: self.signature.is_none(),
            signed_headers: self.signed_headers.is_none(),
            date: self.date.is_none(),
        };
        if absent.is_any() {
            return Err(Incomplete::Absent(absent));
        }
        let signed_at = BasicTime::parse(&self.date.unwrap_or_default()).ok_or(Incomplete::Date)?;
        if self.algorithm != ALGORITHM {
            return Err(Incomplete::Algorithm);
        }
        Ok(Presented {
            place: self.place,
            signed_at,
            expires_s: self.expires.as_deref().map(parse_expires).transpose()?,
            credential: parse_credential(&self.credential.unwrap_or_default())?,
            signed_headers: parse_signed_headers(&self.signed_headers.unwrap_or_default())?,
            signature: self.signature.unwrap_or_default().parse().ok(),
            session_token: self.session_token,
        })
    }
}

fn parse_expires(text: &str) -> Result<u64, Incomplete> {
    let seconds = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    seconds.filter(|seconds| (1..=EXPIRES_MAX_S).contains(seconds)).ok_or(Incomplete::Expires)
}

fn parse_credential(text: &str) -> Result<[String; 5], Incomplete> {
    let parts: Vec<_> = text.split('/').map(str::to_owned).collect();
    parts.try_into().map_err(|_| Incomplete::Credential)
}

/// A name that came twice would double what is to be hashed: with many, a small request would ask
/// for much work.
fn parse_signed_headers(text: &str) -> Result<Vec<String>, Incomplete> {
    let names: Vec<_> = text.split(';').map(str::to_owned).collect();
    if names.is_sorted_by(|one, next| one < next) {
        Ok(names)
    } else {
        Err(Incomplete::SignedHeaders)
    }
}
