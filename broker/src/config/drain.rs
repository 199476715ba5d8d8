//! How a node takes its leave.

use std::sync::Arc;

use posthorn_core::close::CloseFrame;
use posthorn_derive::Setting;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected};

use crate::config::values::Pause;

/// What a node does when it is asked to end, by SIGTERM or by command. Whoever kills it has to leave
/// it time for all of this: `grace_s`, `window_s`, `edge.close_timeout_ms`, `disconnect_timeout_s`,
/// and ten seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields, default)]
pub struct DrainSettings {
    /// From when `/readyz` says no until clients are turned away, so that load balancers have
    /// turned elsewhere by then. Meanwhile everything is served as before.
    pub grace_s: Pause,
    /// Over which clients are closed, so that the other nodes are not stormed: in no second more
    /// than that share of them, or ten.
    pub window_s: Pause,
    /// What their Close frames say.
    #[serde(deserialize_with = "close_code")]
    #[setting(words = "1000 to 1003, 1007 to 1014, or 3000 to 4999")]
    pub close_code: u16,
    /// The reason beside the code.
    #[serde(deserialize_with = "close_reason")]
    #[setting(words = "text, at most 123 bytes")]
    pub close_reason: Arc<str>,
    /// How long `$disconnect` calls are waited for once the last client has gone. What is left then
    /// is the other nodes' to call.
    pub disconnect_timeout_s: Pause,
}

impl Default for DrainSettings {
    fn default() -> DrainSettings {
        DrainSettings {
            grace_s: Pause::new(5),
            window_s: Pause::new(30),
            close_code: 1012,
            close_reason: "Service restart".into(),
            disconnect_timeout_s: Pause::new(10),
        }
    }
}

fn close_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let code = u64::deserialize(deserializer)?;
    let rule = "a code that a server may send: 1000 to 1003, 1007 to 1014, 3000 to 4999";
    u16::try_from(code)
        .ok()
        .filter(|code| CloseFrame::is_code_for_servers(*code))
        .ok_or_else(|| D::Error::invalid_value(Unexpected::Unsigned(code), &rule))
}

fn close_reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    let reason = String::deserialize(deserializer)?;
    let rule = "at most 123 bytes";
    match reason.len() {
        0..=CloseFrame::REASON_BYTES_MAX => Ok(reason.into()),
        _ => Err(D::Error::invalid_value(Unexpected::Str(&reason), &rule)),
    }
}
