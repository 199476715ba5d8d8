//! Certificates for listeners and clients, and a client that checks them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::within;

/// Signs certificates.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Papers {
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    key: KeyPair,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Or OpenSSL takes what it signs for signed by itself: all names are alike by default.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("a certificate can be signed");
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        Authority { certificate, pem, issuer: Issuer::new(params, key) }
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn papers(&self, names: &[&str]) -> Papers {
        self.sign(&params_of(names))
    }

    /// Those that are good until then.
    pub fn papers_until(&self, names: &[&str], until: SystemTime) -> Papers {
        let mut params = params_of(names);
        params.not_after = until.into();
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Papers {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("it can be signed");
        Papers { certificate: certificate.der().clone(), pem: certificate.pem(), key }
    }

    /// What a client that trusts this authority speaks TLS with.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut config = self.client_builder(versions).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    /// One that has a certificate of its own.
    pub fn client_with(&self, papers: &Papers) -> ClientConfig {
        let key = PrivateKeyDer::try_from(papers.key.serialize_der()).expect("it is a key");
        self.client_builder(rustls::ALL_VERSIONS)
            .with_client_auth_cert(vec![papers.certificate.clone()], key)
            .expect("the key is the certificate's")
    }

    fn client_builder(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("it is a certificate");
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("ring speaks both versions")
            .with_root_certificates(roots)
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

impl Papers {
    /// Writes them as `{stem}.pem` and `{stem}.key`.
    pub fn write(&self, folder: &Path, stem: &str) {
        for (ending, text) in [("pem", &self.pem), ("key", &self.key.serialize_pem())] {
            let file = folder.join(format!("{stem}.{ending}"));
            std::fs::write(file, text).expect("papers can be written");
        }
    }
}

fn params_of(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("they are names")
}

/// Opens a TLS connection and asks for the name.
pub async fn dial(
    address: SocketAddr,
    name: &str,
    client: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).expect("it is a name");
    let stream = TcpStream::connect(address).await?;
    let connected = TlsConnector::from(Arc::new(client)).connect(name, stream);
    within("a TLS handshake", connected).await
}
