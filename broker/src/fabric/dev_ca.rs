//! An authority of one's own, for development and tests. Its key is not kept: who needs one more
//! node makes a new authority.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use posthorn_core::ids::{ClusterName, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::tls::TlsFiles;
use crate::tls::FileError;

/// Who may write a node's key may be that node: only its owner reads it.
const KEY_MODE: u32 = 0o600;

/// Signs the certificates of one cluster's nodes.
pub struct DevAuthority {
    cluster: ClusterName,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A node's certificate and key, in PEM.
pub struct NodePapers {
    pub certificate: String,
    pub key: String,
}

#[derive(Debug, thiserror::Error)]
pub enum DevAuthorityError {
    #[error(transparent)]
    Certificate(#[from] rcgen::Error),
    #[error("{}: {error}", file.display())]
    Unwritable { file: PathBuf, error: io::Error },
    #[error("{}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{}: {error}", file.display())]
    NotAKey { file: PathBuf, error: rcgen::Error },
    #[error(transparent)]
    NotPapers(#[from] FileError),
    #[error("{}: is no certificate of {cluster} for the key {}", file.display(), key_file.display())]
    NotOfKey { file: PathBuf, key_file: PathBuf, cluster: ClusterName },
}

impl DevAuthority {
    pub fn new(cluster: &ClusterName) -> Result<DevAuthority, DevAuthorityError> {
        let params = DevAuthority::params(cluster);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(DevAuthority::of(cluster, certificate, params, key))
    }

    /// The authority that has this certificate, made of these, and its key.
    pub(super) fn of(
        cluster: &ClusterName,
        certificate: String,
        params: CertificateParams,
        key: KeyPair,
    ) -> DevAuthority {
        DevAuthority { cluster: cluster.clone(), certificate, issuer: Issuer::new(params, key) }
    }

    /// What its certificate says, but for the time that it is good for.
    pub(super) fn params(cluster: &ClusterName) -> CertificateParams {
        let mut params = CertificateParams::default();
        let subject = format!("Posthorn authority of {cluster}");
        params.distinguished_name.push(DnType::CommonName, subject);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// The authority's certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub fn node(&self, node: NodeId) -> Result<NodePapers, DevAuthorityError> {
        self.sign(self.node_params(node)?)
    }

    pub(super) fn node_params(&self, node: NodeId) -> Result<CertificateParams, DevAuthorityError> {
        let name = self.cluster.node_name(node);
        let mut params = CertificateParams::new(vec![name.clone()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(params)
    }

    /// Writes the authority's certificate and a node's papers to the directory, which is made where
    /// it is missing. Papers that are there already are replaced.
    pub fn write(&self, directory: &Path, node: NodeId) -> Result<TlsFiles, DevAuthorityError> {
        self.write_papers(directory, node, &self.node(node)?)
    }

    pub(super) fn write_papers(
        &self,
        directory: &Path,
        node: NodeId,
        papers: &NodePapers,
    ) -> Result<TlsFiles, DevAuthorityError> {
        let NodePapers { certificate, key } = papers;
        let files = TlsFiles {
            ca_file: directory.join("ca.pem"),
            cert_file: directory.join(format!("node-{node}.pem")),
            key_file: directory.join(format!("node-{node}.key")),
        };
        let unwritable =
            |file: &Path, error| DevAuthorityError::Unwritable { file: file.to_owned(), error };
        fs::create_dir_all(directory).map_err(|error| unwritable(directory, error))?;
        for (file, text) in [(&files.ca_file, &self.certificate), (&files.cert_file, certificate)] {
            fs::write(file, text).map_err(|error| unwritable(file, error))?;
        }
        write_key(&files.key_file, key).map_err(|error| unwritable(&files.key_file, error))?;
        Ok(files)
    }

    pub(super) fn sign(
        &self,
        mut params: CertificateParams,
    ) -> Result<NodePapers, DevAuthorityError> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Each node both dials and accepts.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(NodePapers { certificate, key: key.serialize_pem() })
    }
}

/// The mode is set as the file is made, so that the key is never readable by others.
pub(super) fn write_key(file: &Path, key: &str) -> io::Result<()> {
    match fs::remove_file(file) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(KEY_MODE).open(file)?;
    file.write_all(key.as_bytes())?;
    file.sync_all()
}
