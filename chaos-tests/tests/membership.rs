//! Nodes come, go, move, and lose their disks, while posts and connects go on.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Founding, Options, http_get};
use posthorn_chaos::process::{Process, binary};
use posthorn_chaos::{eventually, within};
use posthorn_proto::v1::admin_service_client::AdminServiceClient;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{self as wire, GetClusterRequest, PostToConnectionRequest};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// Members are given up a little later than runs are.
const QUICK: &str = "  patience_ms: 4500\n  voter_absence_max_s: 6\n";

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_in_any_order_and_vote_by_their_ordinals() {
    let mut cluster = prepare(6, 3, "  voters_max: 5\n");
    // Who is no initial voter waits, and so do they, until all of them are there.
    for node in [4, 2, 1] {
        cluster.spawn(node).await;
    }
    assert_eq!(cluster.get(2, "/readyz").await.unwrap().0, 503);
    cluster.spawn(0).await;
    for node in [0, 1, 2, 4] {
        cluster.wait_ready(node).await;
    }
    assert_members(&cluster, 4, &[0, 1, 2], &[4]).await;
    let traffic = Traffic::start(&cluster, 4, 0).await;

    // Many at once.
    cluster.bring_up([3, 5]).await;
    assert_members(&cluster, 5, &[0, 1, 2, 3, 4], &[5]).await;
    let mut client = cluster.client(5).await;
    let id = client.id().await;
    cluster.grpc(1).await.post_to_connection(post(&id, "hello")).await.unwrap();
    assert_eq!(client.text().await, "hello");
    traffic.stop().await;

    // And back, many at once.
    let traffic = Traffic::start(&cluster, 1, 2).await;
    let api = cluster.node(2).at("api").to_string();
    let removals = [3, 4, 5].map(|node| tokio::spawn(remove_through(api.clone(), node)));
    for (removal, node) in removals.into_iter().zip(3..) {
        assert_eq!(removal.await.unwrap(), (0, format!("node {node} removed\n")));
        assert_eq!(cluster.take(node).wait().await.code(), Some(9));
    }
    assert_members(&cluster, 0, &[0, 1, 2], &[]).await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_comes_back_as_another_and_the_old_one_leaves() {
    let mut cluster = prepare(6, 3, "  voters_max: 5\n");
    cluster.bring_up(0..6).await;
    assert_members(&cluster, 5, &[0, 1, 2, 3, 4], &[5]).await;
    let traffic = Traffic::start(&cluster, 5, 4).await;
    let cluster_id = view(&cluster, 5).await.unwrap().cluster_id;

    lose_disk(&mut cluster, 2).await;
    let leader = leader(&cluster, 5).await as usize;
    if leader < 4 {
        lose_disk(&mut cluster, leader).await;
    }
    // The one that formed the cluster, while another initial voter is down.
    cluster.take(1).kill().await;
    lose_disk(&mut cluster, 0).await;
    cluster.spawn(1).await;
    assert_members(&cluster, 5, &[0, 1, 2, 3, 4], &[5]).await;
    for node in 0..6 {
        cluster.wait_ready(node).await;
        let view = view(&cluster, node).await.unwrap();
        assert_eq!((view.cluster_id, view.members.len()), (cluster_id.clone(), 6));
    }
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_move_are_away_and_are_removed() {
    let mut cluster = prepare(5, 3, "");
    cluster.bring_up(0..5).await;
    assert_members(&cluster, 4, &[0, 1, 2], &[3, 4]).await;
    let traffic = Traffic::start(&cluster, 3, 4).await;
    a_twin_waits(&cluster, 2).await;
    a_node_moves(&mut cluster, 2).await;
    a_voter_is_away(&mut cluster, 2).await;
    a_learner_and_a_voter_are_removed(&mut cluster).await;
    a_leader_dies_while_it_changes_the_voters(&mut cluster).await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_finds_a_cluster_whose_founders_have_all_moved_by_the_names_of_its_peers() {
    let mut cluster = prepare(4, 3, "");
    cluster.bring_up(0..3).await;
    // Where its configuration says that the initial voters are, nobody is.
    let mut config = cluster.config(3);
    for node in 0..3 {
        let founder = cluster.node(node).at("fabric").to_string();
        let socket = UdpSocket::bind((cluster.node(node).at("fabric").ip(), 0)).unwrap();
        config = config.replace(&founder, &socket.local_addr().unwrap().to_string());
    }
    // One of two names leads to a node, and that need not lead.
    let leader = leader(&cluster, 0).await as usize;
    let peer = cluster.node((leader + 1) % 3).at("fabric");
    let names = format!("cluster:\n  peers: [\"nowhere.invalid:7946\", \"{peer}\"]\n");
    std::fs::write(cluster.config_path(3), config.replacen("cluster:\n", &names, 1)).unwrap();
    cluster.spawn(3).await;
    cluster.wait_ready(3).await;
    assert_members(&cluster, 3, &[0, 1, 2], &[3]).await;
    let mut client = cluster.client(3).await;
    let id = client.id().await;
    cluster.grpc(leader).await.post_to_connection(post(&id, "found")).await.unwrap();
    assert_eq!(client.text().await, "found");
}

/// Another process with the node's ID and a disk of its own never serves while the node does.
async fn a_twin_waits(cluster: &Cluster, node: usize) {
    let config = elsewhere(cluster, node).replace(&format!("data-{node}"), "data-twin");
    let path = cluster.folder().join("twin.yaml");
    std::fs::write(&path, config).unwrap();
    let twin = Process::start(&path).await;
    eventually("a twin that waits", || async {
        twin.log().contains("a run of this node from another disk").then_some(())
    })
    .await;
    assert_eq!(cluster.get(node, "/readyz").await.unwrap().0, 200);
    let url = format!("http://{}/readyz", twin.at("admin"));
    assert_eq!(http_get(&url).await.unwrap().0, 503);
    assert_members(cluster, 4, &[0, 1, 2], &[3, 4]).await;
    twin.kill().await;
}

/// The same disk, at another address than the others were ever told.
async fn a_node_moves(cluster: &mut Cluster, node: usize) {
    let config = elsewhere(cluster, node);
    cluster.take(node).kill().await;
    std::fs::write(cluster.config_path(node), config).unwrap();
    cluster.spawn(node).await;
    cluster.wait_ready(node).await;
    let address = cluster.node(node).at("fabric").to_string();
    eventually("its new address", || async {
        let members = view(cluster, 4).await?.members;
        members.iter().any(|one| one.address == address && one.is_voter).then_some(())
    })
    .await;
    for (owner, through) in [(node, 4), (4, node)] {
        let mut client = cluster.client(owner).await;
        let id = client.id().await;
        cluster.grpc(through).await.post_to_connection(post(&id, "moved")).await.unwrap();
        assert_eq!(client.text().await, "moved");
    }
}

async fn a_voter_is_away(cluster: &mut Cluster, node: usize) {
    cluster.take(node).kill().await;
    assert_members(cluster, 4, &[0, 1, 3], &[4]).await;
    cluster.spawn(node).await;
    cluster.wait_ready(node).await;
    assert_members(cluster, 4, &[0, 1, 2], &[3, 4]).await;
}

async fn a_learner_and_a_voter_are_removed(cluster: &mut Cluster) {
    // The leader itself, if it may be killed.
    let leader = leader(cluster, 4).await;
    let (code, said) = remove(cluster, 4, leader).await;
    assert_eq!((code, &*said), (0, &*format!("node {leader} removed\n")));
    let process = cluster.take(leader as usize);
    let log = process.log();
    assert_eq!(process.wait().await.code(), Some(9), "{log}");
    let left: Vec<_> = [0, 1, 2, 3].into_iter().filter(|node| *node != leader).collect();
    assert_members(cluster, 4, &left, &[4]).await;
    assert_eq!(remove(cluster, 4, 9).await.0, 4, "there is no such node");

    // Started again, it asks to be let in again.
    cluster.spawn(leader as usize).await;
    cluster.wait_ready(leader as usize).await;
    assert_members(cluster, 4, &[0, 1, 2], &[3, 4]).await;
}

async fn a_leader_dies_while_it_changes_the_voters(cluster: &mut Cluster) {
    let leader = leader(cluster, 4).await;
    let removed = (0..3).find(|node| *node != leader).unwrap();
    let through = cluster.node(4).at("api").to_string();
    let removal = tokio::spawn(remove_through(through, removed));
    cluster.take(leader as usize).kill().await;
    cluster.spawn(leader as usize).await;
    let (code, _) = removal.await.unwrap();
    assert_eq!(code, 0);
    let left: Vec<_> = [0, 1, 2, 3].into_iter().filter(|node| *node != removed).collect();
    assert_members(cluster, 4, &left, &[4]).await;
    assert_eq!(cluster.take(removed as usize).wait().await.code(), Some(9));
    cluster.wait_ready(leader as usize).await;
}

/// A node's configuration with another fabric address.
fn elsewhere(cluster: &Cluster, node: usize) -> String {
    let own = cluster.node(node).at("fabric");
    let socket = UdpSocket::bind((own.ip(), 0)).unwrap();
    let place = |address: SocketAddr| format!("listen: \"{address}\"\n  advertise: \"{address}\"");
    cluster.config(node).replace(&place(own), &place(socket.local_addr().unwrap()))
}

async fn remove(cluster: &Cluster, through: usize, node: u32) -> (i32, String) {
    remove_through(cluster.node(through).at("api").to_string(), node).await
}

async fn remove_through(api: String, node: u32) -> (i32, String) {
    let mut command = Command::new(binary());
    command.args(["node", "remove", "--api", &api, &node.to_string()]);
    let output = within("a command", command.output()).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

/// Kills a node, takes its disk away, starts it again, and waits until it votes from the new one.
async fn lose_disk(cluster: &mut Cluster, node: usize) {
    let disks = |view: &wire::Cluster| -> Vec<_> {
        let own = view.members.iter().filter(|member| member.node_id as usize == node);
        own.map(|member| (member.raft_id, member.is_voter)).collect()
    };
    let old = disks(&view(cluster, 5).await.unwrap());
    cluster.take(node).kill().await;
    std::fs::remove_dir_all(cluster.folder().join(format!("data-{node}"))).unwrap();
    cluster.spawn(node).await;
    cluster.wait_ready(node).await;
    eventually("a vote of the new disk", || async {
        let new = disks(&view(cluster, 5).await?);
        (matches!(new[..], [(_, true)]) && new != old).then_some(())
    })
    .await;
}

/// Posts from one node to a client of another, and connects, one after the other.
struct Traffic {
    stop: Arc<AtomicBool>,
    posts: Arc<AtomicU64>,
    /// Those that were answered with 101: while a leader is missed, some are not.
    connects: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Traffic {
    async fn start(cluster: &Cluster, owner: usize, through: usize) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let [posts, connects] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let url = cluster.url(through);
        let mut client = cluster.client(owner).await;
        let id = client.id().await;
        let mut grpc: ConnectionServiceClient<Channel> = cluster.grpc(through).await;
        let (stopped, count, opened) = (stop.clone(), posts.clone(), connects.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let number = count.fetch_add(1, Ordering::Relaxed).to_string();
                let posted = grpc.post_to_connection(post(&id, &number)).await;
                posted.unwrap_or_else(|status| panic!("post {number}: {status}"));
                assert_eq!(client.text().await, number);
                if Client::connect(&url).await.is_ok() {
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Traffic { stop, posts, connects, task }
    }

    /// # Panics
    ///
    /// If any post failed, or nobody could connect.
    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        let counts = [self.posts, self.connects].map(|count| count.load(Ordering::Relaxed));
        assert!(counts.iter().all(|count| *count > 10), "posts and connects: {counts:?}");
    }
}

fn prepare(nodes: u32, voters: usize, keys: &str) -> Cluster {
    let options = Options { nodes, ..Options::default() };
    Cluster::prepare_founded(options, Founding { voters, keys: format!("{QUICK}{keys}") })
}

/// Waits until the cluster has these voters and learners, as a node sees it.
async fn assert_members(cluster: &Cluster, asked: usize, voters: &[u32], learners: &[u32]) {
    let what = format!("voters {voters:?} and learners {learners:?}");
    eventually(&what, || async {
        (members(cluster, asked).await? == (voters.to_vec(), learners.to_vec())).then_some(())
    })
    .await;
}

async fn members(cluster: &Cluster, asked: usize) -> Option<(Vec<u32>, Vec<u32>)> {
    let members = view(cluster, asked).await?.members;
    let of = |is_voter: bool| {
        let members = members.iter().filter(|member| member.is_voter == is_voter);
        let mut nodes: Vec<_> = members.map(|member| member.node_id).collect();
        nodes.sort_unstable();
        nodes
    };
    Some((of(true), of(false)))
}

async fn leader(cluster: &Cluster, asked: usize) -> u32 {
    eventually("a leader", || async { view(cluster, asked).await?.leader_node_id }).await
}

async fn view(cluster: &Cluster, asked: usize) -> Option<wire::Cluster> {
    let address = cluster.node(asked).at("api");
    let mut admin = AdminServiceClient::connect(format!("http://{address}")).await.ok()?;
    admin.get_cluster(GetClusterRequest {}).await.ok()?.into_inner().cluster
}

fn post(id: &str, text: &str) -> PostToConnectionRequest {
    PostToConnectionRequest {
        connection_id: id.to_owned(),
        payload: Some(Payload::Text(text.to_owned())),
        ..PostToConnectionRequest::default()
    }
}
