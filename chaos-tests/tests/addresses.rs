//! Several APIs in one node: found by host and path, by clients and by backends.

use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::management::Management;

#[tokio::test(flavor = "multi_thread")]
async fn stages_are_found_by_host_and_path() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let api = |name: &str, more: &str, stages: &str| {
        format!(
            "  {name}:\n    route_selection_expression: $request.body.action\n{more}    routes:\n      \
             $connect: {{ target: integrations/backend }}\n    integrations:\n      \
             backend: {{ integration_type: HTTP_EVENT, integration_uri: \"{}\" }}\n    \
             stages: {stages}\n",
            backend.url()
        )
    };
    let chat = api("chat", "", "{ dev: {}, prod: {} }");
    let closed = api("closed", "    disable_execute_api_endpoint: true\n", "{ only: {} }");
    let apis = format!(
        "aws: {{ region: eu-west-1 }}\napi_files: [more.yaml]\napis:\n{chat}domain_names:\n  \
         ws.example.test:\n    api_mappings:\n      - {{ api_id: chat, stage: prod }}\n      \
         - {{ api_mapping_key: v1, api_id: chat, stage: dev }}\n      \
         - {{ api_mapping_key: v1/beta, api_id: closed, stage: only }}\n"
    );
    let more = format!(
        "apis:\n{closed}domain_names:\n  '*.example.test':\n    api_mappings: \
         [{{ api_mapping_key: closed, api_id: closed, stage: only }}]\n"
    );
    let mut cluster = Cluster::prepare(Options { nodes: 1, apis, ..Options::default() });
    std::fs::write(cluster.folder().join("more.yaml"), more).unwrap();
    cluster.spawn(0).await;
    cluster.wait_ready(0).await;
    let edge = cluster.node(0).at("edge");
    let default_host = "chat.execute-api.eu-west-1.amazonaws.com";
    for (host, path, expected) in [
        ("localhost", "/dev", Some("chat dev")),
        ("localhost", "/chat/prod/", Some("chat prod")),
        ("localhost", "/only", None),
        ("localhost", "/closed/only", None),
        (default_host, "/prod", Some("chat prod")),
        (default_host, "/chat/prod", None),
        ("closed.execute-api.eu-west-1.amazonaws.com", "/only", None),
        ("ws.example.test", "/", Some("chat prod")),
        ("WS.Example.test:8443", "/v1/", Some("chat dev")),
        ("ws.example.test", "/v1/beta", Some("closed only")),
        ("ws.example.test", "/v1/gamma", None),
        ("ws.example.test", "/closed", None),
        ("a.example.test", "/closed", Some("closed only")),
        ("a.example.test", "/dev", None),
    ] {
        let opened = Client::connect_at(edge, &format!("ws://{host}{path}")).await;
        match (opened, expected) {
            (Ok(_), Some(expected)) => {
                let context = &backend.event().await["requestContext"];
                let text = |key: &str| context[key].as_str().unwrap().to_owned();
                assert_eq!(format!("{} {}", text("apiId"), text("stage")), expected);
                let name = host.split(':').next().unwrap().to_ascii_lowercase();
                assert_eq!(text("domainName"), name);
            }
            (Err(tungstenite::Error::Http(response)), None) => {
                assert_eq!(response.status(), 403, "{host}{path}");
                let body = response.body().as_deref().unwrap();
                assert_eq!(body, br#"{"message":"Forbidden"}"#);
            }
            (opened, _) => panic!("{host}{path}: {:?}", opened.map(|_| "opened")),
        }
    }
    backends_find_stages_as_clients_do(&cluster, &backend).await;
}

/// A backend reaches a stage by its own domain name, as it finds it in `domainName`, and no other.
async fn backends_find_stages_as_clients_do(cluster: &Cluster, backend: &Backend) {
    let edge = cluster.node(0).at("edge");
    let default_host = "chat.execute-api.eu-west-1.amazonaws.com";
    let mut client =
        Client::connect_at(edge, "ws://ws.example.test/v1").await.expect("it is let in");
    let event = backend.event().await;
    let id = event["requestContext"]["connectionId"].as_str().expect("it has an ID");
    let api = cluster.node(0).at("api");
    for (host, path, status) in [
        ("ws.example.test", "/v1", 200),
        ("WS.example.test:8081", "/v1", 200),
        // Another stage of the same API scopes the caller, not the connection.
        ("ws.example.test", "", 200),
        (default_host, "/dev", 200),
        ("ws.example.test", "/v1/beta", 410),
        ("a.example.test", "/closed", 410),
        ("ws.example.test", "/v2", 403),
        ("a.example.test", "/v1", 403),
    ] {
        let api = Management::new(api).as_host(host);
        let reply = api.post(&format!("{path}/@connections/{id}"), b"hello").await;
        assert_eq!(reply.status, status, "{host}{path}: {reply:?}");
        if status == 200 {
            assert_eq!(client.text().await, "hello");
        }
    }
}
