//! Certificates and keys in PEM files.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

/// A key or chain is a few KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The permissions of all who are neither a file's owner nor of its group.
const OTHERS_MODE: u32 = 0o007;

/// The end of the year 9999: the latest time that a certificate can name (RFC 5280, 4.1.2.5).
const NEVER: Duration = Duration::from_secs(253_402_300_799);

/// What is wrong, and with which file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{}: larger than {FILE_BYTES_MAX} bytes", file.display())]
    TooLarge { file: PathBuf },
    #[error("{}: not PEM: {error}", file.display())]
    NotPem { file: PathBuf, error: pem::Error },
    #[error("{}: holds no certificate", file.display())]
    NoCertificate { file: PathBuf },
    #[error("{}: {error}", file.display())]
    Unusable { file: PathBuf, error: rustls::Error },
}

/// A certificate, and those between it and its authority: at least one.
pub fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| FileError::NotPem { file: file.to_owned(), error })?;
    if chain.is_empty() {
        return Err(FileError::NoCertificate { file: file.to_owned() });
    }
    Ok(chain)
}

pub fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = read(file)?;
    warn_if_exposed(file);
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| FileError::NotPem { file: file.to_owned(), error })
}

/// When the first of some certificates expires, in seconds since 1970. None, if none ever does.
pub fn first_expiry(certificates: &[CertificateDer<'_>]) -> Option<u64> {
    let never = UnixTime::since_unix_epoch(NEVER);
    let expiry = |certificate| {
        // What is asked of a certificate first is whether its time has passed.
        let usage = KeyUsage::server_auth();
        let parsed = EndEntityCert::try_from(certificate).ok()?;
        match parsed.verify_for_usage(&[], &[], &[], never, usage, None, None).err()? {
            webpki::Error::CertExpired { not_after, .. } => Some(not_after.as_secs()),
            _ => None,
        }
    };
    certificates.iter().filter_map(expiry).min()
}

/// Authorities.
pub fn read_roots(file: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(file)? {
        roots
            .add(certificate)
            .map_err(|error| FileError::Unusable { file: file.to_owned(), error })?;
    }
    Ok(roots)
}

fn read(file: &Path) -> Result<Vec<u8>, FileError> {
    let unreadable = |error| FileError::Unreadable { file: file.to_owned(), error };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { file: file.to_owned() });
    }
    Ok(bytes)
}

/// Some ways of handing out secrets cannot set a mode, so it is no error.
fn warn_if_exposed(key_file: &Path) {
    let mode = std::fs::metadata(key_file).map(|data| data.permissions().mode()).unwrap_or(0);
    if mode & OTHERS_MODE != 0 {
        tracing::warn!(file = %key_file.display(), "anyone on this machine can use this key");
    }
}
