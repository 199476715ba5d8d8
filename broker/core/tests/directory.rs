//! Sentences about the directory and about who inherits a connection.

use posthorn_core::directory::{Applied, Command, Context, Directory, Entry, RestoreError};
use posthorn_core::ids::{ConnectionId, DiskId, NodeId, NodeRun};
use posthorn_core::placement::{self, Located};

#[test]
fn a_restart_turns_the_earlier_run_into_debts_and_fences_its_late_words() {
    let mut directory = Directory::default();
    assert_eq!(join(&mut directory, run(1, 1)), Applied::Joined);
    assert_eq!(update(&mut directory, run(1, 1), 1, &[7], &[]), Applied::Updated);
    assert_eq!(placement::locate(&directory, id(7)), Located::At(run(1, 1)));

    assert_eq!(join(&mut directory, run(1, 2)), Applied::Joined);
    assert_eq!(placement::locate(&directory, id(7)), Located::Over);
    assert_eq!(directory.indebted_runs().collect::<Vec<_>>(), [(run(1, 1), 1)]);
    assert_eq!(update(&mut directory, run(1, 1), 2, &[8], &[]), Applied::Fenced);
    assert_eq!(directory.apply(&Command::Evict { run: run(1, 1) }), Applied::Fenced);
    assert_eq!(join(&mut directory, run(1, 1)), Applied::Superseded { latest: 2 });
    assert_eq!(placement::locate(&directory, id(8)), Located::Unknown);
}

#[test]
fn who_does_not_hold_the_disk_of_the_current_run_must_wait_for_its_eviction() {
    let mut directory = Directory::default();
    join(&mut directory, run(1, 5));
    for incarnation in [4, 5, 6] {
        let occupied = Applied::Occupied { current: 5 };
        assert_eq!(join_from(&mut directory, run(1, incarnation), DiskId(9)), occupied);
    }
    assert!(directory.is_current(run(1, 5)));
    assert_eq!(join(&mut directory, run(1, 4)), Applied::Superseded { latest: 5 });

    assert_eq!(directory.apply(&Command::Evict { run: run(1, 5) }), Applied::Evicted);
    let superseded = Applied::Superseded { latest: 5 };
    assert_eq!(join_from(&mut directory, run(1, 5), DiskId(9)), superseded);
    assert_eq!(join_from(&mut directory, run(1, 6), DiskId(9)), Applied::Joined);
    assert_eq!(join_from(&mut directory, run(1, 6), DiskId(9)), Applied::Joined, "repeated");
}

#[test]
fn a_late_repetition_raises_nothing_from_the_dead() {
    let mut directory = Directory::default();
    join(&mut directory, run(1, 1));
    assert_eq!(update(&mut directory, run(1, 1), 1, &[7], &[]), Applied::Updated);
    assert_eq!(update(&mut directory, run(1, 1), 2, &[], &[7]), Applied::Updated);
    assert_eq!(update(&mut directory, run(1, 1), 1, &[7], &[]), Applied::Repeated);
    assert_eq!(directory.entry(id(7)), None);
}

#[test]
fn a_run_closes_its_own_connections_and_debts_but_no_one_elses() {
    let mut directory = Directory::default();
    join(&mut directory, run(1, 1));
    join(&mut directory, run(2, 1));
    update(&mut directory, run(1, 1), 1, &[7], &[]);
    update(&mut directory, run(2, 1), 1, &[], &[7]);
    assert_eq!(placement::locate(&directory, id(7)), Located::At(run(1, 1)));

    directory.apply(&Command::Evict { run: run(1, 1) });
    assert_eq!(directory.debts().map(|(id, _)| id).collect::<Vec<_>>(), [id(7)]);
    assert_eq!(directory.connections_of(run(1, 1)), 1);
    update(&mut directory, run(2, 1), 2, &[], &[7]);
    assert!(directory.is_empty());
    assert_eq!(directory.run(run(1, 1)), None, "nothing is left to remember it for");
    assert_eq!(directory.latest(NodeId(1)), Some(1), "but its incarnation is not given again");
}

#[test]
fn an_entry_is_written_once() {
    let mut directory = Directory::default();
    join(&mut directory, run(1, 1));
    join(&mut directory, run(2, 1));
    update(&mut directory, run(1, 1), 1, &[7], &[]);
    update(&mut directory, run(2, 1), 1, &[7], &[]);
    assert_eq!(placement::locate(&directory, id(7)), Located::At(run(1, 1)));
    assert_eq!(directory.len(), 1);
}

#[test]
fn heirs_are_spread_over_the_witnesses_and_newcomers_take_nothing_over() {
    let mut directory = Directory::default();
    for node in 0..4 {
        join(&mut directory, run(node, 1));
    }
    directory.apply(&Command::Update {
        run: run(3, 1),
        number: 1,
        opened: (0..3000).map(|number| (spread_id(number), context())).collect(),
        closed: vec![],
    });
    directory.apply(&Command::Evict { run: run(3, 1) });
    join(&mut directory, run(4, 1));

    let heirs = |directory: &Directory| {
        let mut heirs = [0; 5];
        for (id, entry) in directory.debts() {
            let heir = placement::heir(directory, id, entry.owner).expect("someone is current");
            heirs[heir.node.0 as usize] += 1;
        }
        heirs
    };
    let spread = heirs(&directory);
    assert!(spread[..3].iter().all(|count| (850..1150).contains(count)), "{spread:?}");
    assert_eq!(spread[3..], [0, 0]);

    for node in 0..3 {
        directory.apply(&Command::Evict { run: run(node, 1) });
    }
    assert_eq!(heirs(&directory), [0, 0, 0, 0, 3000], "no witness is left");
}

#[test]
fn a_restored_directory_is_equal() {
    let mut directory = Directory::default();
    for node in 1..=3 {
        join(&mut directory, run(node, 1));
        update(&mut directory, run(node, 1), 1, &[node as u8, node as u8 + 10], &[]);
    }
    directory.apply(&Command::Evict { run: run(2, 1) });

    let mut restored = Directory::restore(directory.header()).expect("a header is consistent");
    for (id, entry) in directory.entries() {
        restored.restore_entry(id, entry.clone()).expect("an entry is consistent");
    }
    assert_eq!(restored, directory);

    let stranger = Entry { owner: run(9, 9), context: context() };
    let unknown = RestoreError::OwnerUnknown { connection: id(99), owner: run(9, 9) };
    assert_eq!(restored.restore_entry(id(99), stranger), Err(unknown));
    let twice = Entry { owner: run(1, 1), context: context() };
    let error = RestoreError::ConnectionTwice(id(1));
    assert_eq!(restored.restore_entry(id(1), twice), Err(error));
}

#[test]
fn a_view_stays_as_it_was() {
    let mut directory = Directory::default();
    join(&mut directory, run(1, 1));
    update(&mut directory, run(1, 1), 1, &[7], &[]);
    let view = directory.clone();
    update(&mut directory, run(1, 1), 2, &[8], &[7]);
    assert_eq!(view.entries().map(|(id, _)| id).collect::<Vec<_>>(), [id(7)]);
    assert_eq!(directory.entries().map(|(id, _)| id).collect::<Vec<_>>(), [id(8)]);
}

fn join(directory: &mut Directory, run: NodeRun) -> Applied {
    join_from(directory, run, DiskId(u64::from(run.node.0)))
}

fn join_from(directory: &mut Directory, run: NodeRun, disk: DiskId) -> Applied {
    directory.apply(&Command::Join { run, disk, fabric_address: "node:7946".into() })
}

fn update(
    directory: &mut Directory,
    run: NodeRun,
    number: u64,
    opened: &[u8],
    closed: &[u8],
) -> Applied {
    let opened = opened.iter().map(|number| (id(*number), context())).collect();
    let closed = closed.iter().map(|number| id(*number)).collect();
    directory.apply(&Command::Update { run, number, opened, closed })
}

fn run(node: u32, incarnation: u32) -> NodeRun {
    NodeRun { node: NodeId(node), incarnation }
}

fn id(number: u8) -> ConnectionId {
    ConnectionId::from_random([number; 16])
}

fn spread_id(number: u64) -> ConnectionId {
    let mut bits = [0; 16];
    bits[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    ConnectionId::from_random(bits)
}

fn context() -> Context {
    Context::from(*b"context")
}
