//! The door: arguments, subcommands, exit codes.

mod access;
mod advice;
mod certs;
mod cluster;
mod completions;
mod config;
mod connect;
mod connections;
mod dev;
mod exit;
mod health;
mod node;
mod post;
mod print;
mod serve;
mod tail;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use posthorn_core::ids::{ClusterName, NotAClusterName};

use access::ApiArguments;
use cluster::ClusterCommand;
use config::ConfigCommand;
use connections::ConnectionsCommand;
pub use exit::Exit;
use node::NodeCommand;

use crate::fabric::{PROTOCOL_VERSIONS, ProtocolVersions};

/// A clustered WebSocket broker: what AWS API Gateway WebSocket APIs do, self-hosted.
///
/// Exit codes: 0 success; 1 failure; 2 wrong arguments or configuration; 3 nobody could be reached,
/// or an address could not be listened at; 4 the connection is over, or there is no such node; 5 the
/// outcome is unknown; 6 the data directory cannot be used; 7 no leader is followed by a quorum; 8
/// this release does not speak what the cluster speaks; 9 the node was removed from
/// its cluster.
#[derive(Parser)]
#[command(name = "posthorn", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node.
    Serve {
        /// The node's configuration, in YAML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// End when standard input does. For a parent process, whose end no node is to outlive.
        #[arg(long, hide = true)]
        end_with_stdin: bool,
        /// The protocol versions to speak, as in 1..2. For tests, which have one release only.
        #[arg(long, hide = true, value_name = "MIN..MAX")]
        protocol_versions: Option<ProtocolVersions>,
    },
    /// Say whether a configuration would be accepted.
    Check {
        /// The node's configuration, in YAML.
        #[arg(value_name = "FILE")]
        config: PathBuf,
        /// Print JSON: `file`, `good`, `error`.
        #[arg(long)]
        json: bool,
    },
    /// See the configuration that a node would have.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run a cluster on this machine, with an API at /dev.
    Dev(DevArguments),
    /// Open a WebSocket and talk: a line you type is a message.
    Connect(ConnectArguments),
    /// Send a message to a client, through any node.
    Post(PostArguments),
    /// See and close connections, through any node.
    #[command(subcommand)]
    Connections(ConnectionsCommand),
    /// See what one connection does, live, from any node, until it ends.
    ///
    /// Needs the permission `*/*/admin`. Who reads too slowly loses events, and is told how many; the
    /// connection is never slowed.
    Tail(TailArguments),
    /// See the cluster, from any node.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Take nodes out of the cluster, from any node.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Say whether a node lives: 0 if it does, 1 if it says that it does not, 3 if nobody answers.
    Health(HealthArguments),
    /// Make certificates for the nodes of a cluster, or make them anew before they expire.
    Certs(CertsArguments),
    /// Print a script that has a shell complete this command line.
    ///
    /// For bash, in ~/.bashrc: source <(posthorn completions bash)
    Completions {
        /// Whose.
        shell: clap_complete::Shell,
    },
    /// Say which release this is.
    Version {
        /// Print JSON: `version`, `protocol_version_min`, `protocol_version_max`.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct ConnectArguments {
    /// As in ws://127.0.0.1:8080/dev
    url: String,
    /// Print a line of JSON for each message: `text`, or `binary` in base64; and for the end: `closed`.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct DevArguments {
    /// How many nodes, 1 to 9. Of the first three, each has a vote; the others learn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    nodes: u32,
    /// Node k listens at this port plus 10 k for WebSockets, plus 1 for gRPC, plus 2 for metrics,
    /// plus 3 for the other nodes.
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    base_port: u16,
    /// Send $connect, $disconnect and $default events to this URL instead of echoing.
    #[arg(long, value_name = "URL")]
    backend: Option<hyper::Uri>,
    /// Keep the nodes' data here. Otherwise it is gone when the cluster ends.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The address at which all nodes listen.
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    ip: std::net::IpAddr,
    /// Once the cluster is ready, print JSON: `nodes` (`node`, `url`, `api`, `admin`), `folder`.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct PostArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// As the $connect event, or a reply to {"action":"whoami"} in `dev`, told it.
    connection_id: String,
    /// What the client is to read.
    message: String,
    /// Send it as a binary message.
    #[arg(long)]
    binary: bool,
    /// How far the message must get before the command succeeds.
    #[arg(long, value_enum, default_value_t = WaitFor::Accepted)]
    wait_for: WaitFor,
    /// Print JSON: `connection_id`, `done`.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct TailArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// As the list shows it.
    connection_id: String,
    /// Show what payloads begin with, too: 4,096 bytes at most.
    #[arg(long)]
    payloads: bool,
    /// Print a line of JSON for each event: `at_ms`, `event`, `lost` if events were lost before it; and by
    /// what it is `bytes`, `is_binary`, `text`, `binary` in base64, `route`, `status`, `error`, `latency_us`,
    /// `code`, `reason`, `cause`.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct HealthArguments {
    /// The node's admin listener: host and port.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDR")]
    admin: String,
    /// Ask instead whether it is ready, that is, part of a quorum.
    #[arg(long)]
    ready: bool,
    /// Print JSON: `admin`, `alive` or `ready`, `status`.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct CertsArguments {
    /// The nodes' `cluster.name`.
    #[arg(long, value_name = "NAME", value_parser = cluster_name)]
    cluster: ClusterName,
    /// How many nodes, from 0 on.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    nodes: u32,
    /// Where the authority is kept (`ca.pem`, `ca.key`), and made unless it is there. What the nodes
    /// are to be given goes to `nodes` below it.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How long the nodes' certificates are good for.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
    /// Print JSON: `cluster`, `nodes_dir`, `nodes`, `days`, `authority_key_file`.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum WaitFor {
    /// In the outbound queue of the node that owns the connection.
    Accepted,
    /// Given to that node's kernel.
    Written,
    /// Read by the client's WebSocket stack.
    Answered,
}

/// The command line, for who documents it.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::failure(&format!("cannot start: {error}"), None);
            return Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(async {
        match arguments.command {
            Command::Serve { config, end_with_stdin, protocol_versions } => {
                let versions = protocol_versions.unwrap_or(PROTOCOL_VERSIONS);
                Box::pin(serve::serve(&config, versions, end_with_stdin)).await
            }
            Command::Check { config, json } => serve::check(&config, json),
            Command::Config(command) => config::run(&command),
            Command::Dev(arguments) => dev::dev(&arguments).await,
            Command::Connect(arguments) => connect::connect(&arguments).await,
            Command::Post(arguments) => post::post(arguments).await,
            Command::Connections(command) => connections::run(command).await,
            Command::Tail(arguments) => tail::tail(&arguments).await,
            Command::Cluster(command) => cluster::run(command).await,
            Command::Node(command) => node::run(command).await,
            Command::Health(arguments) => health::health(&arguments).await,
            Command::Certs(arguments) => certs::certs(&arguments),
            Command::Completions { shell } => completions::completions(shell),
            Command::Version { json } => version::version(json),
        }
    });
    // Reading standard input cannot be called off.
    runtime.shutdown_background();
    exit.into()
}

fn cluster_name(text: &str) -> Result<ClusterName, NotAClusterName> {
    ClusterName::try_from(text)
}
