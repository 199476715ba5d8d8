//! What a page shows of terminals is what happens: each command is typed, and what the page shows behind
//! it is what it prints.
//!
//! In a block of a terminal, a line behind `$ ` is a command, one behind `> ` is typed into the program
//! that runs, `^C` interrupts it, and every other line is printed. `…` stands for anything, and alone for
//! any lines. A connection ID stands for the one that is given out; where it comes again, it is the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use posthorn_chaos::eventually;
use posthorn_chaos::process::binary;
use posthorn_core::ids::ConnectionId;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::pages::{Block, Page};
use crate::root;

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_goes_as_it_says() {
    play("docs/quick-start.md", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_deployed_as_it_says() {
    play("docs/deploying.md", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_room_is_tried_as_it_says() {
    play("docs/backends.md", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_begins_as_it_says() {
    play("README.md", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_restarted_as_it_says() {
    play("docs/upgrading.md", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_removed_as_it_says() {
    play("docs/operating.md", 6).await;
}

/// Plays all terminals of a page. What it names by loopback addresses is at one of the test's own.
async fn play(path: &str, place: u32) {
    let page = Page::read(path);
    let mut stage = Stage::new(place);
    let mut count = 0;
    for block in &page.blocks {
        if let Some(terminal) = block.mark("terminal") {
            count += 1;
            stage.play(terminal, block).await;
        }
    }
    assert!(count > 1, "{path} shows no terminals");
    stage.leave().await;
}

const EXAMPLE: &str = "cargo run -p posthorn-chaos --example backend --";

struct Stage {
    terminals: BTreeMap<String, Terminal>,
    /// In the place of 127.0.0.1.
    address: String,
    /// What a connection ID of the page is here.
    ids: BTreeMap<String, String>,
    /// Looks like the root of the project.
    folder: TempDir,
}

struct Terminal {
    shell: Child,
    /// Until it is closed.
    input: Option<ChildStdin>,
    printed: Arc<Mutex<Vec<String>>>,
    /// How many lines of it have been looked at.
    read: usize,
    /// The page passes over whatever comes before its next line.
    skips: bool,
}

impl Stage {
    fn new(place: u32) -> Stage {
        // Away from those that clusters take.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = format!("127.{}.{high}.{}", 200 + place, low.clamp(1, 254));
        let folder = TempDir::with_prefix("posthorn-docs-").expect("a folder can be made");
        copy(&root().join("docs/examples"), &folder.path().join("docs/examples"), &address);
        Stage { terminals: BTreeMap::new(), address, ids: BTreeMap::new(), folder }
    }

    async fn play(&mut self, terminal: &str, block: &Block) {
        if !self.terminals.contains_key(terminal) {
            let opened = Terminal::open(self.folder.path());
            self.terminals.insert(terminal.to_owned(), opened);
        }
        let mut lines = block.text.lines();
        while let Some(line) = lines.next() {
            let Stage { terminals, address, ids, .. } = self;
            let screen = terminals.get_mut(terminal).expect("it is open");
            if let Some(command) = line.strip_prefix("$ ") {
                let mut command = command.to_owned();
                while command.ends_with('\\') {
                    command.push('\n');
                    command.push_str(lines.next().unwrap_or_default());
                }
                // What is to be built is built already, and every test has an address of its own.
                let example = binary().with_file_name("examples").join("backend");
                let example = example.display().to_string();
                command = command.replace(EXAMPLE, &example);
                if command.starts_with("posthorn dev") {
                    command.push_str(&format!(" --ip {address}"));
                }
                if !command.starts_with("cargo build") && !command.starts_with("export PATH=") {
                    screen.type_line(&here(&command, address, ids)).await;
                }
            } else if let Some(typed) = line.strip_prefix("> ") {
                screen.type_line(&here(typed, address, ids)).await;
            } else if line == "^C" {
                screen.interrupt();
            } else if line == "…" {
                screen.skips = true;
            } else if !line.is_empty() {
                screen.expect(line, address, ids, block).await;
            }
        }
    }

    async fn leave(self) {
        for mut terminal in self.terminals.into_values().rev() {
            terminal.input = None;
            for child in children(&terminal.shell) {
                // It may be over already.
                let _ = kill(child, Signal::SIGINT);
            }
            let ended = posthorn_chaos::within("a terminal's end", terminal.shell.wait());
            ended.await.expect("a child can be awaited");
        }
    }
}

impl Terminal {
    fn open(folder: &Path) -> Terminal {
        let path = std::env::var("PATH").unwrap_or_default();
        let binary = binary();
        let programs = binary.parent().expect("a file lies in a folder").display();
        // In a terminal, Ctrl-C is not ignored, as it is by what was started in the background.
        let mut shell = Command::new("env")
            .args(["--default-signal=INT", "bash", "--norc", "--noprofile"])
            .args(["-c", "exec 2>&1; exec bash --norc --noprofile -s"])
            .current_dir(folder)
            .env("PATH", format!("{programs}:{path}"))
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a shell can be started");
        let input = shell.stdin.take();
        let output = shell.stdout.take().expect("stdout is piped");
        let printed = Arc::new(Mutex::new(Vec::new()));
        let page = printed.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                page.lock().push(line);
            }
        });
        Terminal { shell, input, printed, read: 0, skips: false }
    }

    async fn type_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the terminal is open");
        let typed = input.write_all(format!("{line}\n").as_bytes()).await;
        typed.expect("the terminal is open");
        input.flush().await.expect("the terminal is open");
    }

    fn interrupt(&self) {
        for child in children(&self.shell) {
            kill(child, Signal::SIGINT).expect("our own child can be signalled");
        }
    }

    /// The next line that is printed, or after a gap some later one, is that of the page.
    async fn expect(
        &mut self,
        line: &str,
        address: &str,
        ids: &mut BTreeMap<String, String>,
        block: &Block,
    ) {
        let what = format!("{block}: `{line}`");
        let found = eventually(&what, || async {
            let printed = self.printed.lock();
            let fresh = printed.iter().enumerate().skip(self.read);
            let mut fresh = fresh.filter(|(_, printed)| !printed.is_empty());
            let fits = |(number, printed): (usize, &String)| {
                let printed = printed.replace(address, "127.0.0.1");
                Some((number, ids_of(line, &printed, ids)?))
            };
            if self.skips {
                return fresh.find_map(fits);
            }
            let next = fresh.next()?;
            let found = fits(next);
            assert!(found.is_some(), "{what}, but it says `{}`", next.1);
            found
        });
        let (number, found) = found.await;
        (self.read, self.skips) = (number + 1, false);
        ids.extend(found);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- a terminal\n{}", self.printed.lock().join("\n"));
        }
    }
}

/// What is to be typed here, where the page has other addresses and IDs.
fn here(line: &str, address: &str, ids: &BTreeMap<String, String>) -> String {
    let line = line.replace("127.0.0.1", address);
    ids.iter().fold(line, |line, (shown, own)| line.replace(shown, own))
}

/// Whether a line of the page is one that was printed, and which IDs it is so with.
fn ids_of(
    line: &str,
    printed: &str,
    known: &BTreeMap<String, String>,
) -> Option<BTreeMap<String, String>> {
    let mut ids = BTreeMap::new();
    let (mut line, mut printed) = (line, printed);
    while let Some(first) = line.chars().next() {
        if let Some(rest) = line.strip_prefix('…') {
            let ends = (0..=printed.len()).filter(|end| printed.is_char_boundary(*end));
            let mut tails = ends.filter_map(|end| ids_of(rest, &printed[end..], known));
            ids.extend(tails.next()?);
            return Some(ids);
        }
        let shown = line.get(..ID_CHARS).filter(|shown| is_id(shown));
        let own = printed.get(..ID_CHARS).filter(|own| is_id(own));
        if let (Some(shown), Some(own)) = (shown, own) {
            if known.get(shown).is_some_and(|known| known != own) {
                return None;
            }
            ids.insert(shown.to_owned(), own.to_owned());
            (line, printed) = (&line[ID_CHARS..], &printed[ID_CHARS..]);
        } else {
            printed = printed.strip_prefix(first)?;
            line = &line[first.len_utf8()..];
        }
    }
    printed.is_empty().then_some(ids)
}

const ID_CHARS: usize = 22;

fn is_id(text: &str) -> bool {
    text.parse::<ConnectionId>().is_ok()
}

#[test]
fn a_line_is_recognised_whatever_ids_are_given_out() {
    let (shown, own) = ("AAAAAAAAAAAAAAAAAAAAAA", "AQEBAQEBAQEBAQEBAQEBAQ");
    let known = BTreeMap::from([(shown.to_owned(), own.to_owned())]);
    let line = |id: &str| format!("{{\"connectionId\":\"{id}\"}}");
    let none = BTreeMap::new();
    assert_eq!(ids_of(&line(shown), &line(own), &none).as_ref(), Some(&known));
    let another = "AgICAgICAgICAgICAgICAg";
    assert_eq!(ids_of(&line(shown), &line(another), &known), None);
    assert!(
        ids_of("in /tmp/…. Ctrl-C ends it", "in /tmp/posthorn-1. Ctrl-C ends it", &none).is_some()
    );
    assert!(ids_of("in /tmp/…", "at /tmp/x", &none).is_none());
    assert!(ids_of("done", "done!", &none).is_none());
}

/// The processes that a shell runs in its foreground.
fn children(shell: &Child) -> Vec<Pid> {
    let Some(pid) = shell.id() else { return Vec::new() };
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Some(Pid::from_raw(pid.parse().ok()?))).collect()
}

/// With addresses replaced, so that what the files name is the test's own.
fn copy(from: &Path, to: &Path, address: &str) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("a folder can be listed") {
        let entry = entry.expect("an entry can be read");
        let text = std::fs::read_to_string(entry.path()).expect("examples are text");
        let text = text.replace("127.0.0.1", address);
        std::fs::write(to.join(entry.file_name()), text).expect("a file can be written");
    }
}
