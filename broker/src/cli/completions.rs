//! `posthorn completions`: what has a shell complete our command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::{Arguments, Exit, print};

pub(super) fn completions(shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "posthorn", &mut script);
    print::text(&String::from_utf8_lossy(&script)).err().unwrap_or(Exit::Success)
}
