//! Pages of `docs` that are made of the code, and are to be as it is: `UPDATE=1` writes them anew.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

mod api;
mod cli;
mod configuration;
mod metrics;

use std::path::Path;

/// What every page says of itself.
const MADE: &str =
    "<!-- Made of the code: UPDATE=1 cargo test --workspace --test references -->\n\n";

/// Compares a page with what it should be, or writes it.
///
/// # Panics
///
/// If it is not current.
fn check_page(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let pairs = written.lines().zip(text.lines()).enumerate();
    let first = pairs.into_iter().find(|(_, (is, should_be))| is != should_be);
    assert!(
        written == text,
        "docs/{name} is not current; UPDATE=1 cargo test --workspace --test references writes it. \
         The first line that differs: {first:#?}"
    );
}

/// A text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
