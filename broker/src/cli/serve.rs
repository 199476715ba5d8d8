//! `posthorn serve` and `posthorn check`.

use std::path::Path;

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::{Exit, print};
use crate::config::Config;
use crate::draining::Draining;
use crate::fabric::ProtocolVersions;
use crate::node::{Node, NodeError};
use crate::telemetry::start_log;

pub(super) fn check(path: &Path, is_json: bool) -> Exit {
    let checked = Config::load(path).map_err(|error| error.to_string()).and_then(|config| {
        Node::check(&config).map_err(|error| format!("{}: {error}", path.display()))
    });
    let printed = match (&checked, is_json) {
        (_, true) => print::json(
            &json!({ "file": path, "good": checked.is_ok(), "error": checked.as_ref().err() }),
        ),
        (Ok(()), false) => print::line(&format!("{}: good", path.display())),
        (Err(_), false) => Ok(()),
    };
    if let Err(error) = checked {
        print::failure(&error, None);
        return Exit::Usage;
    }
    printed.err().unwrap_or(Exit::Success)
}

pub(super) async fn serve(path: &Path, versions: ProtocolVersions, end_with_stdin: bool) -> Exit {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            print::failure(&error.to_string(), None);
            return Exit::Usage;
        }
    };
    if let Err(error) = start_log(&config.log) {
        print::failure(&format!("{}: {error}", path.display()), None);
        return Exit::Usage;
    }
    match run(config, versions, end_with_stdin).await {
        Ok(()) => Exit::Success,
        Err(error) => {
            print::failure(&error.to_string(), None);
            match error {
                NodeError::Listen { .. } => Exit::Unavailable,
                NodeError::Fabric(_) | NodeError::Tls { .. } => Exit::Usage,
                NodeError::Store(_) => Exit::Store,
                NodeError::Incompatible(_) => Exit::Incompatible,
                NodeError::Removed => Exit::Removed,
                NodeError::Raft(_) | NodeError::Metrics(_) => Exit::Failed,
            }
        }
    }
}

async fn run(
    config: Config,
    versions: ProtocolVersions,
    end_with_stdin: bool,
) -> Result<(), NodeError> {
    let hangups = watch_hangups();
    let node = Node::start(config, versions).await?;
    let listening = node.listening();
    println!(
        "listening edge={} api={} admin={} fabric={}",
        listening.edge, listening.api, listening.admin, listening.fabric
    );
    tokio::spawn(watch_signals(node.draining().clone(), end_with_stdin));
    Box::pin(node.run(hangups)).await
}

/// SIGHUP asks for files to be read anew.
fn watch_hangups() -> watch::Receiver<()> {
    let (hangup, hangups) = watch::channel(());
    match signal(SignalKind::hangup()) {
        Ok(mut signals) => drop(tokio::spawn(async move {
            while signals.recv().await.is_some() {
                hangup.send_replace(());
            }
        })),
        Err(error) => warn!(%error, "cannot listen for SIGHUP"),
    }
    hangups
}

/// The first signal asks for an orderly end, the second for one at once.
async fn watch_signals(draining: Draining, end_with_stdin: bool) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        warn!("cannot listen for signals: this node can only be killed");
        return;
    };
    let parent = async {
        match end_with_stdin {
            true => drain_stdin().await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => info!("interrupted: ending in order"),
        _ = terminate.recv() => info!("asked to end: ending in order"),
        () = parent => {
            info!("the parent process has ended: ending in order");
            draining.begin();
            // Ctrl-C reaches parent and child alike: its signal may come after the parent's end,
            // and is no second request.
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
            }
        }
    }
    draining.begin();
    tokio::select! {
        _ = interrupt.recv() => (),
        _ = terminate.recv() => (),
    }
    warn!("asked twice: ending at once");
    std::process::exit(i32::from(Exit::Failed as u8));
}

/// Returns when nobody holds the other end any more.
async fn drain_stdin() {
    let (mut stdin, mut scrap) = (tokio::io::stdin(), [0; 64]);
    while !matches!(stdin.read(&mut scrap).await, Ok(0) | Err(_)) {}
}
