//! Opening sled.
//!
//! When sled is opened it writes a `snap.*` file that says where in its log everything is, and frees
//! what nothing points to any more. From then on it may not be able to do without that file: asked to,
//! it can come up empty, and wipe what it did not find. So there is a copy of it.
//!
//! What sled's settings are it writes to `conf`, and never syncs it.
//!
//! Invariants:
//!
//! * While sled is open, there is a second file that is equal to its `snap.*`, and on the disk.
//! * Once it is open, its settings are on the disk.
//! * Damage is an answer and never a panic.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use super::format::Damage;
use super::open::{Trouble, sync_dir};
use super::writer::panic_message;

/// Reads that the held entries do not serve are rare and sequential.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// sled lets go of its file a little after its last handle is dropped. We hold our own lock by then,
/// so that nobody else can have it.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const SETTINGS: &str = "conf";
const SNAPSHOT_PREFIX: &str = "snap.";
const UNFINISHED_SUFFIX: &str = ".generating";

/// `copy_dir` is where the copy is kept.
pub(super) fn open(log_dir: &Path, copy_dir: &Path) -> Result<sled::Db, Trouble> {
    fs::create_dir_all(copy_dir)?;
    restore_lost(log_dir, copy_dir)?;
    remove_torn_settings(log_dir)?;
    let db = match try_open(log_dir) {
        Err(Trouble::Damaged(damage)) => open_from_copy(log_dir, copy_dir, damage)?,
        opened => opened?,
    };
    copy_snapshot(log_dir, copy_dir)?;
    File::open(log_dir.join(SETTINGS))?.sync_all()?;
    Ok(db)
}

/// sled takes some damage for a bug of its own.
pub(super) fn guarded<T>(act: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|panic| Err(Damage::Engine(panic_message(&*panic)).into()))
}

fn try_open(log_dir: &Path) -> Result<sled::Db, Trouble> {
    // The writer flushes, and nobody else.
    let config = sled::Config::new().path(log_dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    for _ in 1..LOCK_TRIES {
        match guarded(|| Ok(config.open()?)) {
            Err(Trouble::Locked) => std::thread::sleep(LOCK_PAUSE),
            opened => return opened,
        }
    }
    guarded(|| Ok(config.open()?))
}

/// sled does not sync the names of its files.
fn restore_lost(log_dir: &Path, copy_dir: &Path) -> io::Result<()> {
    let Some(copy) = newest(copy_dir)? else { return Ok(()) };
    let found = newest(log_dir)?;
    if found.as_deref().and_then(Path::file_name) < copy.file_name() {
        warn!(dir = %log_dir.display(), "sled's snapshot is gone; restoring it from its copy");
        copy_file(&copy, log_dir)?;
    }
    Ok(())
}

/// What a power cut left of them, sled would not open with. It writes them anew, as they were: all our
/// stores have the same.
fn remove_torn_settings(log_dir: &Path) -> io::Result<()> {
    let path = log_dir.join(SETTINGS);
    let settings = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        settings => settings?,
    };
    let is_whole = settings
        .split_last_chunk()
        .is_some_and(|(text, checksum)| crc32fast::hash(text) == u32::from_le_bytes(*checksum));
    if is_whole {
        return Ok(());
    }
    warn!(path = %path.display(), "sled's settings are damaged; they are written anew");
    fs::remove_file(path)
}

fn open_from_copy(log_dir: &Path, copy_dir: &Path, damage: Damage) -> Result<sled::Db, Trouble> {
    let damaged = snapshots(log_dir)?;
    if damaged.is_empty() {
        return Err(damage.into());
    }
    warn!(dir = %log_dir.display(), %damage, "the log does not open; trying the copy of sled's snapshot");
    for snapshot in damaged {
        fs::remove_file(snapshot)?;
    }
    // Without a copy sled goes through all of its log, which is better than nothing; whether
    // something is missing is seen later.
    if let Some(copy) = newest(copy_dir)? {
        copy_file(&copy, log_dir)?;
    }
    try_open(log_dir)
}

fn copy_snapshot(log_dir: &Path, copy_dir: &Path) -> io::Result<()> {
    let Some(newest) = newest(log_dir)? else { return Ok(()) };
    let copy = copy_file(&newest, copy_dir)?;
    for other in snapshots(copy_dir)? {
        if other != copy {
            fs::remove_file(other)?;
        }
    }
    sync_dir(copy_dir)
}

/// Under another name at first, so that what has the right one is whole.
fn copy_file(from: &Path, to_dir: &Path) -> io::Result<PathBuf> {
    let partial = to_dir.join("partial");
    let to = to_dir.join(from.file_name().unwrap_or_default());
    fs::copy(from, &partial)?;
    File::open(&partial)?.sync_all()?;
    fs::rename(partial, &to)?;
    Ok(to)
}

/// The name says how far in the log it goes, and sorts like that.
fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    Ok(snapshots(dir)?.into_iter().max())
}

fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(SNAPSHOT_PREFIX) && !name.ends_with(UNFINISHED_SUFFIX) {
            found.push(path);
        }
    }
    Ok(found)
}

impl From<sled::Error> for Trouble {
    fn from(error: sled::Error) -> Trouble {
        match error {
            // Its only words for a lock that another one holds.
            sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock") => {
                Trouble::Locked
            }
            sled::Error::Io(error) if !is_damage(&error) => Trouble::Io(error),
            error @ (sled::Error::Io(_)
            | sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Corruption { .. }) => {
                Trouble::Damaged(Damage::Engine(error.to_string()))
            }
        }
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}
