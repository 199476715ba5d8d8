//! Faults by chance: the same for the same seed.

use std::time::Duration;

use crate::chance::Chance;
use crate::detour::Trick;
use crate::hosts::{Cut, Host, Traffic};
use crate::world::Fault;

/// Faults that overlap: each begins and ends at a time from the storm's beginning on.
pub type Storm = Vec<(Duration, Duration, Fault)>;

/// What only one fault at a time can have.
#[derive(PartialEq, Eq)]
enum Claim {
    Process(usize),
    /// All that is done to links ends together.
    Links,
    Names,
    Strangers,
    Cable(usize),
}

pub struct Schedule {
    chance: Chance,
    nodes: usize,
}

impl Schedule {
    pub fn new(seed: u64, nodes: usize) -> Schedule {
        Schedule { chance: Chance::new(seed), nodes }
    }

    /// One to three faults of two to twelve seconds.
    pub fn next_storm(&mut self) -> Storm {
        let count = 1 + self.below(3);
        let mut claimed = Vec::new();
        let mut storm = Vec::new();
        for _ in 0..count {
            let fault = self.fault();
            let claims = claims(&fault);
            if claims.iter().any(|claim| claimed.contains(claim)) {
                continue;
            }
            claimed.extend(claims);
            let begins = Duration::from_millis(self.below(4000));
            let lasts = Duration::from_millis(2000 + self.below(10_000));
            storm.push((begins, begins + lasts, fault));
        }
        storm
    }

    fn fault(&mut self) -> Fault {
        let node = self.node();
        let other = (node + 1 + self.below(self.nodes as u64 - 1) as usize) % self.nodes;
        let (here, there) = (Host::Node(node), Host::Node(other));
        let others = (0..self.nodes).filter(|other| *other != node).map(Host::Node);
        match self.below(21) {
            0 | 1 => Fault::Kill(vec![node]),
            2 => Fault::Kill(vec![node, other]),
            3 | 4 => Fault::Pause(node),
            5 => Fault::Cut(Cut::between(here, there, Traffic::All).to_vec()),
            6 => Fault::Cut(vec![Cut { from: here, to: there, traffic: Traffic::All }]),
            7 => {
                let around = others.flat_map(|other| Cut::between(here, other, Traffic::Fabric));
                Fault::Cut(around.collect())
            }
            8 => {
                let heard = others.map(|from| Cut { from, to: here, traffic: Traffic::All });
                Fault::Cut(heard.collect())
            }
            9 => Fault::Cut(Cut::between(Host::Outside, here, Traffic::Doors).to_vec()),
            10 => Fault::Loss(10 + self.below(30) as u8),
            11 => Fault::Move(vec![node]),
            12 => Fault::Nameless,
            13 => Fault::Flood,
            14 => Fault::Play(self.delay()),
            15 => Fault::Play(Trick::Double),
            16 => Fault::Play(Trick::Spoil(1 + self.below(10) as u8)),
            17 => Fault::Play(Trick::Replay),
            18 => Fault::Drain(node),
            19 => Fault::Play(match self.below(2) {
                0 => Trick::Rebind(200 + self.below(2000) as u32),
                _ => Trick::Refuse(10 + self.below(30) as u8),
            }),
            _ => Fault::Unplug(node),
        }
    }

    fn delay(&mut self) -> Trick {
        let mean = Duration::from_millis(1 + self.below(200));
        Trick::Delay { mean, spread: mean / 2 }
    }

    fn node(&mut self) -> usize {
        self.below(self.nodes as u64) as usize
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.chance.below(bound)
    }
}

fn claims(fault: &Fault) -> Vec<Claim> {
    match fault {
        Fault::Kill(nodes) => nodes.iter().map(|node| Claim::Process(*node)).collect(),
        Fault::Move(nodes) => {
            nodes.iter().map(|node| Claim::Process(*node)).chain([Claim::Names]).collect()
        }
        Fault::Pause(node) | Fault::Drain(node) => vec![Claim::Process(*node)],
        Fault::Cut(_) | Fault::Loss(_) | Fault::Mtu(_) | Fault::Narrow { .. } | Fault::Play(_) => {
            vec![Claim::Links]
        }
        Fault::Nameless => vec![Claim::Names],
        Fault::Flood => vec![Claim::Strangers],
        Fault::Unplug(node) => vec![Claim::Cable(*node)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_tells_the_same_story_each_time() {
        let story = |seed| {
            let mut schedule = Schedule::new(seed, 3);
            std::iter::repeat_with(|| schedule.next_storm()).take(20).collect::<Vec<_>>()
        };
        assert_eq!(story(7), story(7));
        assert_ne!(story(7), story(8));
    }
}
