//! The public keys of an issuer (a JWK Set, RFC 7517).
//!
//! As section 5 there says, keys that are not understood are skipped: an issuer may have some for
//! others than us.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;

use crate::auth::jwt::{Algorithm, TokenError};

/// A longer set is refused before it is read.
pub const KEY_SET_BYTES_MAX: usize = 256 * 1024;
/// A set with more keys is refused.
pub const KEYS_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("the key set has more than {KEY_SET_BYTES_MAX} bytes")]
    TooLong,
    #[error("the key set has more than {KEYS_MAX} keys")]
    TooMany,
    #[error("this is not a JSON Web Key Set")]
    NotAKeySet,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    id: Option<String>,
    /// The only one that it may be used with, if the issuer says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    /// Big-endian, without leading zeros.
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// Uncompressed points.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct RawKeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    pub fn parse(bytes: &[u8]) -> Result<KeySet, KeySetError> {
        if bytes.len() > KEY_SET_BYTES_MAX {
            return Err(KeySetError::TooLong);
        }
        let RawKeySet { keys: raw } =
            serde_json::from_slice(bytes).map_err(|_| KeySetError::NotAKeySet)?;
        let count = raw.len();
        if count > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let understood = raw.into_iter().filter_map(|raw| serde_json::from_value(raw).ok());
        let keys: Vec<_> = understood.filter_map(Key::parse).collect();
        let skipped = count - keys.len();
        Ok(KeySet { keys, skipped })
    }

    /// How many keys can be used, and how many were skipped: for the log.
    pub fn counts(&self) -> (usize, usize) {
        (self.keys.len(), self.skipped)
    }

    /// Without a key ID there must be no choice.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&Key, TokenError> {
        let mut fitting = self.keys.iter().filter(|key| key.fits(algorithm));
        let Some(id) = id else {
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                (Some(_) | None, _) => Err(TokenError::UnknownKey),
            };
        };
        let has_id = |key: &&Key| key.id.as_deref() == Some(id);
        match fitting.find(has_id) {
            Some(key) => Ok(key),
            None if self.keys.iter().any(|key| has_id(&key)) => Err(TokenError::KeyMismatch),
            None => Err(TokenError::UnknownKey),
        }
    }
}

impl Key {
    /// None if it is not understood, or is not for verifying signatures.
    fn parse(raw: RawKey) -> Option<Key> {
        let RawKey { kty, kid, alg, purpose, key_ops, crv, n, e, x, y } = raw;
        let is_for_signatures = purpose.is_none_or(|purpose| purpose == "sig")
            && key_ops.is_none_or(|operations| operations.iter().any(|one| one == "verify"));
        if !is_for_signatures {
            return None;
        }
        // An algorithm that is not accepted must not become one that is not said.
        let algorithm = match alg {
            Some(name) => Some(Algorithm::named(&name)?),
            None => None,
        };
        let material = match (&*kty, crv.as_deref()) {
            ("RSA", _) => Material::Rsa { modulus: magnitude(&n?)?, exponent: magnitude(&e?)? },
            ("EC", Some("P-256")) => Material::P256(point(&x?, &y?, 32)?),
            ("EC", Some("P-384")) => Material::P384(point(&x?, &y?, 48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(&x?, 32)?),
            _ => return None,
        };
        let key = Key { id: kid, algorithm: None, material };
        let is_whole = algorithm.is_none_or(|algorithm| key.fits(algorithm));
        is_whole.then_some(Key { algorithm, ..key })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        let is_kind = match algorithm {
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => matches!(self.material, Material::Rsa { .. }),
            Algorithm::Es256 => matches!(self.material, Material::P256(_)),
            Algorithm::Es384 => matches!(self.material, Material::P384(_)),
            Algorithm::EdDsa => matches!(self.material, Material::Ed25519(_)),
        };
        is_kind && self.algorithm.is_none_or(|own| own == algorithm)
    }

    /// RSA keys of fewer than 2048 bits have signed nothing.
    pub(super) fn has_signed(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        if !self.fits(algorithm) {
            return false;
        }
        let verified = match (&self.material, algorithm) {
            (Material::Rsa { modulus, exponent }, algorithm) => {
                let Some(parameters) = rsa_parameters(algorithm) else { return false };
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                return key.verify(parameters, message, signature).is_ok();
            }
            (Material::P256(point), _) => {
                elliptic(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Material::P384(point), _) => {
                elliptic(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Material::Ed25519(point), _) => {
                elliptic(&signature::ED25519, point).verify(message, signature)
            }
        };
        verified.is_ok()
    }
}

fn elliptic<'p>(
    algorithm: &'static dyn VerificationAlgorithm,
    point: &'p [u8],
) -> UnparsedPublicKey<&'p [u8]> {
    UnparsedPublicKey::new(algorithm, point)
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => None,
    }
}

/// Some issuers put a zero in front.
fn magnitude(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[start..].to_vec())
}

fn point(x: &str, y: &str, length: usize) -> Option<Vec<u8>> {
    const UNCOMPRESSED: u8 = 4;
    Some([vec![UNCOMPRESSED], bytes(x, length)?, bytes(y, length)?].concat())
}

fn bytes(text: &str, length: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == length)
}
