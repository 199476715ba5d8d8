//! A node's clocks: the wall clock, which its machine's owner sets as he likes, and the others, which
//! never step but may be fast or slow.

use std::path::{Path, PathBuf};

use crate::process::Launch;
use crate::shim;

/// How many seconds the wall clock is ahead, a file says; at which rate the others go from the process's
/// beginning on, in thousandths, the environment. Who waits for a while waits as long as ever.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long rate = 1000;
static struct timespec began[16];

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("CLOCK_RATE");
    for (int clock = 0; clock < 16; clock++) syscall(SYS_clock_gettime, clock, &began[clock]);
    if (text) rate = atoll(text);
}

static long ahead_s(void) {
    char text[32] = {0};
    const char *path = getenv("WALL_CLOCK_AHEAD");
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0) return 0;
    if (read(fd, text, sizeof text - 1) < 0) abort();
    close(fd);
    return atol(text);
}

static long long ns(const struct timespec *time) {
    return time->tv_sec * 1000000000LL + time->tv_nsec;
}

static void stretch(const struct timespec *from, struct timespec *time) {
    long long stretched = ns(from) + (ns(time) - ns(from)) / 1000 * rate;
    time->tv_sec = stretched / 1000000000LL;
    time->tv_nsec = stretched % 1000000000LL;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result) return result;
    switch (clock) {
        case CLOCK_REALTIME:
        case CLOCK_REALTIME_COARSE:
            time->tv_sec += ahead_s();
            break;
        case CLOCK_MONOTONIC:
        case CLOCK_MONOTONIC_COARSE:
        case CLOCK_MONOTONIC_RAW:
        case CLOCK_BOOTTIME:
            if (rate != 1000) stretch(&began[clock], time);
            break;
    }
    return 0;
}
"#;

/// The clocks of those nodes that are started with it.
pub struct Clock {
    shim: PathBuf,
    ahead: PathBuf,
    rate: u32,
}

impl Clock {
    /// Clocks that go right.
    pub fn build(folder: &Path) -> Clock {
        Clock::build_at(folder, 1000)
    }

    /// All but the wall clock go at this rate, in thousandths.
    pub fn build_at(folder: &Path, rate: u32) -> Clock {
        let folder = folder.join("clock");
        let shim = shim::compile(&folder, "clock.so", SHIM);
        let clock = Clock { shim, ahead: folder.join("ahead"), rate };
        clock.step_to(0);
        clock
    }

    pub fn launch(&self) -> Launch {
        Launch { environment: self.environment(), ..Launch::default() }
    }

    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &PathBuf| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.shim)),
            ("WALL_CLOCK_AHEAD".to_owned(), text(&self.ahead)),
            ("CLOCK_RATE".to_owned(), self.rate.to_string()),
        ]
    }

    /// From now on the wall clock is so many seconds ahead of the machine's, or behind it.
    pub fn step_to(&self, ahead_s: i64) {
        // Whole at any moment for who reads it.
        let partial = self.ahead.with_extension("new");
        std::fs::write(&partial, ahead_s.to_string()).expect("a file can be written");
        std::fs::rename(&partial, &self.ahead).expect("a file can be renamed");
    }
}
