//! What operators ask for from the command line, at any node, and whether they may.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::process::binary;
use posthorn_chaos::{eventually, within};
use posthorn_core::auth::hash::Sha256;
use posthorn_core::event::time::IsoTime;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{
    ListConnectionsRequest, ListConnectionsResponse, PostToConnectionRequest,
};
use serde_json::{Value, json};
use tokio::process::Command;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;

/// Three nodes, two APIs, and principals each with a token of its name.
struct Stage {
    cluster: Cluster,
    /// While it is, `$disconnect` is answered.
    is_backend_up: Arc<AtomicBool>,
    _backend: Backend,
}

/// What a command came to.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_the_cluster_from_any_node() {
    let mut stage = Stage::start().await;
    let mut clients = Vec::new();
    for (node, path) in [(0, "chat/dev"), (1, "chat/prod"), (2, "game/live"), (2, "chat/dev")] {
        clients.push(stage.client(node, path).await);
    }
    stage.shows_a_healthy_cluster().await;
    stage.lets_only_administrators_see().await;
    stage.shows_and_closes_one_connection().await;
    stage.lists_what_fits_and_may_be_seen(&mut clients).await;
    stage.refuses_pages_that_make_no_sense().await;
    stage.lists_those_who_stay_exactly_once().await;
    stage.counts_what_happens_between_nodes(&mut clients[1]).await;
    stage.shows_a_dead_node_and_its_debts().await;
    stage.says_that_nobody_leads().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_is_asked_who_he_is_no_stranger_administers() {
    for (listen, code, reason) in
        [("{ip}:0", 0, ""), ("0.0.0.0:0", 1, "posthorn: PERMISSION_DENIED: ")]
    {
        let settings = format!("api: {{ listen: \"{listen}\", insecure: true }}\n");
        let options = Options { nodes: 1, settings, ..Options::default() };
        let cluster = Cluster::start(options).await;
        let (ip, port) = (cluster.node(0).at("edge").ip(), cluster.node(0).at("api").port());
        let api = format!("{ip}:{port}");
        for command in
            [&["cluster", "status"][..], &["node", "drain", "9"], &["node", "remove", "9"]]
        {
            let ended = run(&api, "", command).await;
            let code = if code == 0 && command[0] == "node" { 4 } else { code };
            assert_eq!(ended.code, code, "{listen} {command:?}: {ended:?}");
            assert!(ended.stderr.starts_with(reason), "{ended:?}");
        }
        let ended = run(&api, "", &["connections", "list", "--linearizable"]).await;
        assert_eq!((ended.code, ended.stdout.lines().count()), (0, 1), "{ended:?}");
    }
}

impl Stage {
    async fn shows_a_healthy_cluster(&self) {
        for asked in 0..3 {
            let status = eventually("replicas that have caught up", || async {
                let status = self.status(asked).await;
                let caught_up = |node: &Value| node["lag"] == 0;
                let nodes = status["nodes"].as_array().unwrap();
                (status["connections"] == 4 && nodes.iter().all(caught_up)).then_some(status)
            })
            .await;
            let (members, runs, nodes) = (&status["members"], &status["runs"], &status["nodes"]);
            assert_eq!((&status["name"], &status["asked_node"]), (&json!("test"), &json!(asked)));
            assert_eq!(status["cluster_id"].as_str().unwrap().len(), 32);
            assert_eq!(status["debts"], 0);
            let leader = status["leader_node"].as_u64().unwrap() as usize;
            for node in 0..3 {
                let (said, run) = (&nodes[node], &runs[node]);
                let fabric = self.cluster.node(node).at("fabric").to_string();
                let own = if node == 2 { 2 } else { 1 };
                assert_eq!(
                    run,
                    &json!({
                        "node": node, "incarnation": 1, "state": "serving", "connections": own,
                        "address": fabric,
                    })
                );
                let is_leading = node == leader;
                for (name, value) in [
                    ("node", json!(node)),
                    ("address", json!(fabric)),
                    ("state", json!("serving")),
                    ("is_ready", json!(true)),
                    ("not_ready_because", Value::Null),
                    ("incarnation", json!(1)),
                    ("leader_node", json!(leader)),
                    ("is_leading", json!(is_leading)),
                    ("connections", json!(own)),
                    ("disconnects_under_way", json!(0)),
                    ("purged_index", Value::Null),
                    ("snapshot_index", Value::Null),
                    ("software", json!(concat!("posthorn ", env!("CARGO_PKG_VERSION")))),
                    ("protocol_version_min", json!(1)),
                    ("term", status["term"].clone()),
                ] {
                    assert_eq!(said[name], value, "{name} of {said}");
                }
                assert!(said["uptime_ms"].as_u64().unwrap() > 0);
                assert!(said["last_log_index"].as_u64() >= said["applied_index"].as_u64());
                let raft_id = said["raft_id"].as_str().unwrap();
                let member = members.as_array().unwrap().iter();
                let member = member.clone().find(|member| member["raft_id"] == raft_id).unwrap();
                assert_eq!((&member["node"], &member["is_voter"]), (&json!(node), &json!(true)));
            }
            let ended = self.run(asked, "root", &["cluster", "status"]).await;
            assert_eq!((ended.code, &*ended.stderr), (0, ""));
            let text = ended.stdout;
            assert!(text.contains("4 connections, 0 debts\n"), "{text}");
            assert!(text.contains(&format!("node {leader} leads in term ")), "{text}");
            assert!(text.contains("NODE  STATE"), "{text}");
            assert!(!text.contains('\x1b'), "a pipe is no terminal: {text}");
        }
    }

    async fn lets_only_administrators_see(&self) {
        for (token, code, reason) in [
            ("all", 1, "PERMISSION_DENIED"),
            ("nobody", 1, "UNAUTHENTICATED"),
            ("", 1, "UNAUTHENTICATED"),
        ] {
            for command in
                [&["cluster", "status"][..], &["node", "drain", "1"], &["node", "remove", "1"]]
            {
                let ended = self.run(0, token, command).await;
                assert_eq!((ended.code, &*ended.stdout), (code, ""), "{ended:?}");
                assert!(ended.stderr.starts_with(&format!("posthorn: {reason}")), "{ended:?}");
            }
        }
        for command in ["drain", "remove"] {
            let ended = self.run(0, "root", &["node", command, "7"]).await;
            let expected =
                "posthorn: UNKNOWN_NODE: there is no node 7\n  `posthorn cluster status` shows";
            assert_eq!(ended.code, 4, "{ended:?}");
            assert!(ended.stderr.starts_with(expected), "{ended:?}");
        }
        let ended = self.run(0, "root", &["node", "drain", "x"]).await;
        assert_eq!(ended.code, 2, "{ended:?}");
    }

    async fn shows_and_closes_one_connection(&self) {
        let mut client = self.client(1, "chat/dev").await;
        let id = client.id().await;
        let ended = self.run(2, "all", &["connections", "get", &id, "--json"]).await;
        assert_eq!((ended.code, &*ended.stderr), (0, ""));
        let shown: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert!(shown["connected_at_ms"].as_u64() <= shown["last_active_at_ms"].as_u64());
        for (name, value) in [
            ("connection_id", json!(id)),
            ("api", json!("chat")),
            ("stage", json!("dev")),
            ("node", json!(1)),
            ("source_ip", json!("127.0.0.1")),
            ("user_agent", Value::Null),
        ] {
            assert_eq!(shown[name], value, "{name} of {shown}");
        }
        let ended = self.run(2, "all", &["connections", "get", &id]).await;
        assert!(ended.stdout.contains(&format!("connection  {id}\n")), "{ended:?}");

        let long = "x".repeat(124);
        for (arguments, code, reason) in [
            (&[&*id, "--code", "1006"][..], 2, "INVALID_REQUEST"),
            (&[&*id, "--code", "99"], 2, "INVALID_REQUEST"),
            (&[&*id, "--code", "70000"], 2, "INVALID_REQUEST"),
            (&[&*id, "--reason", &long], 2, "INVALID_REQUEST"),
            (&["AAAAAAAAAAAAAAAAAAAAAA"], 4, "CONNECTION_GONE"),
            (&["AAAA"], 2, "INVALID_CONNECTION_ID"),
        ] {
            let ended = self.run(2, "all", &[&["connections", "close"], arguments].concat()).await;
            assert_eq!(ended.code, code, "{ended:?}");
            assert!(ended.stderr.starts_with(&format!("posthorn: {reason}: ")), "{ended:?}");
        }
        let close = ["connections", "close", &id, "--code", "4001", "--reason", "bye"];
        assert_eq!(self.run(0, "dev", &close).await.code, 1, "it may not close");
        let ended = self.run(2, "all", &close).await;
        assert_eq!((ended.code, &*ended.stdout), (0, "closed\n"));
        let frame = CloseFrame { code: 4001.into(), reason: "bye".into() };
        assert_eq!(client.next().await.unwrap(), Message::Close(Some(frame)));
    }

    async fn lists_what_fits_and_may_be_seen(&self, clients: &mut [Client]) {
        let mut ids = Vec::new();
        for client in &mut *clients {
            ids.push(client.id().await);
        }
        let stamp = |ms: u64| IsoTime(ms).to_string();
        let all = self.list("all", &["--linearizable"]).await;
        let connected_at = |id: &str| {
            let found = all.iter().find(|one| one["connection_id"] == id).unwrap();
            found["connected_at_ms"].as_u64().unwrap()
        };
        let (before, after) = (stamp(connected_at(&ids[0])), stamp(connected_at(&ids[3])));
        for (token, filters, expected) in [
            ("all", &[][..], &[0, 1, 2, 3][..]),
            ("dev", &[], &[0, 3]),
            ("dev", &["--api-id", "game"], &[]),
            ("all", &["--api-id", "game"], &[2]),
            ("all", &["--stage", "dev"], &[0, 3]),
            ("all", &["--node", "2"], &[2, 3]),
            ("all", &["--node", "2", "--stage", "dev"], &[3]),
            ("all", &["--source-ip", "127.0.0.1"], &[0, 1, 2, 3]),
            ("all", &["--source-ip", "192.0.2.1"], &[]),
            ("all", &["--connected-before", &before], &[]),
            ("all", &["--connected-after", &before], &[0, 1, 2, 3]),
            ("all", &["--connected-after", &after], &[3]),
            ("all", &["--page-size", "1"], &[0, 1, 2, 3]),
        ] {
            let filters = [&["--linearizable"], filters].concat();
            let listed = self.list(token, &filters).await;
            let listed = listed.iter().map(|one| one["connection_id"].as_str().unwrap().to_owned());
            let expected: BTreeSet<_> = expected.iter().map(|place| ids[*place].clone()).collect();
            assert_eq!(listed.collect::<BTreeSet<_>>(), expected, "{token} {filters:?}");
        }
        let game = all.iter().find(|one| one["connection_id"] == *ids[2]).unwrap();
        assert_eq!(
            game,
            &json!({
                "connection_id": ids[2], "api": "game", "stage": "live", "node": 2,
                "source_ip": "127.0.0.1", "user_agent": null, "last_active_at_ms": null,
                "connected_at_ms": connected_at(&ids[2]),
            })
        );
        let ended = self.run(1, "all", &["connections", "list", "--linearizable"]).await;
        assert_eq!((ended.code, ended.stdout.lines().count()), (0, 5), "{ended:?}");
        assert!(ended.stdout.starts_with("CONNECTION "), "{ended:?}");
        for (token, filter, code) in [
            ("root", &[][..], 1),
            ("all", &["--connected-after", "yesterday"], 2),
            ("all", &["--source-ip", "(a+)+$"], 2),
            ("all", &["--page-size", "0"], 2),
            ("all", &["--page-size", "1001"], 2),
        ] {
            let ended = self.run(0, token, &[&["connections", "list"], filter].concat()).await;
            assert_eq!((ended.code, &*ended.stdout), (code, ""), "{filter:?}: {ended:?}");
        }
    }

    async fn refuses_pages_that_make_no_sense(&self) {
        let asked = |page_size| ListConnectionsRequest { page_size, ..Default::default() };
        for page_size in [0, 1000, 1_000_000_000] {
            let page = self.page(0, "all", asked(page_size)).await.unwrap();
            assert_eq!((page.connections.len(), &*page.next_page_token), (4, ""), "{page_size}");
        }
        let first = self.page(0, "all", asked(1)).await.unwrap();
        assert_eq!(first.connections.len(), 1);
        let token = first.next_page_token;
        let next = ListConnectionsRequest { page_token: token.clone(), ..asked(9) };
        let rest = self.page(2, "all", next.clone()).await.unwrap();
        assert_eq!(rest.connections.len(), 3, "a token is good at every node");
        let mut forged = token.clone().into_bytes();
        forged[12] ^= 1;
        let forged = String::from_utf8(forged).unwrap();
        let with = |page_token: &str| ListConnectionsRequest {
            page_token: page_token.to_owned(),
            ..asked(1)
        };
        let another_filter = ListConnectionsRequest { stage: "dev".into(), ..next.clone() };
        for (caller, asked, reason) in [
            ("all", asked(-1), "INVALID_REQUEST"),
            ("all", asked(i32::MIN), "INVALID_REQUEST"),
            ("all", with("1"), "INVALID_PAGE_TOKEN"),
            ("all", with("\u{0}/../"), "INVALID_PAGE_TOKEN"),
            ("all", with(&"A".repeat(100_000)), "INVALID_PAGE_TOKEN"),
            ("all", with(&forged), "INVALID_PAGE_TOKEN"),
            ("all", another_filter, "INVALID_PAGE_TOKEN"),
            ("dev", next, "INVALID_PAGE_TOKEN"),
            (
                "all",
                ListConnectionsRequest { source_ip: "(a+)+$".into(), ..asked(1) },
                "INVALID_REQUEST",
            ),
            (
                "all",
                ListConnectionsRequest { connected_after_ms: Some(-1), ..asked(1) },
                "INVALID_REQUEST",
            ),
        ] {
            let refused = self.page(0, caller, asked).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert_eq!(refused.get_details_error_info().unwrap().reason, reason);
        }
    }

    /// Pages are asked for at one node after the other, while others come and go.
    async fn lists_those_who_stay_exactly_once(&self) {
        let mut staying = Vec::new();
        for number in 0..24 {
            staying.push(self.client(number % 3, "game/live").await);
        }
        let mut ids = BTreeSet::new();
        for client in &mut staying {
            ids.insert(client.id().await);
        }
        let (mut passing, mut listed) = (Vec::new(), Vec::new());
        let mut asked = ListConnectionsRequest {
            page_size: 4,
            api_id: "game".into(),
            linearizable: true,
            ..Default::default()
        };
        for number in 0.. {
            let page = self.page(number % 3, "all", asked.clone()).await.unwrap();
            assert!(page.connections.len() <= 4);
            listed.extend(page.connections.into_iter().map(|one| one.connection_id));
            if page.next_page_token.is_empty() {
                break;
            }
            asked.page_token = page.next_page_token;
            passing.push(self.client((number + 1) % 3, "game/live").await);
            if number % 2 == 1 {
                passing.remove(0).close().await;
            }
        }
        let once: BTreeSet<_> = listed.iter().cloned().collect();
        assert_eq!(once.len(), listed.len(), "nobody is listed twice: {listed:?}");
        assert!(once.is_superset(&ids), "who stays is listed");
        for mut client in staying.into_iter().chain(passing) {
            client.close().await;
        }
        eventually("the others gone", || async {
            (self.list("all", &["--linearizable"]).await.len() == 4).then_some(())
        })
        .await;
    }

    async fn counts_what_happens_between_nodes(&self, client: &mut Client) {
        let id = client.id().await;
        let mut request = Request::new(PostToConnectionRequest {
            connection_id: id,
            payload: Some(Payload::Text("counted".into())),
            ..Default::default()
        });
        request.metadata_mut().insert("authorization", "Bearer all".parse().unwrap());
        self.cluster.grpc(0).await.post_to_connection(request).await.unwrap();
        assert_eq!(client.text().await, "counted");
        for (series, is_right) in [
            (
                r#"posthorn_posts_forward_seconds_count{outcome="ok"}"#,
                (|n| n >= 1.0) as fn(f64) -> bool,
            ),
            (r#"posthorn_posts_forward_seconds_count{outcome="gone"}"#, |n| n == 0.0),
            (r#"posthorn_fabric_connections{purpose="control"}"#, |n| n >= 2.0),
            (r#"posthorn_fabric_connections{purpose="posts"}"#, |n| n >= 1.0),
            (r#"posthorn_fabric_connections_dialed_total{purpose="posts"}"#, |n| n >= 1.0),
            (r#"posthorn_fabric_calls_total{direction="sent"}"#, |n| n > 0.0),
            (r#"posthorn_fabric_calls_total{direction="received"}"#, |n| n > 0.0),
            (r#"posthorn_fabric_frames_total{direction="sent"}"#, |n| n >= 1.0),
            (r#"posthorn_fabric_answers_total{direction="received"}"#, |n| n >= 1.0),
            (r#"posthorn_fabric_lane_bytes_total{direction="sent"}"#, |n| n > 0.0),
            (r#"posthorn_peers_refused_total{cause="version"}"#, |n| n == 0.0),
            ("posthorn_directory_lag_entries", |n| n == 0.0),
            ("posthorn_directory_debts_oldest_seconds", |n| n == 0.0),
            ("posthorn_raft_leader_changes_total", |n| n >= 1.0),
            ("posthorn_raft_log_entries", |n| n > 4.0),
            ("posthorn_directory_entries", |n| n == 4.0),
            ("posthorn_directory_commit_seconds_count", |n| n > 0.0),
            ("posthorn_directory_update_changes_count", |n| n > 0.0),
        ] {
            eventually(series, || async {
                self.cluster.metric(0, series).await.filter(|n| is_right(*n))
            })
            .await;
        }
    }

    /// While the backend does not answer, what the node leaves is owed.
    async fn shows_a_dead_node_and_its_debts(&mut self) {
        self.is_backend_up.store(false, Ordering::SeqCst);
        self.cluster.take(2).kill().await;
        let status = eventually("the dead node's run evicted", || async {
            let status = self.status(0).await;
            (status["debts"] == 2).then_some(status)
        })
        .await;
        let run = &status["runs"][2];
        assert_eq!((&run["node"], &run["incarnation"]), (&json!(2), &json!(1)));
        assert_eq!((&run["state"], &run["connections"]), (&json!("gone"), &json!(2)));
        let node = &status["nodes"][2];
        assert_eq!((&node["state"], &node["is_ready"]), (&json!("unreachable"), &json!(false)));
        assert!(node["not_ready_because"].is_string() && node["lag"].is_null(), "{node}");
        assert_eq!(status["connections"], 2);
        let text = self.run(1, "root", &["cluster", "status"]).await.stdout;
        assert!(text.contains("2 connections, 2 debts\n"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("2/1  gone   2 ")), "{text}");
        assert!(text.contains("node 2 is not ready: "), "{text}");
        let listed = self.list("all", &[]).await;
        assert!(listed.len() == 2 && listed.iter().all(|one| one["node"] != 2), "{listed:?}");
        eventually("the age of the debts", || async {
            self.cluster
                .metric(0, "posthorn_directory_debts_oldest_seconds")
                .await
                .filter(|s| *s > 0.0)
        })
        .await;

        self.is_backend_up.store(true, Ordering::SeqCst);
        let status = eventually("nothing owed", || async {
            let status = self.status(0).await;
            (status["debts"] == 0).then_some(status)
        })
        .await;
        assert_eq!(status["runs"].as_array().unwrap().len(), 2, "{status}");
        eventually("no debts", || async {
            self.cluster
                .metric(0, "posthorn_directory_debts_oldest_seconds")
                .await
                .filter(|s| *s == 0.0)
        })
        .await;
        for (series, at_least) in [
            ("posthorn_debts_settled_total", 2.0),
            ("posthorn_evictions_total", 1.0),
            (r#"posthorn_connections_closed_total{cause="by_backend"}"#, 1.0),
        ] {
            eventually(series, || async {
                let counted = [0, 1].map(|node| self.cluster.metric(node, series));
                let counted = futures_util::future::join_all(counted).await;
                (counted.into_iter().flatten().sum::<f64>() >= at_least).then_some(())
            })
            .await;
        }
    }

    async fn says_that_nobody_leads(&mut self) {
        self.cluster.take(1).kill().await;
        let ended = eventually("no quorum", || async {
            let ended = self.run(0, "root", &["cluster", "status", "--json"]).await;
            (ended.code == 7).then_some(ended)
        })
        .await;
        let status: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!((&status["leader_node"], &*ended.stderr), (&Value::Null, ""));
        let ended = self.run(0, "root", &["cluster", "status"]).await;
        assert!(ended.code == 7 && ended.stdout.contains("nobody leads"), "{ended:?}");
        let ended = self.run(0, "all", &["connections", "list", "--linearizable"]).await;
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.stderr.starts_with("posthorn: NO_QUORUM: "), "{ended:?}");
        eventually("a node that is not ready, and says why", || async {
            let (status, body) = self.cluster.get(0, "/readyz").await?;
            (status == 503 && body.contains("leader")).then_some(())
        })
        .await;
    }

    async fn start() -> Stage {
        let is_backend_up = Arc::new(AtomicBool::new(true));
        let is_up = is_backend_up.clone();
        let backend = Backend::start(move |_| {
            (if is_up.load(Ordering::SeqCst) { 200 } else { 500 }, String::new())
        })
        .await;
        let api = |id: &str, stages: &str| {
            format!(
                "  {id}:\n    route_selection_expression: $request.body.action\n    routes:\n      \
                 $disconnect: {{ target: integrations/backend }}\n      whoami: \
                 {{ target: integrations/whoami, route_response_selection_expression: $default }}\n    \
                 integrations:\n      backend: {{ integration_type: HTTP_EVENT, \
                 integration_uri: '{}' }}\n      whoami: {{ integration_type: MOCK, \
                 mock_response: {{ body: $context.connectionId }} }}\n    stages: {stages}\n",
                backend.url()
            )
        };
        let apis = format!(
            "apis:\n{}{}",
            api("chat", "{ dev: {}, prod: {} }"),
            api("game", "{ live: {} }")
        );
        let principal = |name: &str, permissions: &str| {
            let hash = Sha256::of(name.as_bytes());
            format!("  {name}:\n    permissions: [{permissions}]\n    token_sha256: [{hash}]\n")
        };
        let settings = format!(
            "api: {{ listen: \"{{ip}}:0\" }}\nprincipals:\n{}{}{}",
            principal("root", "'*/*/admin'"),
            principal("all", "'*/*/*'"),
            principal("dev", "chat/dev/list, chat/dev/get"),
        );
        let cluster = Cluster::start(Options { nodes: 3, apis, settings }).await;
        Stage { cluster, is_backend_up, _backend: backend }
    }

    async fn client(&self, node: usize, path: &str) -> Client {
        let url = format!("ws://{}/{path}", self.cluster.node(node).at("edge"));
        Client::connect(&url).await.unwrap()
    }

    /// What `posthorn cluster status --json` prints at a node.
    async fn status(&self, node: usize) -> Value {
        let ended = self.run(node, "root", &["cluster", "status", "--json"]).await;
        assert_eq!((ended.code, &*ended.stderr), (0, ""));
        serde_json::from_str(&ended.stdout).unwrap()
    }

    /// What `posthorn connections list --json` prints at node 0.
    async fn list(&self, token: &str, filters: &[&str]) -> Vec<Value> {
        let ended =
            self.run(0, token, &[&["connections", "list", "--json"], filters].concat()).await;
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{filters:?}");
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn page(
        &self,
        node: usize,
        token: &str,
        asked: ListConnectionsRequest,
    ) -> Result<ListConnectionsResponse, Status> {
        let mut request = Request::new(asked);
        let authorization = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", authorization);
        let answer = self.cluster.grpc(node).await.list_connections(request).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn run(&self, node: usize, token: &str, arguments: &[&str]) -> Ended {
        run(&self.cluster.node(node).at("api").to_string(), token, arguments).await
    }
}

/// Runs a command at a node's API, with a token if it is not empty.
async fn run(api: &str, token: &str, arguments: &[&str]) -> Ended {
    let mut command = Command::new(binary());
    command.args(arguments).args(["--api", api]).env_remove("POSTHORN_TOKEN");
    if !token.is_empty() {
        command.env("POSTHORN_TOKEN", token);
    }
    let output = within("the command's end", command.output()).await.unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
