//! The binary: everything is in the library.

use std::process::ExitCode;

/// It gives memory back to the system when thousands of connections end at once, which the system's
/// own allocator does not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    posthorn::cli::run()
}
