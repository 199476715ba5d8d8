//! Opening a store, and believing nothing of it before it was checked.
//!
//! Invariants:
//!
//! * While a process has a data directory open, no other one reads or writes any of it.
//! * What is opened is whole: from the first entry to the last, each was read, checked and is
//!   followed by the one that was written behind it; and the log is not shorter than it is known to
//!   have been.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tracing::warn;

use super::engine::{self, guarded};
use super::format::{self, Assembler, Damage, Head, Identity};
use super::view::View;
use super::witness::{Record, Witness};

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{} is in use by another process", dir.display())]
    Locked { dir: PathBuf },
    /// Its log must not be used again, nor its raft ID.
    #[error("the log in {} is damaged: {what}", dir.display())]
    Damaged { dir: PathBuf, what: Damage },
    #[error("the log in {} was written by a later version: format {version}", dir.display())]
    Newer { dir: PathBuf, version: u8 },
    #[error(
        "the log in {} holds what came with protocol version {version}, and this release speaks \
         none after {spoken}: there is no way back to it",
        dir.display()
    )]
    Unspoken { dir: PathBuf, version: u32, spoken: u32 },
    #[error("cannot open the log in {}: {error}", dir.display())]
    Io { dir: PathBuf, error: io::Error },
}

pub(super) struct Opened {
    pub(super) db: sled::Db,
    /// Of sled's file, for syncing it.
    pub(super) file: File,
    pub(super) witness: Witness,
    pub(super) head: Head,
    pub(super) view: View,
    /// Held for as long as the store is open.
    pub(super) lock: File,
}

pub(super) enum Trouble {
    Locked,
    Damaged(Damage),
    Newer(u8),
    Unspoken(u32),
    Io(io::Error),
}

pub(super) fn open(data_dir: &Path, spoken: u32) -> Result<Opened, StoreError> {
    open_dir(data_dir, spoken).map_err(|trouble| {
        let dir = data_dir.to_owned();
        match trouble {
            Trouble::Locked => StoreError::Locked { dir },
            Trouble::Damaged(what) => StoreError::Damaged { dir, what },
            Trouble::Newer(version) => StoreError::Newer { dir, version },
            Trouble::Unspoken(version) => StoreError::Unspoken { dir, version, spoken },
            Trouble::Io(error) => StoreError::Io { dir, error },
        }
    })
}

fn open_dir(data_dir: &Path, spoken: u32) -> Result<Opened, Trouble> {
    let log_dir = data_dir.join("log");
    let parent = Some(data_dir.parent().unwrap_or(data_dir)).filter(|_| !data_dir.exists());
    fs::create_dir_all(&log_dir)?;
    let lock = lock(data_dir)?;
    forget_cached(&log_dir)?;
    let db = engine::open(&log_dir, &data_dir.join("log-snapshot"))?;
    let file = File::open(log_dir.join("db"))?;
    let (witness_file, known) = Witness::open(&data_dir.join("witness"))?;
    let known = known?;

    let found = guarded(|| load_head(&db))?;
    hear_witness(known, found.as_ref())?;
    let (head, view) = match found {
        // Before its entries, which may be commands that we cannot read.
        Some(head) if head.version > spoken => return Err(Trouble::Unspoken(head.version)),
        Some(head) => {
            let view = guarded(|| load_log(&db, &head))?;
            (head, view)
        }
        None if has_files(&data_dir.join("snapshots"))? => return Err(Damage::LogMissing.into()),
        None => create(&db, &file)?,
    };
    let witness = Witness::new(witness_file, head.identity.raft_id);
    witness.on_synced(head.sequence)?;
    witness.sync()?;
    for dir in [Some(&*log_dir), Some(data_dir), parent].into_iter().flatten() {
        sync_dir(dir)?;
    }
    Ok(Opened { db, file, witness, head, view, lock })
}

fn lock(data_dir: &Path) -> Result<File, Trouble> {
    let path = data_dir.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Trouble::Locked),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// After a sync that failed, the kernel may hold for written what never reached the disk. Who starts
/// anew believes the disk alone.
fn forget_cached(log_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(log_dir)? {
        let path = entry?.path();
        if path.is_file() {
            let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            posix_fadvise(File::open(path)?, 0, 0, advice)?;
        }
    }
    Ok(())
}

fn hear_witness(known: Option<Record>, found: Option<&Head>) -> Result<(), Damage> {
    let Some(known) = known else {
        if found.is_some() {
            warn!("the log's witness is gone: what the log may have lost cannot be known");
        }
        return Ok(());
    };
    let sequence = found.map_or(0, |head| head.sequence);
    if sequence < known.sequence {
        return Err(Damage::Forgotten { known: known.sequence, found: sequence });
    }
    if found.is_some_and(|head| head.identity.raft_id != known.raft_id) {
        return Err(Damage::WrongWitness);
    }
    Ok(())
}

fn has_files(dir: &Path) -> io::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut files) => Ok(files.next().transpose()?.is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn load_head(db: &sled::Db) -> Result<Option<Head>, Trouble> {
    let Some(value) = db.get(format::HEAD_KEY)? else {
        return match db.iter().keys().next().transpose()? {
            Some(_) => Err(Damage::HeadMissing.into()),
            None => Ok(None),
        };
    };
    match Head::unseal(&value) {
        Err(Damage::Version { version, .. }) if version > format::VERSION => {
            Err(Trouble::Newer(version))
        }
        head => Ok(Some(head?)),
    }
}

/// Reads everything: what is not read now is not known to be there.
fn load_log(db: &sled::Db, head: &Head) -> Result<View, Trouble> {
    let committed = db.get(format::COMMITTED_KEY)?;
    let committed = committed.map(|value| format::unseal_committed(&value)).transpose()?;
    let mut view = View::new(head.identity, head.vote, committed, head.purged);

    let first = head.purged.map_or(0, |purged| purged.index + 1);
    let mut assembler = Assembler::after(head.purged);
    for pair in db.range(format::log_keys_from(first)) {
        let (key, value) = pair?;
        if let Some(entry) = assembler.on_value(&key, &value)? {
            let index = entry.log_id.index;
            let ticket = view.append(entry).map_err(|_| Damage::EntryMissing { index })?;
            view.on_stored(ticket);
        }
    }
    assembler.finish()?;
    if assembler.last() != head.last {
        return Err(Damage::WrongEnd { found: assembler.last(), expected: head.last }.into());
    }
    Ok(view)
}

/// A new store, and with it a new member of a raft group.
fn create(db: &sled::Db, file: &File) -> Result<(Head, View), Trouble> {
    let raft_id = getrandom::u64().map_err(io::Error::from)?;
    let identity = Identity { raft_id, cluster_id: None, incarnation: None };
    let head = Head { sequence: 1, identity, vote: None, purged: None, last: None, version: 1 };
    db.insert(format::HEAD_KEY, head.seal())?;
    db.flush()?;
    file.sync_all()?;
    Ok((head, View::new(identity, None, None, None)))
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl From<Damage> for Trouble {
    fn from(damage: Damage) -> Trouble {
        Trouble::Damaged(damage)
    }
}
