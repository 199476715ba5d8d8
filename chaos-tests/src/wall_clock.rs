//! A node's wall clock, which its machine's owner sets as he likes. Its other clocks go on.

use std::path::{Path, PathBuf};

use crate::process::Launch;
use crate::shim;

/// How many seconds the wall clock is ahead, a file says.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long ahead_s(void) {
    char text[32] = {0};
    const char *path = getenv("WALL_CLOCK_AHEAD");
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0) return 0;
    if (read(fd, text, sizeof text - 1) < 0) abort();
    close(fd);
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (result == 0 && is_wall) time->tv_sec += ahead_s();
    return result;
}
"#;

/// The wall clock of those nodes that are started with it.
pub struct WallClock {
    shim: PathBuf,
    ahead: PathBuf,
}

impl WallClock {
    /// One that goes right.
    pub fn build(folder: &Path) -> WallClock {
        let folder = folder.join("wall-clock");
        let shim = shim::compile(&folder, "wall_clock.so", SHIM);
        let clock = WallClock { shim, ahead: folder.join("ahead") };
        clock.step_to(0);
        clock
    }

    pub fn launch(&self) -> Launch {
        let text = |path: &PathBuf| path.display().to_string();
        let environment = vec![
            ("LD_PRELOAD".to_owned(), text(&self.shim)),
            ("WALL_CLOCK_AHEAD".to_owned(), text(&self.ahead)),
        ];
        Launch { environment, ..Launch::default() }
    }

    /// From now on it is so many seconds ahead of the machine's, or behind it.
    pub fn step_to(&self, ahead_s: i64) {
        // Whole at any moment for who reads it.
        let partial = self.ahead.with_extension("new");
        std::fs::write(&partial, ahead_s.to_string()).expect("a file can be written");
        std::fs::rename(&partial, &self.ahead).expect("a file can be renamed");
    }
}
