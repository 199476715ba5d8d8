//! What a snapshot file looks like.
//!
//! ```text
//! magic, then blocks of: kind (1 byte), length (4), checksum (4), length bytes of protocol buffers
//! blocks: one SnapshotHeader, any number of SnapshotBlocks, one SnapshotEnd, and nothing behind it
//! ```
//!
//! Invariants:
//!
//! * A file is read back equal, or refused with the first thing that is wrong with it.
//! * Reading takes no more memory than the state and one block, whatever the file claims.

use std::io::{self, Read, Write};

use bytes::Bytes;
use posthorn_core::directory::{Directory, Header, RestoreError};
use posthorn_proto::cluster::v1 as proto;
use prost::Message as _;

use crate::consensus::types::SnapshotMeta;
use crate::consensus::wire::{Wire, WireError};

/// The last byte is the format's version.
const MAGIC: [u8; 8] = *b"PHSNAP\0\x01";
/// About how long a block of entries gets.
const BLOCK_BYTES: usize = 64 * 1024;
/// What a length may claim. The header names all runs, and an entry has its context.
const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;
const PREFIX_BYTES: usize = 9;

/// Why a snapshot file is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotDamage {
    #[error("it does not begin like a snapshot")]
    Magic,
    #[error("it was written by a later version: format {0}")]
    Newer(u8),
    #[error("it ends early")]
    Short,
    #[error("something follows its end")]
    Long,
    #[error("block {0} has a wrong checksum")]
    Checksum(u64),
    #[error("block {0} is too long or of the wrong kind")]
    Block(u64),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("no directory is like this: {0}")]
    Restore(#[from] RestoreError),
    #[error("it has {found} entries instead of {expected}")]
    Count { expected: u64, found: u64 },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("{0}")]
    Damaged(SnapshotDamage),
    #[error("{0}")]
    Io(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Header = 1,
    Entries = 2,
    End = 3,
}

pub(super) fn write(
    file: &mut impl Write,
    meta: &SnapshotMeta,
    directory: &Directory,
) -> io::Result<()> {
    file.write_all(&MAGIC)?;
    let header = proto::SnapshotHeader {
        meta: Some(meta.to_message()),
        directory: Some(directory.header().to_message()),
    };
    write_block(file, Kind::Header, &header)?;

    let mut block = proto::SnapshotBlock::default();
    let (mut bytes, mut entries) = (0, 0);
    for (id, entry) in directory.entries() {
        let entry = (id, entry.clone()).to_message();
        bytes += entry.encoded_len();
        entries += 1;
        block.entries.push(entry);
        if bytes >= BLOCK_BYTES {
            write_block(file, Kind::Entries, &block)?;
            block.entries.clear();
            bytes = 0;
        }
    }
    if !block.entries.is_empty() {
        write_block(file, Kind::Entries, &block)?;
    }
    write_block(file, Kind::End, &proto::SnapshotEnd { entries })
}

/// Reads all of it.
pub(super) fn read(file: impl Read) -> Result<(SnapshotMeta, Directory), ReadError> {
    let mut blocks = Blocks::new(file)?;
    let (meta, header) = blocks.header()?;
    let mut directory = Directory::restore(header).map_err(damaged)?;
    let mut found = 0;
    loop {
        let (kind, payload) = blocks.next()?;
        match kind {
            Kind::Entries => {
                let block: proto::SnapshotBlock = decode("SnapshotBlock", payload)?;
                for entry in block.entries {
                    let (id, entry) = Wire::from_message(entry).map_err(damaged)?;
                    directory.restore_entry(id, entry).map_err(damaged)?;
                    found += 1;
                }
            }
            Kind::End => {
                let proto::SnapshotEnd { entries: expected } = decode("SnapshotEnd", payload)?;
                if found != expected {
                    return Err(damaged(SnapshotDamage::Count { expected, found }));
                }
                blocks.finish()?;
                return Ok((meta, directory));
            }
            Kind::Header => return Err(damaged(SnapshotDamage::Block(blocks.read - 1))),
        }
    }
}

/// Reads all of it and builds nothing. Gives also the protocol version that it came with.
pub(super) fn verify(file: impl Read) -> Result<(SnapshotMeta, u32), ReadError> {
    let mut blocks = Blocks::new(file)?;
    let (meta, header) = blocks.header()?;
    loop {
        match blocks.next()?.0 {
            Kind::Entries => (),
            Kind::End => {
                blocks.finish()?;
                return Ok((meta, header.version));
            }
            Kind::Header => return Err(damaged(SnapshotDamage::Block(blocks.read - 1))),
        }
    }
}

struct Blocks<R> {
    file: R,
    read: u64,
}

impl<R: Read> Blocks<R> {
    fn new(mut file: R) -> Result<Blocks<R>, ReadError> {
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic)?;
        match (magic.split_last(), MAGIC.split_last()) {
            (Some((version, magic)), Some((known, expected))) if magic == expected => {
                if version > known {
                    return Err(damaged(SnapshotDamage::Newer(*version)));
                }
                Ok(Blocks { file, read: 0 })
            }
            (_, _) => Err(damaged(SnapshotDamage::Magic)),
        }
    }

    fn header(&mut self) -> Result<(SnapshotMeta, Header), ReadError> {
        let (Kind::Header, payload) = self.next()? else {
            return Err(damaged(SnapshotDamage::Block(0)));
        };
        let proto::SnapshotHeader { meta, directory } = decode("SnapshotHeader", payload)?;
        let missing = |field| damaged(WireError::Missing { message: "SnapshotHeader", field });
        let meta = meta.ok_or_else(|| missing("meta"))?;
        let directory = directory.ok_or_else(|| missing("directory"))?;
        let meta = SnapshotMeta::from_message(meta).map_err(damaged)?;
        Ok((meta, Header::from_message(directory).map_err(damaged)?))
    }

    fn next(&mut self) -> Result<(Kind, Bytes), ReadError> {
        let mut prefix = [0; PREFIX_BYTES];
        self.file.read_exact(&mut prefix)?;
        let [kind, a, b, c, d, e, f, g, h] = prefix;
        let number = self.read;
        self.read += 1;
        let bytes = u32::from_le_bytes([a, b, c, d]) as usize;
        let kind = [Kind::Header, Kind::Entries, Kind::End]
            .into_iter()
            .find(|known| *known as u8 == kind)
            .filter(|_| bytes <= BLOCK_BYTES_MAX)
            .ok_or_else(|| damaged(SnapshotDamage::Block(number)))?;
        // Not all at once: a length that is a lie costs no more than what is there.
        let mut payload = Vec::with_capacity(bytes.min(2 * BLOCK_BYTES));
        self.file.by_ref().take(bytes as u64).read_to_end(&mut payload)?;
        if payload.len() < bytes {
            return Err(damaged(SnapshotDamage::Short));
        }
        if checksum(kind, &payload) != u32::from_le_bytes([e, f, g, h]) {
            return Err(damaged(SnapshotDamage::Checksum(number)));
        }
        Ok((kind, payload.into()))
    }

    fn finish(&mut self) -> Result<(), ReadError> {
        match self.file.read(&mut [0])? {
            0 => Ok(()),
            1.. => Err(damaged(SnapshotDamage::Long)),
        }
    }
}

fn write_block(file: &mut impl Write, kind: Kind, block: &impl prost::Message) -> io::Result<()> {
    let payload = block.encode_to_vec();
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= BLOCK_BYTES_MAX);
    let Some(length) = length else {
        let error = format!("a snapshot block of {} bytes cannot be read back", payload.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    };
    file.write_all(&[kind as u8])?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&checksum(kind, &payload).to_le_bytes())?;
    file.write_all(&payload)
}

/// The length needs no part in it: with a wrong one, other bytes are summed.
fn checksum(kind: Kind, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind as u8]);
    hasher.update(payload);
    hasher.finalize()
}

fn decode<M: prost::Message + Default>(
    message: &'static str,
    payload: Bytes,
) -> Result<M, ReadError> {
    M::decode(payload).map_err(|error| damaged(WireError::NotProtobuf { message, error }))
}

fn damaged(damage: impl Into<SnapshotDamage>) -> ReadError {
    ReadError::Damaged(damage.into())
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(SnapshotDamage::Short),
            _ => ReadError::Io(error),
        }
    }
}
