//! What callers of the `@connections` API and of gRPC are told when things go wrong, and that what an
//! SDK then repeats arrives once.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;
use posthorn_chaos::management::{Management, Reply};
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::{GetConnectionRequest, PostToConnectionRequest};
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use tungstenite::Message;

/// The longest that a node waits for anybody.
const DEADLINE: Duration = Duration::from_secs(60);
const UNKNOWN: &str = "AAAAAAAAAAAAAAAAAAAAAA";

async fn post(api: &Management, id: &str, invocation: &str, body: &[u8]) -> Reply {
    let headers = [("amz-sdk-invocation-id", invocation), ("amz-sdk-request", "attempt=1")];
    api.call("POST", &format!("/dev/@connections/{id}"), &headers, body).await
}

/// As an SDK does, until it is told that the client has it.
async fn repeat(api: &Management, id: &str, invocation: &str, body: &[u8]) {
    eventually("an answer of the owner", || async {
        let reply = post(api, id, invocation, body).await;
        assert!(matches!(reply.status, 200 | 503 | 504), "{reply:?}");
        (reply.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbound_queue_is_told_and_when_to_try_again() {
    let settings = "edge: { listen: \"{ip}:0\", outbox_bytes_max: 262144 }".to_owned();
    let cluster = Cluster::start(Options { nodes: 1, settings, ..Options::default() }).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let api = Management::new(cluster.node(0).at("api"));
    let large = vec![b'x'; 128 * 1024];
    // The client does not read: first the kernel's buffers fill, then the queue.
    let mut posted = 0;
    let refused = loop {
        let reply = post(&api, &id, &posted.to_string(), &large).await;
        if reply.status != 200 {
            break reply;
        }
        posted += 1;
        assert!(posted < 2000, "nothing is ever refused");
    };
    assert_eq!((refused.status, refused.parts().1), (429, "LimitExceededException"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let mut more = 0;
    let request = PostToConnectionRequest {
        connection_id: id.clone(),
        payload: Some(posthorn_proto::v1::post_to_connection_request::Payload::Binary(
            large.into(),
        )),
        ..Default::default()
    };
    let mut grpc = cluster.grpc(0).await;
    let status = loop {
        // The kernel may have taken some more meanwhile.
        match grpc.post_to_connection(request.clone()).await {
            Ok(_) => more += 1,
            Err(status) => break status,
        }
        assert!(more < 100, "nothing is ever refused");
    };
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    for _ in 0..posted {
        assert_eq!(client.text().await.len(), 128 * 1024);
    }
    for _ in 0..more {
        assert!(client.next().await.unwrap().is_binary());
    }
    // What was refused may be tried again under its key, and another payload may not.
    assert_eq!(post(&api, &id, &posted.to_string(), b"again").await.status, 200);
    let reused = post(&api, &id, &posted.to_string(), b"other").await;
    assert_eq!((reused.status, reused.parts().1), (409, "ConflictException"));
    assert_eq!(post(&api, &id, &"k".repeat(129), b"x").await.status, 400);
    assert_eq!(client.text().await, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_can_be_repeated_and_without_a_quorum_nothing_is_denied() {
    let settings = "api: { listen: \"{ip}:0\", insecure: true, post_timeout_ms: 300, \
        non_utf8_payload: binary }\nprincipals:\n  all:\n    permissions: ['*/*/*']\n    \
        token_sha256: [5ef5ef0364b6939c4ca61f34b393f7b368d1be8619647aaf83d5b395919ab629]\n  stranger:\n    \
        permissions: [elsewhere/dev/post]\n    \
        token_sha256: [8aca4f36774f82a67c507cb9c96679482e2cc767f2d38502269557a566b092fb]\n"
        .to_owned();
    let mut cluster = Cluster::start(Options { settings, ..Options::default() }).await;
    let mut client = cluster.client(2).await;
    let id = client.id().await;
    let at = |index: usize| Management::new(cluster.node(index).at("api"));
    let [api, other] = [0, 1].map(|index| at(index).with_token("all"));
    for api in [&api, &other] {
        repeat(api, &id, "first", &[0xff]).await;
    }
    assert_eq!(client.next().await.unwrap(), Message::binary(vec![0xff]), "once, and as it is");

    // Its owner stands still: perhaps it has the post, and so a repetition must not be a second one.
    cluster.node(2).pause().await;
    let unknown = post(&api, &id, "second", b"second").await;
    cluster.node(2).signal(Signal::SIGCONT);
    assert_eq!((unknown.status, unknown.parts().1), (504, "GatewayTimeoutException"));
    for api in [&other, &api] {
        repeat(api, &id, "second", b"second").await;
    }
    repeat(&api, &id, "third", b"third").await;
    assert_eq!([client.text().await, client.text().await], ["second", "third"]);

    // Nobody can say what there is: neither is anything denied.
    for index in [1, 2] {
        cluster.take(index).kill().await;
    }
    eventually("a node that has noticed", || async {
        let mut request = Request::new(GetConnectionRequest { connection_id: UNKNOWN.to_owned() });
        request.set_timeout(Duration::from_secs(10));
        request.metadata_mut().insert("authorization", "Bearer all".parse().unwrap());
        let status = cluster.grpc(0).await.get_connection(request).await.unwrap_err();
        assert_ne!(status.code(), Code::NotFound);
        (status.get_details_error_info()?.reason == "NO_QUORUM").then_some(())
    })
    .await;
    let reply = api.get(&format!("/dev/@connections/{id}")).await;
    assert!(matches!(reply.status, 503 | 504), "{reply:?}");
    // There is nobody to whom it could have been sent, and so it was not, although time ran out before
    // that was known. Who may not know of a connection is told the same.
    let reply = post(&api, UNKNOWN, "fourth", b"x").await;
    assert_eq!((reply.status, reply.parts().1), (503, "ServiceUnavailableException"), "{reply:?}");
    for id in [UNKNOWN, &id] {
        let mut request = Request::new(PostToConnectionRequest {
            connection_id: id.to_owned(),
            ..Default::default()
        });
        request.metadata_mut().insert("authorization", "Bearer stranger".parse().unwrap());
        let status = cluster.grpc(0).await.post_to_connection(request).await.unwrap_err();
        let reason = status.get_details_error_info().map(|info| info.reason);
        assert_eq!((status.code(), reason.as_deref()), (Code::Unavailable, Some("NO_QUORUM")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_node_that_was_given_up() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut client = cluster.client(2).await;
    let id = client.id().await;
    let [one, other] = [cluster.grpc(0).await, cluster.grpc(1).await];
    cluster.take(2).kill().await;
    let post = |grpc: &ConnectionServiceClient<Channel>| {
        let mut grpc = grpc.clone();
        let mut request = Request::new(PostToConnectionRequest {
            connection_id: id.clone(),
            ..Default::default()
        });
        request.set_timeout(DEADLINE);
        async move { grpc.post_to_connection(request).await.unwrap_err().code() }
    };
    let began = Instant::now();
    let (first, second) = tokio::join!(post(&one), post(&other));
    for code in [first, second] {
        // Perhaps the node had it before it died.
        assert!(matches!(code, Code::DeadlineExceeded | Code::NotFound), "{code:?}");
    }
    assert!(began.elapsed() < DEADLINE / 2, "each was told before its deadline");
    assert_eq!(post(&one).await, Code::NotFound);
}

/// It no longer knows how much was committed: without an election, which tells, it would take
/// connections for gone that were opened just before.
#[tokio::test(flavor = "multi_thread")]
async fn who_led_before_a_restart_leads_again_by_an_election_only() {
    let mut cluster = Cluster::start(Options::default()).await;
    let term = leaders_term(&cluster, 0.0).await;
    // All at once, so that nobody else is elected meanwhile.
    let processes: Vec<_> = (0..cluster.len()).map(|node| cluster.take(node)).collect();
    processes.iter().for_each(|process| process.signal(Signal::SIGKILL));
    for process in processes {
        process.wait().await;
    }
    cluster.bring_up(0..cluster.len()).await;
    leaders_term(&cluster, term).await;
}

/// Once it is later than another.
async fn leaders_term(cluster: &Cluster, than: f64) -> f64 {
    let leader = cluster.leader().await;
    eventually("a later term", || async {
        let term = cluster.metric(leader, "posthorn_raft_term").await?;
        (term > than).then_some(term)
    })
    .await
}
