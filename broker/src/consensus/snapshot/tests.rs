//! Sentences about snapshots and the machine that is restored from them, on real files.

use futures_util::stream;
use openraft::entry::RaftEntry as _;
use openraft::storage::{RaftSnapshotBuilder as _, RaftStateMachine as _};
use posthorn_core::directory::{Command, Context, Directory};
use posthorn_core::ids::{ConnectionId, DiskId, NodeId, NodeRun};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::consensus::machine::{Machine, Replica};
use crate::consensus::types::{LeaderId, LogId, Proposal, RaftEntry, RaftPayload};

#[tokio::test]
async fn a_directory_with_debts_comes_back_equal() {
    let (_dir, mut machine) = new();
    apply(&mut machine, crowd()).await;
    let before = state(&machine.replica());
    assert_eq!(before.len(), 10_000);
    assert!(before.debts().next().is_some());

    let snapshot = build(&mut machine).await;
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(12)));
    let (_dir, mut other) = new();
    let received = receive(&other.snapshots(), &bytes_of(&snapshot).await).await.unwrap();
    other.install_snapshot(&snapshot.meta, received).await.unwrap();
    assert_eq!(state(&other.replica()), before);
    assert_eq!(other.replica().applied_index(), Some(12));
    assert_eq!(*other.replica().watch_epoch().borrow(), before.epoch());
    assert_eq!(other.applied_state().await.unwrap().0, Some(log_id(12)));
    assert_eq!(other.get_current_snapshot().await.unwrap().unwrap().meta, snapshot.meta);
}

#[tokio::test]
async fn the_newest_snapshot_is_kept_and_found_again() {
    let (dir, mut machine) = new();
    apply(&mut machine, crowd()).await;
    let first = build(&mut machine).await;
    apply(&mut machine, [(13, update(3, 1, 900, 901))]).await;
    let second = build(&mut machine).await;
    let before = state(&machine.replica());
    assert_eq!(files(&dir), [format!("{:020}.snapshot", 14)]);
    assert!(!bytes_of(&first).await.is_empty(), "who reads the old one still can");
    drop((machine, first, second));

    fs::write(dir.path().join("snapshots/7.partial"), "half a snapshot").unwrap();
    let mut machine = Machine::open(dir.path()).unwrap();
    assert_eq!(files(&dir), [format!("{:020}.snapshot", 14)]);
    let Snapshot { meta, snapshot } = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(machine.replica().applied_index(), None, "openraft installs it");
    machine.install_snapshot(&meta, snapshot).await.unwrap();
    assert_eq!(state(&machine.replica()), before);
    assert_eq!(files(&dir), [format!("{:020}.snapshot", 14)]);
}

#[tokio::test]
async fn a_snapshot_shows_the_moment_it_was_begun_while_applying_goes_on() {
    let (_dir, mut machine) = new();
    apply(&mut machine, crowd()).await;
    let before = state(&machine.replica());
    let mut builder = machine.get_snapshot_builder().await;
    let building = tokio::spawn(async move { builder.build_snapshot().await });
    apply(
        &mut machine,
        (13..100).map(|index| (index, update(3, index, index * 10, index * 10 + 9))),
    )
    .await;
    let snapshot = building.await.unwrap().unwrap();
    assert_ne!(state(&machine.replica()), before);
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(12)));
    assert_eq!(format::read(snapshot.snapshot.reader()).unwrap().1, before);
}

#[tokio::test]
async fn a_snapshot_that_was_overtaken_replaces_nothing() {
    let (dir, mut machine) = new();
    apply(&mut machine, crowd()).await;
    let mut slow = machine.get_snapshot_builder().await;
    apply(&mut machine, [(13, update(3, 1, 900, 901))]).await;
    let newest = build(&mut machine).await;
    drop(slow.build_snapshot().await.unwrap());
    assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta, newest.meta);
    assert_eq!(files(&dir), [format!("{:020}.snapshot", 14)]);
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_the_state_stays() {
    let (_dir, mut machine) = new();
    apply(&mut machine, crowd()).await;
    let snapshot = build(&mut machine).await;
    let good = bytes_of(&snapshot).await;

    let (dir, mut other) = new();
    apply(&mut other, [(0, join(1, 1))]).await;
    let before = state(&other.replica());
    for (at, bit) in (0..good.len()).step_by(good.len() / 97).zip((0..8).cycle()) {
        let mut bad = good.clone();
        bad[at] ^= 1 << bit;
        let refused = receive(&other.snapshots(), &bad).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "byte {at}: {refused}");

        // It may as well rot between the two.
        let received = receive(&other.snapshots(), &good).await.unwrap();
        fs::write(dir.path().join("snapshots").join(&files(&dir)[0]), &bad).unwrap();
        let refused = other.install_snapshot(&snapshot.meta, received).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "byte {at}: {refused}");
        assert_eq!(state(&other.replica()), before);
        assert_eq!(other.replica().applied_index(), Some(0));
    }
    for length in [0, 7, 8, 100, good.len() - 1] {
        receive(&other.snapshots(), &good[..length]).await.unwrap_err();
    }
    receive(&other.snapshots(), &[&good[..], &[0]].concat()).await.unwrap_err();
    assert!(other.get_current_snapshot().await.unwrap().is_none());
    assert_eq!(files(&dir), <[String; 0]>::default(), "nothing stays behind");
}

#[tokio::test]
async fn another_snapshot_than_the_announced_one_is_refused() {
    let (_dir, mut machine) = new();
    apply(&mut machine, crowd()).await;
    let Snapshot { meta, snapshot } = build(&mut machine).await;
    let announced = SnapshotMeta { last_log_id: Some(log_id(99)), ..meta };
    let refused = machine.install_snapshot(&announced, snapshot).await.unwrap_err();
    assert!(refused.to_string().ends_with("is not the one that was announced"), "{refused}");
}

#[tokio::test]
async fn a_snapshot_that_rotted_on_disk_is_a_named_error_when_the_node_starts() {
    let (dir, mut machine) = new();
    apply(&mut machine, crowd()).await;
    drop(build(&mut machine).await);
    drop(machine);
    let path = dir.path().join("snapshots").join(&files(&dir)[0]);
    let good = fs::read(&path).unwrap();
    for length in [good.len() - 1, good.len() / 2, 20] {
        fs::write(&path, &good[..length]).unwrap();
        let refused = Machine::open(dir.path()).err().unwrap();
        let expected = SnapshotDamage::Short;
        assert!(matches!(refused, SnapshotError::Damaged { what, .. } if what == expected));
    }
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&path, &bad).unwrap();
    let refused = Machine::open(dir.path()).err().unwrap().to_string();
    assert!(refused.contains("is damaged: block"), "{refused}");
    fs::write(&path, &good).unwrap();
    Machine::open(dir.path()).unwrap();
}

#[tokio::test]
async fn more_or_less_than_what_was_announced_is_refused() {
    let (dir, machine) = new();
    let snapshots = machine.snapshots();
    let mut incoming = snapshots.receive(3).await.unwrap();
    incoming.write(b"four").await.unwrap_err();
    drop(incoming);
    let mut incoming = snapshots.receive(3).await.unwrap();
    incoming.write(b"ab").await.unwrap();
    assert_eq!(files(&dir), ["1.partial"]);
    incoming.finish().await.map(drop).unwrap_err();
    assert_eq!(files(&dir), <[String; 0]>::default());
}

#[tokio::test]
async fn readers_see_an_epoch_when_runs_come_and_go() {
    let (_dir, mut machine) = new();
    let replica = machine.replica();
    let mut epochs = replica.watch_epoch();
    apply(&mut machine, [(0, join(1, 1)), (1, update(1, 1, 0, 9))]).await;
    assert_eq!(*epochs.borrow_and_update(), 1);
    apply(&mut machine, [(2, update(1, 2, 10, 19))]).await;
    assert!(!epochs.has_changed().unwrap(), "only connections came");
    assert_eq!(replica.read(Directory::len), 20);
    replica.wait_applied(2).await;
    let waiting = tokio::spawn({
        let replica = replica.clone();
        async move { replica.wait_applied(3).await }
    });
    apply(&mut machine, [(3, join(2, 1))]).await;
    waiting.await.unwrap();
    assert_eq!(*epochs.borrow_and_update(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn noise_is_no_snapshot(noise in proptest::collection::vec(any::<u8>(), 0..64)) {
        prop_assert!(format::read(&noise[..]).is_err());
        let with_magic = [&b"PHSNAP\0\x01"[..], &noise].concat();
        prop_assert!(format::read(&with_magic[..]).is_err());
    }
}

fn new() -> (TempDir, Machine) {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::open(dir.path()).unwrap();
    (dir, machine)
}

async fn apply(machine: &mut Machine, commands: impl IntoIterator<Item = (u64, Command)>) {
    let entries = commands.into_iter().map(|(index, command)| {
        let payload = RaftPayload::Normal(Proposal::from(command));
        Ok((RaftEntry::new(log_id(index), payload), None))
    });
    machine.apply(stream::iter(entries.collect::<Vec<_>>())).await.unwrap();
}

async fn build(machine: &mut Machine) -> Snapshot {
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap()
}

async fn bytes_of(snapshot: &Snapshot) -> Vec<u8> {
    let file = &snapshot.snapshot;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < file.bytes() {
        bytes.extend_from_slice(&file.read_at(bytes.len() as u64, 10_000).await.unwrap());
    }
    bytes
}

async fn receive(snapshots: &Snapshots, bytes: &[u8]) -> io::Result<SnapshotFile> {
    let mut incoming = snapshots.receive(bytes.len() as u64).await?;
    for chunk in bytes.chunks(10_000) {
        incoming.write(chunk).await?;
    }
    Ok(incoming.finish().await?.0)
}

fn files(dir: &TempDir) -> Vec<String> {
    let files = fs::read_dir(dir.path().join("snapshots")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

fn state(replica: &Replica) -> Directory {
    replica.read(Directory::clone)
}

/// Three runs with 10,000 connections, one of them evicted. Ends with entry 12.
fn crowd() -> impl Iterator<Item = (u64, Command)> {
    let joins = (0..3).map(|node| join(node as u32 + 1, 1));
    let updates = (0..8).map(|number| {
        update(number as u32 % 2 + 1, number / 2 + 1, number * 1250, number * 1250 + 1249)
    });
    let evict = Command::Evict { run: run(2, 1) };
    let rejoin = join(2, 2);
    (0..).zip(joins.chain(updates).chain([evict, rejoin]))
}

fn join(node: u32, incarnation: u32) -> Command {
    let run = run(node, incarnation);
    Command::Join { run, disk: DiskId(1), fabric_address: format!("node-{node}:7946").into() }
}

fn update(node: u32, number: u64, first: u64, last: u64) -> Command {
    let opened = (first..=last).map(|connection| (id(connection), Context::from(*b"context")));
    Command::Update { run: run(node, 1), number, opened: opened.collect(), closed: vec![] }
}

fn run(node: u32, incarnation: u32) -> NodeRun {
    NodeRun { node: NodeId(node), incarnation }
}

fn id(number: u64) -> ConnectionId {
    let mut bits = [0; 16];
    bits[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    ConnectionId::from_random(bits)
}

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 1, node_id: 7 }, index)
}
