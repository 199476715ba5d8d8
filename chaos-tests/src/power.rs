//! Power cuts: of what a node wrote, only what it synced is there when it starts again.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::chance::Chance;
use crate::shim;

/// Keeps a copy of each file and of each folder's names as they were when they were last synced, by the
/// file's own key: its name may be given to another, and its number as well. What was there when the
/// process began is synced.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void must(int is_so) { if (!is_so) abort(); }

static int key_of(char *key, int folder, const char *name) {
    struct statx file;
    int flags = *name ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH;
    if (statx(folder, name, flags, STATX_INO | STATX_BTIME, &file)) return 0;
    sprintf(key, "%llu-%lld-%u", (unsigned long long)file.stx_ino,
            (long long)file.stx_btime.tv_sec, file.stx_btime.tv_nsec);
    return 1;
}

static int is_watched(int fd) {
    char link[64], name[4096];
    const char *root = getenv("POWER_DATA");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (!root || length < 0) return 0;
    name[length] = 0;
    size_t prefix = strlen(root);
    return !strncmp(name, root, prefix) && (!name[prefix] || name[prefix] == '/');
}

static void keep_names(int fd, int kept) {
    char key[128];
    DIR *folder = fdopendir(fd);
    must(folder != NULL);
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        /* It may have been removed just now. */
        if (key_of(key, fd, entry->d_name)) dprintf(kept, "%s %s\n", key, entry->d_name);
    }
    closedir(folder);
}

static void keep_bytes(int fd, int kept) {
    static char now[65536], then[65536];
    off_t at = 0;
    for (ssize_t count; (count = pread(fd, now, sizeof now, at)); at += count) {
        must(count > 0);
        if (pread(kept, then, count, at) == count && !memcmp(now, then, count)) continue;
        must(pwrite(kept, now, count, at) == count);
    }
    must(!ftruncate(kept, at));
    close(fd);
}

static void keep(int synced) {
    char key[128], path[4096], partial[4200], link[64];
    struct stat file;
    if (!is_watched(synced)) return;
    must(key_of(key, synced, ""));
    snprintf(path, sizeof path, "%s/%s", getenv("POWER_KEPT"), key);
    snprintf(partial, sizeof partial, "%s.partial", path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", synced);
    must(!pthread_mutex_lock(&lock));
    int fd = open(link, O_RDONLY | O_CLOEXEC);
    must(fd >= 0 && !fstat(fd, &file));
    if (S_ISDIR(file.st_mode)) {
        int kept = open(partial, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        keep_names(fd, kept);
        close(kept);
        must(!rename(partial, path));
    } else {
        int kept = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        keep_bytes(fd, kept);
        close(kept);
    }
    must(!pthread_mutex_unlock(&lock));
}

int fdatasync(int fd) {
    int result = syscall(SYS_fdatasync, fd);
    if (!result) keep(fd);
    return result;
}

int fsync(int fd) {
    int result = syscall(SYS_fsync, fd);
    if (!result) keep(fd);
    return result;
}

static int keep_first(const char *path, const struct stat *file, int kind, struct FTW *place) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    keep(fd);
    close(fd);
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *root = getenv("POWER_DATA");
    if (root) nftw(root, keep_first, 16, FTW_PHYS);
}
"#;

/// How much of what was written and not synced is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    All,
    /// Of each file some pages are as they were written, and others as they were synced.
    Some,
}

/// Nodes whose power can be cut: those that are started with it.
pub struct Power {
    shim: PathBuf,
    kept: PathBuf,
    chance: Chance,
}

impl Power {
    /// The seed is of what is lost.
    pub fn build(folder: &Path, seed: u64) -> Power {
        let kept = folder.join("power");
        let shim = shim::compile(&kept, "power.so", SHIM);
        Power { shim, kept, chance: Chance::new(seed) }
    }

    /// What the node with this data directory is to be started with.
    pub fn environment(&self, data_dir: &Path) -> Vec<(String, String)> {
        let kept = self.kept_of(data_dir);
        fs::create_dir_all(&kept).expect("a folder can be made");
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.shim)),
            ("POWER_DATA".to_owned(), text(data_dir)),
            ("POWER_KEPT".to_owned(), text(&kept)),
        ]
    }

    /// The node's process has been killed; now its disk forgets. Gives how many bytes of its files are
    /// not what was written.
    pub fn cut(&mut self, data_dir: &Path, loss: Loss) -> usize {
        let (kept, written) = (self.kept_of(data_dir), data_dir.with_extension("written"));
        fs::rename(data_dir, &written).expect("a folder can be renamed");
        let mut disk =
            Disk { kept: &kept, written: HashMap::new(), loss, chance: &mut self.chance };
        disk.look_around(&written);
        disk.restore(&key_of(&written), data_dir);
        let lost = difference(&written, data_dir);
        for folder in [&written, &kept] {
            fs::remove_dir_all(folder).expect("a folder can be removed");
        }
        fs::create_dir_all(&kept).expect("a folder can be made");
        lost
    }

    fn kept_of(&self, data_dir: &Path) -> PathBuf {
        self.kept.join(data_dir.file_name().expect("it has a name"))
    }
}

struct Disk<'disk> {
    /// What was synced, by key.
    kept: &'disk Path,
    /// Where everything is that was written, by key.
    written: HashMap<String, PathBuf>,
    loss: Loss,
    chance: &'disk mut Chance,
}

impl Disk<'_> {
    fn look_around(&mut self, folder: &Path) {
        self.written.insert(key_of(folder), folder.to_owned());
        for entry in entries(folder) {
            match entry.is_dir() {
                true => self.look_around(&entry),
                false => drop(self.written.insert(key_of(&entry), entry)),
            }
        }
    }

    fn restore(&mut self, key: &str, to: &Path) {
        let is_folder = match self.written.get(key) {
            Some(path) => path.is_dir(),
            // What has been removed is a file: folders stay.
            None => false,
        };
        match is_folder {
            true => {
                fs::create_dir(to).expect("a folder can be made");
                for (name, key) in self.names(key) {
                    self.restore(&key, &to.join(name));
                }
            }
            false => fs::write(to, self.bytes(key)).expect("a file can be written"),
        }
    }

    /// All changes of a folder's names, or none.
    fn names(&mut self, folder: &str) -> BTreeMap<String, String> {
        if self.loss == Loss::Some && self.chance.coin() {
            let written = entries(&self.written[folder]);
            let named = written.iter().map(|entry| (name_of(entry), key_of(entry)));
            return named.collect();
        }
        let kept = fs::read_to_string(self.kept.join(folder)).unwrap_or_default();
        let named = kept.lines().filter_map(|line| line.split_once(' '));
        named.map(|(key, name)| (name.to_owned(), key.to_owned())).collect()
    }

    fn bytes(&mut self, file: &str) -> Vec<u8> {
        let mut bytes = fs::read(self.kept.join(file)).unwrap_or_default();
        let Some(written) = self.written.get(file).filter(|_| self.loss == Loss::Some) else {
            return bytes;
        };
        let written = fs::read(written).expect("a file can be read");
        bytes.resize(written.len(), 0);
        for (page, written) in bytes.chunks_mut(4096).zip(written.chunks(4096)) {
            if self.chance.coin() {
                page.copy_from_slice(written);
            }
        }
        bytes
    }
}

fn difference(written: &Path, left: &Path) -> usize {
    let mut bytes = 0;
    for entry in entries(written) {
        let left = left.join(name_of(&entry));
        if entry.is_dir() {
            bytes += difference(&entry, &left);
            continue;
        }
        let written = fs::read(&entry).expect("a file can be read");
        let left = fs::read(left).unwrap_or_default();
        bytes += written.len().abs_diff(left.len());
        bytes += written.iter().zip(&left).filter(|(one, other)| one != other).count();
    }
    bytes
}

/// As the shim has it.
fn key_of(path: &Path) -> String {
    let file = fs::symlink_metadata(path).expect("a file can be looked at");
    let made = file.created().expect("file systems know when files were made");
    let made = made.duration_since(UNIX_EPOCH).expect("it is later than 1970");
    format!("{}-{}-{}", file.ino(), made.as_secs(), made.subsec_nanos())
}

/// Those of a folder that is not there are none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.expect("a folder can be read").path()).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
