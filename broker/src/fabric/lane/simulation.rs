//! Both sides of a lane, with a network and processes that fail: random steps, the promises after
//! each, then healing, after which everything must have been told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Answer, PostError, ReceiverLane, Record, SenderLane, Session, Terms, Window};

const SEEDS: u64 = 2_000;
const STEPS: u32 = 400;
const WINDOW: Window = Window { unanswered_max: 8, unreceived_bytes_max: 100 };

#[test]
fn no_loss_of_a_connection_loses_doubles_or_reorders_a_frame() {
    let mut tally = Tally::default();
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.heal();
        world.judge(&mut tally);
    }
    // The story must not be an empty one.
    assert!(
        tally.answered > 10_000 && tally.unknown > 1_000 && tally.not_sent > 1_000,
        "{tally:?}"
    );
    assert!(tally.resumed > 1_000 && tally.restarted > 1_000, "{tally:?}");
}

#[derive(Debug, Default)]
struct Tally {
    answered: u64,
    unknown: u64,
    not_sent: u64,
    resumed: u64,
    restarted: u64,
}

struct World {
    seed: u64,
    chance: u64,
    now: Instant,
    sender: SenderLane<u32>,
    receiver: ReceiverLane,
    session: Session,
    /// Under way on the stream that is attached.
    to_receiver: VecDeque<Record>,
    to_sender: VecDeque<Record>,
    is_attached: bool,
    /// Delivered and not yet answered, in this receiver's life.
    open: Vec<(u64, u32)>,
    posts: u32,
    /// What each process of the receiver got, in order.
    received: BTreeMap<u64, Vec<u32>>,
    told: BTreeMap<u32, Result<Bytes, PostError>>,
    resumed: u64,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            seed,
            chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: Instant::now(),
            sender: SenderLane::new(WINDOW),
            receiver: ReceiverLane::new(WINDOW.unanswered_max),
            session: Session { process: 1, number: 1 },
            to_receiver: VecDeque::new(),
            to_sender: VecDeque::new(),
            is_attached: false,
            open: Vec::new(),
            posts: 0,
            received: BTreeMap::new(),
            told: BTreeMap::new(),
            resumed: 0,
        }
    }

    fn step(&mut self) {
        match self.below(100) {
            0..30 => self.post(),
            30..45 => self.transmit_some(),
            45..60 => self.deliver_to_receiver(),
            60..75 => self.deliver_to_sender(),
            75..87 => self.answer_one(),
            87..91 => self.pass_time(),
            91..94 => self.lose_connection(),
            94..99 => self.attach(),
            _ => self.restart_receiver(),
        }
        self.collect();
    }

    fn heal(&mut self) {
        for _ in 0..10_000 {
            if self.sender.is_idle() {
                return;
            }
            self.attach();
            self.transmit_some();
            self.deliver_to_receiver();
            self.answer_one();
            self.deliver_to_sender();
            self.collect();
        }
        panic!("seed {}: it did not come to rest", self.seed);
    }

    fn post(&mut self) {
        self.posts += 1;
        let deadline = self.now + Duration::from_millis(self.below(400));
        let frame = Bytes::from(self.posts.to_be_bytes().repeat(1 + self.below(6) as usize));
        self.sender.post(frame, deadline, self.posts);
    }

    fn transmit_some(&mut self) {
        for _ in 0..self.below(6) {
            self.to_receiver.extend(self.sender.poll_transmit());
            self.to_sender.extend(self.receiver.poll_transmit());
        }
    }

    fn deliver_to_receiver(&mut self) {
        for _ in 0..self.below(6) {
            let Some(record) = self.to_receiver.pop_front() else { return };
            let delivered = self.receiver.on_record(record).unwrap();
            let Some((sequence, body)) = delivered else { continue };
            let post = u32::from_be_bytes([body[0], body[1], body[2], body[3]]);
            self.received.entry(self.session.process).or_default().push(post);
            self.open.push((sequence, post));
        }
    }

    fn deliver_to_sender(&mut self) {
        for _ in 0..self.below(6) {
            let Some(record) = self.to_sender.pop_front() else { return };
            self.sender.on_record(record).unwrap();
        }
    }

    fn answer_one(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let chosen = self.below(self.open.len() as u64) as usize;
        let (sequence, post) = self.open.swap_remove(chosen);
        let given = Answer::Given(Bytes::copy_from_slice(&post.to_be_bytes()));
        let answer = if self.below(10) == 0 { Answer::Abandoned } else { given };
        self.receiver.on_answer(sequence, answer);
    }

    fn pass_time(&mut self) {
        let passed = self.below(100);
        self.now += Duration::from_millis(passed);
        self.sender.handle_timeout(self.now);
    }

    /// What is under way arrives in part, or not at all.
    fn lose_connection(&mut self) {
        self.transmit_some();
        self.deliver_to_receiver();
        self.deliver_to_sender();
        self.to_receiver.clear();
        self.to_sender.clear();
        self.sender.on_detached();
        self.receiver.on_detached();
        self.is_attached = false;
    }

    fn attach(&mut self) {
        if self.is_attached {
            return;
        }
        let mut seen = 0;
        if self.sender.session() == Some(self.session) {
            seen = self.sender.seen();
            self.resumed += 1;
        }
        let received = self.receiver.on_attached(seen).unwrap();
        let terms = Terms { unanswered_max: WINDOW.unanswered_max, frame_bytes_max: 100 };
        self.sender.on_attached(self.session, received, terms).unwrap();
        self.is_attached = true;
    }

    fn restart_receiver(&mut self) {
        self.lose_connection();
        self.receiver = ReceiverLane::new(WINDOW.unanswered_max);
        self.session.process += 1;
        self.open.clear();
    }

    fn collect(&mut self) {
        while let Some((post, outcome)) = self.sender.poll_told() {
            let earlier = self.told.insert(post, outcome);
            assert_eq!(earlier, None, "seed {}: post {post} was told twice", self.seed);
        }
    }

    fn judge(&self, tally: &mut Tally) {
        let seed = self.seed;
        let mut once = BTreeSet::new();
        let mut last = 0;
        for post in self.received.values().flatten() {
            assert!(once.insert(*post), "seed {seed}: post {post} was received twice");
            assert!(last < *post, "seed {seed}: post {post} was received after {last}");
            last = *post;
        }
        for post in 1..=self.posts {
            let was_received = once.contains(&post);
            match self.told.get(&post) {
                None => panic!("seed {seed}: post {post} was told nothing"),
                Some(Ok(answer)) => {
                    assert_eq!(answer[..], post.to_be_bytes(), "seed {seed}");
                    assert!(was_received, "seed {seed}: post {post} was invented");
                    tally.answered += 1;
                }
                Some(Err(PostError::NotSent)) => {
                    assert!(!was_received, "seed {seed}: post {post} was received after all");
                    tally.not_sent += 1;
                }
                Some(Err(PostError::Unknown)) => tally.unknown += 1,
            }
        }
        self.judge_gaps(&once);
        tally.resumed += self.resumed;
        tally.restarted += self.session.process - 1;
    }

    /// What one process of the receiver got has no gap but for what was never sent.
    fn judge_gaps(&self, once: &BTreeSet<u32>) {
        for posts in self.received.values() {
            let (Some(first), Some(last)) = (posts.first(), posts.last()) else { continue };
            for post in *first..=*last {
                let was_not_sent = self.told.get(&post) == Some(&Err(PostError::NotSent));
                assert!(
                    once.contains(&post) || was_not_sent,
                    "seed {}: post {post} is missing",
                    self.seed
                );
            }
        }
    }

    /// Xorshift: the same story for the same seed.
    fn below(&mut self, bound: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % bound
    }
}
