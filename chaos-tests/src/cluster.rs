//! A cluster of real nodes on loopback addresses of its own.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use posthorn::fabric::DevAuthority;
use posthorn_core::ids::{ClusterName, NodeId};
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::client::Client;
use crate::eventually;
use crate::hosts::{ADMIN_PORT, FABRIC_PORT, Host, Hosts};
use crate::process::{Launch, Process};

/// The API that clusters serve unless told otherwise: echo by default, and who am I.
pub const ECHO_API: &str = r#"
apis:
  dev:
    route_selection_expression: $request.body.action
    routes:
      $default: { target: integrations/echo, route_response_selection_expression: $default }
      whoami: { target: integrations/whoami, route_response_selection_expression: $default }
      silent: { target: integrations/echo }
    integrations:
      echo: { integration_type: MOCK, mock_response: { echo: true } }
      whoami:
        integration_type: MOCK
        mock_response: { body: '$context.connectionId' }
    stages:
      dev: {}
"#;

/// How a cluster is to be.
pub struct Options {
    pub nodes: u32,
    /// API definitions, in YAML from `apis:` on.
    pub apis: String,
    /// More sections of every node's configuration, in YAML.
    pub settings: String,
}

/// Who forms the cluster, and more of what all its nodes are told of it.
pub struct Founding {
    /// How many nodes, from the first on, are initial voters. The others join.
    pub voters: usize,
    /// Keys of the section `cluster`, in YAML, indented by two spaces.
    pub keys: String,
}

pub struct Cluster {
    nodes: Vec<Option<Process>>,
    options: Options,
    founding: Founding,
    place: Place,
    /// What each is started with from now on, beside its configuration.
    environments: Vec<Vec<(String, String)>>,
    /// Goes last: the nodes' logs are in it.
    folder: TempDir,
}

/// Where the nodes are.
enum Place {
    /// At loopback addresses of their fabrics.
    Loopback(Vec<SocketAddr>),
    /// Each on a host of its own, known to the others by a name.
    Hosts(Arc<Hosts>),
}

impl Default for Options {
    fn default() -> Options {
        Options { nodes: 3, apis: ECHO_API.to_owned(), settings: String::new() }
    }
}

impl Founding {
    fn by_all(options: &Options) -> Founding {
        Founding { voters: options.nodes as usize, keys: String::new() }
    }
}

impl Cluster {
    /// Starts the nodes and waits until every one is ready.
    pub async fn start(options: Options) -> Cluster {
        Cluster::prepare(options).started().await
    }

    /// The same, with each node on a host of its own, at the usual ports. The first `voters` form it.
    pub async fn start_on(hosts: Arc<Hosts>, options: Options, founding: Founding) -> Cluster {
        let cluster = Cluster::prepare_at(options, founding, Place::Hosts(hosts));
        cluster.know_names(true);
        cluster.started().await
    }

    async fn started(self) -> Cluster {
        let mut cluster = self;
        cluster.bring_up(0..cluster.len()).await;
        cluster
    }

    /// Everything but the processes.
    pub fn prepare(options: Options) -> Cluster {
        let founding = Founding::by_all(&options);
        Cluster::prepare_founded(options, founding)
    }

    pub fn prepare_founded(options: Options, founding: Founding) -> Cluster {
        let fabric = pick_addresses(options.nodes);
        Cluster::prepare_at(options, founding, Place::Loopback(fabric))
    }

    fn prepare_at(options: Options, founding: Founding, place: Place) -> Cluster {
        let folder = TempDir::with_prefix("posthorn-").expect("a folder can be made");
        let name = ClusterName::try_from("test").expect("it is a name");
        let authority = DevAuthority::new(&name).expect("an authority can be made");
        for id in 0..options.nodes {
            authority.write(folder.path(), NodeId(id)).expect("papers can be written");
        }
        let nodes = (0..options.nodes).map(|_| None).collect();
        let environments = vec![Vec::new(); options.nodes as usize];
        let cluster = Cluster { nodes, options, founding, place, environments, folder };
        for index in 0..cluster.nodes.len() {
            cluster.write_config(index);
        }
        cluster
    }

    /// Has nodes that do not run come back elsewhere, as [`Hosts::shift`] says, behind the same names.
    pub fn move_nodes(&self, nodes: &[usize]) {
        self.hosts().shift(nodes);
        for index in nodes {
            self.write_config(*index);
        }
        self.know_names(true);
    }

    /// Has the nodes' names lead to where they are, or nowhere.
    pub fn know_names(&self, are_known: bool) {
        let hosts = self.hosts();
        let line = |index| format!("{} {}\n", hosts.fabric_address(Host::Node(index)), name(index));
        let names = (0..self.len()).map(line).filter(|_| are_known);
        std::fs::write(self.names_path(), names.collect::<String>()).expect("a file");
    }

    fn hosts(&self) -> &Hosts {
        match &self.place {
            Place::Hosts(hosts) => hosts,
            Place::Loopback(_) => panic!("loopback has no hosts"),
        }
    }

    fn write_config(&self, index: usize) {
        std::fs::write(self.config_path(index), self.config(index)).expect("a file");
    }

    fn names_path(&self) -> PathBuf {
        self.folder.path().join("hosts")
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether a node's process was started and not taken.
    pub fn runs(&self, index: usize) -> bool {
        self.nodes[index].is_some()
    }

    /// A running node.
    pub fn node(&self, index: usize) -> &Process {
        self.nodes[index].as_ref().expect("the node runs")
    }

    /// Takes a node's process out of the cluster's hands.
    pub fn take(&mut self, index: usize) -> Process {
        self.nodes[index].take().expect("the node runs")
    }

    /// Starts a node's process, for the first time or again on its disk.
    pub async fn spawn(&mut self, index: usize) {
        self.spawn_with(index, &self.launch(index)).await;
    }

    /// Starts the processes of some nodes at once, and waits until each is ready.
    pub async fn bring_up(&mut self, nodes: impl IntoIterator<Item = usize>) {
        let start = |index| {
            let (config, launch) = (self.config_path(index), self.launch(index));
            async move { (index, Process::start_with(&config, &launch).await) }
        };
        let started = join_all(nodes.into_iter().map(start)).await;
        let nodes: Vec<_> = started.iter().map(|(index, _)| *index).collect();
        for (index, process) in started {
            self.nodes[index] = Some(process);
        }
        for index in nodes {
            self.wait_ready(index).await;
        }
    }

    /// What a node is to be started with from its next start on.
    pub fn equip(&mut self, index: usize, environment: Vec<(String, String)>) {
        self.environments[index] = environment;
    }

    fn launch(&self, index: usize) -> Launch {
        let environment = self.environments[index].clone();
        match &self.place {
            Place::Loopback(_) => Launch { environment, ..Launch::default() },
            Place::Hosts(hosts) => Launch {
                environment,
                namespace: Some(hosts.namespace(Host::Node(index))),
                names: Some(self.names_path()),
                ..Launch::default()
            },
        }
    }

    /// The nodes whose processes run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].is_some()).collect()
    }

    /// Starts a node's process with more than its configuration.
    pub async fn spawn_with(&mut self, index: usize, launch: &Launch) {
        self.nodes[index] = Some(Process::start_with(&self.config_path(index), launch).await);
    }

    pub async fn wait_ready(&self, index: usize) {
        eventually("a node that is ready", || async {
            (self.get(index, "/readyz").await?.0 == 200).then_some(())
        })
        .await;
    }

    /// GET from a node's admin listener.
    pub async fn get(&self, index: usize, path: &str) -> Option<(u16, String)> {
        http_get(&format!("http://{}{path}", self.node(index).at("admin"))).await
    }

    /// The value of one series of a node's metrics, with its labels as Prometheus prints them.
    pub async fn metric(&self, index: usize, series: &str) -> Option<f64> {
        let (_, text) = self.get(index, "/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line?.parse().ok()
    }

    /// The node that leads, by its own account. All must answer.
    pub async fn leader(&self) -> usize {
        eventually("a leader", || async {
            for index in 0..self.len() {
                if self.metric(index, "posthorn_raft_is_leader").await == Some(1.0) {
                    return Some(index);
                }
            }
            None
        })
        .await
    }

    /// A client of a node, connected to `/dev`.
    pub async fn client(&self, index: usize) -> Client {
        self.try_client(index).await.expect("the handshake is answered with 101")
    }

    pub async fn try_client(&self, index: usize) -> Result<Client, tungstenite::Error> {
        Client::connect(&self.url(index)).await
    }

    pub fn url(&self, index: usize) -> String {
        format!("ws://{}/dev", self.node(index).at("edge"))
    }

    /// A gRPC client of a node.
    pub async fn grpc(&self, index: usize) -> ConnectionServiceClient<Channel> {
        let address = self.node(index).at("api");
        let client = ConnectionServiceClient::connect(format!("http://{address}")).await;
        client.expect("the api listens")
    }

    pub fn config_path(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("node-{index}.yaml"))
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("data-{index}"))
    }

    fn listen(&self, index: usize) -> SocketAddr {
        match &self.place {
            Place::Loopback(fabric) => fabric[index],
            Place::Hosts(hosts) => (hosts.fabric_address(Host::Node(index)), FABRIC_PORT).into(),
        }
    }

    /// Where the others look for its fabric.
    fn address(&self, index: usize) -> String {
        match &self.place {
            Place::Loopback(fabric) => fabric[index].to_string(),
            Place::Hosts(_) => format!("{}:{FABRIC_PORT}", name(index)),
        }
    }

    /// The configuration of a node, as it is written to its file.
    pub fn config(&self, index: usize) -> String {
        let folder = self.folder.path().display();
        let (listen, advertise) = (self.listen(index), self.address(index));
        let ip = match &self.place {
            Place::Loopback(_) => listen.ip(),
            Place::Hosts(hosts) => hosts.address(Host::Node(index)),
        };
        let mut text = format!(
            "node: {{ id: {index}, data_dir: \"{folder}/data-{index}\" }}\n\
             cluster:\n  name: test\n  initial_voters:\n"
        );
        for id in 0..self.founding.voters {
            let _ = writeln!(text, "    - {{ id: {id}, address: \"{}\" }}", self.address(id));
        }
        text.push_str(&self.founding.keys);
        let _ = write!(
            text,
            "fabric:\n  listen: \"{listen}\"\n  advertise: \"{advertise}\"\n  \
               ca_file: \"{folder}/ca.pem\"\n  cert_file: \"{folder}/node-{{id}}.pem\"\n  \
               key_file: \"{folder}/node-{{id}}.key\"\n"
        );
        if !self.options.settings.contains("admin:") {
            let admin = match self.place {
                Place::Loopback(_) => format!("{ip}:0\""),
                Place::Hosts(_) => format!("{ip}:{ADMIN_PORT}\", insecure: true"),
            };
            let _ = writeln!(text, "admin: {{ listen: \"{admin} }}");
        }
        let has = |section| self.options.settings.lines().any(|line| line.starts_with(section));
        if !has("api:") {
            let _ = writeln!(text, "api: {{ listen: \"{ip}:0\", insecure: true }}");
        }
        if !has("drain:") {
            let _ = writeln!(text, "drain: {{ grace_s: 0, window_s: 1 }}");
        }
        if !has("edge:") {
            let _ = writeln!(text, "edge: {{ listen: \"{ip}:0\" }}");
        }
        text.push_str(&self.options.settings.replace("{ip}", &ip.to_string()));
        text.push('\n');
        text.push_str(&self.options.apis);
        text
    }
}

/// By which the others know a node that is on a host of its own.
fn name(index: usize) -> String {
    format!("node-{index}.test")
}

pub async fn http_get(url: &str) -> Option<(u16, String)> {
    let client: HttpClient<_, Empty<Bytes>> =
        HttpClient::builder(TokioExecutor::new()).build_http();
    let response = client.get(url.parse().ok()?).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Nobody else uses the address, so that the ports that the system picks stay free.
fn pick_addresses(nodes: u32) -> Vec<SocketAddr> {
    let ip = own_ip();
    let pick = |_| {
        let socket = UdpSocket::bind((ip, 0)).expect("a loopback address can be bound");
        socket.local_addr().expect("a socket has an address")
    };
    (0..nodes).map(pick).collect()
}

/// A loopback address that no other cluster of this or another test uses.
pub fn own_ip() -> IpAddr {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let number = CLUSTERS.fetch_add(1, Ordering::Relaxed) % 64;
    let place = (std::process::id() % 65_000) * 64 + number;
    let [_, high, middle, low] = (place + 0x0001_0000).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, high, middle, low.clamp(1, 254)))
}
