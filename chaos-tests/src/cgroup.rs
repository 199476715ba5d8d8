//! Control groups (of version 1): what a machine's owner gives a process, and takes away.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Pid;

/// Dropping it gives everything back.
pub struct ControlGroup {
    folder: PathBuf,
}

impl ControlGroup {
    /// Of a controller such as `freezer`. None, with a word on standard error, where a machine has none
    /// that is ours to use: many have version 2 alone.
    pub fn make(controller: &str) -> Option<ControlGroup> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("posthorn-{}-{number}", std::process::id());
        let folder = Path::new("/sys/fs/cgroup").join(controller).join(name);
        match fs::create_dir(&folder) {
            Ok(()) => Some(ControlGroup { folder }),
            Err(error) => {
                eprintln!("SKIPPED, since there is no {controller} here for us: {error}");
                None
            }
        }
    }

    /// For [`crate::process::Launch`].
    pub fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// Takes a process in, with all its threads.
    pub fn take(&self, process: Pid) {
        self.set("cgroup.procs", &process.to_string());
    }

    pub fn set(&self, file: &str, value: &str) {
        fs::write(self.folder.join(file), value).expect("the group is ours");
    }

    pub fn get(&self, file: &str) -> String {
        let value = fs::read_to_string(self.folder.join(file)).expect("the group is ours");
        value.trim_end().to_owned()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // Where a test ends early, its node is in it still, and may be frozen. Those of other kinds have
        // no such file, and one that is empty can be removed.
        drop(fs::write(self.folder.join("freezer.state"), "THAWED"));
        let outside = self.folder.with_file_name("cgroup.procs");
        let processes = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            drop(fs::write(&outside, process));
        }
        drop(fs::remove_dir(&self.folder));
    }
}
