//! `posthorn dev`: a cluster in the foreground.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use posthorn_chaos::cluster::own_ip;
use posthorn_chaos::process::binary;
use posthorn_chaos::within;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_ctrl_c_ends_the_nodes_in_order_and_the_second_at_once() {
    let dev = start().await;
    signal(&dev, Signal::SIGINT);
    let output = within("a cluster that ends", dev.wait_with_output()).await.unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));

    let mut dev = start().await;
    let nodes = children(&dev);
    assert_eq!(nodes.len(), 3);
    // One that would never end in order.
    kill(nodes[1], Signal::SIGSTOP).unwrap();
    signal(&dev, Signal::SIGINT);
    // Whoever ends in order is told to by the end of its input, and has then ended.
    posthorn_chaos::eventually("two nodes that ended", || async {
        let running = nodes.iter().filter(|node| is_running(**node)).count();
        (running == 1).then_some(())
    })
    .await;
    signal(&dev, Signal::SIGINT);
    let mut said = String::new();
    let status = within("a cluster that ends", dev.wait()).await.unwrap();
    dev.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(said, "posthorn: the nodes were killed before they had ended in order\n");
    posthorn_chaos::eventually("a node that was killed", || async {
        (!is_running(nodes[1])).then_some(())
    })
    .await;
}

/// A cluster that has said that it is ready.
async fn start() -> Child {
    let mut command = Command::new(binary());
    command.args(["dev", "--ip", &own_ip().to_string()]);
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let mut child = spawned.unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within("a cluster that is ready", lines.next_line()).await.unwrap();
    assert_eq!(line.as_deref(), Some("posthorn: the cluster is ready"));
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    child
}

fn children(parent: &Child) -> Vec<Pid> {
    let parent = parent.id().unwrap();
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(path).unwrap();
    children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// Neither gone nor waiting to be looked after by its parent.
fn is_running(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
}

fn signal(process: &Child, signal: Signal) {
    let pid = i32::try_from(process.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
