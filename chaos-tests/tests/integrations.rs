//! What stands between a client and its backend: templates, parameters, responses and models. And
//! that no backend, whatever it answers, harms a client.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::lambda::Lambda;
use posthorn_chaos::server::{Reply, Request, Server};
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::client::IntoClientRequest as _;

const INTERNAL: &str = "Internal server error";

/// One node for all of it: a server, functions, and APIs with a route for each behaviour.
struct Stand {
    cluster: Cluster,
    server: Server,
    lambda: Lambda,
}

async fn stand() -> Stand {
    let server = Server::start(answer).await;
    let lambda = Lambda::start(|function, event| match event["do"].as_str() {
        _ if function == "half" => {
            Ok(json!({ "statusCode": 200, "body": "AAH", "isBase64Encoded": true }))
        }
        Some("refuse") => Err("Bad input: too short".to_owned()),
        Some("break") => Err("out of luck".to_owned()),
        _ => Ok(json!({ "got": event })),
    })
    .await;
    let apis = include_str!("integrations.yaml").replace("{server}", &server.url());
    let settings = format!("aws: {{ lambda_endpoint: \"{}\" }}\n", lambda.endpoint());
    let mut cluster = Cluster::prepare(Options { nodes: 1, apis, settings });
    let schema = json!({ "type": "object", "required": ["name"] });
    std::fs::write(cluster.folder().join("leave.json"), schema.to_string()).unwrap();
    cluster.spawn(0).await;
    cluster.wait_ready(0).await;
    Stand { cluster, server, lambda }
}

impl Stand {
    fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.cluster.node(0).at("edge"))
    }

    async fn client(&self) -> Client {
        Client::connect(&self.url("/main/dev")).await.unwrap()
    }
}

/// What the server makes of a path.
fn answer(request: &Request) -> Reply {
    let path = request.target.split('?').next().unwrap_or_default();
    match path.strip_prefix("/hostile/") {
        Some(case) => hostile(case),
        None => match path {
            "/users/none" => Reply::new(404, "", r#"{"error":"none"}"#),
            "/users/broken" => Reply::new(503, "", "no JSON"),
            "/door" => {
                let status = request.target.split("status=").nth(1);
                let status = status.and_then(|status| status.parse().ok()).unwrap_or(200);
                Reply::new(status, "X-Kind: one\r\nX-Kind: two\r\n", r#"{"why":"so"}"#)
            }
            "/bytes" => Reply::new(200, "Content-Type: application/octet-stream\r\n", [0, 1, 255]),
            "/elsewhere" => panic!("a redirect was followed"),
            _ => Reply::new(200, "X-Kind: good\r\n", r#"{"name":"Ada"}"#),
        },
    }
}

fn hostile(case: &str) -> Reply {
    let endless = |head: &str, more: Vec<u8>| Reply {
        bytes: format!("HTTP/1.1 200 OK\r\n{head}\r\n").into(),
        endless: Some(more),
    };
    match case {
        "headers" => {
            let large = format!("X-Large: {}\r\n", "x".repeat(1024 * 1024));
            Reply::new(200, &large, "x")
        }
        "endless-headers" => {
            let more = "X: y\r\n".repeat(1024).into_bytes();
            Reply { bytes: b"HTTP/1.1 200 OK\r\n".to_vec(), endless: Some(more) }
        }
        "endless" => endless("", vec![b'x'; 64 * 1024]),
        "drip" => endless("Content-Length: 100000\r\n", b"x".to_vec()),
        "chunks" => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n"),
        "short" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
        "nonsense" => Reply::raw("\x16\x03\x01 what?\r\n\r\n"),
        "nothing" => Reply::raw(""),
        "gzip" => Reply::new(200, "Content-Encoding: gzip\r\n", [0x1f, 0x8b, 8, 0]),
        "large" => Reply::new(200, "", vec![b'x'; 128 * 1024 + 1]),
        "not-utf8" => Reply::new(200, "Content-Type: text/plain\r\n", [b'x', 0xff]),
        "continue" => Reply::raw(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate",
        ),
        "redirect" => Reply::new(302, "Location: /elsewhere\r\n", "moved"),
        "redirect-away" => Reply::new(307, "Location: http://169.254.169.254/\r\n", "away"),
        "no-content" => Reply::raw(
            "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody",
        ),
        "unavailable" => Reply::new(503, "", "secret trace"),
        other => panic!("{other}"),
    }
}

/// The frame that tells of an error, without the names in it.
async fn error(client: &mut Client) -> String {
    let text = client.text().await;
    let frame: Value = serde_json::from_str(&text).unwrap();
    assert!(frame["connectionId"].is_string(), "{text}");
    frame["message"].as_str().unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_reached_through_templates_and_parameters() {
    let stand = stand().await;
    requests_are_made_of_messages(&stand).await;
    answers_are_told_as_responses_say(&stand).await;
    proxies_take_parameters_too(&stand).await;
    functions_get_what_their_template_made(&stand).await;
    mocks_answer_by_templates(&stand).await;
    bodies_are_converted(&stand).await;
    what_cannot_be_made_reaches_nobody(&stand).await;
}

async fn requests_are_made_of_messages(stand: &Stand) {
    let mut client = stand.client().await;
    let message =
        json!({ "action": "users", "id": "a/b?c#d%", "q": "x&y=z", "text": "say \"hi\"" });
    client.send(&message.to_string()).await;
    assert_eq!(client.text().await, "found Ada");
    let request = stand.server.request().await;
    assert_eq!(request.method, "PUT");
    assert_eq!(request.target, "/users/a%2Fb%3Fc%23d%25?fixed=1&q=x%26y%3Dz");
    assert_eq!(request.header("x-tier"), Some("gold"));
    assert_eq!(request.header("x-fixed"), Some("as it is"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_str(request.text()).unwrap();
    assert_eq!(body["text"], "say \"hi\"");
    assert_eq!(body["event"], "MESSAGE");
    assert_eq!(body["route"], "users");
    assert_eq!(body["tier"], "gold");
    assert_eq!(request.header("connectionid"), body["who"].as_str());
    assert!(body["message"].as_str().is_some_and(|id| id.len() == 16), "{body}");

    // Another template, by what the message says.
    client.send(r#"{"action":"users","id":"x","kind":"short"}"#).await;
    assert_eq!(client.text().await, "found Ada");
    let request = stand.server.request().await;
    assert_eq!((request.target.as_str(), request.text()), ("/users/x?fixed=1", "short: x"));
}

async fn answers_are_told_as_responses_say(stand: &Stand) {
    let mut client = stand.client().await;
    for (id, said) in [("none", "nobody: none (404 of none)"), ("broken", "no JSON")] {
        client.send(&json!({ "action": "users", "id": id }).to_string()).await;
        assert_eq!(client.text().await, said);
        stand.server.request().await;
    }
    // Where no response fits, something is wrong.
    client.send(r#"{"action":"picky"}"#).await;
    assert_eq!(error(&mut client).await, INTERNAL);
    // On a one-way route without responses, nothing is said, unless the backend fails.
    client.send(r#"{"action":"quiet","id":"x"}"#).await;
    client.send(r#"{"action":"quiet","id":"broken"}"#).await;
    assert_eq!(error(&mut client).await, INTERNAL);
    let mut targets = Vec::new();
    for _ in 0..3 {
        targets.push(stand.server.request().await.target);
    }
    targets.sort();
    assert_eq!(targets, ["/picky", "/users/broken", "/users/x"]);
}

async fn proxies_take_parameters_too(stand: &Stand) {
    let mut client = stand.client().await;
    client.send(r#"{"action":"proxied","id":"7"}"#).await;
    assert_eq!(client.text().await, r#"{"name":"Ada"}"#);
    let request = stand.server.request().await;
    assert_eq!(request.target, "/proxied/7?q=7");
    assert_eq!(request.header("content-type"), Some("text/x-mapped"));
    assert_eq!(request.text(), r#"{"action":"proxied","id":"7"}"#);

    client.send(r#"{"action":"told"}"#).await;
    assert_eq!(client.text().await, r#"{"name":"Ada"}"#);
    let request = stand.server.request().await;
    assert_eq!(request.header("authorization"), Some("Bearer gold"));
    let event: Value = serde_json::from_str(request.text()).unwrap();
    assert_eq!(event["requestContext"]["routeKey"], "told");
}

async fn functions_get_what_their_template_made(stand: &Stand) {
    let mut client = stand.client().await;
    for (what, said) in [
        ("work", r#"got {"do":"work","stage":"dev"}"#),
        ("refuse", "refused: Bad input: too short"),
        ("break", r#"{"errorMessage":"out of luck","errorType":"Error"}"#),
    ] {
        client.send(&json!({ "action": "function", "do": what }).to_string()).await;
        assert_eq!(client.text().await, said);
        let invocation = stand.lambda.invocation().await;
        assert_eq!(invocation.function, "chat");
        assert_eq!(invocation.event, json!({ "do": what, "stage": "dev" }));
        assert_eq!(invocation.headers["x-amz-invocation-type"], "RequestResponse");
    }
    client.send(r#"{"action":"strict","do":"break"}"#).await;
    assert_eq!(error(&mut client).await, INTERNAL);
    stand.lambda.invocation().await;
    client.send(r#"{"action":"half"}"#).await;
    assert_eq!(error(&mut client).await, INTERNAL, "what is not base64 is nobody's message");
    stand.lambda.invocation().await;
    // Called as an event, a function has nothing to say.
    for action in ["later", "proxied-later"] {
        client.send(&json!({ "action": action, "do": "work" }).to_string()).await;
        let invocation = stand.lambda.invocation().await;
        assert_eq!(invocation.headers["x-amz-invocation-type"], "Event");
    }
}

async fn mocks_answer_by_templates(stand: &Stand) {
    let mut client = stand.client().await;
    for (code, said) in [("200", "fine"), ("404", "not fine: mock"), ("418", "neither")] {
        client.send(&format!(r#"{{"action":"mock","code":{code}}}"#)).await;
        assert_eq!(client.text().await, said);
    }
    client.send(r#"{"action":"mock","code":"none"}"#).await;
    assert_eq!(error(&mut client).await, INTERNAL);
}

async fn bodies_are_converted(stand: &Stand) {
    let mut client = stand.client().await;
    client.send_message(Message::text(r#"{"action":"bytes","data":"AAH/"}"#)).await;
    assert_eq!(client.text().await, "AAH/");
    let request = stand.server.request().await;
    assert_eq!(request.body, [0, 1, 255]);
    assert_eq!(request.header("content-type"), Some("application/octet-stream"));
    client.send_message(Message::text(r#"{"action":"bytes","data":"{}"}"#)).await;
    assert_eq!(error(&mut client).await, INTERNAL);
    client.send(r#"{"action":"raw-bytes"}"#).await;
    assert_eq!(client.next().await.unwrap(), Message::binary(vec![0, 1, 255]));
    assert_eq!(stand.server.request().await.text(), r#"{"action":"raw-bytes"}"#);
}

/// The server would remember, in the order of their coming.
async fn what_cannot_be_made_reaches_nobody(stand: &Stand) {
    let mut client = stand.client().await;
    for (message, frame) in [
        (r#"{"action":"users"}"#, INTERNAL),
        (r#"{"action":"users","id":""}"#, INTERNAL),
        (r#"{"action":"users","id":".."}"#, INTERNAL),
        (r#"{"action":"users","id":"x","q":"\ud800"}"#, ""),
        (r#"{"action":"headers","value":"a\r\nX-Made-Up: b"}"#, INTERNAL),
        (r#"{"action":"headers","value":"a\u0000b"}"#, INTERNAL),
        (r#"{"action":"headers","value":"ä"}"#, ""),
        (r#"{"action":"never"}"#, "Unsupported Media Type"),
        (r#"{"action":"endless"}"#, INTERNAL),
        (r#"{"action":"deep"}"#, INTERNAL),
        (r#"{"action":"wide"}"#, INTERNAL),
    ] {
        client.send(message).await;
        match frame {
            "" => {
                client.text().await;
                stand.server.request().await;
            }
            frame => assert_eq!(error(&mut client).await, frame, "{message}"),
        }
    }
    client.send(r#"{"action":"users","id":"last"}"#).await;
    assert_eq!(stand.server.request().await.target, "/users/last?fixed=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_and_ends_go_through_templates_as_well() {
    let stand = stand().await;
    let request = |query: &str| {
        let mut request = stand.url(&format!("/doors/dev{query}")).into_client_request().unwrap();
        request.headers_mut().insert("X-Token", "t".parse().unwrap());
        request.headers_mut().insert("Sec-WebSocket-Protocol", "v1, v2".parse().unwrap());
        request
    };
    let (mut socket, response) =
        tokio_tungstenite::connect_async(request("?room=a%26b&room=c")).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "v2");
    let connect = stand.server.request().await;
    assert_eq!(connect.target, "/door?rooms=a%26b&rooms=c");
    assert_eq!(connect.header("x-token"), Some("t"));
    assert_eq!(connect.header("sec-websocket-key"), None, "nothing passes that is not mapped");
    let body: Value = serde_json::from_str(connect.text()).unwrap();
    assert_eq!(body["event"], "CONNECT");
    assert_eq!(body["room"], "c");
    assert_eq!(body["token"], "t");
    assert!(body["source"].as_str().is_some_and(|ip| ip.starts_with("127.")), "{body}");
    let id = body["id"].clone();
    socket.close(None).await.unwrap();
    let end: Value = serde_json::from_str(stand.server.request().await.text()).unwrap();
    assert_eq!((&end["event"], &end["id"]), (&json!("DISCONNECT"), &id));
    assert_eq!((&end["room"], &end["token"]), (&json!(""), &json!("")));

    // What the backend makes of a handshake is its status; what the template makes of that, its body.
    for (query, status, body) in [
        ("?status=403", 403, "no: so"),
        ("?status=500", 500, "no: so"),
        ("?status=302", 302, "no: so"),
        ("?status=101", 500, ""),
    ] {
        match tokio_tungstenite::connect_async(request(query)).await {
            Err(tungstenite::Error::Http(response)) => {
                assert_eq!(response.status().as_u16(), status, "{query}");
                let said = response.body().as_deref().unwrap_or_default();
                assert!(String::from_utf8_lossy(said).starts_with(body), "{query}: {said:?}");
                if status == 403 {
                    assert_eq!(response.headers()["x-kinds"], "one");
                }
            }
            other => panic!("{query}: {other:?}"),
        }
    }
    // A function that fails lets nobody in, whichever response it has; a mock lets in by its status.
    for (path, status) in [
        ("/function-door/dev?do=work", 101),
        ("/function-door/dev?do=break", 502),
        ("/mock-door/dev?code=204", 101),
        ("/mock-door/dev?code=401", 401),
        ("/mock-door/dev", 500),
        ("/closed-door/dev", 415),
        ("/proxy-door/dev", 101),
    ] {
        match Client::connect(&stand.url(path)).await {
            Ok(_) => assert_eq!(status, 101, "{path}"),
            Err(tungstenite::Error::Http(response)) => {
                assert_eq!(response.status().as_u16(), status, "{path}");
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }
    let proxied = loop {
        let request = stand.server.request().await;
        if request.target.starts_with("/proxy-door") {
            break request;
        }
    };
    assert_eq!(proxied.header("sec-websocket-version"), Some("0"), "mapped over what is sent");
    assert!(proxied.header("connectionid").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_harms_a_client() {
    let stand = stand().await;
    let mut client = stand.client().await;
    for (case, said) in [
        ("headers", None),
        ("endless-headers", None),
        ("endless", None),
        ("chunks", None),
        ("short", None),
        ("nonsense", None),
        ("nothing", None),
        ("gzip", None),
        ("large", None),
        ("unavailable", None),
        ("not-utf8", Some(Message::binary(vec![b'x', 0xff]))),
        ("continue", Some(Message::text("late"))),
        ("redirect", Some(Message::text("moved"))),
        ("redirect-away", Some(Message::text("away"))),
    ] {
        client.send(&json!({ "action": "hostile", "case": case }).to_string()).await;
        let target = stand.server.request().await.target;
        assert_eq!(target, format!("/hostile/{case}"), "nobody else was called");
        match said {
            Some(said) => assert_eq!(client.next().await.unwrap(), said, "{case}"),
            None => assert_eq!(error(&mut client).await, INTERNAL, "{case}"),
        }
    }
    client.send(r#"{"action":"hostile","case":"no-content"}"#).await;
    client.send(r#"{"action":"slow"}"#).await;
    assert_eq!(error(&mut client).await, "Endpoint request timed out");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_backend_is_where_the_node_may_not_go() {
    let canary = Server::start(|_| Reply::new(200, "", "here")).await;
    let port = canary.address().port();
    let hosts = ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "2130706433", "{ip}"];
    let (mut routes, mut integrations) = (String::new(), String::new());
    for (index, host) in hosts.iter().enumerate() {
        let port = if *host == "{ip}" { 9090 } else { port };
        routes.push_str(&format!("      r{index}: {{ target: integrations/i{index} }}\n"));
        integrations.push_str(&format!(
            "      i{index}: {{ integration_type: HTTP_EVENT, integration_uri: \"http://{host}:{port}/\" }}\n"
        ));
    }
    // The address of the node itself is another, and known to the settings alone.
    let settings = format!(
        "admin: {{ listen: \"{{ip}}:9090\" }}\n\
         integrations: {{ denied_addresses: [127.0.0.1, '::1', own_listeners] }}\n\
         apis:\n  dev:\n    route_selection_expression: $request.body.action\n    \
         routes:\n{routes}    integrations:\n{integrations}    stages: {{ dev: {{}} }}\n"
    );
    let options = Options { nodes: 1, settings, apis: String::new() };
    let cluster = Cluster::start(options).await;
    let mut client = cluster.client(0).await;
    for (index, host) in hosts.iter().enumerate() {
        client.send(&format!(r#"{{"action":"r{index}"}}"#)).await;
        assert_eq!(error(&mut client).await, INTERNAL, "{host}");
    }
    let log = cluster.node(0).log();
    let denied = log.matches("is among integrations.denied_addresses").count();
    assert_eq!(denied, hosts.len(), "{log}");
    assert!(!canary.was_called().await, "somebody came through");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_message_says_it_takes_one_route() {
    let stand = stand().await;
    let mut client = Client::connect(&stand.url("/texts/dev")).await.unwrap();
    let nested = format!(r#"{{"action":"join","x":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let long_name = format!(r#"{{"{}":1,"action":"join"}}"#, "k".repeat(20_000));
    let long_value = format!(r#"{{"action":"{}"}}"#, "v".repeat(10_000));
    for (message, route) in [
        ("", "$default"),
        ("not JSON", "$default"),
        ("7", "$default"),
        ("[]", "$default"),
        (r#""join""#, "$default"),
        ("{}", "$default"),
        (&nested, "$default"),
        (&long_name, "join"),
        (&long_value, "$default"),
        ("\u{feff}{\"action\":\"join\"}", "$default"),
        (r#"{"action":"x","action":"join"}"#, "join"),
        (r#"{"action":"join","n":1e999999}"#, "join"),
        (r#"{"action":"\ud800"}"#, "\u{fffd}"),
        (r#"{"action":null}"#, "null"),
        (r#"{"action":1}"#, "1"),
        (r#"{"action":["a","b"]}"#, "[a, b]"),
        (r#"{"action":{"a":1}}"#, r#"{"a":1}"#),
        (r#"{"action":""}"#, "$default"),
        (r#"{"action":"Join"}"#, "$default"),
        (r#"{"action":"$connect"}"#, "$default"),
        (r#"{"action":"$disconnect"}"#, "$default"),
        (r#"{"action":"$default"}"#, "$default"),
        (r#"{"action":"constructor"}"#, "$default"),
        (r#"{"action":"__proto__"}"#, "$default"),
    ] {
        client.send(message).await;
        let begin: String = message.chars().take(60).collect();
        assert_eq!(client.text().await, format!("MESSAGE {route}"), "{begin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_fit_no_model_reach_nobody() {
    let stand = stand().await;
    let mut client = stand.client().await;
    for message in [
        r#"{"action":"join"}"#,
        r#"{"action":"join","room":1}"#,
        r#"{"action":"join","room":"ABC"}"#,
        r#"{"action":"join","kind":"leave","room":"abc"}"#,
        r#"{"action":"mock-join","room":1}"#,
        r#"{"action":"broken-model","room":"abc"}"#,
    ] {
        client.send(message).await;
        let text = client.text().await;
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame["message"], "Bad request body", "{message}");
        let id = frame["messageId"].as_str().unwrap();
        let begin = r#"{"message" : "Bad request body", "connectionId": ""#;
        assert!(text.starts_with(begin) && id.len() == 16, "{text}");
    }
    for (message, said) in [
        (r#"{"action":"join","room":"abc"}"#, r#"{"name":"Ada"}"#),
        (r#"{"action":"join","kind":"leave","name":"x"}"#, r#"{"name":"Ada"}"#),
        (r#"{"action":"mock-join","room":"abc"}"#, r#"{"action":"mock-join","room":"abc"}"#),
    ] {
        client.send(message).await;
        assert_eq!(client.text().await, said);
    }
    let request = stand.server.request().await;
    assert_eq!(
        request.text(),
        r#"{"action":"join","room":"abc"}"#,
        "the first that was let through"
    );
}
