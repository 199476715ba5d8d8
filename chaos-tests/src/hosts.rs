//! Hosts for nodes: network namespaces of their own, joined by a switch that also lies in one, so that
//! links can be cut, made lossy or slow without touching the machine's own network.
//!
//! One more host, the *outside*, is for whoever is no node: clients, backends, senders. Our own threads
//! enter it: [`Hosts::run_outside`].

use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;

use crate::detour::{Detour, Trick};
use crate::flood::{Flood, Flooded};

/// The last part of the addresses of the outside. Nodes count from 1.
const OUTSIDE: u8 = 200;
const SWITCH: u8 = 254;
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
    /// The last part of the address of each node's fabric.
    fabric: Mutex<Vec<u8>>,
    detour: Mutex<Option<Detour>>,
    flood: Mutex<Option<Flood>>,
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
        let fabric = (0..nodes).map(own_part).collect();
        let hosts = Hosts {
            name,
            nodes,
            rules: Mutex::default(),
            fabric: Mutex::new(fabric),
            detour: Mutex::default(),
            flood: Mutex::default(),
        };
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
        ip(&format!("-n {switch} addr add {}/24 dev br0", fabric_address(SWITCH)))?;
        for host in self.all() {
            let (namespace, port) = (self.namespace(host), self.port(host));
            ip(&format!("netns add {namespace}"))?;
            let peer = format!("type veth peer name eth0 netns {namespace}");
            ip(&format!("-n {switch} link add {port} {peer}"))?;
            ip(&format!("-n {switch} link set {port} master br0 up"))?;
            for address in [self.address(host), self.fabric_address(host).into()] {
                ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
            }
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        self.filter("add table bridge faults\nadd chain bridge faults forward { type filter hook forward priority 0; }\n")
    }

    /// How many of them are for nodes.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Of everything but the fabric. It never changes.
    pub fn address(&self, host: Host) -> IpAddr {
        let last = match host {
            Host::Node(index) => own_part(index),
            Host::Outside => OUTSIDE,
        };
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, last))
    }

    /// Where its fabric is just now.
    pub fn fabric_address(&self, host: Host) -> Ipv4Addr {
        match host {
            Host::Node(index) => fabric_address(self.fabric.lock()[index]),
            Host::Outside => fabric_address(OUTSIDE),
        }
    }

    /// Gives the fabric of each of these nodes the address of the next one's, and the last one's an
    /// address that nobody has.
    pub fn shift(&self, nodes: &[usize]) {
        let mut fabric = self.fabric.lock();
        let change = |what: &str, node: usize, last: u8| {
            let namespace = self.namespace(Host::Node(node));
            let changed =
                ip(&format!("-n {namespace} addr {what} {}/24 dev eth0", fabric_address(last)));
            changed.expect("the host is ours");
        };
        let mut lasts: Vec<_> = nodes.iter().map(|node| fabric[*node]).collect();
        nodes.iter().zip(&lasts).for_each(|(node, last)| change("del", *node, *last));
        lasts.remove(0);
        lasts.extend((1..OUTSIDE).find(|last| !fabric.contains(last)));
        for (node, last) in nodes.iter().zip(lasts) {
            change("add", *node, last);
            fabric[*node] = last;
        }
        // Nobody is to look for an address where it was.
        for namespace in self.all().map(|host| self.namespace(host)).chain([self.switch()]) {
            ip(&format!("-n {namespace} neigh flush all")).expect("the host is ours");
        }
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
        let namespace = self.namespace(Host::Outside);
        let enter = move || enter(&namespace);
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
        let rule = |(from, to)| {
            let between = self.between(from, to);
            format!(
                "{between} udp dport {FABRIC_PORT} \
                 limit rate over {kbytes_per_s} kbytes/second burst 2 kbytes"
            )
        };
        self.change(|all| all.extend([(one, other), (other, one)].map(rule)));
    }

    /// Plays a trick on the datagrams between nodes, from now on.
    pub fn play(&self, trick: Trick) {
        self.set_train_max(1);
        *self.detour.lock() = Some(Detour::open(&self.switch(), trick));
        self.change(|all| all.push(format!("udp sport {FABRIC_PORT}")));
    }

    /// On how many datagrams the trick was played so far.
    pub fn played(&self) -> u64 {
        self.detour.lock().as_ref().map_or(0, Detour::played)
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.change(Vec::clear);
        if self.detour.lock().take().is_some() {
            self.set_train_max(u16::MAX);
        }
    }

    /// How many datagrams at once a node may send as one. Longer trains fit on no other way.
    fn set_train_max(&self, datagrams: u16) {
        for node in (0..self.nodes).map(Host::Node) {
            let namespace = self.namespace(node);
            let set = ip(&format!("-n {namespace} link set eth0 gso_max_segs {datagrams}"));
            set.expect("the host is ours");
        }
    }

    /// Strangers speak to the fabrics of all nodes, from now on.
    pub fn flood(&self) {
        let target = |node| SocketAddrV4::new(self.fabric_address(Host::Node(node)), FABRIC_PORT);
        let targets = (0..self.nodes).map(target).collect();
        let own = self.fabric_address(Host::Outside);
        let flood = Flood::begin(&self.namespace(Host::Outside), own, targets);
        *self.flood.lock() = Some(flood);
    }

    /// None where there are no strangers.
    pub fn flooded(&self) -> Option<Flooded> {
        self.flood.lock().as_ref().map(Flood::so_far)
    }

    pub fn ebb(&self) {
        *self.flood.lock() = None;
    }

    /// Pulls a host's cable, or puts it back.
    pub fn set_link(&self, host: Host, is_up: bool) {
        let state = if is_up { "up" } else { "down" };
        let set = ip(&format!("-n {} link set {} {state}", self.switch(), self.port(host)));
        set.expect("the link is ours");
    }

    fn rules_of(&self, cut: &Cut) -> Vec<String> {
        let between = self.between(cut.from, cut.to);
        let doors = format!("{{ {EDGE_PORT}, {API_PORT} }}");
        match cut.traffic {
            Traffic::All => vec![between],
            Traffic::Fabric => vec![format!("{between} udp dport {FABRIC_PORT}")],
            Traffic::Doors => {
                vec![format!("{between} tcp dport {doors}"), format!("{between} tcp sport {doors}")]
            }
        }
    }

    fn between(&self, from: Host, to: Host) -> String {
        let (from, to) = (self.port(from), self.port(to));
        format!("iifname \"{from}\" oifname \"{to}\" ether type ip")
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

/// The thread is on that host from now on, and so are those that it starts.
///
/// # Panics
///
/// If it cannot be.
pub(crate) fn enter(namespace: &str) {
    let namespace = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("we may enter it");
}

fn own_part(node: usize) -> u8 {
    u8::try_from(node + 1).expect("there are few nodes")
}

fn fabric_address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, last)
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
