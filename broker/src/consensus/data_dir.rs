//! The data directory as a whole: whose it is, who else may write to it, what room its disk has.
//!
//! Invariants:
//!
//! * A directory is one node's of one cluster, from its first use on. `owner` in it says whose, in
//!   plain words, for people who have many volumes to tell apart.
//! * Nothing of it is opened, and so written, where its disk has no room for that.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use posthorn_core::ids::{ClusterName, NodeId};
use tracing::warn;

/// What opening a store may write before anything is asked of it, whatever an operator allows.
const OPENING_BYTES_MIN: u64 = 8 * 1024 * 1024;
const OTHERS_MAY_WRITE: u32 = 0o002;

/// The data directory is not to be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{} belongs to {found}, and this is {expected}", dir.display())]
    OfAnother { dir: PathBuf, found: String, expected: String },
    #[error(
        "the disk of {} is nearly full: {free} bytes are free, and node.disk_free_bytes_min is {needed}",
        dir.display()
    )]
    Full { dir: PathBuf, free: u64, needed: u64 },
    #[error("cannot use {}: {error}", dir.display())]
    Io { dir: PathBuf, error: io::Error },
}

/// A directory that may be opened.
pub(super) struct DataDir {
    path: PathBuf,
    owner: String,
    /// It has not said whose it is.
    is_unsigned: bool,
}

impl DataDir {
    /// Looks at a directory, and makes it if it is absent. Blocks.
    pub(super) fn admit(
        path: &Path,
        node: NodeId,
        cluster: &ClusterName,
        free_bytes_min: u64,
    ) -> Result<DataDir, DataDirError> {
        let failed = |error| DataDirError::Io { dir: path.to_owned(), error };
        create(path).map_err(failed)?;
        let owner = format!("node {node} of cluster {cluster}");
        let found = signature(path).map_err(failed)?;
        if let Some(found) = found.as_deref().filter(|found| *found != owner) {
            let (found, expected) = (found.to_owned(), owner);
            return Err(DataDirError::OfAnother { dir: path.to_owned(), found, expected });
        }
        let free = free_bytes(path).map_err(failed)?;
        let needed = free_bytes_min.max(OPENING_BYTES_MIN);
        if free < needed {
            return Err(DataDirError::Full { dir: path.to_owned(), free, needed });
        }
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o7777;
        if mode & OTHERS_MAY_WRITE != 0 {
            let mode = format_args!("{mode:04o}");
            warn!(dir = %path.display(), %mode, "everybody may write to the data directory");
        }
        Ok(DataDir { path: path.to_owned(), owner, is_unsigned: found.is_none() })
    }

    /// Writes down whose it is. No other process may have it open. Blocks.
    pub(super) fn sign(&self) -> Result<(), DataDirError> {
        if !self.is_unsigned {
            return Ok(());
        }
        let write = || {
            let partial = self.path.join("owner.partial");
            let mut file = File::create(&partial)?;
            writeln!(file, "{}", self.owner)?;
            file.sync_all()?;
            fs::rename(partial, self.path.join("owner"))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| DataDirError::Io { dir: self.path.clone(), error })
    }
}

/// What an unprivileged process may still write to the disk that a directory is on.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = statvfs(dir)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// For this user alone: it holds what authorizers said of clients.
fn create(dir: &Path) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn signature(dir: &Path) -> io::Result<Option<String>> {
    match fs::read(dir.join("owner")) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_for_its_node_alone_and_refused_to_others() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let admit = |node, cluster: &str| {
            DataDir::admit(&path, NodeId(node), &ClusterName::try_from(cluster).unwrap(), 0)
        };
        admit(1, "chat").unwrap().sign().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        admit(1, "chat").unwrap().sign().unwrap();
        for (node, cluster) in [(2, "chat"), (1, "news")] {
            let refused = admit(node, cluster).err().unwrap().to_string();
            let expected = format!(
                "{} belongs to node 1 of cluster chat, and this is node {node} of cluster {cluster}",
                path.display()
            );
            assert_eq!(refused, expected);
        }
        // A crash before the name was right: nobody's yet.
        fs::remove_file(path.join("owner")).unwrap();
        fs::write(path.join("owner.partial"), "node").unwrap();
        admit(2, "chat").unwrap().sign().unwrap();
        assert_eq!(fs::read_to_string(path.join("owner")).unwrap(), "node 2 of cluster chat\n");
    }
}
