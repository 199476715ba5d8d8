//! What the documentation says can be done: links lead somewhere, commands are understood,
//! configurations are believed, examples are what is in their files and do what they say.
//!
//! How blocks are marked stands in `docs/developing.md`.

mod commands;
mod configurations;
mod examples;
mod facts;
mod links;
mod pages;
mod transcripts;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").into()
}
