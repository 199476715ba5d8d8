//! Disks that fail, fill up, or are not what they were: no vote and no entry is forgotten, the cluster
//! goes on, and the node says what is wrong with its disk.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::disk::DiskFaults;
use posthorn_chaos::eventually;
use posthorn_chaos::process::{Launch, Process};

/// The data directory cannot be used, or failed.
const EXIT_STORE: Option<i32> = Some(6);

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_slows_nobody_else_and_a_sync_that_fails_ends_its_node_at_once() {
    let mut cluster = Cluster::prepare(Options::default());
    let faults = DiskFaults::build(cluster.folder());
    for node in 0..cluster.len() {
        cluster.spawn_with(node, &with_faults(&faults, node)).await;
    }
    for node in 0..cluster.len() {
        cluster.wait_ready(node).await;
    }

    let leader = cluster.leader().await;
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let term = term_of(&cluster, leader).await;
    faults.begin(follower, "slow-sync", "300");
    for node in [leader, other].repeat(20) {
        cluster.client(node).await;
    }
    faults.end(follower, "slow-sync");
    assert_eq!(term_of(&cluster, leader).await, term, "a slow follower is no reason to vote");
    faults.begin(leader, "slow-sync", "300");
    for node in [follower, other].repeat(5) {
        cluster.client(node).await;
    }
    faults.end(leader, "slow-sync");
    let grown = term_of(&cluster, other).await - term;
    assert!(grown <= 3.0, "a slow leader is no reason for a storm of elections: {grown}");

    for failing in [follower, cluster.leader().await] {
        let mut client = cluster.client(failing).await;
        let (left, right) = ((failing + 1) % 3, (failing + 2) % 3);
        let mut witness = cluster.client(left).await;
        faults.begin(failing, "fail-sync", "");
        // Who hears of a connection writes it down.
        eventually("a sync that fails", || async {
            // The leader itself may be the one.
            drop(cluster.try_client(right).await);
            faults.synced_after_failure(failing)
        })
        .await;
        assert_eq!(client.closed().await, (1012, "Service restart".to_owned()));
        let node = cluster.take(failing);
        let log = node.log();
        assert_eq!(node.wait().await.code(), EXIT_STORE);
        assert!(log.contains("syncing: Input/output error (os error 5)"), "{log}");
        assert_eq!(faults.synced_after_failure(failing), Some(0), "no sync is tried again");
        eventually("connects without the node", || async { cluster.try_client(right).await.ok() })
            .await;
        assert_eq!(witness.id().await.len(), 22);
        cluster.spawn_with(failing, &with_faults(&faults, failing)).await;
        cluster.wait_ready(failing).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_is_not_what_it_was_is_refused_by_name() {
    let mut cluster = Cluster::start(Options::default()).await;
    for node in [0, 1, 2].repeat(5) {
        cluster.client(node).await;
    }
    let node = cluster.take(2);
    node.signal(Signal::SIGTERM);
    assert_eq!(node.wait().await.code(), Some(0));
    let (data, kept) = (cluster.folder().join("data-2"), cluster.folder().join("kept"));
    copy_folder(&data, &kept);
    let log = "log/db";
    let damages: [(&str, fn(&Path), &str); 7] = [
        (log, flip_each_page, "is damaged: "),
        (log, |file| truncate(file, 0), "only 0 are there"),
        ("witness", flip_each_page, "is damaged: the witness is of another store, or unreadable"),
        (
            "owner",
            |file| fs::write(file, "node 1 of cluster test\n").unwrap(),
            "belongs to node 1 of cluster test, and this is node 2 of cluster test",
        ),
        (
            "owner",
            |file| fs::write(file, "node 2 of cluster news\n").unwrap(),
            "belongs to node 2 of cluster news, and this is node 2 of cluster test",
        ),
        (
            "snapshots/1.snapshot",
            |file| fs::write(file, "PHSNAP\0\x02").unwrap(),
            "is damaged: it was written by a later version: format 2",
        ),
        (
            "snapshots/1.snapshot",
            |file| fs::write(file, "half a snapshot").unwrap(),
            "is damaged: it does not begin like a snapshot",
        ),
    ];
    for (file, damage, expected) in damages {
        damage(&data.join(file));
        let (code, error) = start_in_vain(&cluster, 2).await;
        assert_eq!(code, EXIT_STORE, "{file}: {error}");
        let last = error.lines().last().unwrap();
        assert!(last.starts_with("posthorn: node.data_dir: "), "{last}");
        assert!(last.contains(&data.display().to_string()), "{last}");
        assert!(last.contains(expected), "{file}: {last}");
        fs::remove_dir_all(&data).unwrap();
        copy_folder(&kept, &data);
    }
    for node in [0, 1] {
        cluster.client(node).await;
    }

    // As it was, it is believed; that others may write to it is said and no more, since a volume's
    // root may be like that.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    cluster.spawn(2).await;
    cluster.wait_ready(2).await;
    let log = cluster.node(2).log();
    assert!(log.contains("everybody may write to the data directory"), "{log}");
    assert!(log.contains("mode=0777"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_its_node_and_costs_nothing_that_was_committed() {
    let mut cluster = Cluster::prepare(Options::default());
    let Some(disks) = Disks::mount(&cluster) else { return };
    let without_reserve = keeping(0);
    for node in 0..cluster.len() {
        cluster.spawn_with(node, &without_reserve).await;
    }
    for node in 0..cluster.len() {
        cluster.wait_ready(node).await;
    }
    let mut known = cluster.client(0).await;

    // One disk.
    disks.fill(2);
    let mut client = cluster.client(2).await;
    let full = async {
        loop {
            drop(cluster.try_client(1).await);
        }
    };
    let closed = tokio::select! {
        closed = client.closed() => closed,
        () = full => unreachable!("it goes on for ever"),
    };
    assert_eq!(closed, (1012, "Service restart".to_owned()));
    let node = cluster.take(2);
    assert_eq!(node.wait().await.code(), EXIT_STORE);
    let (code, error) = start_in_vain(&cluster, 2).await;
    assert_eq!(code, EXIT_STORE);
    let last = error.lines().last().unwrap();
    assert!(last.contains(" is nearly full: "), "{last}");
    cluster.client(0).await;
    disks.free(2);

    with_a_reserve(&mut cluster, &disks).await;
    on_all_nodes(&mut cluster, &disks, &mut known).await;
}

async fn with_a_reserve(cluster: &mut Cluster, disks: &Disks) {
    // It goes while it still can write, and does not come before it can.
    let with_reserve = keeping(12 << 20);
    cluster.spawn_with(2, &with_reserve).await;
    cluster.wait_ready(2).await;
    let mut client = cluster.client(2).await;
    disks.fill_but(2, 11 << 20);
    assert_eq!(client.closed().await.0, 1012);
    let node = cluster.take(2);
    let log = node.log();
    assert_eq!(node.wait().await.code(), EXIT_STORE);
    assert!(
        log.contains("node.disk_free_bytes_min is 12582912: this node takes its leave"),
        "{log}"
    );
    let path = cluster.config_path(2);
    let (status, error) = Process::start_in_vain_with(&path, &with_reserve).await;
    assert_eq!(status.code(), EXIT_STORE);
    let last = error.lines().last().unwrap();
    assert!(last.ends_with("bytes are free, and node.disk_free_bytes_min is 12582912"), "{last}");
    disks.free(2);
    cluster.spawn_with(2, &with_reserve).await;
    cluster.wait_ready(2).await;
    // It stays where the others cannot do without it.
    cluster.take(1).kill().await;
    disks.fill_but(2, 11 << 20);
    eventually("a node that stays", || async {
        let log = cluster.node(2).log();
        log.contains("this node stays, since the others cannot do without it").then_some(())
    })
    .await;
    assert_eq!(cluster.metric(2, "posthorn_disk_is_low").await, Some(1.0));
    cluster.client(2).await;
    disks.free(2);
    cluster.spawn_with(1, &keeping(0)).await;
    cluster.wait_ready(1).await;
}

async fn on_all_nodes(cluster: &mut Cluster, disks: &Disks, known: &mut Client) {
    // Nothing is invented, and all is well once there is room.
    for node in 0..3 {
        disks.fill(node);
    }
    eventually("nodes that end", || async {
        drop(cluster.try_client(0).await);
        let ready = cluster.get(0, "/readyz").await.is_some_and(|(status, _)| status == 200);
        (!ready).then_some(())
    })
    .await;
    // Closed in order, or cut off with its node.
    drop(known.next().await);
    for node in 0..3 {
        disks.free(node);
    }
    for node in 0..3 {
        cluster.take(node).kill().await;
        cluster.spawn_with(node, &keeping(0)).await;
    }
    for node in 0..3 {
        cluster.wait_ready(node).await;
    }
    let mut client = cluster.client(1).await;
    assert_eq!(client.id().await.len(), 22);
    eventually("replicas that show the same", || async {
        let mut entries = Vec::new();
        for node in 0..3 {
            entries.push(cluster.metric(node, "posthorn_directory_entries").await?);
        }
        entries.iter().all(|count| *count == 1.0).then_some(())
    })
    .await;
}

/// A small disk for each node. Unmounted when dropped.
struct Disks {
    places: Vec<PathBuf>,
}

impl Disks {
    const SIZE: &str = "size=24m";

    /// None where we may not mount, which is said.
    fn mount(cluster: &Cluster) -> Option<Disks> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root may mount a small disk");
            return None;
        }
        let mut disks = Disks { places: Vec::new() };
        for node in 0..cluster.len() {
            let place = cluster.folder().join(format!("data-{node}"));
            fs::create_dir_all(&place).unwrap();
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", Disks::SIZE, "posthorn-test"]).arg(&place);
            assert!(mount.status().unwrap().success(), "root can mount");
            disks.places.push(place);
        }
        Some(disks)
    }

    fn fill(&self, node: usize) {
        self.fill_but(node, 0);
    }

    /// Leaves so many bytes.
    fn fill_but(&self, node: usize, left: u64) {
        let file = fs::File::create(self.filler(node)).unwrap();
        let page = [7; 4096];
        let mut at = 0;
        while file.write_all_at(&page, at).is_ok() {
            at += page.len() as u64;
        }
        file.set_len(at.saturating_sub(left)).unwrap();
    }

    fn free(&self, node: usize) {
        fs::remove_file(self.filler(node)).unwrap();
    }

    fn filler(&self, node: usize) -> PathBuf {
        self.places[node].join("filler")
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for place in &self.places {
            // Processes may still be at it: it goes when they do.
            drop(Command::new("umount").arg("--lazy").arg(place).status());
        }
    }
}

fn with_faults(faults: &DiskFaults, node: usize) -> Launch {
    Launch { environment: faults.environment(node), ..Launch::default() }
}

/// Which room on the disk is to be kept.
fn keeping(bytes: u64) -> Launch {
    let setting = ("POSTHORN_NODE__DISK_FREE_BYTES_MIN".to_owned(), bytes.to_string());
    Launch { environment: vec![setting], ..Launch::default() }
}

async fn start_in_vain(cluster: &Cluster, node: usize) -> (Option<i32>, String) {
    let path = cluster.config_path(node);
    let (status, error) = Process::start_in_vain(&path).await;
    (status.code(), error)
}

async fn term_of(cluster: &Cluster, node: usize) -> f64 {
    eventually("a term", || cluster.metric(node, "posthorn_raft_term")).await
}

fn flip_each_page(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    for page in bytes.chunks_mut(512) {
        // The last may be as short as can be.
        page[page.len().min(8) - 1] ^= 1;
    }
    fs::write(file, bytes).unwrap();
}

fn truncate(file: &Path, bytes: u64) {
    fs::File::options().write(true).open(file).unwrap().set_len(bytes).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.unwrap().path(), to.to_owned());
        let to = to.join(entry.file_name().unwrap());
        match entry.is_dir() {
            true => copy_folder(&entry, &to),
            false => drop(fs::copy(&entry, &to).unwrap()),
        }
    }
}
