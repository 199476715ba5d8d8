//! What a node was told in files and is told anew when they change, or on SIGHUP: all of it or, where
//! anything is wrong with it, none.
//!
//! Files are looked at, not waited for: Kubernetes replaces them by swapping a symbolic link two
//! folders up, of which no watch on the file itself ever hears.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ring::digest;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::api::Callers;
use crate::config::Config;
use crate::exchange::Gateway;
use crate::exchange::stage::{Lasting, Stages};
use crate::fabric::Fabric;
use crate::telemetry::{Metrics, ReloadMetrics, Reloaded};
use crate::tls::ServerTls;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Something that was made of files and can be made of them anew.
pub(crate) trait Reload: Send + Sync + 'static {
    /// As the log has it.
    fn name(&self) -> &'static str;
    /// Every file that has a say.
    fn files(&self) -> Vec<PathBuf>;
    /// What is wrong with the files leaves everything as it was.
    fn reload(&self) -> Result<(), String>;
    /// Counts what a reading came to, and says how long what is in force is good for.
    fn report(&self, outcome: Option<Reloaded>, metrics: &ReloadMetrics);
}

/// The API definitions, and what leads to them.
pub(crate) struct Definitions {
    /// As the node was started with it.
    started: Config,
    gateway: Arc<Gateway>,
    callers: Arc<Callers>,
    lasting: Lasting,
    metrics: Arc<Metrics>,
    /// What the last reading read, also in vain.
    files: Mutex<BTreeSet<PathBuf>>,
}

impl Definitions {
    pub(crate) fn new(
        config: &Config,
        gateway: Arc<Gateway>,
        callers: Arc<Callers>,
        lasting: Lasting,
        metrics: Arc<Metrics>,
    ) -> Definitions {
        let files = Mutex::new(config.files.clone());
        Definitions { started: config.clone(), gateway, callers, lasting, metrics, files }
    }
}

impl Reload for Definitions {
    fn name(&self) -> &'static str {
        "configuration"
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.lock().iter().cloned().collect()
    }

    fn reload(&self) -> Result<(), String> {
        let (config, files) = Config::load_noting_files(&self.started.path);
        *self.files.lock() = files;
        let config = config.map_err(|error| error.to_string())?;
        self.callers.replace(&config.principals);
        self.gateway.set_stages(Stages::new(&config, &self.lasting, &self.metrics));
        let sections = self.started.sections_that_differ(&config);
        if !sections.is_empty() {
            warn!(?sections, "what changed in these takes effect when the node is started anew");
        }
        Ok(())
    }

    fn report(&self, outcome: Option<Reloaded>, metrics: &ReloadMetrics) {
        if let Some(outcome) = outcome {
            metrics.definitions.at(outcome).increment(1);
        }
    }
}

/// The certificates of a listener.
pub(crate) struct ListenerTls {
    /// The section of the configuration.
    pub(crate) section: &'static str,
    pub(crate) tls: Arc<ServerTls>,
}

impl Reload for ListenerTls {
    fn name(&self) -> &'static str {
        self.section
    }

    fn files(&self) -> Vec<PathBuf> {
        self.tls.files()
    }

    fn reload(&self) -> Result<(), String> {
        self.tls.reload().map_err(|error| error.to_string())
    }

    fn report(&self, outcome: Option<Reloaded>, metrics: &ReloadMetrics) {
        metrics.on_certificates(self.section, outcome, self.tls.expires_at_s());
    }
}

impl Reload for Fabric {
    fn name(&self) -> &'static str {
        "fabric"
    }

    fn files(&self) -> Vec<PathBuf> {
        self.paper_files().to_vec()
    }

    fn reload(&self) -> Result<(), String> {
        Fabric::reload(self).map_err(|error| error.to_string())
    }

    fn report(&self, outcome: Option<Reloaded>, metrics: &ReloadMetrics) {
        metrics.on_certificates("fabric", outcome, self.papers_expire_at_s());
    }
}

/// The largest file that anything is made of. What lies behind it is not looked at.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A digest of what each file holds. None is a file that cannot be read.
type Fingerprint = Vec<Option<Vec<u8>>>;

/// Something that is made anew when its files change.
pub(crate) struct Watched {
    reload: Arc<dyn Reload>,
    /// Of what it was made of.
    seen: Fingerprint,
}

impl Watched {
    /// To be called when it has just been made. Reads files: it may block for a moment.
    pub(crate) fn new(reload: Arc<dyn Reload>) -> Watched {
        let seen = fingerprint(&reload.files());
        Watched { reload, seen }
    }

    /// Looks after it, for ever. `hangups` changes with each SIGHUP.
    pub(crate) async fn keep_fresh(
        mut self,
        mut hangups: watch::Receiver<()>,
        metrics: Arc<Metrics>,
    ) {
        let mut last = self.seen.clone();
        self.reload.report(None, &metrics.reloads);
        loop {
            let is_asked = tokio::select! {
                Ok(()) = hangups.changed() => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            let reload = self.reload.clone();
            let seen = self.seen.clone();
            let looked = tokio::task::spawn_blocking(move || look(&*reload, seen, &last, is_asked));
            // Nothing of it panics: the runtime is ending.
            let Ok(Looked { seen, now, outcome }) = looked.await else { return };
            (self.seen, last) = (seen, now);
            if outcome.is_some() {
                self.reload.report(outcome, &metrics.reloads);
            }
        }
    }
}

struct Looked {
    seen: Fingerprint,
    now: Fingerprint,
    outcome: Option<Reloaded>,
}

fn look(reload: &dyn Reload, seen: Fingerprint, last: &Fingerprint, is_asked: bool) -> Looked {
    let files = reload.files();
    let now = fingerprint(&files);
    // Who writes several files, or one in several steps, is given the time to finish.
    let has_settled = now == *last;
    if !is_asked && (!has_settled || now == seen) {
        return Looked { seen, now, outcome: None };
    }
    let name = reload.name();
    let outcome = match reload.reload() {
        Ok(()) => {
            info!(name, "read anew");
            Reloaded::Applied
        }
        Err(error) => {
            error!(name, error, "not read anew: everything stays as it was");
            Reloaded::Refused
        }
    };
    // New content may name other files.
    let named = reload.files();
    let seen = if named == files { now } else { fingerprint(&named) };
    Looked { now: seen.clone(), seen, outcome: Some(outcome) }
}

fn fingerprint(files: &[PathBuf]) -> Fingerprint {
    let digest_of = |file: &PathBuf| {
        let mut content = Vec::new();
        File::open(file).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut content).ok()?;
        Some(digest::digest(&digest::SHA256, &content).as_ref().to_vec())
    };
    files.iter().map(digest_of).collect()
}
