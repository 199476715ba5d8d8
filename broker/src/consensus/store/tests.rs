//! Sentences about the log store, on real files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use openraft::entry::RaftEntry as _;
use openraft::storage::RaftLogStorageExt as _;
use openraft::testing::log::{StoreBuilder, Suite};
use posthorn_core::directory::{Command, Context};
use posthorn_core::ids::{ConnectionId, NodeId, NodeRun};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::consensus::machine::Machine;
use crate::consensus::types::{LeaderId, Proposal, RaftPayload};

const DEADLINE: Duration = Duration::from_secs(60);
const PAGE_BYTES: usize = 4096;
const SPOKEN: u32 = 1;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(TempDir, LogStore, Machine), openraft::StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (store, machine) = (open(dir.path()), Machine::open(dir.path()).unwrap());
        Ok((dir, store, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_and_the_machine_are_what_openraft_expects() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_again_after_closing_and_after_being_killed() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let mut store = open(dir.path());
    let before = contents(&mut store).await;
    assert_eq!(before.entries.last().unwrap().log_id, log_id(12, 1151));
    assert_eq!(before.vote, Some(RaftVote::new(13, 3)));
    assert_eq!(before.state.last_purged_log_id, Some(log_id(11, 1051)));
    assert_eq!(before.identity.cluster_id, Some(ClusterId([7; 16])));
    assert_eq!(before.identity.incarnation, Some(5));

    at_rest(&store).await;
    let killed = copy_of(dir.path());
    assert_eq!(contents(&mut open(killed.path())).await, before);
    drop(store);
    assert_eq!(contents(&mut open(dir.path())).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_directory_has_a_raft_id_of_its_own_and_keeps_it() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let identity = open(one.path()).identity();
    assert_eq!(Identity { cluster_id: None, incarnation: None, ..identity }, identity);
    assert_eq!(open(one.path()).identity(), identity);
    assert_ne!(open(two.path()).identity().raft_id, identity.raft_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for _ in 0..2 {
        let refused = LogStore::open(dir.path(), SPOKEN);
        assert!(matches!(refused, Err(StoreError::Locked { .. })), "{:?}", refused.err());
    }
    drop(store);
    open(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_any_size_come_back_and_no_value_leaves_the_synced_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let sizes = [0, 1, 6_000, 6_200, 8_192, 20_000, 300_000, 5_900, 5_900, 5_900];
    let entries: Vec<_> = sizes
        .iter()
        .cycle()
        .take(60)
        .zip(0..)
        .map(|(size, index)| entry(1, index, *size))
        .collect();
    for entry in &entries {
        store.blocking_append([entry.clone()]).await.unwrap();
        store.save_vote(&RaftVote::new(entry.log_id.index, 1)).await.unwrap();
    }
    store.truncate_after(Some(log_id(1, 49))).await.unwrap();
    store.purge(log_id(1, 9)).await.unwrap();
    drop(store);
    assert_eq!(contents(&mut open(dir.path())).await.entries, entries[10..50]);
    let blobs = fs::read_dir(dir.path().join("log/blobs")).unwrap().count();
    assert_eq!(blobs, 0, "sled never syncs these");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_are_no_longer_held_are_read_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let entries: Vec<_> = (0..9000).map(|index| entry(1, index, 200)).collect();
    for part in entries.chunks(1000) {
        store.blocking_append(part.to_vec()).await.unwrap();
    }
    let mut reader = store.get_log_reader().await;
    let is_stored = |plan| matches!(plan, Plan::Stored { .. });
    assert!(is_stored(store.shared.view.lock().plan(0..9000, usize::MAX)));
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries);
    assert_eq!(reader.try_get_log_entries(5..=7).await.unwrap(), entries[5..8]);

    let limited = reader.limited_get_log_entries(3, 9000).await.unwrap();
    assert!((1000..8000).contains(&limited.len()), "{}", limited.len());
    assert_eq!(limited, entries[3..3 + limited.len()]);
    let streamed = reader.entries_stream(10..8990).await;
    assert_eq!(streamed.try_collect::<Vec<_>>().await.unwrap(), entries[10..8990]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_while_entries_are_purged_sees_no_hole() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let entries: Vec<_> = (0..12_000).map(|index| entry(1, index, 10)).collect();
    store.blocking_append(entries).await.unwrap();
    let mut reader = store.get_log_reader().await;
    let reading = tokio::spawn(async move {
        loop {
            let entries = reader.try_get_log_entries(..).await.unwrap();
            let indexes = entries.iter().map(|entry| entry.log_id.index);
            assert!(indexes.eq(12_000 - entries.len() as u64..12_000));
            if entries.len() == 1 {
                break;
            }
        }
    });
    for upto in (0..11_999).step_by(100).chain([11_998]) {
        store.purge(log_id(1, upto)).await.unwrap();
        store.save_vote(&RaftVote::new(upto, 1)).await.unwrap();
    }
    timeout(DEADLINE, reading).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_would_leave_a_hole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.blocking_append([entry(1, 0, 1)]).await.unwrap();
    let refused = store.append([entry(1, 2, 1)], IOFlushed::noop()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_whose_sync_failed_nor_anything_after_it() {
    for first in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path());
        // Where there is nothing to sync, the kernel says so.
        let file = File::open("/dev/null").unwrap();
        let opened = Opened { file, ..open::open(dir.path(), SPOKEN).unwrap() };
        let mut store = LogStore::start(opened).unwrap();
        let failure = store.failure();
        let known = fs::read(dir.path().join("witness")).unwrap();
        for what in 0..4 {
            let refused = match (first + what) % 4 {
                0 => store.save_vote(&RaftVote::new(1, 1)).await,
                1 => {
                    let appended = store.blocking_append([entry(1, 0, 1)]).await;
                    appended.map_err(io::Error::other)
                }
                2 => store.save_cluster(ClusterId([1; 16])).await,
                _ => store.save_incarnation(1).await,
            };
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("syncing: Invalid argument (os error 22)"), "{refused}");
        }
        let failure = timeout(DEADLINE, failure).await.unwrap();
        assert_eq!(
            (failure.doing, &*failure.reason),
            ("syncing", "Invalid argument (os error 22)")
        );
        store.get_log_reader().await.read_vote().await.unwrap_err();
        assert_eq!(fs::read(dir.path().join("witness")).unwrap(), known, "of the first {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_the_disk_lost_ends_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let entries: Vec<_> = (0..9000).map(|index| entry(1, index, 1)).collect();
    store.blocking_append(entries).await.unwrap();
    store.shared.db.remove(format::log_key(5, 0)).unwrap();

    let mut reader = store.get_log_reader().await;
    reader.try_get_log_entries(0..5).await.unwrap();
    reader.try_get_log_entries(0..10).await.unwrap_err();
    let failure = timeout(DEADLINE, store.failure()).await.unwrap();
    assert_eq!(failure.reason, Damage::EntryMissing { index: 5 }.to_string());
    reader.try_get_log_entries(0..5).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_of_sled_is_replaced_by_its_copy() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let before = contents(&mut open(dir.path())).await;
    let damages: [fn(&Path); 3] = [
        |path| flip(path, 20),
        |path| fs::write(path, "").unwrap(),
        |path| fs::remove_file(path).unwrap(),
    ];
    for damage in damages {
        let snapshots: Vec<_> = fs::read_dir(dir.path().join("log"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap."))
            .collect();
        assert_eq!(snapshots.len(), 1);
        damage(&snapshots[0]);
        assert_eq!(contents(&mut open(dir.path())).await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_sled_that_a_power_cut_left_torn_are_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let before = contents(&mut open(dir.path())).await;
    let path = dir.path().join("log/conf");
    let whole = fs::read(&path).unwrap();
    for torn in [&[][..], &[0; 58], &whole[..20]] {
        fs::write(&path, torn).unwrap();
        assert_eq!(contents(&mut open(dir.path())).await, before);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_emptied_is_not_taken_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    fs::File::options().write(true).open(dir.path().join("log/db")).unwrap().set_len(0).unwrap();
    assert!(matches!(damage(dir.path()), Damage::Forgotten { found: 0, .. }));
    fs::remove_dir_all(dir.path().join("log")).unwrap();
    assert!(matches!(damage(dir.path()), Damage::Forgotten { found: 0, .. }));
    fs::remove_file(dir.path().join("witness")).unwrap();
    fs::create_dir(dir.path().join("snapshots")).unwrap();
    fs::write(dir.path().join("snapshots/1.snapshot"), "of what?").unwrap();
    assert_eq!(damage(dir.path()), Damage::LogMissing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_later_version_is_told_from_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let later = format::seal_as(format::VERSION + 1, format::HEAD_KEY, &[b"who knows"]);
    store.shared.db.insert(format::HEAD_KEY, later).unwrap();
    store.shared.db.flush().unwrap();
    drop(store);
    let refused = LogStore::open(dir.path(), SPOKEN).err().unwrap();
    assert!(matches!(refused, StoreError::Newer { version: 2, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_commands_of_a_later_protocol_version_is_refused_before_it_is_read() {
    let raise = RaftPayload::Normal(Proposal::from(Command::Raise { version: 3 }));
    for by_snapshot in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        match by_snapshot {
            true => store.save_version(3).await.unwrap(),
            false => {
                let entry = RaftEntry::new(log_id(1, 0), raise.clone());
                store.blocking_append([entry]).await.unwrap();
            }
        }
        // What the entries are is not looked at.
        store.shared.db.insert(format::log_key(1, 0), &b"of a later release"[..]).unwrap();
        store.shared.db.flush().unwrap();
        drop(store);
        let refused = LogStore::open(dir.path(), 2).err().unwrap();
        let expected = matches!(refused, StoreError::Unspoken { version: 3, spoken: 2, .. });
        assert!(expected, "{refused}");
        let damaged = LogStore::open(dir.path(), 3).err().unwrap();
        assert!(matches!(damaged, StoreError::Damaged { .. }), "{damaged}");
    }
}

/// The vote may be in what was lost: to open with less is to vote twice.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_damaged_the_store_opens_as_it_was_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let before = contents(&mut open(dir.path())).await;
    let db_bytes = fs::metadata(dir.path().join("log/db")).unwrap().len();
    let mut refused = 0;
    let mut random = Random(1);
    for round in 0..60 {
        let copy = copy_of(dir.path());
        let db = copy.path().join("log/db");
        let at = random.next() % db_bytes;
        match round % 3 {
            0 => flip(&db, at),
            1 => zero(&db, at, 16 * PAGE_BYTES),
            _ => fs::File::options().write(true).open(&db).unwrap().set_len(at).unwrap(),
        }
        match LogStore::open(copy.path(), SPOKEN) {
            Ok(mut store) => assert_eq!(contents(&mut store).await, before, "round {round}"),
            Err(StoreError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    assert!((10..60).contains(&refused), "{refused} of 60 mattered");
}

/// Of what was written since the last sync, any page may be on the disk and any may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_costs_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut random = Random(1);
    let mut next = 0;
    for (round, (size, count)) in [(300, 1), (300, 20), (3000, 40), (30_000, 6)]
        .into_iter()
        .cycle()
        .take(40)
        .zip(1..)
        .map(|(shape, round)| (round, shape))
    {
        let vote = RaftVote::new_committed(round, 1);
        store.save_vote(&vote).await.unwrap();
        let (synced, acknowledged) = (copy_of(dir.path()), next);
        let entries =
            (next..next + count).map(|index| entry(round, index, size)).collect::<Vec<_>>();
        next += count;
        store.blocking_append(entries).await.unwrap();
        let written = fs::read(dir.path().join("log/db")).unwrap();
        for _ in 0..3 {
            let cut = copy_of(synced.path());
            tear(&cut.path().join("log/db"), &written, &mut random);
            let mut store = open(cut.path());
            let found = contents(&mut store).await;
            assert_eq!(found.vote, Some(vote));
            assert!(found.entries.len() as u64 >= acknowledged, "round {round}");
        }
    }
}

#[derive(Debug, PartialEq)]
struct Contents {
    entries: Vec<RaftEntry>,
    state: LogState<TypeConfig>,
    vote: Option<RaftVote>,
    committed: Option<LogId>,
    identity: Identity,
}

async fn contents(store: &mut LogStore) -> Contents {
    let mut reader = store.get_log_reader().await;
    Contents {
        entries: reader.try_get_log_entries(..).await.unwrap(),
        state: store.get_log_state().await.unwrap(),
        vote: reader.read_vote().await.unwrap(),
        committed: store.read_committed().await.unwrap(),
        identity: store.identity(),
    }
}

/// Some of everything that can happen to a log, ending with a vote.
async fn fill(dir: &Path) {
    let mut store = open(dir);
    store.save_cluster(ClusterId([7; 16])).await.unwrap();
    store.save_incarnation(5).await.unwrap();
    let (mut term, mut next) = (1, 0);
    for round in 1..=60 {
        store.save_vote(&RaftVote::new_committed(term, 1)).await.unwrap();
        let entries: Vec<_> = (next..next + 20).map(|index| entry(term, index, 300)).collect();
        next += 20;
        store.blocking_append(entries).await.unwrap();
        store.save_committed(Some(log_id(term, next - 10))).await.unwrap();
        if round % 5 == 0 {
            store.truncate_after(Some(log_id(term, next - 5))).await.unwrap();
            next -= 4;
            term += 1;
        }
        if round % 10 == 0 {
            let upto = next - 101;
            let purged = store.get_log_reader().await.try_get_log_entries(upto..=upto).await;
            store.purge(purged.unwrap()[0].log_id).await.unwrap();
        }
    }
    store.save_vote(&RaftVote::new(term, 3)).await.unwrap();
}

/// Waits until what was purged is gone, so that nobody writes.
async fn at_rest(store: &LogStore) {
    let purged = store.shared.view.lock().purged.unwrap();
    let deleted = async {
        while store.shared.db.range(format::log_keys_upto(purged.index)).next().is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, deleted).await.unwrap();
    store.save_incarnation(store.identity().incarnation.unwrap()).await.unwrap();
}

fn open(dir: &Path) -> LogStore {
    LogStore::open(dir, SPOKEN).unwrap()
}

fn damage(dir: &Path) -> Damage {
    match LogStore::open(dir, SPOKEN) {
        Err(StoreError::Damaged { what, .. }) => what,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it opened"),
    }
}

fn copy_of(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    copy
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_dir(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn zero(path: &Path, at: u64, count: usize) {
    let mut bytes = fs::read(path).unwrap();
    let end = bytes.len().min(at as usize + count);
    bytes[at as usize..end].fill(0);
    fs::write(path, bytes).unwrap();
}

/// Some pages of what was written reach the file.
fn tear(path: &Path, written: &[u8], random: &mut Random) {
    let mut bytes = fs::read(path).unwrap();
    bytes.resize(written.len(), 0);
    for (page, written) in bytes.chunks_mut(PAGE_BYTES).zip(written.chunks(PAGE_BYTES)) {
        if random.next().is_multiple_of(2) {
            page.copy_from_slice(written);
        }
    }
    fs::write(path, bytes).unwrap();
}

fn entry(term: u64, index: u64, bytes: usize) -> RaftEntry {
    let run = NodeRun { node: NodeId(1), incarnation: 1 };
    let opened =
        vec![(ConnectionId::from_random([7; 16]), Context::from(vec![index as u8; bytes]))];
    let command = Command::Update { run, number: index, opened, closed: vec![] };
    RaftEntry::new(log_id(term, index), RaftPayload::Normal(Proposal::from(command)))
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}
