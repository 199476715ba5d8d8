//! Snapshots of the state, as plain files.
//!
//! Invariants:
//!
//! * A file under a snapshot's name is whole and on the disk: it is written under another name,
//!   synced, and renamed.
//! * Only the newest snapshot is kept. Who still reads an older one keeps its file open.
//! * A file that was received is handed on only if its checksums are right, and replaces the state
//!   only after all of it was read. Until it is installed, it disappears with its last handle.

mod format;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use posthorn_core::directory::Directory;
use tokio::io::AsyncWriteExt as _;

use self::format::ReadError;
pub use self::format::SnapshotDamage;
use super::types::{Snapshot, SnapshotMeta};
use crate::telemetry::Metrics;

const SUFFIX: &str = "snapshot";
const TEMPORARY_SUFFIX: &str = "partial";
const BUFFER_BYTES: usize = 256 * 1024;

/// The snapshots of one data directory. Clones are handles to the same.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    current: Mutex<Option<Snapshot>>,
    /// Held while a file becomes the current one. Takes as long as the disk does.
    keeping: Mutex<()>,
    /// How many temporary files there were.
    temporaries: AtomicU64,
    metrics: OnceLock<Arc<Metrics>>,
}

/// A snapshot file, open for reading. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    shared: Arc<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// How long it is, or will be.
    bytes: AtomicU64,
    /// Where it was opened or created.
    path: PathBuf,
    /// It goes when the last handle does.
    is_temporary: AtomicBool,
}

/// A snapshot on its way in.
pub struct IncomingSnapshot {
    file: SnapshotFile,
    writer: tokio::fs::File,
    received: u64,
}

/// A snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the snapshot {} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: SnapshotDamage },
    #[error("the snapshot {} is not the one that was announced", path.display())]
    Other { path: PathBuf },
    #[error("cannot use the snapshot {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

impl Snapshots {
    /// Blocks.
    pub(super) fn open(dir: &Path) -> Result<Snapshots, SnapshotError> {
        let current = open_dir(dir).map_err(|error| SnapshotError::io(dir, error))?;
        let current = match current {
            Some(path) => Some(open_current(&path)?),
            None => None,
        };
        let current = Mutex::new(current);
        let (keeping, temporaries) = (Mutex::default(), AtomicU64::default());
        let (dir, metrics) = (dir.to_owned(), OnceLock::new());
        let shared = Shared { dir, current, keeping, temporaries, metrics };
        Ok(Snapshots { shared: Arc::new(shared) })
    }

    /// Says what comes and goes from now on.
    pub fn counted(self, metrics: &Arc<Metrics>) -> Snapshots {
        // Once: who counts already goes on.
        drop(self.shared.metrics.set(metrics.clone()));
        self.show_bytes();
        self
    }

    /// A file for a snapshot of that many bytes that someone sends us.
    pub async fn receive(&self, bytes: u64) -> io::Result<IncomingSnapshot> {
        let snapshots = self.clone();
        let file = move || snapshots.create(bytes);
        let file = tokio::task::spawn_blocking(file).await??;
        let writer = tokio::fs::File::from_std(file.shared.file.try_clone()?);
        Ok(IncomingSnapshot { file, writer, received: 0 })
    }

    pub(super) fn current(&self) -> Option<Snapshot> {
        self.shared.current.lock().clone()
    }

    /// Writes a snapshot and makes it the current one, unless a later one has come in meanwhile.
    /// Blocks.
    pub(super) fn build(
        &self,
        meta: SnapshotMeta,
        directory: &Directory,
    ) -> Result<Snapshot, SnapshotError> {
        let began = Instant::now();
        let snapshot = self
            .write(&meta, directory)
            .map_err(|error| SnapshotError::io(&self.shared.dir, error))?;
        let snapshot = Snapshot { meta, snapshot };
        self.keep(&snapshot)?;
        if let Some(metrics) = self.shared.metrics.get() {
            metrics.storage.snapshot_seconds.record(began.elapsed().as_secs_f64());
        }
        Ok(snapshot)
    }

    /// Gives the state that the file holds, once it is the current snapshot. Blocks.
    pub(super) fn install(
        &self,
        meta: &SnapshotMeta,
        file: &SnapshotFile,
    ) -> Result<Directory, SnapshotError> {
        let path = &file.shared.path;
        let (found, directory) =
            format::read(file.reader()).map_err(|error| SnapshotError::read(path, error))?;
        if found != *meta {
            return Err(SnapshotError::Other { path: path.clone() });
        }
        let is_received = file.shared.is_temporary.load(Ordering::Relaxed);
        self.keep(&Snapshot { meta: meta.clone(), snapshot: file.clone() })?;
        if let Some(metrics) = self.shared.metrics.get().filter(|_| is_received) {
            metrics.storage.snapshots_received.increment(1);
        }
        Ok(directory)
    }

    fn show_bytes(&self) {
        if let (Some(metrics), Some(current)) = (self.shared.metrics.get(), self.current()) {
            metrics.storage.snapshot_bytes.set(current.snapshot.bytes() as f64);
        }
    }

    fn create(&self, bytes: u64) -> io::Result<SnapshotFile> {
        let number = self.shared.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.shared.dir.join(format!("{number}.{TEMPORARY_SUFFIX}"));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let (bytes, is_temporary) = (AtomicU64::new(bytes), AtomicBool::new(true));
        Ok(SnapshotFile { shared: Arc::new(OpenFile { file, bytes, path, is_temporary }) })
    }

    fn write(&self, meta: &SnapshotMeta, directory: &Directory) -> io::Result<SnapshotFile> {
        let snapshot = self.create(0)?;
        let OpenFile { file, bytes, .. } = &*snapshot.shared;
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, file);
        format::write(&mut writer, meta, directory)?;
        writer.flush()?;
        drop(writer);
        bytes.store(file.metadata()?.len(), Ordering::Relaxed);
        Ok(snapshot)
    }

    fn keep(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let file = &snapshot.snapshot.shared;
        let failed = |error| SnapshotError::io(&file.path, error);
        file.file.sync_all().map_err(failed)?;
        let _keeping = self.shared.keeping.lock();
        let is_overtaken = |current: Snapshot| current.meta.last_log_id > snapshot.meta.last_log_id;
        if self.current().is_some_and(is_overtaken) {
            return Ok(());
        }
        if file.is_temporary.load(Ordering::Relaxed) {
            let dir = &self.shared.dir;
            let path = dir.join(name(&snapshot.meta));
            fs::rename(&file.path, &path).map_err(failed)?;
            file.is_temporary.store(false, Ordering::Relaxed);
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
            remove_others(dir, &path).map_err(failed)?;
        }
        *self.shared.current.lock() = Some(snapshot.clone());
        self.show_bytes();
        Ok(())
    }
}

impl SnapshotFile {
    /// How long the file is.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Up to `bytes_max` bytes from an offset on. None are left at the end only.
    pub async fn read_at(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let file = self.clone();
        let read = move || {
            let left = usize::try_from(file.bytes().saturating_sub(offset)).unwrap_or(usize::MAX);
            let mut chunk = vec![0; left.min(bytes_max)];
            file.shared.file.read_exact_at(&mut chunk, offset)?;
            Ok(chunk.into())
        };
        tokio::task::spawn_blocking(read).await?
    }

    fn reader(&self) -> impl Read {
        BufReader::with_capacity(BUFFER_BYTES, Cursor { file: self, offset: 0 })
    }
}

impl IncomingSnapshot {
    /// What arrived next. Refused when it is more than what was announced.
    pub async fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.received += chunk.len() as u64;
        if self.received > self.file.bytes() {
            return Err(self.wrong_length());
        }
        self.writer.write_all(chunk).await
    }

    /// All has arrived, and is a snapshot. The file is to be handed to raft, which ends for good if
    /// it then finds it damaged: so the checksums are read here. Gives with it the protocol version
    /// that who reads it must speak.
    pub async fn finish(mut self) -> io::Result<(SnapshotFile, u32)> {
        if self.received != self.file.bytes() {
            return Err(self.wrong_length());
        }
        self.writer.flush().await?;
        let file = self.file;
        let verify = move || match format::verify(file.reader()) {
            Ok((_, version)) => Ok((file, version)),
            Err(error) => Err(SnapshotError::read(&file.shared.path, error)),
        };
        Ok(tokio::task::spawn_blocking(verify).await??)
    }

    fn wrong_length(&self) -> io::Error {
        let (received, announced) = (self.received, self.file.bytes());
        let error = format!("{received} bytes of a snapshot of {announced} bytes");
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Reads from its own place in a file that others read as well.
struct Cursor<'file> {
    file: &'file SnapshotFile,
    offset: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.shared.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Removes what was never finished, and gives the newest file.
fn open_dir(dir: &Path) -> io::Result<Option<PathBuf>> {
    fs::create_dir_all(dir)?;
    let mut newest = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if has_suffix(&path, TEMPORARY_SUFFIX) {
            fs::remove_file(path)?;
        } else if has_suffix(&path, SUFFIX) {
            // The names sort like the snapshots.
            newest = newest.max(Some(path));
        }
    }
    Ok(newest)
}

fn open_current(path: &Path) -> Result<Snapshot, SnapshotError> {
    let open = || {
        let file = File::open(path)?;
        let bytes = AtomicU64::new(file.metadata()?.len());
        let (path, is_temporary) = (path.to_owned(), AtomicBool::new(false));
        Ok(SnapshotFile { shared: Arc::new(OpenFile { file, bytes, path, is_temporary }) })
    };
    let snapshot = open().map_err(|error| SnapshotError::io(path, error))?;
    // All of it: raft, which installs it next, could only say that it ended.
    let (meta, _) =
        format::verify(snapshot.reader()).map_err(|error| SnapshotError::read(path, error))?;
    let dir = path.parent().unwrap_or(path);
    remove_others(dir, path).map_err(|error| SnapshotError::io(path, error))?;
    Ok(Snapshot { meta, snapshot })
}

fn remove_others(dir: &Path, kept: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if has_suffix(&path, SUFFIX) && path != kept {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Says how many entries of the log the snapshot stands for.
fn name(meta: &SnapshotMeta) -> String {
    let entries = meta.last_log_id.map_or(0, |last| last.index + 1);
    format!("{entries:020}.{SUFFIX}")
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.extension().is_some_and(|extension| extension == suffix)
}

impl SnapshotError {
    fn io(path: &Path, error: io::Error) -> SnapshotError {
        SnapshotError::Io { path: path.to_owned(), error }
    }

    fn read(path: &Path, error: ReadError) -> SnapshotError {
        match error {
            ReadError::Damaged(what) => SnapshotError::Damaged { path: path.to_owned(), what },
            ReadError::Io(error) => SnapshotError::io(path, error),
        }
    }
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> io::Error {
        let kind = match &error {
            SnapshotError::Damaged { .. } | SnapshotError::Other { .. } => {
                io::ErrorKind::InvalidData
            }
            SnapshotError::Io { error, .. } => error.kind(),
        };
        io::Error::new(kind, error)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.is_temporary.load(Ordering::Relaxed) {
            // What stays behind is removed when the directory is next opened.
            drop(fs::remove_file(&self.path));
        }
    }
}
