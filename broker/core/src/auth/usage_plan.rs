//! API keys, and how much each may use.
//!
//! A usage plan says for some stages how fast and how often each of its keys may connect. As in API
//! Gateway, every key has the plan's limits for itself.
//!
//! Invariants:
//!
//! * A key has at most one plan for a stage.
//! * Who is refused by one limit is not charged by another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::hash::Sha256;
use crate::auth::quota::{Quota, QuotaExceeded, QuotaUse};
use crate::auth::throttle::{Throttle, Throttled, TokenBucket};

pub type Name = Arc<str>;

/// An API key. Its value is a secret and is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub id: Name,
    pub value: Sha256,
    pub enabled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub id: Name,
    /// IDs of keys.
    pub keys: BTreeSet<Name>,
    pub stages: BTreeMap<Stage, StageLimits>,
    /// Over all stages of the plan.
    pub throttle: Option<Throttle>,
    pub quota: Option<Quota>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stage {
    pub api: Name,
    pub stage: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StageLimits {
    /// By route key. They count beside the throttle of the plan.
    pub routes: BTreeMap<Name, Throttle>,
}

/// Keys and plans that fit together.
#[derive(Debug, Clone, Default)]
pub struct UsagePlans {
    plans: Vec<Plan>,
    keys: BTreeMap<Sha256, Key>,
    /// The plan of a key for a stage.
    places: BTreeMap<(Name, Stage), usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsagePlansError {
    #[error("two API keys have the ID `{0}`")]
    KeyTwice(Name),
    #[error("the API keys `{0}` and `{1}` have the same value")]
    SameValue(Name, Name),
    #[error("two usage plans have the ID `{0}`")]
    PlanTwice(Name),
    #[error("the usage plan `{plan}` has an API key `{key}`, which there is not")]
    UnknownKey { plan: Name, key: Name },
    #[error("the API key `{key}` has two usage plans for the stage `{stage}` of `{api}`")]
    TwoPlans { key: Name, api: Name, stage: Name },
}

/// What each key used. Its owner keeps it when plans change.
#[derive(Debug, Default)]
pub struct Usage {
    used: BTreeMap<(Name, Name), Used>,
}

/// Of one plan by one key. Bounded by the routes that the plan names.
#[derive(Debug, Default)]
struct Used {
    plan: Option<TokenBucket>,
    routes: BTreeMap<(Stage, Name), TokenBucket>,
    quota: QuotaUse,
}

/// Nothing was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such key, or it is disabled, or it has no plan for the stage: 403.
    #[error("Forbidden")]
    Forbidden,
    /// 429
    #[error("Too Many Requests")]
    Throttled { retry_after: Option<Duration> },
    /// 429
    #[error("Limit Exceeded")]
    QuotaExceeded,
}

impl UsagePlans {
    pub fn new(keys: Vec<Key>, plans: Vec<Plan>) -> Result<UsagePlans, UsagePlansError> {
        let mut ids = BTreeSet::new();
        let mut by_value: BTreeMap<Sha256, Key> = BTreeMap::new();
        for key in keys {
            let id = key.id.clone();
            if !ids.insert(id.clone()) {
                return Err(UsagePlansError::KeyTwice(id));
            }
            if let Some(other) = by_value.insert(key.value, key) {
                return Err(UsagePlansError::SameValue(other.id, id));
            }
        }
        let places = places(&plans, &ids)?;
        Ok(UsagePlans { plans, keys: by_value, places })
    }

    /// The plan by which the key of this value may use the stage.
    fn find(&self, value: &str, stage: &Stage) -> Option<(&Name, &Plan)> {
        let key = self.keys.get(&Sha256::of(value.as_bytes())).filter(|key| key.enabled)?;
        let place = self.places.get(&(key.id.clone(), stage.clone()))?;
        Some((&key.id, &self.plans[*place]))
    }
}

fn places(
    plans: &[Plan],
    keys: &BTreeSet<Name>,
) -> Result<BTreeMap<(Name, Stage), usize>, UsagePlansError> {
    let mut plan_ids = BTreeSet::new();
    let mut places = BTreeMap::new();
    for (place, plan) in plans.iter().enumerate() {
        if !plan_ids.insert(&plan.id) {
            return Err(UsagePlansError::PlanTwice(plan.id.clone()));
        }
        for key in &plan.keys {
            if !keys.contains(key) {
                let (plan, key) = (plan.id.clone(), key.clone());
                return Err(UsagePlansError::UnknownKey { plan, key });
            }
            for stage in plan.stages.keys() {
                if places.insert((key.clone(), stage.clone()), place).is_some() {
                    let Stage { api, stage } = stage.clone();
                    return Err(UsagePlansError::TwoPlans { key: key.clone(), api, stage });
                }
            }
        }
    }
    Ok(places)
}

impl Usage {
    /// Charges the key of this value for one use of a route, and says which key that is. `now_ms` is
    /// the time of day, by which quotas go; `now` is the clock that is never set.
    pub fn admit(
        &mut self,
        plans: &UsagePlans,
        value: &str,
        stage: &Stage,
        route: &str,
        (now, now_ms): (Instant, u64),
    ) -> Result<Name, Refusal> {
        let (key, plan) = plans.find(value, stage).ok_or(Refusal::Forbidden)?;
        let limits = plan.stages.get(stage);
        let route = limits.and_then(|limits| limits.routes.get_key_value(route));
        let used = self.used.entry((plan.id.clone(), key.clone())).or_default();
        let Used { plan: whole, routes, quota } = used;
        let mut buckets = Vec::with_capacity(2);
        if let Some(throttle) = plan.throttle {
            buckets.push((whole.get_or_insert_with(|| TokenBucket::new(now)), throttle));
        }
        if let Some((route, throttle)) = route {
            let bucket = routes.entry((stage.clone(), route.clone()));
            buckets.push((bucket.or_insert_with(|| TokenBucket::new(now)), *throttle));
        }
        for (bucket, throttle) in &mut buckets {
            bucket.peek(now, *throttle)?;
        }
        if let Some(limit) = plan.quota {
            quota.take(now_ms, limit)?;
        }
        for (bucket, throttle) in buckets {
            bucket.take(now, throttle)?;
        }
        Ok(key.clone())
    }

    /// Forgets what no plan speaks of any more.
    pub fn retain(&mut self, plans: &UsagePlans) {
        self.used.retain(|(plan_id, key), used| {
            let plan = plans.plans.iter().find(|plan| plan.id == *plan_id);
            let Some(plan) = plan.filter(|plan| plan.keys.contains(key)) else { return false };
            used.routes.retain(|(stage, route), _| {
                plan.stages.get(stage).is_some_and(|limits| limits.routes.contains_key(route))
            });
            true
        });
    }
}

impl From<Throttled> for Refusal {
    fn from(Throttled { retry_after }: Throttled) -> Refusal {
        Refusal::Throttled { retry_after }
    }
}

impl From<QuotaExceeded> for Refusal {
    fn from(QuotaExceeded: QuotaExceeded) -> Refusal {
        Refusal::QuotaExceeded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::quota::PeriodName;
    use crate::auth::throttle::Rate;

    #[test]
    fn a_key_without_a_plan_for_the_stage_is_forbidden() {
        let mut story = Story::new(plan());
        assert_eq!(story.admit("value-a", "prod"), Ok("a".into()));
        assert_eq!(story.admit("value-b", "prod"), Ok("b".into()));
        for (value, stage) in
            [("value-a", "dev"), ("value-off", "prod"), ("value-free", "prod"), ("a", "prod")]
        {
            assert_eq!(story.admit(value, stage), Err(Refusal::Forbidden), "{value}");
        }
    }

    #[test]
    fn every_key_has_the_limits_of_its_plan_for_itself() {
        let throttle = Some(Throttle::new(Rate::per_second(1), 2));
        let mut story = Story::new(Plan { throttle, ..plan() });
        let throttled = Err(Refusal::Throttled { retry_after: Some(Duration::from_secs(1)) });
        assert_eq!(story.admit_all("value-a", 3), [Ok("a".into()), Ok("a".into()), throttled]);
        assert_eq!(story.admit("value-b", "prod"), Ok("b".into()));
    }

    #[test]
    fn a_route_may_be_throttled_beside_its_plan() {
        let connect = Throttle::new(Rate::per_second(1), 1);
        let routes = BTreeMap::from([("$connect".into(), connect)]);
        let stages = BTreeMap::from([(stage("prod"), StageLimits { routes })]);
        let throttle = Some(Throttle::new(Rate::per_second(1), 5));
        let mut story = Story::new(Plan { stages, throttle, ..plan() });
        let throttled = Err(Refusal::Throttled { retry_after: Some(Duration::from_secs(1)) });
        assert_eq!(story.admit_all("value-a", 2), [Ok("a".into()), throttled]);
        story.now.0 += Duration::from_secs(1);
        assert_eq!(story.admit("value-a", "prod"), Ok("a".into()));
    }

    #[test]
    fn who_is_throttled_is_not_charged_by_the_quota() {
        let throttle = Some(Throttle::new(Rate::per_second(1), 1));
        let quota = Some(Quota::new(2, PeriodName::Day, 0).unwrap());
        let mut story = Story::new(Plan { throttle, quota, ..plan() });
        let admitted = story.admit_all("value-a", 10);
        assert_eq!(admitted.iter().filter(|one| one.is_ok()).count(), 1);
        story.now.0 += Duration::from_secs(1);
        assert_eq!(story.admit("value-a", "prod"), Ok("a".into()));
        story.now.0 += Duration::from_secs(1);
        assert_eq!(story.admit("value-a", "prod"), Err(Refusal::QuotaExceeded));
        story.now.1 += 86_400_000;
        assert_eq!(story.admit("value-a", "prod"), Ok("a".into()), "the quota took no token");
    }

    #[test]
    fn what_was_used_outlives_a_change_of_plans() {
        let quota = |limit| Some(Quota::new(limit, PeriodName::Day, 0).unwrap());
        let mut story = Story::new(Plan { quota: quota(1), ..plan() });
        assert_eq!(story.admit("value-a", "prod"), Ok("a".into()));
        story.plans = plans(vec![Plan { quota: quota(2), ..plan() }]).unwrap();
        story.usage.retain(&story.plans);
        let left = [Ok("a".into()), Err(Refusal::QuotaExceeded)];
        assert_eq!(story.admit_all("value-a", 2), left);
        story.usage.retain(&UsagePlans::default());
        assert!(story.usage.used.is_empty());
    }

    #[test]
    fn keys_and_plans_must_fit_together() {
        use UsagePlansError::*;
        let other = Plan { id: "other".into(), ..plan() };
        assert_eq!(
            plans(vec![plan(), other]).unwrap_err(),
            TwoPlans { key: "a".into(), api: "chat".into(), stage: "prod".into() }
        );
        assert_eq!(plans(vec![plan(), plan()]).unwrap_err(), PlanTwice("basic".into()));
        let unknown = Plan { keys: ["x".into()].into(), ..plan() };
        let error = UnknownKey { plan: "basic".into(), key: "x".into() };
        assert_eq!(plans(vec![unknown]).unwrap_err(), error);
        let same = |ids: [&str; 2], values: [&str; 2]| {
            let keys = ids.into_iter().zip(values).map(|(id, value)| key(id, value, true));
            UsagePlans::new(keys.collect(), Vec::new()).unwrap_err()
        };
        assert_eq!(same(["a", "a"], ["1", "2"]), KeyTwice("a".into()));
        assert_eq!(same(["a", "b"], ["1", "1"]), SameValue("a".into(), "b".into()));
    }

    struct Story {
        plans: UsagePlans,
        usage: Usage,
        now: (Instant, u64),
    }

    impl Story {
        fn new(plan: Plan) -> Story {
            let now = (Instant::now(), 1_790_000_000_000);
            Story { plans: plans(vec![plan]).unwrap(), usage: Usage::default(), now }
        }

        fn admit(&mut self, value: &str, name: &str) -> Result<Name, Refusal> {
            self.usage.admit(&self.plans, value, &stage(name), "$connect", self.now)
        }

        fn admit_all(&mut self, value: &str, count: usize) -> Vec<Result<Name, Refusal>> {
            (0..count).map(|_| self.admit(value, "prod")).collect()
        }
    }

    /// For the keys `a` and `b`, without limits.
    fn plan() -> Plan {
        Plan {
            id: "basic".into(),
            keys: ["a".into(), "b".into(), "off".into()].into(),
            stages: BTreeMap::from([(stage("prod"), StageLimits::default())]),
            throttle: None,
            quota: None,
        }
    }

    fn plans(plans: Vec<Plan>) -> Result<UsagePlans, UsagePlansError> {
        let keys = [("a", true), ("b", true), ("off", false), ("free", true)];
        let keys = keys.map(|(id, enabled)| key(id, &format!("value-{id}"), enabled));
        UsagePlans::new(keys.into(), plans)
    }

    fn key(id: &str, value: &str, enabled: bool) -> Key {
        Key { id: id.into(), value: Sha256::of(value.as_bytes()), enabled }
    }

    fn stage(stage: &str) -> Stage {
        Stage { api: "chat".into(), stage: stage.into() }
    }
}
