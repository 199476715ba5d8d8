//! The log: one line an event, to standard error, as text for people or as JSON.

use std::fmt::{self, Write as _};

use tracing::Subscriber;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
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
    match settings.format {
        LogFormat::Text => text(filter, std::io::stderr).try_init()?,
        LogFormat::Json => {
            let builder =
                tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
            builder.json().flatten_event(true).finish().try_init()?;
        }
    }
    Ok(())
}

fn text<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    builder.with_ansi(false).fmt_fields(debug_fn(write_field).delimited(" ")).finish()
}

/// What backends and clients say must not look like a line of ours, nor colour a terminal.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(Escaped(writer), "{value:?}"),
        name => {
            write!(writer, "{name}=")?;
            write!(Escaped(writer), "{value:?}")
        }
    }
}

struct Escaped<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(char::is_control) {
            match piece.chars().next_back().filter(|last| last.is_control()) {
                Some(control) => {
                    self.0.write_str(&piece[..piece.len() - control.len_utf8()])?;
                    write!(self.0, "{}", control.escape_default())?;
                }
                None => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_line_stays_a_line_whatever_backends_say() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let subscriber = text(EnvFilter::new("info"), file.clone());
        tracing::subscriber::with_default(subscriber, || {
            let error = "boom\n2026-01-01T00:00:00Z  INFO posthorn: all is well\u{1b}[2J\u{9b}é";
            tracing::warn!(api = "chat", %error, "an integration {}", "failed\r\n");
        });
        let mut log = String::new();
        (&*file).rewind().unwrap();
        (&*file).read_to_string(&mut log).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        let expected = "WARN posthorn::telemetry::log::tests: an integration failed\\r\\n api=\"chat\" \
            error=boom\\n2026-01-01T00:00:00Z  INFO posthorn: all is well\\u{1b}[2J\\u{9b}é\n";
        assert!(log.ends_with(expected), "{log}");
    }
}
