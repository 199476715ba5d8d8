//! API keys and usage plans, as written and as believed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use posthorn_core::auth::hash::Sha256;
use posthorn_core::auth::quota::{PeriodName, Quota};
use posthorn_core::auth::throttle::Throttle;
use posthorn_core::auth::usage_plan::{Key, Plan, Stage, StageLimits, UsagePlans};
use posthorn_core::route::table::RouteKey;
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::secret::Secrets;
use crate::config::source::Fault;
use crate::config::throttling::throttle;

/// As API Gateway has it.
const KEY_CHARS_MIN: usize = 20;
const KEY_CHARS_MAX: usize = 128;

/// A key by its ID. It has one of the three values, of 20 to 128 characters.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenKey {
    /// Whether it is good for anything.
    #[serde(default = "enabled")]
    enabled: bool,
    /// SHA-256 of the value, in hexadecimal: `printf %s VALUE | sha256sum`.
    #[setting(secret = Hash)]
    value_sha256: Option<Spanned<String>>,
    /// A file that holds the value and nothing else, relative to the configuration.
    value_file: Option<Spanned<PathBuf>>,
    /// A variable of the environment that holds the value.
    value_env: Option<Spanned<String>>,
}

/// A plan by its ID.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenPlan {
    /// IDs of keys. Each has the limits of the plan for itself.
    #[serde(default)]
    api_keys: BTreeSet<Arc<str>>,
    /// Where its keys are good.
    #[serde(default)]
    api_stages: Vec<WrittenStage>,
    /// Over all of them.
    throttle: Option<WrittenLimits>,
    /// How many handshakes in a day, a week or a month.
    quota: Option<Spanned<WrittenQuota>>,
}

/// One stage where the plan's keys are good.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenStage {
    /// The API.
    api_id: Spanned<Arc<str>>,
    /// Its stage.
    stage: Arc<str>,
    /// By route key, beside that of the plan. `$connect` is the one route that asks for keys.
    #[serde(default)]
    throttle: BTreeMap<Arc<str>, WrittenLimits>,
}

/// Handshakes of each key: both or neither. Where one of them is 0, all are refused.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenLimits {
    /// How many a second, in the long run.
    rate_limit: Option<Spanned<f64>>,
    /// How many at once, after a rest.
    burst_limit: Option<Spanned<u32>>,
}

/// How many handshakes each key is good for.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenQuota {
    /// In a period, by the calendar of UTC.
    limit: u64,
    /// From when on it is counted anew.
    period: Period,
    /// The day on which the period begins: 0 to 6 from Sunday in a week, 0 to 27 from the first in a
    /// month.
    #[serde(default)]
    offset: u32,
}

#[derive(Debug, Clone, Copy, Deserialize, Setting)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Period {
    /// At midnight.
    Day,
    /// At the midnight that begins a day of the week.
    Week,
    /// At the midnight that begins a day of the month.
    Month,
}

fn enabled() -> bool {
    true
}

/// Keys and plans that fit together, and the stages that there are. The keys of a fault begin with
/// the name of their section.
pub(super) fn believe(
    keys: &BTreeMap<Arc<str>, WrittenKey>,
    plans: &BTreeMap<Arc<str>, WrittenPlan>,
    is_stage: impl Fn(&str, &str) -> bool,
    secrets: &Secrets<'_>,
) -> Result<UsagePlans, Fault> {
    let keys = keys.iter().map(|(id, written)| {
        let value = written.believe(&format!("api_keys.{id}"), secrets)?;
        Ok(Key { id: id.clone(), value, enabled: written.enabled })
    });
    let plans = plans
        .iter()
        .map(|(id, written)| written.believe(id.clone(), &format!("usage_plans.{id}"), &is_stage));
    let keys = keys.collect::<Result<_, Fault>>()?;
    UsagePlans::new(keys, plans.collect::<Result<_, _>>()?)
        .map_err(|error| Fault::new("usage_plans", error.to_string()))
}

impl WrittenKey {
    fn believe(&self, place: &str, secrets: &Secrets<'_>) -> Result<Sha256, Fault> {
        let WrittenKey { enabled: _, value_sha256, value_file, value_env } = self;
        let value = match (value_sha256, value_file, value_env) {
            (Some(hash), None, None) => {
                let key = format!("{place}.value_sha256");
                let parsed = hash.value.parse();
                return parsed.map_err(|error| Fault::at(key, hash, format!("{error}")));
            }
            (None, Some(file), None) => secrets.in_file(&format!("{place}.value_file"), file)?,
            (None, None, Some(variable)) => {
                secrets.in_environment(&format!("{place}.value_env"), variable)?
            }
            _ => {
                let rule = "has one of value_sha256, value_file and value_env";
                return Err(Fault::new(place, rule));
            }
        };
        if !(KEY_CHARS_MIN..=KEY_CHARS_MAX).contains(&value.chars().count()) {
            let rule = format!("its value has {KEY_CHARS_MIN} to {KEY_CHARS_MAX} characters");
            return Err(Fault::new(place, rule));
        }
        Ok(Sha256::of(value.as_bytes()))
    }
}

impl WrittenPlan {
    fn believe(
        &self,
        id: Arc<str>,
        place: &str,
        is_stage: impl Fn(&str, &str) -> bool,
    ) -> Result<Plan, Fault> {
        let WrittenPlan { api_keys, api_stages, throttle, quota } = self;
        let mut stages = BTreeMap::new();
        for written in api_stages {
            let WrittenStage { api_id, stage, throttle } = written;
            let place = format!("{place}.api_stages");
            if !is_stage(&api_id.value, stage) {
                let rule = format!("there is no stage `{stage}` of an API `{}`", api_id.value);
                return Err(Fault::at(place, api_id, rule));
            }
            let routes = throttle.iter().map(|(key, limits)| {
                let place = format!("{place}.throttle.{key}");
                if **key != *RouteKey::CONNECT {
                    return Err(Fault::new(place, "$connect is the one route that asks for keys"));
                }
                Ok(limits.believe(&place)?.map(|throttle| (key.clone(), throttle)))
            });
            let routes = routes.filter_map(Result::transpose).collect::<Result<_, Fault>>()?;
            let stage = Stage { api: api_id.value.clone(), stage: stage.clone() };
            if stages.insert(stage, StageLimits { routes }).is_some() {
                return Err(Fault::at(place, api_id, "names each stage once"));
            }
        }
        let throttle = throttle.as_ref().map(|limits| limits.believe(&format!("{place}.throttle")));
        let quota = quota.as_ref().map(|quota| {
            let WrittenQuota { limit, period, offset } = quota.value;
            let period = match period {
                Period::Day => PeriodName::Day,
                Period::Week => PeriodName::Week,
                Period::Month => PeriodName::Month,
            };
            let believed = Quota::new(limit, period, offset);
            believed.map_err(|error| Fault::at(format!("{place}.quota"), quota, error.to_string()))
        });
        Ok(Plan {
            id,
            keys: api_keys.clone(),
            stages,
            throttle: throttle.transpose()?.flatten(),
            quota: quota.transpose()?,
        })
    }
}

impl WrittenLimits {
    fn believe(&self, place: &str) -> Result<Option<Throttle>, Fault> {
        let WrittenLimits { rate_limit, burst_limit } = self;
        let keys = ["rate_limit", "burst_limit"];
        throttle(place, keys, rate_limit.as_ref(), burst_limit.as_ref())
    }
}
