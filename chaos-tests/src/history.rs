//! What happened, as clients, senders and backends saw it, on one clock. The broker has no say in it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Microseconds since the history began.
    pub at: u64,
    #[serde(flatten)]
    pub event: Event,
}

/// Clients, senders and their posts are numbered by the harness; connections are named by the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    OpenBegin {
        client: u64,
        node: usize,
    },
    /// The handshake was answered with 101.
    Opened {
        client: u64,
        connection: String,
    },
    /// `status` is missing where there was no answer.
    OpenFailed {
        client: u64,
        status: Option<u16>,
    },
    /// A client was told what `sender` had posted as its `sequence`th message, to `target`.
    Received {
        client: u64,
        target: String,
        sender: u64,
        sequence: u64,
    },
    /// A client wishes to close, or is no longer there.
    CloseBegin {
        client: u64,
    },
    /// A client saw the end. `code` is missing where there was no Close frame.
    Closed {
        client: u64,
        code: Option<u16>,
    },
    PostBegin {
        sender: u64,
        sequence: u64,
        connection: String,
        node: usize,
    },
    PostEnd {
        sender: u64,
        sequence: u64,
        outcome: Outcome,
    },
    /// A backend was called, and answered with a status.
    Called {
        kind: Kind,
        connection: String,
        run: String,
        sequence: u64,
        context: Context,
        status: u16,
    },
    FaultBegin {
        fault: String,
    },
    FaultEnd {
        fault: String,
    },
}

/// What a sender was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    Gone,
    Busy,
    Unavailable,
    Unknown,
    /// Nothing at all, for longer than a post may take: the node cannot be reached. What became of the
    /// post is as unknown.
    Silence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Connect,
    Message,
    Disconnect,
}

/// What all events of one connection say alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Who the client is, as JSON.
    pub identity: String,
    pub connected_at: u64,
    pub api_id: String,
    pub stage: String,
    pub domain_name: String,
    /// As JSON. Empty if there is none.
    pub authorizer: String,
}

pub struct History {
    began: Instant,
    records: Mutex<Vec<Record>>,
}

impl Default for History {
    fn default() -> History {
        History { began: Instant::now(), records: Mutex::default() }
    }
}

impl History {
    /// Gives when that was.
    pub fn record(&self, event: Event) -> u64 {
        // Under the lock, so that the order of the records is that of their times.
        let mut records = self.records.lock();
        let at = self.now();
        records.push(Record { at, event });
        at
    }

    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).expect("a history is short")
    }

    pub fn records(&self) -> Vec<Record> {
        self.records.lock().clone()
    }

    /// What was recorded from a time on.
    pub fn since(&self, at: u64) -> Vec<Record> {
        let records = self.records.lock();
        let first = records.partition_point(|record| record.at < at);
        records[first..].to_vec()
    }
}

/// One JSON object a line.
pub fn save(records: &[Record], path: &Path) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for record in records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

pub fn load(path: &Path) -> std::io::Result<Vec<Record>> {
    let lines = BufReader::new(File::open(path)?).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
