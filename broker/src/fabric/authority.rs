//! An authority that is kept: its key lies in a file, so that further nodes can be given papers, and
//! papers be made anew before they expire.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use posthorn_core::ids::{ClusterName, NodeId};
use rcgen::KeyPair;
use time::{Duration, OffsetDateTime};
use webpki::anchor_from_trusted_cert;

use super::dev_ca::{DevAuthority, DevAuthorityError, write_key};
use super::tls::TlsFiles;
use crate::clock;
use crate::tls::read_chain;

/// Nodes' clocks may be behind ours.
const CLOCK_SKEW: Duration = Duration::hours(1);
const AUTHORITY_AGE: Duration = Duration::days(3650);

/// Signs the certificates of one cluster's nodes, now and later.
pub struct Authority {
    signer: DevAuthority,
}

impl Authority {
    /// The one whose `ca.pem` and `ca.key` are in the directory, or a new one, which is left there.
    pub fn kept_in(
        directory: &Path,
        cluster: &ClusterName,
    ) -> Result<Authority, DevAuthorityError> {
        let (file, key_file) = (directory.join("ca.pem"), directory.join("ca.key"));
        match fs::read_to_string(&key_file) {
            Ok(key) => Authority::reopen(file, key_file, &key, cluster),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Authority::found(&file, &key_file, cluster)
            }
            Err(error) => Err(DevAuthorityError::Unreadable { file: key_file, error }),
        }
    }

    /// Makes papers for a node that are good for so many days, and writes them with the authority's
    /// certificate to the directory.
    pub fn write(
        &self,
        directory: &Path,
        node: NodeId,
        days: u16,
    ) -> Result<TlsFiles, DevAuthorityError> {
        let mut params = self.signer.node_params(node)?;
        (params.not_before, params.not_after) = good_for(Duration::days(days.into()));
        self.signer.write_papers(directory, node, &self.signer.sign(params)?)
    }

    fn found(
        file: &Path,
        key_file: &Path,
        cluster: &ClusterName,
    ) -> Result<Authority, DevAuthorityError> {
        let unwritable = |file: &Path, error| {
            let file = file.to_owned();
            DevAuthorityError::Unwritable { file, error }
        };
        let mut params = DevAuthority::params(cluster);
        (params.not_before, params.not_after) = good_for(AUTHORITY_AGE);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        let directory = file.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(directory).map_err(|error| unwritable(directory, error))?;
        fs::write(file, &certificate).map_err(|error| unwritable(file, error))?;
        // Last: with it, the authority is whole.
        write_key(key_file, &key.serialize_pem()).map_err(|error| unwritable(key_file, error))?;
        Ok(Authority { signer: DevAuthority::of(cluster, certificate, params, key) })
    }

    fn reopen(
        file: PathBuf,
        key_file: PathBuf,
        key: &str,
        cluster: &ClusterName,
    ) -> Result<Authority, DevAuthorityError> {
        let key = KeyPair::from_pem(key)
            .map_err(|error| DevAuthorityError::NotAKey { file: key_file.clone(), error })?;
        let params = DevAuthority::params(cluster);
        // What we would say of ourselves is what it must say, or nobody believes what we sign.
        let ours = params.self_signed(&key)?;
        let theirs = read_chain(&file)?;
        let anchors = (anchor_from_trusted_cert(ours.der()), anchor_from_trusted_cert(&theirs[0]));
        let is_ours = matches!(anchors, (Ok(ours), Ok(theirs)) if ours == theirs);
        let certificate = fs::read_to_string(&file);
        match certificate {
            Ok(certificate) if is_ours => {
                Ok(Authority { signer: DevAuthority::of(cluster, certificate, params, key) })
            }
            Ok(_) => {
                let cluster = cluster.clone();
                Err(DevAuthorityError::NotOfKey { file, key_file, cluster })
            }
            Err(error) => Err(DevAuthorityError::Unreadable { file, error }),
        }
    }
}

/// From when and until when.
fn good_for(age: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let since_epoch = i64::try_from(clock::epoch_ms()).unwrap_or(i64::MAX);
    let now = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::milliseconds(since_epoch));
    (now.saturating_sub(CLOCK_SKEW), now.saturating_add(age))
}

#[cfg(test)]
mod tests {
    use super::super::tls::Papers;
    use super::*;

    const CLUSTER: &str = "posthorn";

    fn cluster() -> ClusterName {
        ClusterName::try_from(CLUSTER).unwrap()
    }

    #[test]
    fn papers_that_are_made_later_are_of_the_same_authority() {
        let folder = tempfile::tempdir().unwrap();
        let nodes = folder.path().join("nodes");
        let authority = Authority::kept_in(folder.path(), &cluster()).unwrap();
        let before = authority.write(&nodes, NodeId(0), 30).unwrap();
        let authority = Authority::kept_in(folder.path(), &cluster()).unwrap();
        let later = authority.write(&nodes, NodeId(1), 30).unwrap();
        for (files, node) in [(before, NodeId(0)), (later, NodeId(1))] {
            Papers::load(&files, &cluster(), node).unwrap();
        }
        assert!(!nodes.join("ca.key").exists());
    }

    #[test]
    fn a_key_without_its_certificate_signs_nothing() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&folder, &other] {
            Authority::kept_in(folder.path(), &cluster()).unwrap();
        }
        let fault = |cluster: &str| {
            let cluster = ClusterName::try_from(cluster).unwrap();
            Authority::kept_in(folder.path(), &cluster).err().unwrap()
        };
        assert!(matches!(fault("another"), DevAuthorityError::NotOfKey { .. }));
        fs::copy(other.path().join("ca.pem"), folder.path().join("ca.pem")).unwrap();
        assert!(matches!(fault(CLUSTER), DevAuthorityError::NotOfKey { .. }));
        fs::write(folder.path().join("ca.key"), "no key").unwrap();
        assert!(matches!(fault(CLUSTER), DevAuthorityError::NotAKey { .. }));
    }
}
