//! What operators ask for from the command line, at any node, and whether they may.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::process::binary;
use posthorn_chaos::{eventually, within};
use posthorn_core::auth::hash::Sha256;
use serde_json::{Value, json};
use tokio::process::Command;

/// Three nodes, two APIs, and principals each with a token of its name.
struct Stage {
    cluster: Cluster,
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
    let stage = Stage::start().await;
    let mut clients = Vec::new();
    for (node, path) in [(0, "chat/dev"), (1, "chat/prod"), (2, "game/live"), (2, "chat/dev")] {
        clients.push(stage.client(node, path).await);
    }
    stage.shows_a_healthy_cluster().await;
    stage.lets_only_administrators_see().await;
}

impl Stage {
    async fn shows_a_healthy_cluster(&self) {
        for asked in 0..3 {
            let status = eventually("replicas that have caught up", || async {
                let status = self.status(asked, 0).await;
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
            let expected = "posthorn: UNKNOWN_NODE: there is no node 7\n";
            assert_eq!((ended.code, &*ended.stderr), (4, expected), "{ended:?}");
        }
        let ended = self.run(0, "root", &["node", "drain", "x"]).await;
        assert_eq!(ended.code, 2, "{ended:?}");
    }

    async fn start() -> Stage {
        let backend = Backend::start(|_| (200, String::new())).await;
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
        Stage { cluster, _backend: backend }
    }

    async fn client(&self, node: usize, path: &str) -> Client {
        let url = format!("ws://{}/{path}", self.cluster.node(node).at("edge"));
        Client::connect(&url).await.unwrap()
    }

    /// What `posthorn cluster status --json` prints at a node.
    async fn status(&self, node: usize, code: i32) -> Value {
        let ended = self.run(node, "root", &["cluster", "status", "--json"]).await;
        assert_eq!((ended.code, &*ended.stderr), (code, ""));
        serde_json::from_str(&ended.stdout).unwrap()
    }

    /// Runs a command at a node's API, with a token if it is not empty.
    async fn run(&self, node: usize, token: &str, arguments: &[&str]) -> Ended {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--api").arg(self.cluster.node(node).at("api").to_string());
        command.env_remove("POSTHORN_TOKEN");
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
}
