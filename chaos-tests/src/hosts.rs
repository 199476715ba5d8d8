//! Hosts for nodes: network namespaces of their own, joined by a switch that also lies in one, so that
//! links can be cut, made lossy or slow without touching the machine's own network.
//!
//! One more host, the *outside*, is for whoever is no node: clients, backends, senders. Our own threads
//! enter it: [`Hosts::run_outside`].

use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;

/// The last part of the address of the outside. Nodes count from 1.
const OUTSIDE: u8 = 200;
const PREFIX: &str = "posthorn";
/// The ports of every node, since each has a host of its own.
pub const EDGE_PORT: u16 = 8080;
pub const API_PORT: u16 = 8081;
pub const ADMIN_PORT: u16 = 9090;
pub const FABRIC_PORT: u16 = 7946;

/// Dropping it takes the namespaces down. Processes that still run in one keep it until they end.
pub struct Hosts {
    name: String,
    nodes: usize,
    rules: Mutex<Vec<String>>,
}

/// Who may be cut off from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    Node(usize),
    Outside,
}

/// What goes over a link that something is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    All,
    /// Between nodes.
    Fabric,
    /// To a node's edge and API, and their answers.
    Doors,
}

/// What is lost from one host to another. The other way is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub from: Host,
    pub to: Host,
    pub traffic: Traffic,
}

impl Hosts {
    /// None, with a word on standard error, where a machine has no network namespaces or no `nft`.
    ///
    /// # Panics
    ///
    /// In continuous integration (`CI` is set), if we are root and it cannot be done.
    pub fn build(nodes: usize) -> Option<Hosts> {
        static BUILT: AtomicU32 = AtomicU32::new(0);
        remove_orphans();
        let number = BUILT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}", std::process::id());
        let hosts = Hosts { name, nodes, rules: Mutex::default() };
        match hosts.set_up() {
            Ok(()) => Some(hosts),
            Err(error) if std::env::var_os("CI").is_some() && nix::unistd::geteuid().is_root() => {
                panic!("cannot make network namespaces: {error}")
            }
            Err(error) => {
                eprintln!("SKIPPED, since there are no network namespaces here: {error}");
                None
            }
        }
    }

    fn set_up(&self) -> Result<(), String> {
        let switch = self.switch();
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add br0 type bridge"))?;
        ip(&format!("-n {switch} link set br0 up"))?;
        for host in self.all() {
            let (namespace, port) = (self.namespace(host), self.port(host));
            ip(&format!("netns add {namespace}"))?;
            let peer = format!("type veth peer name eth0 netns {namespace}");
            ip(&format!("-n {switch} link add {port} {peer}"))?;
            ip(&format!("-n {switch} link set {port} master br0 up"))?;
            ip(&format!("-n {namespace} addr add {}/24 dev eth0", self.address(host)))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        self.filter("add table bridge faults\nadd chain bridge faults forward { type filter hook forward priority 0; }\n")
    }

    /// How many of them are for nodes.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    pub fn address(&self, host: Host) -> IpAddr {
        let last = match host {
            Host::Node(index) => u8::try_from(index + 1).expect("there are few nodes"),
            Host::Outside => OUTSIDE,
        };
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, last))
    }

    pub fn namespace(&self, host: Host) -> String {
        format!("{}-{}", self.name, self.port(host))
    }

    /// Runs a story whose sockets are all outside.
    ///
    /// # Panics
    ///
    /// If the story does.
    pub fn run_outside<F: Future>(&self, story: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        let path = format!("/run/netns/{}", self.namespace(Host::Outside));
        let enter = move || {
            let namespace = File::open(&path).expect("the namespace is there");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("we may enter it");
        };
        let tell = || {
            enter();
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().on_thread_start(enter).build();
            runtime.expect("a runtime can be made").block_on(story())
        };
        std::thread::scope(|scope| {
            let told = scope.spawn(tell).join();
            told.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Loses what a cut loses, from now on.
    pub fn cut(&self, cuts: &[Cut]) {
        let rules = cuts.iter().flat_map(|cut| self.rules_of(cut));
        self.change(|all| all.extend(rules));
    }

    /// So much of a hundred datagrams between nodes is lost, by chance.
    pub fn lose(&self, percent: u8) {
        self.change(|all| all.push(loss_rule(percent)));
    }

    /// Datagrams between nodes that are longer are lost without a word.
    pub fn shorten(&self, bytes_max: u16) {
        self.change(|all| all.push(format!("udp dport {FABRIC_PORT} udp length > {bytes_max}")));
    }

    /// Of what two hosts send each other between nodes, what is beyond that is lost, each way by itself.
    pub fn narrow(&self, one: Host, other: Host, kbytes_per_s: u32) {
        let (one, other) = (self.address(one), self.address(other));
        let rule = |(from, to)| {
            format!(
                "ip saddr {from} ip daddr {to} udp dport {FABRIC_PORT} \
                 limit rate over {kbytes_per_s} kbytes/second burst 2 kbytes"
            )
        };
        self.change(|all| all.extend([(one, other), (other, one)].map(rule)));
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.change(Vec::clear);
    }

    /// Pulls a host's cable, or puts it back.
    pub fn set_link(&self, host: Host, is_up: bool) {
        let state = if is_up { "up" } else { "down" };
        let set = ip(&format!("-n {} link set {} {state}", self.switch(), self.port(host)));
        set.expect("the link is ours");
    }

    fn rules_of(&self, cut: &Cut) -> Vec<String> {
        let (from, to) = (self.address(cut.from), self.address(cut.to));
        let between = format!("ip saddr {from} ip daddr {to}");
        let doors = format!("{{ {EDGE_PORT}, {API_PORT} }}");
        match cut.traffic {
            Traffic::All => vec![between],
            Traffic::Fabric => vec![format!("{between} udp dport {FABRIC_PORT}")],
            Traffic::Doors => {
                vec![format!("{between} tcp dport {doors}"), format!("{between} tcp sport {doors}")]
            }
        }
    }

    /// All rules are replaced at once.
    fn change(&self, change: impl FnOnce(&mut Vec<String>)) {
        let mut rules = self.rules.lock();
        change(&mut rules);
        let mut script = "flush chain bridge faults forward\n".to_owned();
        for rule in &*rules {
            script.push_str(&format!("add rule bridge faults forward {rule} counter drop\n"));
        }
        self.filter(&script).expect("the rules are sound");
    }

    fn filter(&self, script: &str) -> Result<(), String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.switch(), "nft", "-f", "-"]);
        run(command, script)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn port(&self, host: Host) -> String {
        match host {
            Host::Node(index) => format!("node{index}"),
            Host::Outside => "outside".to_owned(),
        }
    }

    fn all(&self) -> impl Iterator<Item = Host> + use<> {
        (0..self.nodes).map(Host::Node).chain([Host::Outside])
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let namespaces = self.all().map(|host| self.namespace(host)).chain([self.switch()]);
        for namespace in namespaces {
            // One that was never made cannot be removed.
            let _ = ip(&format!("netns del {namespace}"));
        }
    }
}

impl Cut {
    /// What both lose of each other.
    pub fn between(one: Host, other: Host, traffic: Traffic) -> [Cut; 2] {
        [Cut { from: one, to: other, traffic }, Cut { from: other, to: one, traffic }]
    }
}

fn loss_rule(percent: u8) -> String {
    format!("udp dport {FABRIC_PORT} numgen random mod 100 < {percent}")
}

/// What processes that were killed could not remove.
fn remove_orphans() {
    let Ok(namespaces) = std::fs::read_dir("/run/netns") else { return };
    for namespace in namespaces.flatten() {
        let name = namespace.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        if parts.next() == Some(PREFIX)
            && let Some(process) = parts.next()
            && !std::path::Path::new("/proc").join(process).exists()
        {
            // Another test may be removing it as well.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    run(command, "")
}

fn run(mut command: Command, input: &str) -> Result<(), String> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // What does not listen says why on standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
