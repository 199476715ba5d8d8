//! The directory with 100,000 connections: finding one, and applying an update.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use posthorn_core::directory::{Command, Context, Directory};
use posthorn_core::ids::{ConnectionId, DiskId, NodeId, NodeRun};
use posthorn_core::placement;

const ENTRIES: u64 = 100_000;
const BATCH: u64 = 256;
const RUN: NodeRun = NodeRun { node: NodeId(0), incarnation: 1 };

fn look_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("directory look-up");
    let directory = directory();
    let mut number = 0;
    group.bench_function("known", |bencher| {
        bencher.iter(|| {
            number = (number + 7919) % ENTRIES;
            black_box(placement::locate(&directory, id(number)))
        });
    });
    group.bench_function("unknown", |bencher| {
        bencher.iter(|| {
            number += 1;
            black_box(placement::locate(&directory, id(ENTRIES + number)))
        });
    });
    let map: BTreeMap<_, _> = (0..ENTRIES).map(|number| (id(number), RUN)).collect();
    group.bench_function("baseline: one BTreeMap", |bencher| {
        bencher.iter(|| {
            number = (number + 7919) % ENTRIES;
            black_box(map.get(&id(number)))
        });
    });
    group.finish();
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("directory update");
    group.throughput(Throughput::Elements(2 * BATCH));
    group.bench_function("in place", |bencher| {
        let (mut directory, mut number) = (directory(), 0);
        bencher.iter_batched(
            || next_update(&mut number),
            |update| directory.apply(&update),
            BatchSize::SmallInput,
        );
    });
    // The worst case: every shard that the update touches is copied before it is changed.
    group.bench_function("while a snapshot is written", |bencher| {
        let (mut directory, mut number) = (directory(), 0);
        bencher.iter_batched(
            || next_update(&mut number),
            |update| {
                let snapshot = directory.clone();
                directory.apply(&update);
                snapshot
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("baseline: one BTreeMap", |bencher| {
        let mut map: BTreeMap<_, _> = (0..ENTRIES).map(|number| (id(number), context())).collect();
        let mut number = 0;
        bencher.iter_batched(
            || (opened(number), closed(&mut number)),
            |(opened, closed)| {
                map.extend(opened);
                closed.iter().for_each(|id| drop(map.remove(id)));
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn directory() -> Directory {
    let mut directory = Directory::default();
    let fabric_address = "127.0.0.1:7946".into();
    directory.apply(&Command::Join { run: RUN, disk: DiskId(1), fabric_address });
    let opened = (0..ENTRIES).map(|number| (id(number), context())).collect();
    directory.apply(&Command::Update { run: RUN, number: 1, opened, closed: Vec::new() });
    directory
}

/// Opens as many connections as it closes, so that the directory keeps its size.
fn next_update(number: &mut u64) -> Command {
    let opened = opened(*number);
    let closed = closed(number);
    Command::Update { run: RUN, number: *number + 1, opened, closed }
}

fn opened(update: u64) -> Vec<(ConnectionId, Context)> {
    let first = ENTRIES + update * BATCH;
    (first..first + BATCH).map(|number| (id(number), context())).collect()
}

/// The oldest ones. Counts the update.
fn closed(update: &mut u64) -> Vec<ConnectionId> {
    let first = *update * BATCH;
    *update += 1;
    (first..first + BATCH).map(id).collect()
}

/// As long as that of a browser on an ordinary stage.
fn context() -> Context {
    Context::from([7; 64])
}

/// Spread like random bits, and the same in each run.
fn id(number: u64) -> ConnectionId {
    let spread = |number: u64| {
        let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
    };
    let (high, low) = (spread(number.wrapping_mul(2) + 1), spread(number.wrapping_mul(2) + 2));
    let mut bits = [0; ConnectionId::BYTES];
    bits[..8].copy_from_slice(&high.to_le_bytes());
    bits[8..].copy_from_slice(&low.to_le_bytes());
    ConnectionId::from_random(bits)
}

criterion_group!(benches, look_up, apply);
criterion_main!(benches);
