//! Access logs on their way out: one thread a destination writes what connections hand it.
//!
//! * Nobody waits for a log: what does not fit into its queue is dropped, and counted.
//! * A file that was renamed or removed is opened anew before the next line, so that it can be rotated
//!   without telling us.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use metrics::Counter;
use parking_lot::Mutex;
use tracing::warn;

use crate::telemetry::registry::Registry;

/// Lines that wait to be written. Further ones are dropped.
const LINES_MAX: usize = 16 * 1024;
/// The same in bytes.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Written at once.
const BATCH_BYTES_MAX: usize = 64 * 1024;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    Stdout,
    File(PathBuf),
}

/// The destinations of this process. Each is written by one thread, however many stages share it.
pub struct AccessLogs {
    open: Mutex<BTreeMap<Destination, Arc<AccessLog>>>,
    counters: Counters,
}

/// A destination, for those who have something to say.
pub struct AccessLog {
    sender: SyncSender<Word>,
    /// Of lines that wait.
    bytes: Arc<AtomicUsize>,
    counters: Counters,
}

#[derive(Clone)]
struct Counters {
    written: Counter,
    dropped: Counter,
}

enum Word {
    Line(String),
    /// Everything before it was written once this is dropped.
    Flush(SyncSender<()>),
}

impl AccessLogs {
    pub(super) fn new(registry: &mut Registry) -> AccessLogs {
        let counters = Counters {
            written: registry
                .counter("posthorn_access_log_lines_total", "Lines of access logs written."),
            dropped: registry.counter(
                "posthorn_access_log_lines_dropped_total",
                "Lines of access logs that were dropped: they came too fast, or could not be written.",
            ),
        };
        AccessLogs { open: Mutex::default(), counters }
    }

    pub fn open(&self, destination: &Destination) -> Arc<AccessLog> {
        let mut open = self.open.lock();
        // What only we still hold was of a configuration that is no longer in force.
        open.retain(|other, log| other == destination || Arc::strong_count(log) > 1);
        let begin = || Arc::new(AccessLog::begin(destination.clone(), self.counters.clone()));
        open.entry(destination.clone()).or_insert_with(begin).clone()
    }

    /// Waits until all that was handed over is written, for a while.
    pub fn flush(&self) {
        let logs: Vec<_> = self.open.lock().values().cloned().collect();
        for log in logs {
            let (done, written) = sync_channel(1);
            if log.sender.try_send(Word::Flush(done)).is_ok() {
                let _ = written.recv_timeout(FLUSH_TIMEOUT);
            }
        }
    }
}

impl AccessLog {
    fn begin(destination: Destination, counters: Counters) -> AccessLog {
        let (sender, words) = sync_channel(LINES_MAX);
        let bytes = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            destination,
            file: None,
            is_failing: false,
            bytes: bytes.clone(),
            counters: counters.clone(),
        };
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        if let Err(error) = thread.spawn(move || writer.run(&words)) {
            // Its receiver is gone, so that every line counts as dropped.
            warn!(%error, "an access log cannot be written");
        }
        AccessLog { sender, bytes, counters }
    }

    /// Hands a line over, or drops it.
    pub fn write(&self, line: String) {
        let length = line.len();
        if self.bytes.fetch_add(length, Ordering::Relaxed) + length <= BYTES_MAX
            && !matches!(
                self.sender.try_send(Word::Line(line)),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
            )
        {
            return;
        }
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        self.counters.dropped.increment(1);
    }
}

struct Writer {
    destination: Destination,
    file: Option<File>,
    /// Said once, until a line was written again.
    is_failing: bool,
    bytes: Arc<AtomicUsize>,
    counters: Counters,
}

impl Writer {
    /// Until nobody can hand it anything any more.
    fn run(mut self, words: &Receiver<Word>) {
        let mut batch = Vec::new();
        while let Ok(first) = words.recv() {
            let (mut lines, mut flushes, mut word) = (0, Vec::new(), Some(first));
            while let Some(next) = word.take() {
                match next {
                    Word::Line(line) => {
                        self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                        batch.extend_from_slice(line.as_bytes());
                        batch.push(b'\n');
                        lines += 1;
                    }
                    Word::Flush(done) => flushes.push(done),
                }
                if batch.len() < BATCH_BYTES_MAX {
                    word = words.try_recv().ok();
                }
            }
            if lines > 0 {
                self.write_batch(&batch, lines);
            }
            batch.clear();
        }
    }

    fn write_batch(&mut self, batch: &[u8], lines: u64) {
        match self.try_write(batch) {
            Ok(()) => {
                self.is_failing = false;
                self.counters.written.increment(lines);
            }
            Err(error) => {
                if !self.is_failing {
                    warn!(destination = ?self.destination, %error, "an access log cannot be written");
                }
                self.is_failing = true;
                self.file = None;
                self.counters.dropped.increment(lines);
            }
        }
    }

    fn try_write(&mut self, batch: &[u8]) -> io::Result<()> {
        match &self.destination {
            Destination::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(batch)?;
                stdout.flush()
            }
            Destination::File(path) => {
                let mut file = match self.file.take().filter(|file| is_at(file, path)) {
                    Some(file) => file,
                    None => OpenOptions::new().create(true).append(true).open(path)?,
                };
                file.write_all(batch)?;
                self.file = Some(file);
                Ok(())
            }
        }
    }
}

/// Whether a path still leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => place(ours) == place(there),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_in_order_also_after_the_file_was_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let logs = AccessLogs::new(&mut Registry::default());
        let log = logs.open(&Destination::File(path.clone()));
        log.write("one".to_owned());
        log.write("two".to_owned());
        logs.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        log.write("three".to_owned());
        logs.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn what_comes_too_fast_is_dropped_and_nobody_waits() {
        let (sender, words) = sync_channel(2);
        let counters = Counters { written: Counter::noop(), dropped: Counter::noop() };
        let log = AccessLog { sender, bytes: Arc::default(), counters };
        for line in ["one", "two", "three"] {
            log.write(line.to_owned());
        }
        log.write("x".repeat(BYTES_MAX));
        assert_eq!(log.bytes.load(Ordering::Relaxed), 6);
        let lines = words.try_iter().filter(|word| matches!(word, Word::Line(_)));
        assert_eq!(lines.count(), 2);
    }
}
