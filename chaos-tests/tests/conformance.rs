//! The Autobahn test suite's cases of sections 1 to 10, told by kosoku to a real node. Sections 12 and
//! 13 are of permessage-deflate, which is not offered.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::tools;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// The suite sends messages of 16 MiB, some of them in 65,536 fragments, and asks for no manners.
const WIDE: &str = "edge: { listen: \"{ip}:0\", message_bytes_max: none, frame_bytes_max: none, \
    fragments_max: none, message_timeout_ms: none, control_frames_per_s_max: none, \
    idle_timeout_s: none, outbox_bytes_max: 67108864, outbox_messages_max: 100000 }\n\
    api: { listen: \"{ip}:0\", insecure: true, payload_bytes_max: 16777216 }";

#[tokio::test(flavor = "multi_thread")]
async fn no_case_of_autobahns_sections_1_to_10_fails() {
    let Some(python) = tools::python(&["kosoku==0.1.0"]).await else { return };
    let options = Options { nodes: 1, settings: WIDE.to_owned(), ..Options::default() };
    let cluster = Cluster::start(options).await;
    let address = rooted(cluster.node(0).at("edge")).await;
    let report = cluster.folder().join("report");
    let mut kosoku = python.command("kosoku");
    kosoku.args(["-m", "fuzzingclient", "-p", "4", "-x", "12.*", "-x", "13.*", "-o"]);
    let output = kosoku.arg(&report).arg(address.to_string()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let index = std::fs::read_to_string(report.join("index.json")).expect(&said);
    let index: Value = serde_json::from_str(&index).unwrap();
    let agents = index.as_object().unwrap();
    let cases: BTreeMap<&str, (&str, &str)> = agents
        .values()
        .flat_map(|cases| cases.as_object().unwrap())
        .map(|(case, result)| {
            let text = |key: &str| result[key].as_str().unwrap_or_default();
            (case.as_str(), (text("behavior"), text("behaviorClose")))
        })
        .collect();
    let failed: Vec<_> = cases
        .iter()
        .filter(|(_, (behavior, close))| {
            !matches!(*behavior, "OK" | "NON-STRICT" | "INFORMATIONAL")
                || !matches!(*close, "OK" | "INFORMATIONAL")
        })
        .collect();
    assert!(failed.is_empty(), "{failed:?}\n{said}");
    assert_eq!(cases.len(), 301, "{said}");
    assert!(output.status.success(), "{said}");
}

/// Passes connections on, with `/dev` for the path: the suite asks for `/`.
async fn rooted(edge: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((edge.ip(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut node = TcpStream::connect(edge).await.unwrap();
                let mut begin = [0; 5];
                client.read_exact(&mut begin).await.unwrap();
                assert_eq!(&begin, b"GET /", "the suite asks for the root");
                node.write_all(b"GET /dev").await.unwrap();
                // Who ends it, and how, is the suite's to judge.
                let _ = copy_bidirectional(&mut client, &mut node).await;
            });
        }
    });
    address
}
