//! Mutual TLS: who we are, whom we trust, and the check of who is at the other end.
//!
//! Invariants:
//!
//! * TLS 1.3, both ends show a certificate, no early data, and no resumption: each connection is
//!   checked anew, so that a replaced or expired certificate ends with the connections it made.
//! * Who dials gets exactly the node that it addressed, or any of its cluster where it addressed the
//!   cluster by its bare name. Who accepts learns the node from the certificate alone.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use posthorn_core::ids::{ClusterName, NodeId};
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};

use super::names::{cluster_name, holder, server_name};
use super::stats::{Purpose, RefusalCause};
use crate::tls::{FileError, first_expiry, read_chain, read_key, read_roots};

/// Where a node's papers are, in PEM. They may be replaced while the node runs.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The authorities whose certificates are believed: all nodes' are of these.
    pub ca_file: PathBuf,
    /// The node's certificate first, then those between it and the authority.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// What is wrong, and with which file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{}: the certificate must name {expected}, and no other node", file.display())]
    AnotherNode { file: PathBuf, expected: String },
    #[error("{}: not signed by an authority of {}: {error}", file.display(), ca_file.display())]
    NotOfAuthority { file: PathBuf, ca_file: PathBuf, error: rustls::Error },
    #[error("{}: {error}", ca_file.display())]
    BadAuthority { ca_file: PathBuf, error: rustls::server::VerifierBuilderError },
}

/// A node's papers, read and found to be in order.
#[derive(Debug, Clone)]
pub(super) struct Papers {
    cluster: ClusterName,
    provider: Arc<CryptoProvider>,
    own: Arc<SingleCertAndKey>,
    roots: Arc<RootCertStore>,
    of_clients: Arc<dyn ClientCertVerifier>,
    /// From which is made what must be the same in each process of the node, and secret.
    pub(super) reset_seed: [u8; 32],
    /// When the first of the certificates expires, the authorities' included, in seconds since 1970.
    pub(super) expires_at_s: Option<u64>,
}

/// Where a check leaves the cause when it turns a peer away: TLS itself carries only an alert.
pub(super) type Verdict = Arc<OnceLock<RefusalCause>>;

impl Papers {
    /// Reads the files, which may block for a moment.
    pub(super) fn load(
        files: &TlsFiles,
        cluster: &ClusterName,
        node: NodeId,
    ) -> Result<Papers, TlsError> {
        let TlsFiles { ca_file, cert_file, key_file } = files;
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(read_roots(ca_file)?);
        let chain = read_chain(cert_file)?;
        let expiries = [first_expiry(&chain), first_expiry(&read_chain(ca_file)?)];
        let key = read_key(key_file)?;
        let reset_seed = seed_of(&key);
        let unusable = |error| FileError::Unusable { file: key_file.clone(), error };
        let own = CertifiedKey::from_der(chain.clone(), key, &provider).map_err(unusable)?;

        let bad_authority = |error| TlsError::BadAuthority { ca_file: ca_file.clone(), error };
        let of_clients =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map_err(bad_authority)?;
        let papers = Papers {
            cluster: cluster.clone(),
            provider,
            own: Arc::new(SingleCertAndKey::from(own)),
            roots,
            of_clients,
            reset_seed,
            expires_at_s: expiries.into_iter().flatten().min(),
        };
        papers.check_own(files, node, &chain)?;
        Ok(papers)
    }

    /// How to dial one node, once. The verdict tells why the peer was turned away, if it was.
    pub(super) fn client_config(
        &self,
        purpose: Purpose,
        verdict: Verdict,
    ) -> Result<QuicClientConfig, TlsSetupError> {
        let verifier = Verifier { papers: self.clone(), verdict };
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.own.clone());
        config.alpn_protocols = vec![purpose.alpn().to_vec()];
        config.resumption = Resumption::disabled();
        Ok(QuicClientConfig::try_from(config)?)
    }

    /// How to accept one connection.
    pub(super) fn server_config(
        &self,
        verdict: Verdict,
    ) -> Result<QuicServerConfig, TlsSetupError> {
        let verifier = Verifier { papers: self.clone(), verdict };
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.own.clone());
        config.alpn_protocols = Purpose::ALL.map(|purpose| purpose.alpn().to_vec()).to_vec();
        config.send_tls13_tickets = 0;
        Ok(QuicServerConfig::try_from(config)?)
    }

    /// Which node of our cluster holds the certificate.
    pub(super) fn holder(&self, certificate: &CertificateDer<'_>) -> Result<NodeId, RefusalCause> {
        holder(&self.cluster, certificate)
    }

    /// Peers would turn us away later; who runs the node should learn it now.
    fn check_own(
        &self,
        files: &TlsFiles,
        node: NodeId,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), TlsError> {
        let TlsFiles { ca_file, cert_file, key_file: _ } = files;
        let Some((own, between)) = chain.split_first() else {
            return Err(FileError::NoCertificate { file: cert_file.clone() }.into());
        };
        if holder(&self.cluster, own) != Ok(node) {
            let expected = self.cluster.node_name(node);
            return Err(TlsError::AnotherNode { file: cert_file.clone(), expected });
        }
        let not_of_authority = |error| TlsError::NotOfAuthority {
            file: cert_file.clone(),
            ca_file: ca_file.clone(),
            error,
        };
        let now = UnixTime::now();
        self.check_server_chain(own, between, now).map_err(not_of_authority)?;
        self.of_clients.verify_client_cert(own, between, now).map_err(not_of_authority)?;
        Ok(())
    }

    fn check_server_chain(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let own = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&own, &self.roots, between, now, algorithms)
    }
}

/// The libraries would not have it. Only a bug brings this about.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum TlsSetupError {
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Quic(#[from] NoInitialCipherSuite),
}

/// The libraries' own check of the chain, and after it ours of the name.
#[derive(Debug)]
struct Verifier {
    papers: Papers,
    verdict: Verdict,
}

impl Verifier {
    fn refuse(&self, cause: RefusalCause) -> rustls::Error {
        // The first cause is the one that counts.
        let _ = self.verdict.set(cause);
        CertificateError::ApplicationVerificationFailure.into()
    }

    fn refuse_chain(&self, error: rustls::Error) -> rustls::Error {
        let cause = match &error {
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => RefusalCause::ExpiredCertificate,
            _ => RefusalCause::UntrustedCertificate,
        };
        let _ = self.verdict.set(cause);
        error
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.papers.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
            .map_err(|error| self.refuse_chain(error))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        addressed: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.papers
            .check_server_chain(own, between, now)
            .map_err(|error| self.refuse_chain(error))?;
        let cluster = &self.papers.cluster;
        let node = holder(cluster, own).map_err(|cause| self.refuse(cause))?;
        let is_addressed = [server_name(cluster, node), cluster_name(cluster)]
            .iter()
            .any(|name| name.as_ref() == Ok(addressed));
        is_addressed
            .then(ServerCertVerified::assertion)
            .ok_or_else(|| self.refuse(RefusalCause::AnotherNode))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(self.refuse(RefusalCause::FailedHandshake))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.papers.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Nodes have one certificate each and need no hint.
        &[]
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let valid = self
            .papers
            .of_clients
            .verify_client_cert(own, between, now)
            .map_err(|error| self.refuse_chain(error))?;
        holder(&self.papers.cluster, own).map_err(|cause| self.refuse(cause))?;
        Ok(valid)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(self.refuse(RefusalCause::FailedHandshake))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.papers.of_clients.supported_verify_schemes()
    }
}

fn seed_of(key: &PrivateKeyDer<'_>) -> [u8; 32] {
    let hidden = ::ring::hmac::Key::new(::ring::hmac::HMAC_SHA256, key.secret_der());
    let mut seed = [0; 32];
    seed.copy_from_slice(::ring::hmac::sign(&hidden, b"posthorn stateless reset").as_ref());
    seed
}
