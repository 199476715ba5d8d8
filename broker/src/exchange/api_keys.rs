//! API keys, and what their usage plans leave of them at this node.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use posthorn_core::auth::usage_plan::{self, Refusal, Usage, UsagePlans};
use posthorn_core::event::connection_info::ApiKey;
use posthorn_core::route::table::RouteKey;

use crate::config::api::ApiKeySource;

/// The keys of one stage.
pub struct ApiKeys {
    pub(super) source: ApiKeySource,
    plans: Arc<UsagePlans>,
    /// Locked for moments, and by handshakes alone.
    usage: Arc<Mutex<Usage>>,
    stage: usage_plan::Stage,
}

impl ApiKeys {
    pub(super) fn new(
        source: ApiKeySource,
        plans: Arc<UsagePlans>,
        usage: Arc<Mutex<Usage>>,
        api: &Arc<str>,
        stage: &Arc<str>,
    ) -> ApiKeys {
        let stage = usage_plan::Stage { api: api.clone(), stage: stage.clone() };
        ApiKeys { source, plans, usage, stage }
    }

    /// Charges a key for one handshake.
    pub(super) fn admit(&self, value: Option<&str>, now_ms: u64) -> Result<ApiKey, Refusal> {
        let value = value.ok_or(Refusal::Forbidden)?;
        let now = (Instant::now(), now_ms);
        let mut usage = self.usage.lock();
        let id = usage.admit(&self.plans, value, &self.stage, RouteKey::CONNECT, now)?;
        Ok(ApiKey { value: value.into(), id: (&*id).into() })
    }
}
