//! `posthorn config`: the configuration that a node would have.

use std::path::PathBuf;

use crate::cli::{Exit, print};
use crate::config::{Config, effective, reference};

#[derive(clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the configuration that a node would have, with what the environment says and all defaults, and
    /// what each key is about.
    ///
    /// It is YAML that `check` accepts in its place, since paths are relative to the file. Secrets are
    /// masked. What `api_files` name is not in it.
    Print(PrintArguments),
}

#[derive(clap::Args)]
pub(super) struct PrintArguments {
    /// The node's configuration, in YAML.
    #[arg(value_name = "FILE")]
    config: PathBuf,
    /// Print JSON, without comments.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &ConfigCommand) -> Exit {
    let ConfigCommand::Print(PrintArguments { config, json }) = command;
    let effective = match Config::effective(config) {
        Ok(effective) => effective,
        Err(error) => {
            print::failure(&error.to_string(), None);
            return Exit::Usage;
        }
    };
    let printed = match json {
        true => print::json(&effective),
        false => print::text(&effective::yaml(&reference::sections(), &effective)),
    };
    printed.err().unwrap_or(Exit::Success)
}
