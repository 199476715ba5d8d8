//! The log: one line an event, to standard error, as text for people or as JSON.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::node::{LogFormat, LogSettings};

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("the log was started before")]
    Started(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts the log of this process. Once only.
pub fn start_log(settings: &LogSettings) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&settings.filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Text => builder.with_ansi(false).finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
