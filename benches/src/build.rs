//! Sees to it that the nodes are of the sources that lie here.

use std::io;
use std::process::Command;

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cargo cannot be run: {0}")]
    Cargo(io::Error),
    #[error("the broker cannot be built")]
    Failed,
}

/// Builds the broker beside our own binary, if cargo runs us. Otherwise it is taken as it is.
pub fn node() -> Result<(), BuildError> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let own = std::env::current_exe().map_err(BuildError::Cargo)?;
    let mut folders = own.ancestors().skip(1);
    let (Some(profile), Some(target)) = (folders.next(), folders.next()) else { return Ok(()) };
    let mut command = Command::new(cargo);
    command.args(["build", "-p", "posthorn", "--target-dir"]).arg(target);
    if profile.ends_with("release") {
        command.arg("--release");
    } else {
        eprintln!("posthorn-load: without --release, the figures say little");
    }
    // Set for the program that cargo runs. Build scripts that look at them would run again, and
    // everything behind them be built again.
    for (name, _) in std::env::vars_os() {
        let is_of_package =
            |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if name.to_str().is_some_and(is_of_package) {
            command.env_remove(name);
        }
    }
    match command.status().map_err(BuildError::Cargo)?.success() {
        true => Ok(()),
        false => Err(BuildError::Failed),
    }
}
