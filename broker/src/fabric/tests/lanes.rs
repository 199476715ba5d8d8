//! Posts over connections that live.

use super::relay::Relay;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_frames_arrive_in_order_and_are_answered() {
    const COUNT: u64 = 100_000;
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let mut series = Series::new();
    let mut told = series.post_many(&one, &two.peer(), COUNT).await;
    told.extend(series.outcomes(COUNT - told.len() as u64).await);
    assert_all_answered(told, COUNT);
    assert_in_order(&two.service.posts.lock(), COUNT);
    let (sent, received) = (one.fabric.stats(), two.fabric.stats());
    assert_eq!((sent.frames_sent.get(), received.frames_received.get()), (COUNT, COUNT));
    assert_eq!((sent.answers_received.get(), received.answers_sent.get()), (COUNT, COUNT));
    assert_eq!(sent.lane_bytes_received.get(), received.lane_bytes_sent.get());
    assert_eq!(sent.connections_open.posts.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_pass_both_ways_at_once() {
    const COUNT: u64 = 10_000;
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let there = async {
        let mut series = Series::new();
        let mut told = series.post_many(&one, &two.peer(), COUNT).await;
        told.extend(series.outcomes(COUNT - told.len() as u64).await);
        assert_all_answered(told, COUNT);
    };
    let back = async {
        let mut series = Series::new();
        let mut told = series.post_many(&two, &one.peer(), COUNT).await;
        told.extend(series.outcomes(COUNT - told.len() as u64).await);
        assert_all_answered(told, COUNT);
    };
    tokio::join!(there, back);
    assert_in_order(&one.service.posts.lock(), COUNT);
    assert_in_order(&two.service.posts.lock(), COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_may_come_late_and_in_any_order() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    *two.service.manner.lock() = Manner::Hold;
    let mut series = Series::new();
    for _ in 0..100 {
        series.post(&one, &two.peer(), PATIENCE).unwrap();
    }
    until("all have come", || two.service.held.lock().len() == 100).await;
    for (reply, post) in two.service.take_held().into_iter().rev() {
        reply.send(post);
    }
    assert_all_answered(series.outcomes(100).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_given_up_is_waited_for_no_longer() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    *two.service.manner.lock() = Manner::Hold;
    let mut series = Series::new();
    series.post(&one, &two.peer(), PATIENCE).unwrap();
    until("it has come", || two.service.held.lock().len() == 1).await;
    one.fabric.give_up(NodeId(2));
    assert_eq!(series.outcomes(1).await, [(0, Err(PostError::Unknown))]);
    // Nobody is there.
    let nowhere = Peer { node: NodeId(3), address: "127.0.0.1:9".into() };
    let mut series = Series::new();
    series.post(&one, &nowhere, PATIENCE).unwrap();
    one.fabric.give_up(NodeId(3));
    assert_eq!(series.outcomes(1).await, [(0, Err(PostError::NotSent))]);
    // What comes later is sent as ever.
    *two.service.manner.lock() = Manner::Echo;
    assert!(one.post(&two.peer(), 1, "frame").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_dropped_unsent_is_unknown() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    *two.service.manner.lock() = Manner::Drop;
    assert_eq!(one.post(&two.peer(), 1, "frame").await, Err(PostError::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_every_size_up_to_the_limit_pass() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let to = two.peer();
    let large = one.fabric.common.settings.limits.frame_bytes_max;
    *two.service.manner.lock() = Manner::Hold;
    let (reply, outcome) = oneshot::channel();
    one.fabric.post(&to, 1, Bytes::from(vec![7; large]), reply, PATIENCE).unwrap();
    until("it has come", || two.service.held.lock().len() == 1).await;
    let (reply, frame) = two.service.take_held().remove(0);
    assert_eq!(frame, vec![7; large]);
    reply.send(Bytes::from_static(b"ok"));
    assert_eq!(within(outcome).await.unwrap().unwrap(), "ok");

    let posted = one.fabric.post(&to, 1, Bytes::from(vec![7; large + 1]), |_| {}, PATIENCE);
    assert_eq!(posted, Err(PostRefused::TooLarge(large + 1)));
    *two.service.manner.lock() = Manner::Echo;
    assert_eq!(one.post(&to, 1, "").await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_the_limit_is_not_given() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let large = one.fabric.common.settings.limits.answer_bytes_max;
    let frame = "x".repeat(large);
    assert_eq!(one.post(&two.peer(), 1, &frame).await.unwrap(), frame);
    assert_eq!(one.post(&two.peer(), 1, &format!("{frame}x")).await, Err(PostError::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nodes_limits_differ_the_narrower_ones_hold() {
    let town = Town::new();
    let mut settings = town.settings(1);
    settings.limits.answer_bytes_max = 100;
    let one = Node::start(settings);
    let mut settings = town.settings(2);
    settings.limits.frame_bytes_max = 200;
    let two = Node::start(settings);
    let of = |length: usize| "x".repeat(length);
    assert_eq!(one.post(&two.peer(), 1, &of(100)).await.unwrap(), of(100));
    assert_eq!(one.post(&two.peer(), 1, &of(200)).await, Err(PostError::Unknown));
    assert_eq!(one.post(&two.peer(), 1, &of(201)).await, Err(PostError::NotSent));
    assert_eq!(one.post(&two.peer(), 1, "on it goes").await.unwrap(), "on it goes");
    assert_eq!(two.fabric.stats().lanes_broken.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_fill_up_where_nobody_answers_and_drain_when_someone_does() {
    let town = Town::new();
    let mut settings = town.settings(1);
    settings.limits.lane_frames_max = 1000;
    let one = Node::start(settings);
    let mut settings = town.settings(2);
    settings.limits.lane_unanswered_max = 50;
    let two = Node::start(settings);
    *two.service.manner.lock() = Manner::Hold;
    let mut series = Series::new();
    for _ in 0..1000 {
        series.post(&one, &two.peer(), PATIENCE).unwrap();
    }
    assert_eq!(series.post(&one, &two.peer(), PATIENCE), Err(PostRefused::LaneFull));
    assert_eq!(one.fabric.stats().lanes_full.get(), 1);

    // No more than the windows of the four lanes are let through.
    until("the windows are full", || two.service.held.lock().len() == 200).await;
    *two.service.manner.lock() = Manner::Echo;
    for (reply, post) in two.service.take_held() {
        reply.send(post);
    }
    assert_all_answered(series.outcomes(1000).await, 1000);
    assert_in_order(&two.service.posts.lock(), 1000);
    series.post(&one, &two.peer(), PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_fill_up_by_bytes_too() {
    let town = Town::new();
    let mut settings = town.settings(1);
    settings.limits.lane_bytes_max = settings.limits.frame_bytes_max;
    let (one, two) = (Node::start(settings), town.start(2));
    let relay = Relay::start(two.fabric.local_address()).await;
    relay.cut(true);
    let to = peer(2, relay.address);
    *two.service.manner.lock() = Manner::Hold;
    let half = Bytes::from(vec![7; one.fabric.common.settings.limits.frame_bytes_max / 2]);
    let post = || one.fabric.post(&to, 1, half.clone(), |_| {}, PATIENCE);
    assert_eq!([post(), post(), post()], [Ok(()), Ok(()), Err(PostRefused::LaneFull)]);
    relay.cut(false);
    // Once the peer has them they no longer weigh here, answered or not.
    until("there is room again", || post().is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_tells_whether_the_frame_may_have_arrived() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    *two.service.manner.lock() = Manner::Hold;
    let short = Duration::from_millis(100);
    let (reply, outcome) = oneshot::channel();
    one.fabric.post(&two.peer(), 1, Bytes::new(), reply, short).unwrap();
    let outcome = within(outcome).await.unwrap();
    // On a slow machine there may not even have been a connection by then.
    let expected = if two.service.posts.lock().is_empty() { outcome.clone() } else { unknown() };
    assert_eq!(outcome, expected);

    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = peer(3, silent.local_addr().unwrap());
    let (reply, outcome) = oneshot::channel();
    one.fabric.post(&nobody, 1, Bytes::new(), reply, short).unwrap();
    assert_eq!(within(outcome).await.unwrap(), Err(PostError::NotSent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_tells_all_who_wait() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    *two.service.manner.lock() = Manner::Hold;
    let mut series = Series::new();
    for _ in 0..10 {
        series.post(&one, &two.peer(), PATIENCE).unwrap();
    }
    until("all have come", || two.service.held.lock().len() == 10).await;
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = peer(3, silent.local_addr().unwrap());
    for _ in 0..10 {
        series.post(&one, &nobody, PATIENCE).unwrap();
    }
    within(one.fabric.close()).await;
    let mut told: Vec<_> = std::iter::from_fn(|| series.told.try_recv().ok()).collect();
    told.sort_by_key(|(number, _)| *number);
    let unknown = (0..10).map(|number| (number, unknown()));
    let not_sent = (10..20).map(|number| (number, Err(PostError::NotSent)));
    assert_eq!(told, unknown.chain(not_sent).collect::<Vec<_>>());
}

fn unknown() -> Result<Bytes, PostError> {
    Err(PostError::Unknown)
}
