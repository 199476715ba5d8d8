//! JSON Web Tokens (RFC 7519), signed with a private key of which we know the public one.
//!
//! Invariants:
//!
//! * The algorithm must be one of public keys and must fit the key. So `none` is no signature, and a
//!   public key is never the secret of an HMAC.
//! * Nothing of a token is believed before its signature is found to be right.

mod claims;
pub mod key_cache;
mod keys;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

pub use claims::{Claims, ClaimsError, Rules};
pub use keys::{KEY_SET_BYTES_MAX, KEYS_MAX, KeySet, KeySetError};

/// A longer token is refused before it is read.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// RFC 7518 section 3.1 and RFC 8037 section 3.1, as far as they are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

/// All of them are a 401.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has more than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("the token is not three parts of base64url, the first two JSON objects")]
    Malformed,
    /// `none`, `HS256` and whatever else is not in [`Algorithm`].
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    #[error("the token has critical header parameters")]
    Critical,
    /// Worth fetching the keys anew, but not for every such token.
    #[error("the token is signed with a key that is not known")]
    UnknownKey,
    #[error("the token's algorithm does not fit its key")]
    KeyMismatch,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the claim `{0}` is not of its type")]
    Claim(&'static str),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

/// The claims of a token with a right signature. What they are worth is for [`Claims::check`] to
/// say.
pub fn verify(token: &str, keys: &KeySet) -> Result<Claims, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let [header, payload, signature] = [decode(header)?, decode(payload)?, decode(signature)?];
    let header: Header = serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
    let algorithm = Algorithm::named(&header.alg).ok_or(TokenError::Algorithm)?;
    if header.crit.is_some() {
        return Err(TokenError::Critical);
    }
    let key = keys.find(header.kid.as_deref(), algorithm)?;
    if !key.has_signed(algorithm, signed.as_bytes(), &signature) {
        return Err(TokenError::Signature);
    }
    let members = serde_json::from_slice(&payload).map_err(|_| TokenError::Malformed)?;
    Claims::parse(members)
}

/// Who a token says has issued it. That is not to be believed: it tells whose keys to try.
pub fn unverified_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Payload {
        iss: String,
    }
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (_, rest) = token.split_once('.')?;
    let (payload, _) = rest.split_once('.')?;
    let payload: Payload = serde_json::from_slice(&decode(payload).ok()?).ok()?;
    Some(payload.iss)
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)
}

impl Algorithm {
    fn named(name: &str) -> Option<Algorithm> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "EdDSA" => Algorithm::EdDsa,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
