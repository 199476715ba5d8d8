//! Who is a member of the raft group, as its leader decides it. The one hand that changes it.
//!
//! * Changes are made one at a time, each to the membership that it was decided on.
//! * What the next step is, and who is admitted, [`Membership`] decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use openraft::raft::Precondition;
use parking_lot::Mutex;
use posthorn_core::admission::{Admission, Asked, Candidate};
use posthorn_core::group::{Following, Group};
use posthorn_core::ids::{DiskId, NodeId};
use posthorn_core::membership::{Membership, RemoveError, Rules, Step};
use tracing::{info, warn};

use crate::clock::boot_now;
use crate::config::node::ClusterSettings;
use crate::consensus::leader::Leadership;
use crate::consensus::machine::Replica;
use crate::consensus::proposals::{AskError, not_leading};
use crate::consensus::types::{LogId, Member, Raft, RaftId, StoredMembership};
use crate::telemetry::{MembershipStep, Metrics};

/// Between two looks at the group.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// What takes longer is left to commit when it can, and is looked at again.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Entries that a log may lack and still be taken for caught up: what is under way in a busy moment.
const LAG_MAX: u64 = 256;

type Changes = ChangeMembers<RaftId, Member>;

#[derive(Clone)]
pub(super) struct Members {
    raft: Raft,
    replica: Replica,
    leadership: Leadership,
    rules: Rules,
    /// A member that has answered nothing for so long does not count as live.
    silence_max: Duration,
    /// While we lead.
    governed: Arc<Mutex<Option<Governed>>>,
    /// Held by who changes the membership.
    changing: Arc<tokio::sync::Mutex<()>>,
    metrics: Arc<Metrics>,
}

struct Governed {
    term: u64,
    membership: Membership,
}

/// A node asks to be a member, or whether it still is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdmitRequest {
    pub(super) raft_id: RaftId,
    pub(super) fabric_address: Arc<str>,
    pub(super) was_member: bool,
}

/// What became of the wish to remove a node.
pub(super) type Removal = Result<(), RemoveError>;

impl Members {
    pub(super) fn new(
        leadership: &Leadership,
        settings: &ClusterSettings,
        metrics: Arc<Metrics>,
    ) -> Members {
        let Leadership { raft, replica, .. } = leadership.clone();
        let rules = Rules {
            voters_max: settings.voters_max(),
            absence_max: settings.voter_absence_max_s.0,
        };
        Members {
            raft,
            replica,
            leadership: leadership.clone(),
            rules,
            silence_max: settings.election_timeout_ms.0 * 4,
            governed: Arc::default(),
            changing: Arc::default(),
            metrics,
        }
    }

    /// Answers a node, if we lead.
    pub(super) async fn admit(
        &self,
        node: NodeId,
        request: AdmitRequest,
    ) -> Result<Admission, AskError> {
        let term = self.leadership.begun_term().ok_or_else(not_leading)?;
        let _turn = self.changing.lock().await;
        let AdmitRequest { raft_id, fabric_address, was_member } = request;
        let (group, known) = self.look().ok_or_else(not_leading)?;
        let candidate = Candidate { node, disk: DiskId(raft_id), was_member };
        let member = Member { node, fabric_address };
        let asked = match &*self.governed.lock() {
            Some(governed) if governed.term == term => self
                .replica
                .read(|directory| governed.membership.admit(candidate, &group, directory))
                .map_err(|error| AskError::Unknown(error.to_string()))?,
            Some(_) | None => return Err(not_leading()),
        };
        let is_there = known.membership().get_node(&raft_id) == Some(&member);
        let (changes, label) = match asked {
            Asked::Told(Admission::Member) if !is_there => {
                let moved = ChangeMembers::SetNodes([(raft_id, member.clone())].into());
                (moved, MembershipStep::Move)
            }
            Asked::Told(admission) => return Ok(admission),
            Asked::Admit { stale } => {
                let stale = stale.into_iter().map(|disk| disk.0).collect();
                let changes = vec![
                    ChangeMembers::RemoveNodes(stale),
                    ChangeMembers::AddNodes([(raft_id, member.clone())].into()),
                ];
                (ChangeMembers::Batch(changes), MembershipStep::Admit)
            }
        };
        self.change(changes, &known).await.map_err(AskError::Unknown)?;
        info!(%member, raft_id, "admitted");
        self.count(label);
        Ok(Admission::Member)
    }

    /// Removes a node, if we lead. Returns when it is no member any more.
    pub(super) async fn remove(&self, node: NodeId) -> Result<Removal, AskError> {
        let term = self.leadership.begun_term().ok_or_else(not_leading)?;
        let group = self.look().ok_or_else(not_leading)?.0;
        let wished = match &mut *self.governed.lock() {
            Some(governed) if governed.term == term => {
                governed.membership.remove(boot_now(), node, &group)
            }
            Some(_) | None => return Err(not_leading()),
        };
        if let Err(error) = wished {
            return Ok(Err(error));
        }
        info!(%node, "to be removed");
        let gone = async {
            while self.look().is_some_and(|(group, _)| group.has(node)) {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let gone = tokio::time::timeout(REMOVE_TIMEOUT, gone).await;
        if let Some(governed) = &mut *self.governed.lock() {
            governed.membership.forget(node);
        }
        match (gone, self.leadership.begun_term()) {
            (Ok(()), Some(now)) if now == term => Ok(Ok(())),
            (Ok(()), _) => Err(AskError::Unknown("this node leads no longer".to_owned())),
            (Err(_), _) => Err(AskError::Unknown("the node is still a member".to_owned())),
        }
    }

    /// Takes one step after the other whenever this node leads, for ever.
    pub(super) async fn govern(self) {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let Some((step, known)) = self.next_step() else { continue };
            let taken = self.take(step, &known).await;
            match taken {
                Ok(()) => {
                    info!(?step, "the membership changed");
                    self.count(label_of(step));
                }
                Err(error) => warn!(?step, %error, "cannot change the membership"),
            }
        }
    }

    fn next_step(&self) -> Option<(Step, Arc<StoredMembership>)> {
        let Some(term) = self.leadership.begun_term() else {
            *self.governed.lock() = None;
            return None;
        };
        let (group, known) = self.look()?;
        let mut governed = self.governed.lock();
        if governed.as_ref().is_none_or(|governed| governed.term != term) {
            *governed = Some(Governed { term, membership: Membership::new(self.rules) });
        }
        let membership = &mut governed.as_mut()?.membership;
        let now = boot_now();
        membership.on_seen(now, &group);
        membership.next_step(now, &group).map(|step| (step, known))
    }

    async fn take(&self, step: Step, known: &StoredMembership) -> Result<(), String> {
        let one = |disk: DiskId| BTreeSet::from([disk.0]);
        let changes = match step {
            Step::HandOver { to } => {
                self.leadership.hand_over(to.0).await;
                return Ok(());
            }
            Step::Settle => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Step::Promote(learner) => ChangeMembers::AddVoterIds(one(learner)),
            Step::Demote(voter) => ChangeMembers::RemoveVoters(one(voter)),
            Step::Replace { voter, by } => ChangeMembers::Batch(vec![
                ChangeMembers::AddVoterIds(one(by)),
                ChangeMembers::RemoveVoters(one(voter)),
            ]),
            Step::Dismiss(learner) => ChangeMembers::RemoveNodes(one(learner)),
        };
        let _turn = self.changing.lock().await;
        self.change(changes, known).await
    }

    /// Voters that lose their vote stay learners.
    async fn change(&self, changes: Changes, known: &StoredMembership) -> Result<(), String> {
        let last_membership_log_id: Option<LogId> = *known.log_id();
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id };
        let changed = self.raft.change_membership_if(changes, true, [unchanged]);
        match tokio::time::timeout(CHANGE_TIMEOUT, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the commit takes too long".to_owned()),
        }
    }

    fn count(&self, step: MembershipStep) {
        self.metrics.directory.membership_steps.at(step).increment(1);
    }

    /// The group as it is, and what says so. None if we do not lead.
    fn look(&self) -> Option<(Group, Arc<StoredMembership>)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let (heard, matched) = (metrics.heartbeat.as_ref()?, metrics.replication.as_ref()?);
        let known = metrics.membership_config.clone();
        let members = known.membership();
        let last = metrics.last_log_index.unwrap_or_default();
        let answers = |raft_id: RaftId| {
            let heard_at = heard.get(&raft_id).copied().flatten();
            heard_at.is_some_and(|at| at.into_inner().elapsed() <= self.silence_max)
        };
        let is_caught_up = |raft_id: RaftId| {
            let matched = matched.get(&raft_id).copied().flatten();
            matched.is_some_and(|log| log.index + LAG_MAX >= last)
        };
        let following = |DiskId(raft_id)| match raft_id {
            ourselves if ourselves == metrics.id => Following::Closely,
            other if !answers(other) => Following::No,
            other if !is_caught_up(other) => Following::FarBehind,
            _ => Following::Closely,
        };
        let nodes = members.nodes().map(|(raft_id, member)| (DiskId(*raft_id), member.node));
        let nodes = nodes.collect();
        let set = |voters: &BTreeSet<RaftId>| voters.iter().copied().map(DiskId).collect();
        let voters = members.get_joint_config().iter().map(set).collect();
        let group = self.replica.read(|directory| {
            Group::seen(DiskId(metrics.id), voters, &nodes, directory, following)
        });
        Some((group, known))
    }
}

fn label_of(step: Step) -> MembershipStep {
    match step {
        Step::Settle => MembershipStep::Settle,
        Step::HandOver { .. } => MembershipStep::HandOver,
        Step::Promote(_) => MembershipStep::Promote,
        Step::Demote(_) => MembershipStep::Demote,
        Step::Replace { .. } => MembershipStep::Replace,
        Step::Dismiss(_) => MembershipStep::Dismiss,
    }
}
