//! Who of the raft group votes, who only learns, and who is to leave it: the next single step towards
//! what should be.
//!
//! * The voters are those of the lowest ordinals among the members that are there, an odd number of
//!   them, and no more than [`Rules::voters_max`].
//! * A voter that is away stays one, so that a restart changes nothing. Once it has been away for too
//!   long, or its node acts from another disk, a live learner takes its place; until there is one,
//!   its place is kept: absence alone makes no voters fewer.
//! * A step moves at most one voter in and one out, and leaves a majority of voters that are live. They
//!   are even in number only while one that leads alone has its heir vote beside it.
//! * A learner that was away for too long, or whose node acts from another disk, leaves.
//! * Who is asked to leave does so whatever he is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::group::{Group, Member, Sight};
use crate::ids::{DiskId, NodeId};
use crate::liveness::BootTime;

/// What an operator chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub voters_max: usize,
    /// How long a member may be away before it is given up.
    pub absence_max: Duration,
}

/// The one next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Finish the change of voters that an earlier leader began.
    Settle,
    /// Another is to lead: this leader is to lose its vote.
    HandOver { to: DiskId },
    /// A learner becomes a voter.
    Promote(DiskId),
    /// A voter becomes a learner.
    Demote(DiskId),
    /// A learner takes the place of a voter, which becomes a learner.
    Replace { voter: DiskId, by: DiskId },
    /// A learner leaves.
    Dismiss(DiskId),
}

/// Why a node cannot be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    #[error("it is no member of the cluster")]
    NoMember,
    #[error("without it, too few that can vote would be left to agree on anything")]
    NoQuorum,
}

/// How long a leader leads before it hands over because of the membership.
const LEAD_MIN: Duration = Duration::from_secs(2);
/// What the leader keeps in mind for as long as it leads.
#[derive(Debug, Clone)]
pub struct Membership {
    rules: Rules,
    /// When it first looked.
    began_at: Option<BootTime>,
    /// Since when each silent member has been so, as far as this leader knows.
    silent_since: BTreeMap<DiskId, BootTime>,
    leaving: BTreeSet<NodeId>,
}

impl Membership {
    /// For one term: who was silent before, this leader cannot know.
    pub fn new(rules: Rules) -> Membership {
        Membership {
            rules,
            began_at: None,
            silent_since: BTreeMap::new(),
            leaving: BTreeSet::new(),
        }
    }

    /// The leader looked at the group.
    pub fn on_seen(&mut self, now: BootTime, group: &Group) {
        self.began_at.get_or_insert(now);
        let silent = group.members.iter().filter(|(_, member)| member.sight == Sight::Silent);
        let since = |disk| self.silent_since.get(disk).copied().unwrap_or(now);
        self.silent_since = silent.map(|(disk, _)| (*disk, since(disk))).collect();
    }

    /// Wants to be rid of a node, from now on until [`Membership::forget`].
    pub fn remove(
        &mut self,
        now: BootTime,
        node: NodeId,
        group: &Group,
    ) -> Result<(), RemoveError> {
        if !group.has(node) {
            return Err(RemoveError::NoMember);
        }
        let mut wish = self.clone();
        wish.leaving.insert(node);
        let mut future = group.clone();
        // Each step brings a member to where it is to be.
        for _ in 0..4 * group.members.len() + 4 {
            match wish.wanted_step(now, &future) {
                Some(step) => future.take(step),
                None => break,
            }
        }
        if future.has(node) {
            return Err(RemoveError::NoQuorum);
        }
        *self = wish;
        Ok(())
    }

    /// A node was removed, or is no longer to be.
    pub fn forget(&mut self, node: NodeId) {
        self.leaving.remove(&node);
    }

    pub fn is_leaving(&self, node: NodeId) -> bool {
        self.leaving.contains(&node)
    }

    /// What is to be done next, if all is not yet as it should be. Who leads does so for a while: an
    /// operator's wish because of which its predecessor handed over is yet to be repeated to it.
    pub fn next_step(&self, now: BootTime, group: &Group) -> Option<Step> {
        let is_new = self.began_at.is_some_and(|began_at| now < began_at + LEAD_MIN);
        let waits = |step: &Step| is_new && matches!(step, Step::HandOver { .. });
        self.wanted_step(now, group).filter(|step| !waits(step))
    }

    fn wanted_step(&self, now: BootTime, group: &Group) -> Option<Step> {
        let [voters] = &group.voters[..] else { return Some(Step::Settle) };
        let mut learners = group.members.iter().filter(|(disk, _)| !voters.contains(disk));
        let is_over = |(disk, member): &(&DiskId, &Member)| {
            self.leaving.contains(&member.node) || self.is_lost(now, **disk, member)
        };
        if let Some((disk, _)) = learners.find(is_over) {
            return Some(Step::Dismiss(*disk));
        }
        let wanted = self.wanted(now, group, voters);
        let coming = wanted.difference(voters).copied().min_by_key(|disk| group.node(*disk));
        let mut going: Vec<_> = voters.difference(&wanted).copied().collect();
        // The other disk of a node that is coming first, so that no node ever has two votes; then the
        // dead, so that as many as can be are live after each step.
        let comes = coming.and_then(|disk| group.node(disk));
        going.sort_by_key(|disk| {
            let node = group.node(*disk);
            (node != comes, group.is_live(*disk), Reverse(node))
        });
        let steps = match coming {
            Some(by) if going.is_empty() => vec![(None, Some(by))],
            coming => going.into_iter().map(|voter| (Some(voter), coming)).collect(),
        };
        let safe = |(going, coming): &(Option<DiskId>, Option<DiskId>)| {
            let after = voters.iter().filter(|voter| Some(**voter) != *going).chain(coming);
            let (live, all) = after.fold((0, 0), |(live, all), disk| {
                (live + usize::from(group.is_live(*disk)), all + 1)
            });
            live * 2 > all
        };
        match steps.into_iter().find(safe)? {
            (Some(voter), _) if voter == group.leader => {
                let heirs = voters.intersection(&wanted).copied();
                let heirs = heirs.filter(|heir| group.sight(*heir) == Some(Sight::CaughtUp));
                let heir = heirs.min_by_key(|heir| group.node(*heir));
                let hand_over = heir.map(|to| Step::HandOver { to });
                // Where no other voter can lead, who is to take its place votes beside it first.
                hand_over.or_else(|| {
                    let heir = coming.filter(|heir| safe(&(None, Some(*heir))))?;
                    Some(Step::Promote(heir))
                })
            }
            (Some(voter), Some(by)) => Some(Step::Replace { voter, by }),
            (Some(voter), None) => Some(Step::Demote(voter)),
            (None, Some(learner)) => Some(Step::Promote(learner)),
            (None, None) => None,
        }
    }

    /// Who should vote. Empty where that could be nobody.
    fn wanted(&self, now: BootTime, group: &Group, voters: &BTreeSet<DiskId>) -> BTreeSet<DiskId> {
        let staying = group.members.iter().filter(|(_, one)| !self.leaving.contains(&one.node));
        let (mut present, mut lost) = (Vec::new(), Vec::new());
        for (disk, member) in staying {
            match voters.contains(disk) {
                true if self.is_lost(now, *disk, member) => lost.push((member.node, *disk)),
                true => present.push((member.node, *disk)),
                false if member.sight == Sight::CaughtUp => present.push((member.node, *disk)),
                false => (),
            }
        }
        // Two disks of one node are one node's word.
        lost.retain(|(node, _)| !present.iter().any(|(other, _)| other == node));
        present.sort_unstable();
        lost.sort_unstable();
        let voters_max = self.rules.voters_max;
        let seats = odd(present.len().max(voters.len()).min(voters_max));
        let mut wanted: Vec<_> = present.into_iter().chain(lost).take(seats).collect();
        wanted.truncate(odd(wanted.len()));
        wanted.into_iter().map(|(_, disk)| disk).collect()
    }

    fn is_lost(&self, now: BootTime, disk: DiskId, member: &Member) -> bool {
        match member.sight {
            Sight::CaughtUp | Sight::Behind => false,
            Sight::Replaced => true,
            Sight::Silent => {
                let since = self.silent_since.get(&disk);
                since.is_some_and(|since| *since + self.rules.absence_max <= now)
            }
        }
    }
}

/// The largest odd number that is no larger; 0 for 0.
fn odd(number: usize) -> usize {
    number.saturating_sub(usize::from(number.is_multiple_of(2)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Sight::{Behind, CaughtUp, Replaced, Silent};
    use proptest::prelude::*;

    const RULES: Rules = Rules { voters_max: 3, absence_max: Duration::from_secs(300) };

    #[test]
    fn learners_become_voters_by_their_ordinals_two_at_a_time() {
        let mut group = group(&[0], &[(0, CaughtUp), (3, CaughtUp)]);
        assert_eq!(steps(RULES, &mut group), [], "two voters would be worse than one");
        group.members.insert(disk(1), Member { node: NodeId(1), sight: Behind });
        assert_eq!(steps(RULES, &mut group), [], "its log is far behind");
        see(&mut group, 1, CaughtUp);
        assert_eq!(steps(RULES, &mut group), [Step::Promote(disk(1)), Step::Promote(disk(3))]);

        group.members.insert(disk(2), Member { node: NodeId(2), sight: CaughtUp });
        let replace = Step::Replace { voter: disk(3), by: disk(2) };
        assert_eq!(steps(RULES, &mut group), [replace], "the lower ordinal");
        let more = Rules { voters_max: 5, ..RULES };
        assert_eq!(steps(more, &mut group), [], "four voters are no better than three");
        group.members.insert(disk(4), Member { node: NodeId(4), sight: CaughtUp });
        assert_eq!(steps(more, &mut group), [Step::Promote(disk(3)), Step::Promote(disk(4))]);
        assert_eq!(steps(RULES, &mut group), [Step::Demote(disk(4)), Step::Demote(disk(3))]);
    }

    #[test]
    fn a_voter_that_is_away_keeps_its_place_for_a_while_and_a_learner_its_membership() {
        let members = [(0, CaughtUp), (1, CaughtUp), (2, Silent), (3, CaughtUp), (4, Silent)];
        let mut group = group(&[0, 1, 2], &members);
        let mut membership = Membership::new(RULES);
        membership.on_seen(at(10), &group);
        assert_eq!(membership.next_step(at(309), &group), None);

        see(&mut group, 4, CaughtUp);
        membership.on_seen(at(309), &group);
        see(&mut group, 4, Silent);
        membership.on_seen(at(310), &group);
        let replace = Step::Replace { voter: disk(2), by: disk(3) };
        assert_eq!(membership.next_step(at(310), &group), Some(replace));
        group.take(replace);
        assert_eq!(membership.next_step(at(310), &group), Some(Step::Dismiss(disk(2))));
        group.take(Step::Dismiss(disk(2)));
        assert_eq!(membership.next_step(at(609), &group), None);
        assert_eq!(membership.next_step(at(610), &group), Some(Step::Dismiss(disk(4))));
    }

    #[test]
    fn absence_alone_makes_no_voters_fewer() {
        let group = group(&[0, 1, 2], &[(0, CaughtUp), (1, CaughtUp), (2, Silent)]);
        let mut membership = Membership::new(RULES);
        membership.on_seen(at(0), &group);
        assert_eq!(membership.next_step(at(1000), &group), None);
    }

    #[test]
    fn the_disk_that_a_node_acts_from_takes_the_place_of_the_one_it_lost() {
        let mut group = group(&[0, 1, 2], &[(0, CaughtUp), (1, CaughtUp), (2, Replaced)]);
        group.members.insert(disk(12), Member { node: NodeId(2), sight: Behind });
        assert_eq!(steps(RULES, &mut group), [], "nobody could take it yet");
        see(&mut group, 12, CaughtUp);
        let replace = Step::Replace { voter: disk(2), by: disk(12) };
        assert_eq!(steps(RULES, &mut group), [replace, Step::Dismiss(disk(2))]);
    }

    #[test]
    fn no_node_has_two_votes_on_the_way() {
        // Two disks were lost, and the first that comes back is not that of the highest ordinal.
        let members = [(0, CaughtUp), (1, Replaced), (2, CaughtUp), (3, CaughtUp), (4, Replaced)];
        let mut group = group(&[0, 1, 2, 3, 4], &members);
        for (number, node, sight) in [(11, 1, CaughtUp), (14, 4, Behind)] {
            group.members.insert(disk(number), Member { node: NodeId(node), sight });
        }
        let rules = Rules { voters_max: 5, ..RULES };
        let replace = Step::Replace { voter: disk(1), by: disk(11) };
        assert_eq!(steps(rules, &mut group), [replace, Step::Dismiss(disk(1))]);

        // A node less, and a disk that nobody can act from any more keeps no place.
        let mut membership = Membership::new(RULES);
        let mut group = self::group(&[0, 1, 2], &[(0, CaughtUp), (1, Replaced), (2, CaughtUp)]);
        group.members.insert(disk(11), Member { node: NodeId(1), sight: CaughtUp });
        assert_eq!(membership.remove(at(0), NodeId(2), &group), Ok(()));
        run(&membership, &mut group);
        assert_eq!(group.voters, [BTreeSet::from([disk(0)])]);
        assert_eq!(group.members.len(), 2);
    }

    #[test]
    fn who_leads_and_is_to_lose_its_vote_hands_over_first() {
        let members = [(0, CaughtUp), (1, CaughtUp), (2, CaughtUp), (3, CaughtUp)];
        let mut group = group(&[1, 2, 3], &members);
        group.leader = disk(3);
        let steps = steps(RULES, &mut group);
        let replace = Step::Replace { voter: disk(3), by: disk(0) };
        assert_eq!(steps, [Step::HandOver { to: disk(1) }, replace]);
    }

    #[test]
    fn who_has_just_begun_to_lead_does_not_hand_over_at_once() {
        // Its predecessor was to be removed; that the operator wants it is not known here yet.
        let mut group = group(&[0, 1], &[(0, CaughtUp), (1, CaughtUp)]);
        group.leader = disk(1);
        let mut membership = Membership::new(RULES);
        membership.on_seen(at(10), &group);
        assert_eq!(membership.next_step(at(11), &group), None);
        let back = Step::HandOver { to: disk(0) };
        assert_eq!(membership.next_step(at(12), &group), Some(back), "nobody wants it");
        assert_eq!(membership.remove(at(11), NodeId(0), &group), Ok(()));
        assert_eq!(membership.next_step(at(11), &group), Some(Step::Demote(disk(0))));
    }

    #[test]
    fn who_leads_alone_votes_beside_its_heir_until_that_leads() {
        let mut group = group(&[1], &[(0, CaughtUp), (1, CaughtUp)]);
        let expected =
            [Step::Promote(disk(0)), Step::HandOver { to: disk(0) }, Step::Demote(disk(1))];
        assert_eq!(steps(RULES, &mut group), expected);
    }

    #[test]
    fn who_is_removed_leaves_and_the_voters_stay_odd() {
        let mut group = group(&[0, 1, 2], &[(0, CaughtUp), (1, CaughtUp), (2, CaughtUp)]);
        let mut membership = Membership::new(RULES);
        assert_eq!(membership.remove(at(0), NodeId(0), &group), Ok(()));
        let expected = [
            Step::Demote(disk(2)),
            Step::HandOver { to: disk(1) },
            Step::Demote(disk(0)),
            Step::Dismiss(disk(0)),
        ];
        assert_eq!(run(&membership, &mut group), expected);
        membership.forget(NodeId(0));

        let unknown = Err(RemoveError::NoMember);
        assert_eq!(membership.remove(at(0), NodeId(0), &group), unknown);
        assert_eq!(membership.remove(at(0), NodeId(2), &group), Ok(()), "a learner");
        run(&membership, &mut group);
        let last = Err(RemoveError::NoQuorum);
        assert_eq!(membership.remove(at(0), NodeId(1), &group), last);
    }

    #[test]
    fn nobody_is_removed_without_whom_there_would_be_no_quorum() {
        let members = [(0, CaughtUp), (1, Behind), (2, Silent)];
        let mut membership = Membership::new(RULES);
        let three = group(&[0, 1, 2], &members);
        let error = Err(RemoveError::NoQuorum);
        assert_eq!(membership.remove(at(0), NodeId(0), &three), error, "nobody else could lead");
        assert!(!membership.is_leaving(NodeId(0)));
        assert_eq!(membership.remove(at(0), NodeId(2), &three), Ok(()), "the dead one may go");
    }

    #[test]
    fn what_a_dead_leader_began_is_finished_first() {
        let mut group = group(&[0, 1, 2], &[(0, CaughtUp), (1, CaughtUp), (2, Replaced)]);
        group.voters.push(BTreeSet::from([disk(0), disk(1)]));
        assert_eq!(steps(RULES, &mut group)[0], Step::Settle);
    }

    proptest! {
        #[test]
        fn whatever_the_group_the_steps_end_and_never_lose_the_quorum(
            sights in proptest::collection::vec(0..4_usize, 1..10),
            voting in proptest::collection::vec(any::<bool>(), 10),
            old in proptest::collection::vec(any::<bool>(), 10),
            (joint, voters_max, is_late) in (any::<bool>(), 0..3_usize, any::<bool>()),
            leaving in proptest::option::of(0..10_u32),
        ) {
            let sights = sights.iter().map(|number| [CaughtUp, Behind, Silent, Replaced][*number]);
            let members: Vec<_> = (0_u32..).zip(sights).collect();
            let chosen = |flags: &[bool]| -> BTreeSet<DiskId> {
                let chosen = members.iter().filter(|(node, _)| flags[*node as usize]);
                chosen.map(|(node, _)| disk(*node)).collect()
            };
            let mut group = group(&[], &members);
            group.voters = vec![chosen(&voting)];
            if joint {
                group.voters.insert(0, chosen(&old));
            }
            // Who leads has a quorum.
            let leads = group.voters.iter().flatten().find(|voter| {
                group.sight(**voter) == Some(CaughtUp)
            });
            let Some(leader) = leads.copied() else { return Ok(()) };
            group.leader = leader;
            prop_assume!(group.voters.iter().all(|voters| has_quorum(&group, voters)));

            let rules = Rules { voters_max: [1, 3, 5][voters_max], ..RULES };
            let mut membership = Membership::new(rules);
            membership.on_seen(at(0), &group);
            let now = at(if is_late { 1000 } else { 10 });
            if let Some(node) = leaving {
                let _ = membership.remove(now, NodeId(node), &group);
            }
            let mut steps = 0;
            while let Some(step) = membership.next_step(now, &group) {
                let before = group.clone();
                group.take(step);
                prop_assert!(group.voters.iter().all(|voters| has_quorum(&group, voters)), "{step:?}");
                prop_assert!(group.members.contains_key(&group.leader));
                if step != Step::Settle {
                    let (old, new) = (&before.voters[0], &group.voters[0]);
                    prop_assert!(old.difference(new).count() <= 1 && new.difference(old).count() <= 1);
                }
                for voter in group.voters.iter().flatten() {
                    prop_assert!(group.members.contains_key(voter));
                }
                steps += 1;
                prop_assert!(steps <= 3 * members.len() + 4, "the steps do not end");
            }
            let voters = &group.voters[0];
            prop_assert!(group.members.values().all(|one| !membership.is_leaving(one.node)));
            if members.iter().all(|(_, sight)| *sight == CaughtUp) {
                let staying: Vec<_> = group.members.keys().copied().collect();
                let lowest = &staying[..odd(staying.len().min(rules.voters_max))];
                prop_assert!(voters.iter().eq(lowest), "{voters:?} of {staying:?}");
            }
        }
    }

    fn has_quorum(group: &Group, voters: &BTreeSet<DiskId>) -> bool {
        voters.iter().filter(|voter| group.is_live(**voter)).count() * 2 > voters.len()
    }

    /// All steps there are, taken.
    fn steps(rules: Rules, group: &mut Group) -> Vec<Step> {
        run(&Membership::new(rules), group)
    }

    fn run(membership: &Membership, group: &mut Group) -> Vec<Step> {
        let step = || {
            let step = membership.next_step(at(0), group)?;
            group.take(step);
            Some(step)
        };
        std::iter::from_fn(step).collect()
    }

    /// Node n holds disk n, and the first voter leads.
    fn group(voters: &[u32], members: &[(u32, Sight)]) -> Group {
        let voters: BTreeSet<_> = voters.iter().copied().map(disk).collect();
        let leader = voters.first().copied().unwrap_or(disk(0));
        let member = |(node, sight): &(u32, Sight)| {
            (disk(*node), Member { node: NodeId(*node), sight: *sight })
        };
        Group { leader, voters: vec![voters], members: members.iter().map(member).collect() }
    }

    fn see(group: &mut Group, number: u32, sight: Sight) {
        group.members.get_mut(&disk(number)).expect("it is a member").sight = sight;
    }

    fn disk(number: u32) -> DiskId {
        DiskId(number.into())
    }

    fn at(second: u64) -> BootTime {
        BootTime(Duration::from_secs(second))
    }
}
