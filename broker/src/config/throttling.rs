//! Rates and bursts, as written and as believed.

use posthorn_core::auth::throttle::{Rate, Throttle};
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::source::Fault;

const RATE_MAX: f64 = 1_000_000.0;
/// Of the rate and the burst, as most sections have them.
pub(super) const KEYS: [&str; 2] = ["throttling_rate_limit", "throttling_burst_limit"];

/// Both or neither. Where one of them is 0, everything is refused.
#[derive(Debug, Default, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenThrottle {
    /// How many a second, in the long run.
    pub(super) throttling_rate_limit: Option<Spanned<f64>>,
    /// How many at once, after a rest.
    pub(super) throttling_burst_limit: Option<Spanned<u32>>,
}

impl WrittenThrottle {
    pub(super) fn believe(&self, place: &str) -> Result<Option<Throttle>, Fault> {
        let WrittenThrottle { throttling_rate_limit: rate, throttling_burst_limit: burst } = self;
        throttle(place, KEYS, rate.as_ref(), burst.as_ref())
    }

    /// What is not written here is as `default` has it.
    pub(super) fn believe_over(
        &self,
        place: &str,
        default: &WrittenThrottle,
    ) -> Result<Option<Throttle>, Fault> {
        let rate = self.throttling_rate_limit.as_ref().or(default.throttling_rate_limit.as_ref());
        let burst =
            self.throttling_burst_limit.as_ref().or(default.throttling_burst_limit.as_ref());
        throttle(place, KEYS, rate, burst)
    }
}

/// `keys` are those of the rate and the burst.
pub(super) fn throttle(
    place: &str,
    keys: [&str; 2],
    rate: Option<&Spanned<f64>>,
    burst: Option<&Spanned<u32>>,
) -> Result<Option<Throttle>, Fault> {
    let [rate_key, burst_key] = keys;
    match (rate, burst) {
        (None, None) => Ok(None),
        (Some(rate), None) => {
            let rule = format!("needs a {burst_key} beside it");
            Err(Fault::at(format!("{place}.{rate_key}"), rate, rule))
        }
        (None, Some(burst)) => {
            let rule = format!("needs a {rate_key} beside it");
            Err(Fault::at(format!("{place}.{burst_key}"), burst, rule))
        }
        (Some(rate), Some(burst)) => {
            let thousandths = (rate.value * 1000.0).round();
            let is_rate =
                (0.0..=RATE_MAX).contains(&rate.value) && (rate.value == 0.0 || thousandths >= 1.0);
            if !is_rate {
                let rule = format!("is 0, or from 0.001 to {RATE_MAX}, a second");
                return Err(Fault::at(format!("{place}.{rate_key}"), rate, rule));
            }
            Ok(Some(Throttle::new(Rate(thousandths as u64), burst.value)))
        }
    }
}
