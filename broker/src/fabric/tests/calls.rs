//! Control calls and uploads.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_call_each_other() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    assert_eq!(one.call(&two.peer(), ECHO, "from one").await.unwrap(), "from one");
    assert_eq!(two.call(&one.peer(), ECHO, "from two").await.unwrap(), "from two");
    assert_eq!(*two.service.froms.lock(), [one.fabric.identity().clone()]);
    assert_eq!(*one.service.froms.lock(), [two.fabric.identity().clone()]);
    assert_eq!(one.fabric.stats().connections_dialed.control.get(), 1);
    assert_eq!(one.fabric.stats().connections_accepted.control.get(), 1);
    assert_eq!(one.fabric.stats().connections_open.control.get(), 2);
    assert_eq!(one.fabric.stats().connections_open.posts.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_may_say_no() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let refused = one.call(&two.peer(), REFUSE, "").await.unwrap_err();
    let CallError::Refused(refusal) = refused else { panic!("{refused}") };
    assert_eq!(refusal, Refusal { code: 7, message: "not here".to_owned() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_listens_nothing_was_delivered() {
    let town = Town::new();
    let one = town.start(1);
    // Bound, so that nobody else takes the port; it never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = peer(2, silent.local_addr().unwrap());
    let request = Bytes::from_static(b"hello");
    let short = Duration::from_millis(50);
    let error = within(one.fabric.call(&to, ECHO, request.clone(), short)).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(DialError::Deadline)), "{error}");
    let error = one.call(&to, ECHO, "hello").await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(DialError::TimedOut)), "{error}");
    let nowhere = Peer { address: "posthorn.invalid:7946".into(), ..peer(3, to_address(&to)) };
    let error = one.call(&nowhere, ECHO, "hello").await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(DialError::Unresolved(_))), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_come_in_time_is_unknown() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    one.call(&two.peer(), ECHO, "").await.unwrap();
    let short = Duration::from_millis(50);
    let to = two.peer();
    let call = one.fabric.call(&to, WAIT, Bytes::new(), short);
    let error = within(call).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(_)), "{error}");
    two.service.gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_peer_goes_is_unknown_at_once() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let to = two.peer();
    let call = one.call(&to, WAIT, "hello");
    let close = async {
        until("the call has come", || !two.service.froms.lock().is_empty()).await;
        two.fabric.close().await;
    };
    let (answer, ()) = tokio::join!(call, close);
    assert!(matches!(answer, Err(CallError::Unknown(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_the_limit_is_not_sent_and_one_at_the_limit_is() {
    let town = Town::new();
    let mut settings = town.settings(1);
    settings.limits.call_bytes_max = 1_000_000;
    let one = Node::start(settings.clone());
    settings.files = town.authority.write(town.papers.path(), NodeId(2)).unwrap();
    settings.node = NodeId(2);
    let two = Node::start(settings);
    let large = "x".repeat(1_000_000);
    assert_eq!(one.call(&two.peer(), ECHO, &large).await.unwrap(), large);
    let error = one.call(&two.peer(), ECHO, &format!("{large}x")).await.unwrap_err();
    assert!(matches!(error, CallError::TooLarge(1_000_001)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_than_streams_wait_their_turn() {
    let town = Town::new();
    let mut settings = town.settings(2);
    settings.limits.streams_max = 4;
    let (one, two) = (town.start(1), Node::start(settings));
    let to = two.peer();
    let calls = (0..50).map(|_| one.call(&to, WAIT, "hello"));
    let open = async {
        until("four calls have come", || two.service.froms.lock().len() == 4).await;
        two.service.gate.open();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(calls), open);
    assert_eq!(answers.into_iter().filter(Result::is_ok).count(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_megabytes_go_up_in_pieces() {
    const PIECE: usize = 256 * 1024;
    const PIECES: usize = 200;
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let mut upload = open_upload(&one, &two.peer(), ECHO, PATIENCE).await;
    for _ in 0..PIECES {
        within(upload.write(Bytes::from(vec![7; PIECE]))).await.unwrap();
    }
    let answer = within(upload.finish()).await.unwrap();
    assert_eq!(answer, (PIECE * PIECES).to_string());
    assert_eq!(*two.service.uploads.lock(), [Ok(PIECE * PIECES)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_not_read_takes_no_more_than_the_windows() {
    const PIECE: usize = 256 * 1024;
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let mut upload = open_upload(&one, &two.peer(), WAIT, Duration::from_millis(300)).await;
    let mut taken = 0;
    while within(upload.write(Bytes::from(vec![7; PIECE]))).await.is_ok() {
        taken += PIECE;
        assert!(taken < 8 * 1024 * 1024, "it goes on forever");
    }
    // Heartbeats still pass.
    assert_eq!(one.call(&two.peer(), ECHO, "beat").await.unwrap(), "beat");
    drop(upload);
    two.service.gate.open();
    until("the service knows", || !two.service.uploads.lock().is_empty()).await;
    assert!(matches!(two.service.uploads.lock()[..], [Err(_)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_given_up_never_passes_for_whole() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let mut upload = open_upload(&one, &two.peer(), ECHO, PATIENCE).await;
    within(upload.write(Bytes::from_static(b"half"))).await.unwrap();
    // Before that, to give it up is as if it had not begun.
    until("it has begun", || !two.service.froms.lock().is_empty()).await;
    drop(upload);
    until("the service knows", || !two.service.uploads.lock().is_empty()).await;
    assert!(matches!(two.service.uploads.lock()[..], [Err(_)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_refused_in_the_middle_is_told_why() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let mut upload = open_upload(&one, &two.peer(), REFUSE, PATIENCE).await;
    let refused = loop {
        if let Err(error) = within(upload.write(Bytes::from(vec![7; 64 * 1024]))).await {
            break error;
        }
    };
    let CallError::Refused(refusal) = refused else { panic!("{refused}") };
    assert_eq!(refusal, Refusal { code: 7, message: "not here".to_owned() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_fabric_leaves_nothing_behind() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    one.call(&two.peer(), ECHO, "").await.unwrap();
    one.post(&two.peer(), 1, "frame").await.unwrap();
    let address = one.fabric.local_address();
    within(one.fabric.close()).await;
    assert!(one.fabric.common.tasks.is_empty());
    drop(std::net::UdpSocket::bind(address).unwrap());

    let error = one.call(&two.peer(), ECHO, "").await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(DialError::Closed)), "{error}");
    let posted = one.fabric.post(&two.peer(), 1, Bytes::new(), |_| {}, PATIENCE);
    assert_eq!(posted, Err(PostRefused::Closed));
    within(one.fabric.close()).await;
}

async fn open_upload(from: &Node, to: &Peer, method: u8, patience: Duration) -> Upload {
    let header = Bytes::from_static(b"header");
    within(from.fabric.open_upload(to, method, header, patience)).await.unwrap()
}

fn to_address(peer: &Peer) -> SocketAddr {
    peer.address.parse().unwrap()
}
