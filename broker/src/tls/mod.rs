//! TLS of listeners: what was read of certificate files, and is read again when they change.
//!
//! What is wrong with new files leaves the old ones in force.

mod certificates;
mod files;
mod peer;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ServerConfig, version};
use tokio_rustls::TlsAcceptor;

use crate::config::tls::{ClientCertificate, ClientTrust, TlsSettings};
use crate::tls::certificates::Certificates;
pub use crate::tls::files::{FileError, first_expiry, read_chain, read_key, read_roots};
pub use crate::tls::peer::client_names;

/// The TLS of one listener.
pub struct ServerTls {
    settings: TlsSettings,
    /// What may be spoken above it (ALPN), the best first.
    protocols: &'static [&'static str],
    read: RwLock<Read>,
}

/// What was made of the files.
struct Read {
    config: Arc<ServerConfig>,
    expires_at_s: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{}: {error}", file.display())]
    BadAuthority { file: PathBuf, error: VerifierBuilderError },
    /// The library would not have it. Only a bug brings this about.
    #[error(transparent)]
    Setup(#[from] rustls::Error),
    #[error("there is no certificate")]
    NoCertificate,
}

impl ServerTls {
    /// Reads files: it may block for a moment.
    pub fn load(
        settings: &TlsSettings,
        protocols: &'static [&'static str],
    ) -> Result<Arc<ServerTls>, TlsError> {
        let read = RwLock::new(read(settings, protocols)?);
        Ok(Arc::new(ServerTls { settings: settings.clone(), protocols, read }))
    }

    /// For one connection: of what was read last.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.read.read().config.clone())
    }

    /// When the first of its certificates expires, in seconds since 1970. None, if none ever does.
    pub fn expires_at_s(&self) -> Option<u64> {
        self.read.read().expires_at_s
    }

    /// Every file that it was made of.
    pub fn files(&self) -> Vec<PathBuf> {
        self.settings.files()
    }

    /// Reads the files again, for the connections to come.
    pub fn reload(&self) -> Result<(), TlsError> {
        let read = read(&self.settings, self.protocols)?;
        *self.read.write() = read;
        Ok(())
    }
}

fn read(settings: &TlsSettings, protocols: &[&str]) -> Result<Read, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let certificates = Certificates::read(&settings.certificates(), &provider)?;
    let certificates = Arc::new(certificates.ok_or(TlsError::NoCertificate)?);
    let expires_at_s = certificates.expires_at_s;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?;
    let builder = match &settings.clients {
        None => builder.with_no_client_auth(),
        Some(ClientTrust { ca_file, certificate }) => {
            let roots = Arc::new(read_roots(ca_file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = match certificate {
                ClientCertificate::Required => verifier,
                ClientCertificate::Optional => verifier.allow_unauthenticated(),
            };
            let verifier = verifier
                .build()
                .map_err(|error| TlsError::BadAuthority { file: ca_file.clone(), error })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Read { config: Arc::new(config), expires_at_s })
}
