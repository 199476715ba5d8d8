//! More than a node can take, of each kind: what is too much is refused or waits within bounds, and
//! nobody else feels it.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, ECHO_API, Options};
use posthorn_chaos::management::Management;
use posthorn_chaos::process::Launch;
use posthorn_chaos::raw::{self, HANDSHAKE, frame, next_frame, open_narrow};
use posthorn_chaos::{eventually, within};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

/// Far more than a node needs for any of this, and far less than what comes at it.
const GROWTH_KIB_MAX: u64 = 96 * 1024;
const OUTBOXES_BYTES_MAX: u32 = 1024 * 1024;
const SLOW_CLIENTS: usize = 200;
const STORM: usize = 3000;
const BURST: usize = 100;
const RATE: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_clients_that_never_read_cost_nobody_else_anything() {
    let settings = format!(
        "edge: {{ listen: \"{{ip}}:0\", outbox_bytes_max: 65536, \
         outboxes_bytes_max: {OUTBOXES_BYTES_MAX} }}"
    );
    let cluster = Cluster::start(Options { nodes: 1, settings, ..Options::default() }).await;
    let node = cluster.node(0);
    let mut other = cluster.client(0).await;
    let other_id = other.id().await;
    let before = node.resident_kib();
    let mut slow = Vec::new();
    for _ in 0..SLOW_CLIENTS {
        let mut stream = open_narrow(node.at("edge")).await;
        let id = id_of(&mut stream).await;
        slow.push((stream, id));
    }
    let api = Management::new(node.at("api"));
    let large = vec![b'x'; 100_000];
    // The kernel's buffers fill, then the client's own outbox, or what all have together.
    let fill = |id: String| {
        let (api, large) = (&api, &large);
        async move {
            for _ in 0..1000 {
                let reply = api.post(&format!("/dev/@connections/{id}"), large).await;
                if reply.status != 200 {
                    return (reply.status, reply.parts().1.to_owned());
                }
            }
            panic!("nothing is ever refused");
        }
    };
    let mut outcomes = [0, 0];
    for some in slow.chunks(20) {
        for outcome in join_all(some.iter().map(|(_, id)| fill(id.clone()))).await {
            match outcome {
                (429, error) if error == "LimitExceededException" => outcomes[0] += 1,
                (503, error) if error == "ServiceUnavailableException" => outcomes[1] += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
    let waiting = cluster.metric(0, "posthorn_outbox_bytes").await.unwrap();
    assert!(waiting <= f64::from(OUTBOXES_BYTES_MAX), "{waiting}");
    assert!(waiting > f64::from(OUTBOXES_BYTES_MAX / 2), "{waiting}");
    let grown = node.resident_kib().saturating_sub(before);
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB");
    // Who reads is served all the same: answers and posts.
    for number in 0..50 {
        other.send(&format!("echo {number}")).await;
        assert_eq!(other.text().await, format!("echo {number}"));
        let reply = api.post(&format!("/dev/@connections/{other_id}"), b"a post").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(other.text().await, "a post");
    }
    for series in
        ["posthorn_posts_total{outcome=\"too_slow\"}", "posthorn_posts_total{outcome=\"busy\"}"]
    {
        assert!(cluster.metric(0, series).await.unwrap() > 0.0, "{series}");
    }
    // Once they are gone, nothing of it is left.
    drop(slow);
    gauge(&cluster, "posthorn_connections", 1.0).await;
    gauge(&cluster, "posthorn_outbox_bytes", 0.0).await;
    gauge(&cluster, "posthorn_directory_entries", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_too_slowly_is_closed_where_that_is_so_set() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let settings = "edge: { listen: \"{ip}:0\", outbox_bytes_max: 65536, slow_clients: close, \
                    close_timeout_ms: 8000 }";
    let apis = with_backend(&backend.url(), "$disconnect");
    let options = Options { nodes: 1, settings: settings.to_owned(), apis };
    let cluster = Cluster::start(options).await;
    let api = Management::new(cluster.node(0).at("api"));
    let overfill = async |id: &str| {
        for accepted in 0..1000_usize {
            let text = format!("{accepted:08}{}", "x".repeat(100_000));
            let reply = api.post(&format!("/dev/@connections/{id}"), text.as_bytes()).await;
            if reply.status != 200 {
                assert_eq!(reply.parts().1, "LimitExceededException", "{reply:?}");
                return accepted;
            }
        }
        panic!("nothing is ever refused");
    };
    let mut never = open_narrow(cluster.node(0).at("edge")).await;
    let never_id = id_of(&mut never).await;
    overfill(&never_id).await;
    // Who reads in time gets all that was accepted, and is told why it is closed.
    let mut late = raw::open(cluster.node(0).at("edge")).await;
    let late_id = id_of(&mut late).await;
    let accepted = overfill(&late_id).await;
    let reply = api.post(&format!("/dev/@connections/{late_id}"), b"more").await;
    assert_eq!(reply.status, 410, "it is being closed");
    for expected in 0..accepted {
        let (first, text) = next_frame(&mut late).await.unwrap();
        assert_eq!((first, &text[..8]), (0x81, format!("{expected:08}").as_bytes()));
    }
    assert_eq!(
        next_frame(&mut late).await,
        Some((0x88, [&1013_u16.to_be_bytes()[..], b"Client reads too slowly"].concat()))
    );
    late.write_all(&raw::close(1013, b"")).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let context = backend.event_of("DISCONNECT").await["requestContext"].clone();
        assert_eq!(context["disconnectStatusCode"], 1013);
        assert_eq!(context["disconnectReason"], "Client reads too slowly");
        ids.push(context["connectionId"].as_str().unwrap().to_owned());
    }
    assert!(ids.contains(&never_id) && ids.contains(&late_id), "{ids:?}");
    gauge(&cluster, "posthorn_connections_closed_total{cause=\"too_slow\"}", 2.0).await;
    gauge(&cluster, "posthorn_outbox_bytes", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_hangs_costs_only_its_own_callers() {
    let hung = Hung::start().await;
    let backend = Backend::start(|_| (200, "fast".to_owned())).await;
    let url = hung.url();
    let hangs = format!("integration_type: HTTP_EVENT, integration_uri: \"{url}\"");
    let apis = format!(
        "{}      few: {{ target: integrations/few }}\n      many: {{ target: integrations/many }}\n    \
         integrations:\n      fast: {{ integration_type: HTTP_EVENT, integration_uri: \"{}\" }}\n      \
         few: {{ {hangs}, concurrency_max: 2, queue_max: 2, queue_timeout_in_millis: 300 }}\n      \
         many: {{ {hangs} }}\n    stages: {{ dev: {{}} }}\n  \
         hung:\n    route_selection_expression: $request.body.action\n    \
         routes: {{ $connect: {{ target: integrations/many }} }}\n    \
         integrations: {{ many: {{ {hangs} }} }}\n    stages: {{ hung: {{}} }}\n",
        "apis:\n  dev:\n    route_selection_expression: $request.body.action\n    routes:\n      \
         $default: { target: integrations/fast, route_response_selection_expression: $default }\n",
        backend.url()
    );
    let settings = "edge: { listen: \"{ip}:0\", handshakes_max: 3 }".to_owned();
    let cluster = Cluster::start(Options { nodes: 1, settings, apis }).await;
    let (mut fast, mut few) = (cluster.client(0).await, cluster.client(0).await);

    // Two calls are under way, two wait in vain, and two find no place.
    for _ in 0..6 {
        few.send(r#"{"action":"few"}"#).await;
    }
    for _ in 0..4 {
        assert!(few.text().await.starts_with(r#"{"message": "Internal server error""#));
        assert_served(&mut fast).await;
    }
    for (outcome, count) in [("overloaded", 2.0), ("queued_too_long", 2.0)] {
        let series = format!("posthorn_integration_calls_total{{outcome=\"{outcome}\"}}");
        assert_eq!(cluster.metric(0, &series).await, Some(count), "{outcome}");
    }
    gauge(&cluster, "posthorn_integration_calls_in_flight", 2.0).await;
    gauge(&cluster, "posthorn_integration_calls_waiting", 0.0).await;

    // Who sends faster than his backend answers is not read from.
    let before = cluster.node(0).resident_kib();
    let mut flood = raw::open(cluster.node(0).at("edge")).await;
    let taken = hung.calls();
    let flooding = tokio::spawn(async move {
        let message = format!(r#"{{"action":"many","x":"{}"}}"#, "x".repeat(30_000));
        let message = frame(0x81, message.as_bytes());
        for _ in 0..10_000 {
            flood.write_all(&message).await.unwrap();
        }
    });
    eventually("as many calls as may be under way", || async {
        (hung.calls() == taken + 16).then_some(())
    })
    .await;
    for _ in 0..50 {
        assert_served(&mut fast).await;
    }
    assert_eq!(hung.calls(), taken + 16);
    assert!(!flooding.is_finished(), "300 MB were taken from it");
    let grown = cluster.node(0).resident_kib().saturating_sub(before);
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB");
    flooding.abort();

    handshakes_that_hang_take_so_many_places(&cluster).await;
    assert_served(&mut fast).await;
}

/// Handshakes whose backend does not answer take the places of others, up to their number.
async fn handshakes_that_hang_take_so_many_places(cluster: &Cluster) {
    let edge = cluster.node(0).at("edge");
    let request = HANDSHAKE.replacen("/dev", "/hung", 1);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(edge).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    gauge(cluster, "posthorn_handshakes", 3.0).await;
    let (status, _, retry_after_s) = knock(edge).await;
    assert!(status == 503 && (1..=10).contains(&retry_after_s.unwrap()), "{status}");
    let series = "posthorn_handshakes_refused_total{cause=\"too_many_handshakes\"}";
    assert_eq!(cluster.metric(0, series).await, Some(1.0));
    drop(waiting);
    gauge(cluster, "posthorn_handshakes", 0.0).await;
    cluster.client(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_storm_of_clients_so_many_get_in_and_the_others_are_told_when_to_come_again() {
    let settings = format!(
        "edge: {{ listen: \"{{ip}}:0\", connects_per_s_max: {RATE}, connects_burst_max: {BURST} }}"
    );
    let cluster = Cluster::start(Options { nodes: 1, settings, ..Options::default() }).await;
    let edge = cluster.node(0).at("edge");
    let files = cluster.node(0).files();
    let began = std::time::Instant::now();
    let places = Arc::new(tokio::sync::Semaphore::new(300));
    let storm = (0..STORM).map(|_| {
        let places = places.clone();
        tokio::spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            knock(edge).await
        })
    });
    let answers = join_all(storm).await;
    let lasted_s = began.elapsed().as_secs() as usize + 1;
    let (mut held, mut refused, mut pauses) = (Vec::new(), 0, std::collections::BTreeSet::new());
    for answer in answers {
        match answer.unwrap() {
            (101, stream, None) => held.push(stream),
            (503, _, Some(retry_after_s)) => {
                refused += 1;
                pauses.insert(retry_after_s);
            }
            (status, _, retry_after_s) => panic!("{status} {retry_after_s:?}"),
        }
    }
    assert!(held.len() >= BURST, "{}", held.len());
    assert!(held.len() <= BURST + RATE * lasted_s, "{} in {lasted_s} s", held.len());
    assert_eq!(held.len() + refused, STORM);
    // By chance all thousands could come at the same second, in as many years as there are atoms.
    assert!(pauses.len() > 1 && pauses.iter().all(|pause| (1..=10).contains(pause)), "{pauses:?}");
    gauge(&cluster, "posthorn_connections", held.len() as f64).await;
    gauge(&cluster, "posthorn_directory_entries", held.len() as f64).await;
    let series = "posthorn_handshakes_refused_total{cause=\"too_fast\"}";
    assert_eq!(cluster.metric(0, series).await, Some(refused as f64));
    // Nothing leaks.
    drop(held);
    for series in ["posthorn_connections", "posthorn_handshakes", "posthorn_directory_entries"] {
        gauge(&cluster, series, 0.0).await;
    }
    eventually("as many files as before", || async {
        (cluster.node(0).files() <= files + 8).then_some(())
    })
    .await;
    // Who comes again when told is let in.
    eventually("a token", || async { (knock(edge).await.0 == 101).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_files_for_clients_still_has_some_for_peers_and_callers() {
    let mut cluster = Cluster::prepare(Options::default());
    let few_files = Launch { files_max: Some(256), ..Launch::default() };
    cluster.spawn_with(0, &few_files).await;
    cluster.spawn(1).await;
    cluster.spawn(2).await;
    for index in 0..cluster.len() {
        cluster.wait_ready(index).await;
    }
    let edge = cluster.node(0).at("edge");
    let mut held = Vec::new();
    let mut refused = 0;
    while refused < 300 {
        match knock(edge).await {
            (101, stream, _) => held.push(stream),
            (503, _, Some(_)) => refused += 1,
            (status, ..) => panic!("{status}"),
        }
        assert!(held.len() <= 128, "half of the files");
    }
    assert_eq!(held.len(), 128);
    assert!(cluster.node(0).files() < 256);
    let series = "posthorn_handshakes_refused_total{cause=\"too_many\"}";
    assert_eq!(cluster.metric(0, series).await, Some(300.0));
    assert_eq!(cluster.get(0, "/readyz").await.unwrap().0, 200);
    // Both ways between it and its peers, by its own API and by theirs.
    let id = id_of(&mut held[0]).await;
    let mut elsewhere = cluster.client(1).await;
    let elsewhere_id = elsewhere.id().await;
    for number in 0..20 {
        let through = |index: usize| Management::new(cluster.node(index).at("api"));
        let path = |id: &str| format!("/dev/@connections/{id}");
        let reply = through(1).post(&path(&id), b"in").await;
        assert_eq!(reply.status, 200, "{number}: {reply:?}");
        assert_eq!(next_frame(&mut held[0]).await, Some((0x81, b"in".to_vec())));
        let reply = through(0).post(&path(&elsewhere_id), b"out").await;
        assert_eq!(reply.status, 200, "{number}: {reply:?}");
        assert_eq!(elsewhere.text().await, "out");
    }
    drop(held);
    eventually("a place that is free again", || async {
        (knock(edge).await.0 == 101).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_costs_the_others_neither_memory_nor_traffic() {
    let cluster = Cluster::start(Options::default()).await;
    let mut leader = None;
    for index in 0..cluster.len() {
        if cluster.metric(index, "posthorn_raft_is_leader").await == Some(1.0) {
            leader = Some(index);
        }
    }
    let leader = leader.expect("one leads");
    let (still, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut stopped = cluster.client(still).await;
    let stopped_id = stopped.id().await;
    let mut client = cluster.client(other).await;
    let id = client.id().await;
    let before = cluster.node(leader).resident_kib();
    cluster.node(still).pause().await;
    // As much for it as a hundred callers have, and at the same time little for others.
    let large = vec![b'x'; 100_000];
    let api = Management::new(cluster.node(leader).at("api"));
    let flood = async {
        let post = async |_| {
            let reply = api.post(&format!("/dev/@connections/{stopped_id}"), &large).await;
            // Unknown, unavailable, and gone once it was given up. Some were accepted before.
            assert!(matches!(reply.status, 200 | 410 | 503 | 504), "{reply:?}");
        };
        for _ in 0..20 {
            join_all((0..100).map(post)).await;
        }
    };
    let others = async {
        for number in 0..50 {
            let path = format!("/dev/@connections/{id}");
            let reply = within("a post", api.post(&path, format!("{number}").as_bytes())).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(client.text().await, number.to_string());
            for index in [leader, other] {
                within("a connect", cluster.client(index)).await.close().await;
            }
        }
    };
    tokio::join!(flood, others);
    let grown = cluster.node(leader).resident_kib().saturating_sub(before);
    assert!(grown < 2 * GROWTH_KIB_MAX, "{grown} KiB");
    cluster.node(still).signal(Signal::SIGCONT);
    cluster.wait_ready(still).await;
    eventually("the same in every replica", || async {
        let mut entries = Vec::new();
        for index in 0..cluster.len() {
            entries.push(cluster.metric(index, "posthorn_directory_entries").await?);
        }
        let first = entries[0];
        (entries.iter().all(|count| *count == first) && first <= 2.0).then_some(())
    })
    .await;
}

async fn assert_served(client: &mut Client) {
    client.send("hi").await;
    assert_eq!(client.text().await, "fast");
}

/// Waits for a series to have this value.
async fn gauge(cluster: &Cluster, series: &str, expected: f64) {
    eventually(&format!("{series} {expected}"), || async {
        (cluster.metric(0, series).await? == expected).then_some(())
    })
    .await;
}

/// The echo's API, with one more route that leads to a backend.
fn with_backend(url: &str, route: &str) -> String {
    ECHO_API
        .replace("routes:\n", &format!("routes:\n      {route}: {{ target: integrations/backend }}\n"))
        .replace(
            "integrations:\n",
            &format!(
                "integrations:\n      backend: {{ integration_type: HTTP_EVENT, integration_uri: \"{url}\" }}\n"
            ),
        )
}

/// Asks the node for the ID of a connection.
async fn id_of(stream: &mut TcpStream) -> String {
    stream.write_all(&frame(0x81, br#"{"action":"whoami"}"#)).await.unwrap();
    let (first, id) = next_frame(stream).await.unwrap();
    assert_eq!(first, 0x81);
    String::from_utf8(id).unwrap()
}

/// The status of a handshake, its connection, and when to come again.
async fn knock(edge: SocketAddr) -> (u16, TcpStream, Option<u64>) {
    let mut stream = within("a connection", TcpStream::connect(edge)).await.unwrap();
    let (status, answer) = raw::ask(&mut stream, HANDSHAKE.as_bytes()).await;
    let retry_after_s = answer.lines().find_map(|line| line.strip_prefix("Retry-After: "));
    let retry_after_s = retry_after_s.map(|seconds| seconds.parse().unwrap());
    (status, stream, retry_after_s)
}

/// A server that takes every call and answers none.
struct Hung {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl Hung {
    async fn start() -> Hung {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let server = tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                held.push(listener.accept().await.unwrap());
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Hung { address, calls, server }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// How many calls there were: each has a connection, as long as none is answered.
    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.server.abort();
    }
}
