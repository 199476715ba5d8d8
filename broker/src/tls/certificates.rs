//! Which certificate a client is shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use super::files::{FileError, first_expiry, read_chain, read_key};
use crate::config::tls::CertificateFiles;

/// Certificates by the names that they are for. Who asks for a name that none has, or for none, gets
/// the first: it is the client that must not believe a certificate that is not for the name.
#[derive(Debug)]
pub(super) struct Certificates {
    default: Arc<CertifiedKey>,
    /// Names in lower case, `*.` and all.
    by_name: BTreeMap<String, Arc<CertifiedKey>>,
    /// When the first of them expires, in seconds since 1970.
    pub(super) expires_at_s: Option<u64>,
}

impl Certificates {
    /// Where two are for one name, the earlier is shown. `pairs` is not empty: None else.
    pub(super) fn read(
        pairs: &[CertificateFiles],
        provider: &CryptoProvider,
    ) -> Result<Option<Certificates>, FileError> {
        let (mut default, mut by_name) = (None, BTreeMap::new());
        let mut expires_at_s: Option<u64> = None;
        for CertificateFiles { cert_file, key_file } in pairs {
            let (chain, key) = (read_chain(cert_file)?, read_key(key_file)?);
            let expiries = [expires_at_s, first_expiry(&chain)];
            expires_at_s = expiries.into_iter().flatten().min();
            let unusable = |file: &std::path::Path, error| {
                let file = file.to_owned();
                FileError::Unusable { file, error }
            };
            let certified = CertifiedKey::from_der(chain, key, provider)
                .map_err(|error| unusable(key_file, error))?;
            let certified = Arc::new(certified);
            let own = certified.end_entity_cert().map_err(|error| unusable(cert_file, error))?;
            // rustls has parsed it already.
            if let Ok(parsed) = EndEntityCert::try_from(own) {
                for name in parsed.valid_dns_names() {
                    let place = by_name.entry(name.to_ascii_lowercase());
                    place.or_insert_with(|| certified.clone());
                }
            }
            default.get_or_insert(certified);
        }
        Ok(default.map(|default| Certificates { default, by_name, expires_at_s }))
    }

    fn of_name(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        let by_wildcard = || {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        };
        self.by_name.get(&name).or_else(by_wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certified = hello.server_name().map_or(&self.default, |name| self.of_name(name));
        Some(certified.clone())
    }
}
