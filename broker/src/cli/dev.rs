//! `posthorn dev`: a whole cluster on this machine, each node a process of its own.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use posthorn_core::ids::{ClusterName, NodeId, NotAClusterName};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{DevArguments, Exit, health, print};
use crate::fabric::{DevAuthority, DevAuthorityError};

const CLUSTER: &str = "dev";
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Longer than a node takes to end in order.
const END_TIMEOUT: Duration = Duration::from_secs(30);
const PORTS_A_NODE: u16 = 10;
/// They form the cluster, where there are as many nodes.
const VOTERS: usize = 3;

struct Plan {
    folder: PathBuf,
    nodes: Vec<PlannedNode>,
}

struct PlannedNode {
    id: u32,
    edge: SocketAddr,
    api: SocketAddr,
    admin: SocketAddr,
    fabric: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
enum DevError {
    #[error("--base-port: there are no ports for {0} nodes behind it")]
    Ports(u32),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Authority(#[from] DevAuthorityError),
    #[error(transparent)]
    Name(#[from] NotAClusterName),
    #[error("cannot start a node: {0}")]
    Spawn(std::io::Error),
    #[error("node {id} ended with {status} before it was ready")]
    Ended { id: u32, status: ExitStatus },
    #[error("the cluster was not ready within {} s", READY_TIMEOUT.as_secs())]
    NotReady,
    #[error("the nodes were killed before they had ended in order")]
    Killed,
}

/// Ctrl-C, or what a supervisor sends.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl DevError {
    fn advice(&self) -> Option<&'static str> {
        match self {
            DevError::Ended { .. } => {
                Some("what it said stands above; is a port in use? --base-port")
            }
            DevError::NotReady => {
                Some("a busy machine may take longer: try again, or with fewer --nodes")
            }
            DevError::Ports(_)
            | DevError::File { .. }
            | DevError::Authority(_)
            | DevError::Name(_)
            | DevError::Spawn(_)
            | DevError::Killed => None,
        }
    }
}

pub(super) async fn dev(arguments: &DevArguments) -> Exit {
    let temporary = arguments.data_dir.is_none();
    let plan = match Plan::new(arguments) {
        Ok(plan) => plan,
        Err(error) => {
            print::failure(&error.to_string(), None);
            return Exit::Usage;
        }
    };
    let result = plan.run(arguments).await;
    if temporary {
        // Best effort: what stays is in the system's folder for temporary files.
        let _ = std::fs::remove_dir_all(&plan.folder);
    }
    match result {
        Ok(()) => Exit::Success,
        Err(error) => {
            print::failure(&error.to_string(), error.advice());
            Exit::Failed
        }
    }
}

impl Plan {
    fn new(arguments: &DevArguments) -> Result<Plan, DevError> {
        let DevArguments { nodes, base_port, data_dir, ip, .. } = arguments;
        let last = base_port.checked_add(*nodes as u16 * PORTS_A_NODE);
        last.ok_or(DevError::Ports(*nodes))?;
        let node = |id: u32| {
            let base = base_port + id as u16 * PORTS_A_NODE;
            let at = |offset: u16| SocketAddr::from((*ip, base + offset));
            PlannedNode { id, edge: at(0), api: at(1), admin: at(2), fabric: at(3) }
        };
        let folder = data_dir.clone().unwrap_or_else(|| {
            std::env::temp_dir().join(format!("posthorn-dev-{}", std::process::id()))
        });
        Ok(Plan { folder, nodes: (0..*nodes).map(node).collect() })
    }

    async fn run(&self, arguments: &DevArguments) -> Result<(), DevError> {
        let mut interrupts = Interrupts::listen().map_err(DevError::Spawn)?;
        self.write_files(arguments)?;
        let mut children = Vec::new();
        for node in &self.nodes {
            children.push((node.id, self.spawn(node)?));
        }
        let ready = tokio::select! {
            ready = self.wait_ready(&mut children) => Some(ready),
            () = interrupts.next() => None,
        };
        let result = match ready {
            Some(Ok(())) => {
                // Who reads no more of it may still use the cluster.
                let _ = match arguments.json {
                    true => print::json(&self.as_json()),
                    false => print::text(&self.describe(arguments)),
                };
                self.watch(&mut children, &mut interrupts).await;
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        tokio::select! {
            () = end(&mut children) => result,
            () = interrupts.next() => {
                // Once they are dropped, they are killed.
                drop(children);
                Err(DevError::Killed)
            }
        }
    }

    fn write_files(&self, arguments: &DevArguments) -> Result<(), DevError> {
        let make = |path: &Path| {
            std::fs::create_dir_all(path)
                .map_err(|error| DevError::File { path: path.to_owned(), error })
        };
        make(&self.folder)?;
        let authority = DevAuthority::new(&ClusterName::try_from(CLUSTER)?)?;
        for node in &self.nodes {
            authority.write(&self.folder, NodeId(node.id))?;
            let path = self.config_path(node.id);
            let text = self.config(node, arguments);
            std::fs::write(&path, text).map_err(|error| DevError::File { path, error })?;
        }
        Ok(())
    }

    fn config_path(&self, id: u32) -> PathBuf {
        self.folder.join(format!("node-{id}.yaml"))
    }

    fn config(&self, node: &PlannedNode, arguments: &DevArguments) -> String {
        let PlannedNode { id, edge, api, admin, fabric } = node;
        // Its files lie beside it.
        let mut text = format!(
            "node: {{ id: {id}, data_dir: node-{id} }}\n\
             cluster:\n  name: {CLUSTER}\n  initial_voters:\n"
        );
        // The others find the cluster by these.
        let voters = if self.nodes.len() < VOTERS { 1 } else { VOTERS };
        for PlannedNode { id, fabric, .. } in &self.nodes[..voters] {
            let _ = writeln!(text, "    - {{ id: {id}, address: \"{fabric}\" }}");
        }
        let _ = write!(
            text,
            "fabric:\n  listen: \"{fabric}\"\n  advertise: \"{fabric}\"\n  \
               ca_file: ca.pem\n  cert_file: node-{id}.pem\n  key_file: node-{id}.key\n\
             edge: {{ listen: \"{edge}\", insecure: true }}\n\
             api: {{ listen: \"{api}\", insecure: true }}\n\
             admin: {{ listen: \"{admin}\", insecure: true }}\n\
             drain: {{ grace_s: 0, window_s: 1, disconnect_timeout_s: 5 }}\n\
             log: {{ filter: \"warn,openraft=off\" }}\n{}",
            dev_api(arguments.backend.as_ref())
        );
        text
    }

    fn spawn(&self, node: &PlannedNode) -> Result<Child, DevError> {
        let binary = std::env::current_exe().map_err(DevError::Spawn)?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--config").arg(self.config_path(node.id)).arg("--end-with-stdin");
        // A group of its own: Ctrl-C is for us, and we end the nodes.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        command.spawn().map_err(DevError::Spawn)
    }

    async fn wait_ready(&self, children: &mut [(u32, Child)]) -> Result<(), DevError> {
        let all_ready = async {
            for node in &self.nodes {
                while !is_ready(node.admin).await {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
            }
        };
        tokio::select! {
            ready = tokio::time::timeout(READY_TIMEOUT, all_ready) => {
                ready.map_err(|_| DevError::NotReady)
            }
            (id, status) = first_end(children) => Err(DevError::Ended { id, status }),
        }
    }

    /// The names are documented with the command: programs rely on them.
    fn as_json(&self) -> Value {
        let nodes = self.nodes.iter().map(|node| {
            let PlannedNode { id, edge, api, admin, fabric: _ } = node;
            json!({
                "node": id, "url": format!("ws://{edge}/dev"), "api": api.to_string(),
                "admin": admin.to_string(),
            })
        });
        json!({ "nodes": nodes.collect::<Vec<_>>(), "folder": self.folder })
    }

    fn describe(&self, arguments: &DevArguments) -> String {
        let mut text = String::from("posthorn: the cluster is ready\n\n");
        for PlannedNode { id, edge, api, admin, .. } in &self.nodes {
            let _ = writeln!(
                text,
                "  node {id}   ws://{edge}/dev   grpc {api}   http://{admin}/metrics"
            );
        }
        let (edge, api) = (self.nodes[0].edge, self.nodes[self.nodes.len() - 1].api);
        let answered = match &arguments.backend {
            Some(backend) => format!("$connect, $disconnect and $default go to {backend}"),
            None => "$default and the route echo are answered with what was sent".to_owned(),
        };
        let _ = write!(
            text,
            "\n  {answered};\n  {{\"action\":\"whoami\"}} is answered with the connection's ID.\n\n  \
             posthorn connect ws://{edge}/dev\n  posthorn post --api {api} CONNECTION_ID MESSAGE\n\n  \
             Files are in {}. Ctrl-C ends the cluster, in order; another one at once.\n",
            self.folder.display()
        );
        text
    }

    /// Tells of each node that ends, until interrupted.
    async fn watch(&self, children: &mut Vec<(u32, Child)>, interrupts: &mut Interrupts) {
        while !children.is_empty() {
            let (id, status) = tokio::select! {
                ended = first_end(children) => ended,
                () = interrupts.next() => return,
            };
            children.retain(|(child, _)| *child != id);
            let next = format!(
                "to have it back: posthorn serve --config {}",
                self.config_path(id).display()
            );
            print::failure(&format!("node {id} ended with {status}"), Some(&next));
        }
    }
}

impl Interrupts {
    fn listen() -> std::io::Result<Interrupts> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Interrupts { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }
}

/// The API that is served at `/dev`.
fn dev_api(backend: Option<&hyper::Uri>) -> String {
    let (routes, integration) = match backend {
        None => (
            "      $default: { target: integrations/echo, route_response_selection_expression: $default }\n",
            String::new(),
        ),
        Some(backend) => (
            "      $connect: { target: integrations/backend }\n      \
             $disconnect: { target: integrations/backend }\n      \
             $default: { target: integrations/backend, route_response_selection_expression: $default }\n",
            format!(
                "      backend: {{ integration_type: HTTP_EVENT, integration_uri: \"{backend}\" }}\n"
            ),
        ),
    };
    format!(
        "apis:\n  dev:\n    route_selection_expression: $request.body.action\n    routes:\n{routes}      \
         echo: {{ target: integrations/echo, route_response_selection_expression: $default }}\n      \
         whoami: {{ target: integrations/whoami, route_response_selection_expression: $default }}\n    \
         integrations:\n{integration}      \
         echo: {{ integration_type: MOCK, mock_response: {{ echo: true }} }}\n      \
         whoami:\n        integration_type: MOCK\n        mock_response: {{ body: '{{\"connectionId\":\"$context.connectionId\"}}' }}\n    \
         stages:\n      dev: {{}}\n"
    )
}

async fn is_ready(admin: SocketAddr) -> bool {
    let Ok(uri) = format!("http://{admin}/readyz").parse() else { return false };
    health::ask(uri).await.is_ok_and(|status| status.is_success())
}

async fn first_end(children: &mut [(u32, Child)]) -> (u32, ExitStatus) {
    loop {
        for (id, child) in children.iter_mut() {
            if let Ok(Some(status)) = child.try_wait() {
                return (*id, status);
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Ends every node in order, and the stubborn by force.
async fn end(children: &mut [(u32, Child)]) {
    for (_, child) in children.iter_mut() {
        // Its standard input ends.
        drop(child.stdin.take());
    }
    for (_, child) in children {
        if tokio::time::timeout(END_TIMEOUT, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}
