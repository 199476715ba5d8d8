//! Disks that fail, by standing between a node and its C library.

use std::path::{Path, PathBuf};

use crate::shim;

/// What a node's system calls do to files, as the files of a folder say:
///
/// * `fail-sync`: the next `fdatasync` fails with EIO, once, and removes the file; each sync that comes
///   after it is noted in `synced-after`.
/// * `slow-sync`: each `fdatasync` takes that many milliseconds longer.
/// * `hold-partial`: whoever writes to a file whose name ends in `.partial` waits until it is gone.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int path_of(char *path, const char *name) {
    const char *folder = getenv("DISK_FAULTS");
    return folder && snprintf(path, 4096, "%s/%s", folder, name) < 4096;
}

static void note_if_failed(void) {
    char path[4096];
    if (!path_of(path, "synced-after")) return;
    int fd = open(path, O_WRONLY | O_APPEND);
    if (fd < 0) return;
    if (syscall(SYS_write, fd, ".", 1) < 0) abort();
    close(fd);
}

int fdatasync(int fd) {
    char path[4096];
    note_if_failed();
    if (path_of(path, "fail-sync") && unlink(path) == 0) {
        if (path_of(path, "synced-after")) close(open(path, O_WRONLY | O_CREAT, 0600));
        errno = EIO;
        return -1;
    }
    if (path_of(path, "slow-sync")) {
        FILE *file = fopen(path, "r");
        int ms = 0;
        if (file) {
            if (fscanf(file, "%d", &ms) != 1) ms = 0;
            fclose(file);
        }
        usleep(ms * 1000);
    }
    return syscall(SYS_fdatasync, fd);
}

int fsync(int fd) {
    note_if_failed();
    return syscall(SYS_fsync, fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    char link[64], name[4096], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length > 8 && !memcmp(name + length - 8, ".partial", 8)) {
        while (path_of(path, "hold-partial") && !access(path, F_OK)) usleep(5000);
    }
    return syscall(SYS_write, fd, bytes, count);
}
"#;

/// A library that a node is started with, and the folder that tells it what to do.
pub struct DiskFaults {
    folder: PathBuf,
    shim: PathBuf,
}

impl DiskFaults {
    /// Compiles the library into a folder of its own.
    pub fn build(folder: &Path) -> DiskFaults {
        let folder = folder.join("disk-faults");
        let shim = shim::compile(&folder, "disk.so", SHIM);
        DiskFaults { folder, shim }
    }

    /// What a node is to be started with. Each node may have faults of its own.
    pub fn environment(&self, node: usize) -> Vec<(String, String)> {
        std::fs::create_dir_all(self.of(node)).expect("a folder can be made");
        vec![
            ("LD_PRELOAD".to_owned(), self.shim.display().to_string()),
            ("DISK_FAULTS".to_owned(), self.of(node).display().to_string()),
        ]
    }

    pub fn begin(&self, node: usize, fault: &str, value: &str) {
        std::fs::write(self.of(node).join(fault), value).expect("a file can be written");
    }

    pub fn end(&self, node: usize, fault: &str) {
        std::fs::remove_file(self.of(node).join(fault)).expect("the fault is on");
    }

    /// How often the node synced a file after a sync had failed. None if none has.
    pub fn synced_after_failure(&self, node: usize) -> Option<usize> {
        std::fs::read(self.of(node).join("synced-after")).ok().map(|notes| notes.len())
    }

    fn of(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{node}"))
    }
}
