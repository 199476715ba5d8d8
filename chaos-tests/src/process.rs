//! One process of one node.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::{eventually, within};

/// The binary under test: beside our own, or above it where ours is a test.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its own file");
    let folder = own.parent().expect("a file lies in a folder");
    // Tests lie in target/PROFILE/deps.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let binary = folder.join("posthorn");
    assert!(binary.exists(), "{} is missing: run cargo build first", binary.display());
    binary
}

/// What a node is started with beside its configuration.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// The network namespace that it runs in. Ours, if there is none.
    pub namespace: Option<String>,
    /// What names lead to, as in hosts(5). As everywhere on the machine, if there is none.
    pub names: Option<PathBuf>,
    /// How many files it may have open.
    pub files_max: Option<u32>,
    /// The control group that it is born into.
    pub control_group: Option<PathBuf>,
}

/// A running `posthorn serve`. Dropping it kills it.
pub struct Process {
    child: Child,
    /// The node ends when nobody holds it any more.
    _stdin: ChildStdin,
    log: PathBuf,
    listening: HashMap<String, SocketAddr>,
}

impl Process {
    /// Starts a node and waits until it has said where it listens.
    ///
    /// # Panics
    ///
    /// If it ends before.
    pub async fn start(config: &Path) -> Process {
        Process::start_with(config, &Launch::default()).await
    }

    /// Like [`Process::start`], with more arguments or another environment.
    ///
    /// # Panics
    ///
    /// If it ends before it listens.
    pub async fn start_with(config: &Path, launch: &Launch) -> Process {
        let (child, log) = spawn(config, launch);
        Process::started(child, log).await
    }

    /// The same for a command that becomes a node in the end, and writes its log there.
    ///
    /// # Panics
    ///
    /// If it ends before it listens.
    pub async fn start_command(command: Command, log: PathBuf) -> Process {
        Process::started(spawn_command(command, &log), log).await
    }

    async fn started(mut child: Child, log: PathBuf) -> Process {
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines();
        let line = within("a node that says where it listens", lines.next_line()).await;
        let Some(line) = line.expect("stdout can be read") else {
            panic!("the node ended: {}", tail(&log));
        };
        // What comes after is read as well, so that the node never waits for us to.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let listening = line.split_whitespace().filter_map(|part| part.split_once('='));
        let listening = listening.filter_map(|(door, address)| {
            address.parse().ok().map(|address| (door.to_owned(), address))
        });
        let stdin = child.stdin.take().expect("stdin is piped");
        Process { child, _stdin: stdin, log, listening: listening.collect() }
    }

    /// Starts a node that is expected to end by itself. Returns how, and what it wrote to standard
    /// error.
    pub async fn start_in_vain(config: &Path) -> (ExitStatus, String) {
        Process::start_in_vain_with(config, &Launch::default()).await
    }

    /// Like [`Process::start_in_vain`], with more arguments or another environment.
    pub async fn start_in_vain_with(config: &Path, launch: &Launch) -> (ExitStatus, String) {
        let (mut child, log) = spawn(config, launch);
        // Waiting would let go of it, and have the node end in order.
        let _stdin = child.stdin.take();
        let status =
            within("a node that ends", child.wait()).await.expect("a child can be awaited");
        (status, std::fs::read_to_string(&log).expect("the log can be read"))
    }

    /// Where it listens at `edge`, `api`, `admin` or `fabric`.
    pub fn at(&self, door: &str) -> SocketAddr {
        self.listening[door]
    }

    pub fn pid(&self) -> Pid {
        let pid = self.child.id().expect("the process runs");
        Pid::from_raw(i32::try_from(pid).expect("a process ID is small"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("our own child can be signalled");
    }

    /// SIGSTOP, and waits until each of its threads stands still: the signal reaches one after the
    /// other. It goes on with SIGCONT.
    pub async fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.pid());
        eventually("a process that stands still", || async {
            let mut tasks = std::fs::read_dir(&tasks).expect("our own child can be looked at");
            let stands = |path: PathBuf| {
                // One that has just ended is not there any more. Names may have any characters.
                let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
                stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with('T'))
            };
            tasks.all(|task| task.is_ok_and(|task| stands(task.path()))).then_some(())
        })
        .await;
    }

    /// SIGKILL, and waits until the system knows.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("our own child can be killed");
    }

    /// Waits until it ends by itself.
    pub async fn wait(mut self) -> ExitStatus {
        within("a node that ends", self.child.wait()).await.expect("a child can be awaited")
    }

    /// How many files it has open, sockets included.
    pub fn files(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        files.expect("our own child can be looked at").count()
    }

    /// What of its memory is in the machine's.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("our own child can be looked at");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.expect("it has memory").trim().trim_end_matches(" kB");
        kib.parse().expect("it is a number")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.log.display(), tail(&self.log));
        }
    }
}

fn spawn(config: &Path, launch: &Launch) -> (Child, PathBuf) {
    let log = config.with_extension("log");
    let mut command = command_of(launch);
    command.arg("serve").arg("--config").arg(config).arg("--end-with-stdin");
    command.args(&launch.arguments).envs(launch.environment.iter().cloned());
    (spawn_command(command, &log), log)
}

fn spawn_command(mut command: Command, log: &Path) -> Child {
    let file = std::fs::File::options().create(true).append(true).open(log);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(file.expect("a log file can be opened")).kill_on_drop(true);
    command.spawn().expect("the binary can be started")
}

fn command_of(launch: &Launch) -> Command {
    let Launch { namespace, names, files_max, control_group, .. } = launch;
    // Whoever starts it becomes the node, so that what is done to the process is done to the node.
    let mut words = Vec::new();
    if let Some(namespace) = namespace {
        words.extend(["nsenter".to_owned(), format!("--net=/run/netns/{namespace}")]);
    }
    if let Some(names) = names {
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        words.extend(["unshare", "--mount", "sh", "-c", script].map(str::to_owned));
        words.push(names.display().to_string());
    }
    if let Some(files_max) = files_max {
        let script = "ulimit -n \"$0\" && exec \"$@\"".to_owned();
        words.extend(["sh".to_owned(), "-c".to_owned(), script, files_max.to_string()]);
    }
    if let Some(control_group) = control_group {
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"".to_owned();
        let folder = control_group.display().to_string();
        words.extend(["sh".to_owned(), "-c".to_owned(), script, folder]);
    }
    let mut words = words.iter();
    let Some(first) = words.next() else { return Command::new(binary()) };
    let mut command = Command::new(first);
    command.args(words).arg(binary());
    command
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
