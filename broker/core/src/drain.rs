//! How a node takes its leave: when it lets nobody in any more, whom it asks to go when, and when it
//! has waited for long enough.
//!
//! ```text
//!              grace over            nobody is left            all is settled
//!  Announced ------------> Closing ----------------> Settling ----------------> Leaving
//!                             |    stragglers are let go  |    the rest is owed    ^
//!                             +-------------------------> +------------------------+
//! ```
//!
//! * Clients are asked to go one at a time, each at a moment drawn from a slot of its own, so that in
//!   no second more of them come back to the other nodes than the pace allows.
//! * Nothing is waited for that is not there: without clients there is no window, and without
//!   `$disconnect` calls nothing to settle.
//!
//! The input is [`Drain::handle_timeout`]; outputs are drained with [`Drain::poll_action`] and
//! [`Drain::poll_timeout`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many a second may go where the window would make them fewer: they are no herd.
const CLOSES_PER_S: u64 = 10;
/// How much of what was missed while nobody looked is made up for at once.
const LATE_MAX: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Drain {
    pace: Pace,
    state: State,
    actions: VecDeque<Action>,
}

/// How long a drain may take for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From when load balancers are told until nobody is let in any more.
    pub grace: Duration,
    /// Over which clients are asked to go.
    pub window: Duration,
    /// From when the last one was asked until stragglers are no longer waited for.
    pub straggling_max: Duration,
    /// How long `$disconnect` calls are waited for once nobody is connected.
    pub settling_max: Duration,
}

/// What is still here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub connections: usize,
    /// `$disconnect` calls under way, and what the directory has yet to hear.
    pub unsettled: usize,
}

/// How far a drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Load balancers are told; everything is served as before.
    Announced,
    /// Nobody is let in any more, and clients are asked to go.
    Closing,
    /// The last `$disconnect` calls are under way.
    Settling,
    /// The run leaves the directory, and the process ends.
    Leaving,
}

/// What the shell is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let nobody in any more, and lead no longer.
    Refuse,
    /// Ask so many clients to go who were not asked yet.
    Close { count: u64 },
    /// Ask everyone who was not asked yet.
    CloseRest,
    /// Serve nobody any more, and leave.
    Leave,
}

#[derive(Debug)]
enum State {
    Announced { until: Instant },
    Closing(Closing),
    Settling { until: Instant },
    Leaving { at: Instant },
}

/// The window, cut into a slot for each client.
#[derive(Debug)]
struct Closing {
    slots_left: u64,
    slot: Duration,
    /// When the next slot begins.
    slot_at: Instant,
    /// The moment in the next slot at which a client is asked.
    due_at: Instant,
    /// When those who are left are no longer waited for.
    until: Instant,
}

impl Drain {
    pub fn begin(now: Instant, pace: Pace) -> Drain {
        let state = State::Announced { until: now + pace.grace };
        Drain { pace, state, actions: VecDeque::new() }
    }

    pub fn phase(&self) -> Phase {
        match self.state {
            State::Announced { .. } => Phase::Announced,
            State::Closing(_) => Phase::Closing,
            State::Settling { .. } => Phase::Settling,
            State::Leaving { .. } => Phase::Leaving,
        }
    }

    /// When the run leaves at the latest.
    pub fn ends_by(&self) -> Instant {
        let Pace { grace: _, window, straggling_max, settling_max } = self.pace;
        match &self.state {
            State::Announced { until } => *until + window + straggling_max + settling_max,
            State::Closing(closing) => closing.until + settling_max,
            State::Settling { until } => *until,
            State::Leaving { at } => *at,
        }
    }

    /// Time has passed, or something has changed. `chance` is any number, drawn anew each time.
    pub fn handle_timeout(&mut self, now: Instant, left: Left, chance: u64) {
        if let State::Announced { until } = self.state
            && until <= now
        {
            let closing = Closing::begin(now, left.connections as u64, self.pace, chance);
            self.state = State::Closing(closing);
            self.actions.push_back(Action::Refuse);
        }
        if let State::Closing(closing) = &mut self.state {
            if left.connections == 0 || closing.until <= now {
                self.state = State::Settling { until: now + self.pace.settling_max };
            } else {
                self.actions.extend(closing.due(now, chance));
            }
        }
        if let State::Settling { until } = self.state
            && (left.unsettled == 0 || until <= now)
        {
            self.state = State::Leaving { at: now };
            self.actions.push_back(Action::Leave);
        }
    }

    /// When to look again, even if nothing changes.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Announced { until } | State::Settling { until } => Some(*until),
            State::Closing(Closing { slots_left: 0, until, .. }) => Some(*until),
            State::Closing(closing) => Some(closing.due_at),
            State::Leaving { .. } => None,
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}

impl Closing {
    fn begin(now: Instant, clients: u64, pace: Pace, chance: u64) -> Closing {
        let slots = u32::try_from(clients).unwrap_or(u32::MAX).max(1);
        let slot = (pace.window / slots).min(Duration::from_secs(1) / CLOSES_PER_S as u32);
        let (slot_at, until) = (now, now + slot * slots + pace.straggling_max);
        let due_at = slot_at + part_of(slot, chance);
        Closing { slots_left: slots.into(), slot, slot_at, due_at, until }
    }

    fn due(&mut self, now: Instant, chance: u64) -> Option<Action> {
        if self.slots_left == 0 {
            // Who was about to be let in when that ended has come since.
            return Some(Action::CloseRest);
        }
        let late = now.saturating_duration_since(self.due_at).saturating_sub(LATE_MAX);
        self.slot_at += late;
        self.due_at += late;
        self.until += late;
        let mut count = 0;
        while self.slots_left > 0 && self.due_at <= now {
            count += 1;
            self.slots_left -= 1;
            self.slot_at += self.slot;
            self.due_at = self.slot_at + part_of(self.slot, chance);
        }
        (count > 0).then_some(Action::Close { count })
    }
}

fn part_of(whole: Duration, chance: u64) -> Duration {
    whole * (chance % 1000) as u32 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        grace: Duration::from_secs(5),
        window: Duration::from_secs(30),
        straggling_max: Duration::from_secs(7),
        settling_max: Duration::from_secs(10),
    };

    #[test]
    fn without_clients_only_the_grace_is_waited_for() {
        let start = Instant::now();
        let mut drain = Drain::begin(start, PACE);
        assert_eq!(step(&mut drain, start, left(0, 0)), []);
        assert_eq!(
            (drain.phase(), drain.poll_timeout()),
            (Phase::Announced, Some(start + PACE.grace))
        );
        let leaving = [Action::Refuse, Action::Leave];
        assert_eq!(step(&mut drain, start + PACE.grace, left(0, 0)), leaving);
        assert_eq!((drain.phase(), drain.poll_timeout()), (Phase::Leaving, None));
        assert_eq!(step(&mut drain, start + PACE.grace, left(0, 0)), [], "once is enough");
    }

    #[test]
    fn clients_are_asked_over_the_window_and_never_too_many_in_a_second() {
        for seed in 0..5 {
            let (closes, _) = run(1800, seed, Duration::from_millis(7));
            assert_eq!(closes.iter().map(|(_, count)| count).sum::<u64>(), 1800);
            for (begin, _) in &closes {
                let within = |at: &Duration| *at >= *begin && *at < *begin + Duration::from_secs(1);
                let in_second: u64 =
                    closes.iter().filter(|(at, _)| within(at)).map(|(_, count)| count).sum();
                // A thirtieth of them, but for what the slots at both ends hold.
                assert!(in_second <= 60 + 2, "{in_second} from {begin:?} on");
            }
            let (last, _) = closes.last().unwrap();
            let slack = Duration::from_millis(20);
            assert!(*last > PACE.window - slack && *last <= PACE.window + slack);
        }
    }

    #[test]
    fn few_clients_do_not_take_the_whole_window() {
        let (closes, end) = run(20, 3, Duration::from_millis(1));
        assert_eq!(closes.iter().map(|(_, count)| count).sum::<u64>(), 20);
        assert!(end <= Duration::from_secs(2), "{end:?}");
        assert!(end >= Duration::from_millis(1900), "{end:?}");
    }

    #[test]
    fn what_was_missed_is_not_made_up_for_at_once() {
        let start = Instant::now();
        let mut drain = closing(start, 3000);
        // For ten seconds, nobody looks: of a thousand that were due, ten are asked at once.
        let now = start + Duration::from_secs(10);
        let [Action::Close { count }] = step(&mut drain, now, left(3000, 0))[..] else { panic!() };
        assert!((10..=11).contains(&count), "{count}");
        let next = drain.poll_timeout().unwrap();
        assert!(next > now && next <= now + Duration::from_millis(20));
    }

    #[test]
    fn stragglers_and_calls_that_do_not_end_are_waited_for_so_long_and_no_longer() {
        let start = Instant::now();
        let mut drain = closing(start, 1);
        let asked = start + Duration::from_millis(100);
        assert_eq!(step(&mut drain, asked, left(1, 0)), [Action::Close { count: 1 }]);
        assert_eq!(step(&mut drain, asked, left(2, 1)), [Action::CloseRest], "one came late");
        let until = drain.poll_timeout().unwrap();
        assert_eq!(until, asked + PACE.straggling_max);
        assert_eq!(drain.ends_by(), until + PACE.settling_max);
        assert_eq!(step(&mut drain, until, left(1, 2)), []);
        assert_eq!(drain.phase(), Phase::Settling);
        let until = drain.poll_timeout().unwrap();
        assert_eq!(step(&mut drain, until - Duration::from_millis(1), left(1, 2)), []);
        assert_eq!(step(&mut drain, until, left(1, 2)), [Action::Leave]);
    }

    #[test]
    fn who_leaves_by_himself_shortens_the_drain() {
        let start = Instant::now();
        let mut drain = closing(start, 1000);
        let now = start + Duration::from_secs(1);
        assert_eq!(step(&mut drain, now, left(0, 3)), []);
        assert_eq!((drain.phase(), drain.ends_by()), (Phase::Settling, now + PACE.settling_max));
        assert_eq!(step(&mut drain, now, left(0, 0)), [Action::Leave]);
    }

    #[test]
    fn a_window_of_nothing_closes_all_at_once() {
        let start = Instant::now();
        let pace = Pace { grace: Duration::ZERO, window: Duration::ZERO, ..PACE };
        let mut drain = Drain::begin(start, pace);
        let all = [Action::Refuse, Action::Close { count: 5000 }];
        assert_eq!(step(&mut drain, start, left(5000, 0)), all);
    }

    /// How many were asked when, from the end of the grace on, and when the drain was over. Who is
    /// asked goes at once.
    fn run(
        clients: usize,
        mut chance: u64,
        between_looks: Duration,
    ) -> (Vec<(Duration, u64)>, Duration) {
        let start = Instant::now();
        let mut drain = closing(start, clients);
        let (mut here, mut now, mut closes) = (clients, start, Vec::new());
        loop {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            drain.handle_timeout(now, left(here, 0), chance >> 33);
            while let Some(action) = drain.poll_action() {
                match action {
                    Action::Close { count } => {
                        closes.push((now - start, count));
                        here -= count as usize;
                    }
                    Action::Leave => return (closes, now - start),
                    Action::Refuse | Action::CloseRest => panic!("{action:?}"),
                }
            }
            now += between_looks;
        }
    }

    /// One that begins to close clients at `start`.
    fn closing(start: Instant, clients: usize) -> Drain {
        let mut drain = Drain::begin(start - PACE.grace, PACE);
        drain.handle_timeout(start, left(clients, 0), 500);
        assert_eq!(drain.poll_action(), Some(Action::Refuse));
        drain
    }

    fn step(drain: &mut Drain, now: Instant, left: Left) -> Vec<Action> {
        drain.handle_timeout(now, left, 500);
        std::iter::from_fn(|| drain.poll_action()).collect()
    }

    fn left(connections: usize, unsettled: usize) -> Left {
        Left { connections, unsettled }
    }
}
