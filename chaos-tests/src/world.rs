//! A cluster on hosts of its own, under load, watched by an oracle: where faults are tried.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, Founding, Options};
use crate::detour::Trick;
use crate::history::{self, Event, History, Kind, Record};
use crate::hosts::{Cut, Host, Hosts};
use crate::load::{Doors, Load, Plan};
use crate::oracle::{self, Counted, End, Violation};
use crate::process::binary;
use crate::schedule::Storm;
use crate::witness::Witness;

/// A time that is reported.
pub type Figure = (&'static str, Duration);

pub struct World {
    pub cluster: Cluster,
    pub hosts: Arc<Hosts>,
    pub history: Arc<History>,
    pub witness: Arc<Witness>,
    pub load: Load,
    /// When each node's process was started, on the clock of the history.
    started_at: Vec<u64>,
}

/// How a cluster is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Three,
    /// The fourth has no vote.
    Four,
    Five,
    /// Three that are told to be patient with each other, as they must be where the network is slow.
    Far,
}

impl Layout {
    pub const ALL: [Layout; 4] = [Layout::Three, Layout::Four, Layout::Five, Layout::Far];

    pub fn nodes(self) -> u32 {
        match self {
            Layout::Three | Layout::Far => 3,
            Layout::Four => 4,
            Layout::Five => 5,
        }
    }

    fn founding(self) -> Founding {
        let voters = if self == Layout::Five { 5 } else { 3 };
        let keys = match self {
            Layout::Far => concat!(
                "  heartbeat_ms: 1000\n  election_timeout_ms: 5000\n",
                "  beat_ms: 1500\n  lease_ms: 6000\n  patience_ms: 10000\n",
            ),
            _ => "",
        };
        Founding { voters, keys: keys.to_owned() }
    }
}

/// Something that goes wrong for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The processes are gone, and come back on their disks when it is over.
    Kill(Vec<usize>),
    /// The process is asked to end, hands over what is its own, and comes back on its disk.
    Drain(usize),
    /// The processes are gone, and come back on their disks at other addresses behind their names when
    /// it is over: each where the next one was, and the last where nobody was.
    Move(Vec<usize>),
    /// Nodes' names lead nowhere.
    Nameless,
    /// The process does nothing until it is over.
    Pause(usize),
    Cut(Vec<Cut>),
    /// So much of a hundred datagrams between nodes is lost.
    Loss(u8),
    /// Longer datagrams are lost.
    Mtu(u16),
    /// What two nodes send each other beyond that is lost.
    Narrow {
        one: usize,
        other: usize,
        kbytes_per_s: u32,
    },
    /// Something else is done to datagrams between nodes.
    Play(Trick),
    /// Strangers speak to the nodes' fabrics.
    Flood,
    /// A host's cable is pulled.
    Unplug(usize),
}

/// What became of some connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// That their clients were closed with. None without a Close frame.
    pub codes: Vec<Option<u16>>,
    /// How many are open still.
    pub open: usize,
}

/// How long peace took to come back.
#[derive(Debug, Clone, Copy)]
pub struct Peace {
    /// Until every node was ready.
    pub serving: Duration,
    /// Until every client was where it belongs, and the directory had exactly the connections that clients hold, and no debt, on every node.
    pub settled: Duration,
}

/// Nothing that is not broken takes longer, on however busy a machine.
pub const PEACE_WITHIN: Duration = Duration::from_secs(60);
pub const LEASE: Duration = Duration::from_secs(3);
pub const PATIENCE: Duration = Duration::from_secs(5);

impl World {
    /// A cluster, and a load that is not in its way.
    pub async fn start(hosts: Arc<Hosts>, layout: Layout, plan: &Plan) -> World {
        let history = Arc::new(History::default());
        let outside = hosts.address(Host::Outside);
        let witness = Arc::new(Witness::start(outside, history.clone()).await);
        let logged = "dev: { access_log_settings: { destination: access.log, \
             format: $context.requestId $context.eventType $context.connectionId } }";
        let apis = crate::backend::backend_api(&witness.url()).replace("dev: {}", logged);
        let settings = "edge: { listen: \"{ip}:8080\", insecure: true, ping_interval_s: 4, pong_timeout_s: 4 }\n\
             api: { listen: \"{ip}:8081\", insecure: true, post_timeout_ms: 3000 }\n";
        let settings = settings.to_owned();
        let options = Options { nodes: layout.nodes(), apis, settings };
        let cluster = Cluster::start_on(hosts.clone(), options, layout.founding()).await;
        let doors = |index| {
            let node = cluster.node(index);
            Doors { edge: node.at("edge"), api: node.at("api") }
        };
        let doors = (0..cluster.len()).map(doors).collect();
        let load = Load::start(doors, history.clone(), witness.clone(), plan);
        let started_at = vec![0; cluster.len()];
        let world = World { cluster, hosts, history, witness, load, started_at };
        world.peace().await;
        world
    }

    pub async fn begin(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill(nodes) | Fault::Move(nodes) => {
                return self.stop(nodes, Signal::SIGKILL, fault).await;
            }
            Fault::Drain(node) => return self.stop(&[*node], Signal::SIGTERM, fault).await,
            Fault::Nameless => self.cluster.know_names(false),
            Fault::Pause(node) => self.cluster.node(*node).pause().await,
            Fault::Cut(cuts) => self.hosts.cut(cuts),
            Fault::Loss(percent) => self.hosts.lose(*percent),
            Fault::Mtu(bytes) => self.hosts.shorten(*bytes),
            Fault::Narrow { one, other, kbytes_per_s } => {
                self.hosts.narrow(Host::Node(*one), Host::Node(*other), *kbytes_per_s);
            }
            Fault::Play(trick) => self.hosts.play(*trick),
            Fault::Flood => self.hosts.flood(),
            Fault::Unplug(node) => self.hosts.set_link(Host::Node(*node), false),
        }
        self.say_begun(fault);
    }

    pub async fn end(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill(nodes) => self.spawn(nodes).await,
            Fault::Drain(node) => self.spawn(&[*node]).await,
            Fault::Move(nodes) => {
                self.cluster.move_nodes(nodes);
                self.spawn(nodes).await;
            }
            Fault::Nameless => self.cluster.know_names(true),
            Fault::Pause(node) => self.cluster.node(*node).signal(Signal::SIGCONT),
            Fault::Cut(_)
            | Fault::Loss(_)
            | Fault::Mtu(_)
            | Fault::Narrow { .. }
            | Fault::Play(_) => self.hosts.heal(),
            Fault::Flood => self.hosts.ebb(),
            Fault::Unplug(node) => self.hosts.set_link(Host::Node(*node), true),
        }
        self.history.record(Event::FaultEnd { fault: format!("{fault:?}") });
    }

    async fn stop(&mut self, nodes: &[usize], signal: Signal, fault: &Fault) {
        let processes: Vec<_> = nodes.iter().map(|node| self.cluster.take(*node)).collect();
        for process in &processes {
            process.signal(signal);
        }
        self.say_begun(fault);
        for process in processes {
            process.wait().await;
        }
    }

    async fn spawn(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.started_at[*node] = self.history.now();
            self.cluster.spawn(*node).await;
        }
    }

    /// Faults that overlap, one after the other as they come.
    pub async fn weather(&mut self, storm: &Storm) {
        let begins = storm.iter().map(|(begins, _, fault)| (*begins, true, fault));
        let ends = storm.iter().map(|(_, ends, fault)| (*ends, false, fault));
        let mut turns: Vec<_> = begins.chain(ends).collect();
        turns.sort_by_key(|(at, ..)| *at);
        let began = Instant::now();
        for (at, begins, fault) in turns {
            tokio::time::sleep_until((began + at).into()).await;
            match begins {
                true => self.begin(fault).await,
                false => self.end(fault).await,
            }
        }
    }

    fn say_begun(&self, fault: &Fault) {
        self.history.record(Event::FaultBegin { fault: format!("{fault:?}") });
    }

    /// Waits until every node is.
    pub async fn ready(&self) {
        for node in 0..self.cluster.len() {
            self.until("a node that is ready", async || {
                (self.metric(node, "posthorn_ready").await? == 1.0).then_some(())
            })
            .await;
        }
    }

    /// Waits until all is as if nothing had happened.
    ///
    /// # Panics
    ///
    /// If that does not come to be.
    pub async fn peace(&self) -> Peace {
        let began = Instant::now();
        self.ready().await;
        let serving = began.elapsed();
        self.until("seats that are taken", async || {
            // Whoever sat down elsewhere meanwhile.
            self.load.go_home();
            self.load.is_at_home().then_some(())
        })
        .await;
        for node in 0..self.cluster.len() {
            self.until("a directory without leaks", async || {
                let held = self.load.sitting().len() as f64;
                let entries = self.metric(node, "posthorn_directory_entries").await?;
                let debts = self.metric(node, "posthorn_directory_debts").await?;
                (entries == held && debts == 0.0).then_some(())
            })
            .await;
        }
        Peace { serving, settled: began.elapsed() }
    }

    /// Lets everybody leave, waits until nothing is owed any more, and judges all that has happened.
    ///
    /// # Panics
    ///
    /// If a promise was broken.
    pub async fn finish(mut self, name: &str) {
        self.load.end().await;
        for node in 0..self.cluster.len() {
            self.until("an empty directory", async || {
                let entries = self.metric(node, "posthorn_directory_entries").await?;
                (entries == 0.0).then_some(())
            })
            .await;
        }
        self.judge(name, End::InPeace);
        self.judge_counters(name).await;
    }

    /// Whether what the nodes counted is what others saw of them.
    async fn judge_counters(&self, name: &str) {
        let records = self.history.records();
        let mut violations = Vec::new();
        for (node, since) in self.started_at.iter().copied().enumerate() {
            let (_, metrics) = self.cluster.get(node, "/metrics").await.expect("it is in peace");
            let counted = Counted { node, since, metrics };
            violations.extend(oracle::judge_counters(&records, &counted));
        }
        self.demand_none(name, &records, &violations);
    }

    /// Judges all that has happened so far.
    ///
    /// # Panics
    ///
    /// If a promise was broken. What happened is kept.
    pub fn judge(&self, row: &str, end: End) {
        let records = self.history.records();
        self.demand_none(row, &records, &oracle::judge(&records, end));
    }

    fn demand_none(&self, row: &str, records: &[Record], violations: &[Violation]) {
        if violations.is_empty() {
            return;
        }
        let kept = self.keep(row, records);
        let said: Vec<_> = violations.iter().take(20).map(ToString::to_string).collect();
        panic!(
            "{row}: {} promises broken, history in {}\n{}",
            violations.len(),
            kept.display(),
            said.join("\n")
        );
    }

    /// Keeps a history and the logs for whoever looks into it. Gives where.
    fn keep(&self, row: &str, records: &[Record]) -> PathBuf {
        let folder =
            binary().with_file_name("chaos-kept").join(format!("{row}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder beside the binary");
        history::save(records, &folder.join("history.jsonl")).expect("a history can be saved");
        for node in 0..self.cluster.len() {
            let log = self.cluster.config_path(node).with_extension("log");
            // Who never started has none.
            let _ = std::fs::copy(log, folder.join(format!("node-{node}.log")));
        }
        folder
    }

    /// A metric of a node. None if it does not answer: it may be paused.
    pub async fn metric(&self, node: usize, series: &str) -> Option<f64> {
        let asked = self.cluster.metric(node, series);
        tokio::time::timeout(Duration::from_secs(2), asked).await.ok().flatten()
    }

    /// The node that leads, according to itself.
    pub async fn leader(&self) -> usize {
        self.until("a leader", async || {
            for node in self.cluster.running() {
                let leads = self.metric(node, "posthorn_raft_is_leader").await;
                if leads == Some(1.0) {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// Waits until a new connection is let in by one of these nodes. Gives how long that took.
    pub async fn connects_at(&self, nodes: &[usize]) -> Duration {
        let began = Instant::now();
        self.until("a new connection", async || {
            for node in nodes {
                if self.load.visit(*node).await.is_ok() {
                    return Some(());
                }
            }
            None
        })
        .await;
        began.elapsed()
    }

    /// Waits until all of these connections were told as ended. Gives when the last was, counted from
    /// `since`.
    pub async fn told(&self, connections: &[String], since: u64) -> Duration {
        self.until("$disconnects", async || {
            let mut first = BTreeMap::new();
            for record in self.history.since(since) {
                if let Event::Called { kind: Kind::Disconnect, connection, .. } = record.event {
                    first.entry(connection).or_insert(record.at);
                }
            }
            let told: Option<Vec<_>> = connections.iter().map(|id| first.get(id)).collect();
            let last = told?.into_iter().max().copied().unwrap_or(since);
            Some(Duration::from_micros(last - since))
        })
        .await
    }

    /// The connections of a node.
    pub fn connections_of(&self, node: usize) -> Vec<String> {
        let sitting = self.load.sitting().into_iter();
        sitting.filter(|sitting| sitting.node == node).map(|sitting| sitting.connection).collect()
    }

    /// The codes that clients of these connections saw at their end since then. Those who left by
    /// themselves do not count.
    pub fn let_go(&self, connections: &[String], since: u64) -> Ends {
        let mut of_client = BTreeMap::new();
        let mut open: BTreeSet<_> = connections.iter().cloned().collect();
        let mut codes = Vec::new();
        for Record { at, event } in self.history.records() {
            match event {
                Event::Opened { client, connection } => {
                    of_client.insert(client, connection);
                }
                Event::CloseBegin { client } => {
                    let left = of_client.get(&client).is_some_and(|left| open.remove(left));
                    // What its end comes to is its own doing.
                    if left {
                        of_client.remove(&client);
                    }
                }
                Event::Closed { client, code }
                    if at >= since
                        && of_client.get(&client).is_some_and(|ended| open.remove(ended)) =>
                {
                    codes.push(code);
                }
                _ => (),
            }
        }
        Ends { codes, open: open.len() }
    }

    /// # Panics
    ///
    /// If it is not found within [`PEACE_WITHIN`]. What happened is kept.
    pub async fn until<T>(&self, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = check().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PEACE_WITHIN, found).await {
            Ok(found) => found,
            Err(_) => {
                let kept = self.keep("late", &self.history.records());
                panic!("not within {PEACE_WITHIN:?}: {what}; history in {}", kept.display());
            }
        }
    }
}
