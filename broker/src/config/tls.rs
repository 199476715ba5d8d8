//! How a listener speaks TLS, as written.

use std::path::{Path, PathBuf};

use posthorn_derive::Setting;
use serde::Deserialize;

/// All files are PEM, relative to the configuration, and are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// The certificate first, then those between it and its authority.
    pub cert_file: PathBuf,
    /// The certificate's key.
    pub key_file: PathBuf,
    /// Further certificates, for other names. A client gets the one for the name that it asks for
    /// (SNI), and where there is none for it, the one above.
    #[serde(default)]
    pub more_certificates: Vec<CertificateFiles>,
    /// Where it is missing, clients are not asked for certificates.
    pub clients: Option<ClientTrust>,
}

/// A certificate, and its key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// As above.
    pub cert_file: PathBuf,
    /// As above.
    pub key_file: PathBuf,
}

/// Which certificates of clients are believed (mutual TLS).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub struct ClientTrust {
    /// The authorities that sign them.
    pub ca_file: PathBuf,
    /// Whether a client must have one.
    #[serde(default)]
    pub certificate: ClientCertificate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Setting)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificate {
    /// Who has none is turned away.
    #[default]
    Required,
    /// Who has none is let in; who has a wrong one is not.
    Optional,
}

impl TlsSettings {
    /// The pairs of certificate and key, the default one first.
    pub fn certificates(&self) -> Vec<CertificateFiles> {
        let TlsSettings { cert_file, key_file, more_certificates, .. } = self;
        let (cert_file, key_file) = (cert_file.clone(), key_file.clone());
        let mut all = vec![CertificateFiles { cert_file, key_file }];
        all.extend(more_certificates.iter().cloned());
        all
    }

    /// Every file that is read.
    pub fn files(&self) -> Vec<PathBuf> {
        let certificates = self.certificates();
        let pairs = certificates.into_iter().flat_map(|pair| [pair.cert_file, pair.key_file]);
        pairs.chain(self.clients.iter().map(|clients| clients.ca_file.clone())).collect()
    }

    /// Relative paths are taken from where the configuration lies.
    pub(super) fn found_from(self, folder: &Path) -> TlsSettings {
        let TlsSettings { cert_file, key_file, more_certificates, clients } = self;
        let more = more_certificates.into_iter().map(|CertificateFiles { cert_file, key_file }| {
            CertificateFiles { cert_file: folder.join(cert_file), key_file: folder.join(key_file) }
        });
        TlsSettings {
            cert_file: folder.join(cert_file),
            key_file: folder.join(key_file),
            more_certificates: more.collect(),
            clients: clients.map(|ClientTrust { ca_file, certificate }| ClientTrust {
                ca_file: folder.join(ca_file),
                certificate,
            }),
        }
    }
}
