//! Libraries that stand between a node and its C library.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles C into a library of that name, to be put into `LD_PRELOAD`.
///
/// # Panics
///
/// Without a C compiler, which the broker itself needs to be built.
pub(crate) fn compile(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (code, library) = (folder.join(name).with_extension("c"), folder.join(name));
    std::fs::create_dir_all(folder).expect("a folder can be made");
    std::fs::write(&code, source).expect("a file can be written");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .args([&library, &code])
        .arg("-ldl")
        .status();
    assert!(status.expect("there is a C compiler").success());
    library
}
