//! Posts over connections and to peers that come and go.

use super::relay::Relay;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_dropped_in_the_middle_lose_and_double_nothing() {
    const COUNT: u64 = 20_000;
    const ROUNDS: u64 = 10;
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let mut series = Series::new();
    let mut told = Vec::new();
    for round in 0..ROUNDS {
        told.extend(series.post_many(&one, &two.peer(), COUNT / ROUNDS).await);
        // Some have been answered, and some are under way.
        told.extend(series.outcomes(COUNT / ROUNDS / 2).await);
        let (dropper, node) = if round % 2 == 0 { (&one, 2) } else { (&two, 1) };
        dropper.fabric.drop_connections(NodeId(node));
    }
    told.extend(series.outcomes(COUNT - told.len() as u64).await);
    assert_all_answered(told, COUNT);
    assert_in_order(&two.service.posts.lock(), COUNT);
    assert!(one.fabric.stats().lanes_resumed.get() > 0);
    assert_eq!(one.fabric.stats().lanes_lost.get(), 0);
    assert!(one.fabric.stats().connections_dialed.posts.get() > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_given_while_there_was_no_connection_are_told_after_it() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let relay = Relay::start(two.fabric.local_address()).await;
    let to = peer(2, relay.address);
    *two.service.manner.lock() = Manner::Hold;
    let mut series = Series::new();
    for _ in 0..100 {
        series.post(&one, &to, PATIENCE).unwrap();
    }
    until("all have come", || two.service.held.lock().len() == 100).await;
    relay.cut(true);
    one.fabric.drop_connections(NodeId(2));
    two.fabric.drop_connections(NodeId(1));
    let stats = [one.fabric.stats(), two.fabric.stats()];
    until("none is left", || stats.iter().all(|s| s.connections_open.posts.get() == 0)).await;
    for (reply, post) in two.service.take_held() {
        reply.send(post);
    }
    relay.cut(false);
    assert_all_answered(series.outcomes(100).await, 100);
    assert_in_order(&two.service.posts.lock(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_peer_restarted_what_was_unanswered_is_unknown_and_posts_go_on() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let to = two.peer();
    *two.service.manner.lock() = Manner::Hold;
    let mut series = Series::new();
    for _ in 0..100 {
        series.post(&one, &to, PATIENCE).unwrap();
    }
    until("all have come", || two.service.held.lock().len() == 100).await;
    let mut settings = town.settings(2);
    settings.listen = two.fabric.local_address();
    within(two.fabric.close()).await;
    let two = Node::start(settings);

    for (_, outcome) in series.outcomes(100).await {
        assert_eq!(outcome, Err(PostError::Unknown));
    }
    assert_eq!(one.post(&to, 1, "again").await.unwrap(), "again");
    assert_eq!(*two.service.posts.lock(), ["again"]);
    assert_eq!(one.call(&to, ECHO, "again").await.unwrap(), "again");
    assert!(one.fabric.stats().lanes_lost.get() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_killed_is_known_by_its_successor_long_before_the_silence_is() {
    let town = Town::new();
    let patient = |mut settings: FabricSettings| {
        settings.idle_timeout = PATIENCE * 10;
        settings
    };
    let one = Node::start(patient(town.settings(1)));
    let settings = patient(town.settings(2));
    let two = Node::start(settings.clone());
    let relay = Relay::start(two.fabric.local_address()).await;
    let to = peer(2, relay.address);
    *two.service.manner.lock() = Manner::Hold;
    let (reply, outcome) = oneshot::channel();
    one.fabric.post(&to, 1, Bytes::from_static(b"hello"), reply, PATIENCE * 10).unwrap();
    until("it has come", || two.service.held.lock().len() == 1).await;

    // Its goodbye is not heard.
    relay.cut(true);
    within(two.fabric.close()).await;
    let two = Node::start(settings);
    relay.lead_to(two.fabric.local_address());
    relay.cut(false);
    assert_eq!(within(outcome).await.unwrap(), Err(PostError::Unknown));
    assert_eq!(one.post(&to, 1, "again").await.unwrap(), "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silence_that_outlasts_the_connection_loses_nothing() {
    const COUNT: u64 = 2_000;
    let town = Town::new();
    let hasty = |mut settings: FabricSettings| {
        settings.keep_alive = Duration::from_millis(100);
        settings.idle_timeout = Duration::from_millis(500);
        settings
    };
    let one = Node::start(hasty(town.settings(1)));
    let two = Node::start(hasty(town.settings(2)));
    let relay = Relay::start(two.fabric.local_address()).await;
    let to = peer(2, relay.address);
    let mut series = Series::new();
    let mut told = series.post_many(&one, &to, COUNT / 2).await;
    told.push(series.outcome().await);
    relay.cut(true);
    told.extend(series.post_many(&one, &to, COUNT / 2).await);
    let stats = [one.fabric.stats(), two.fabric.stats()];
    until("both have noticed", || stats.iter().all(|s| s.connections_open.posts.get() == 0)).await;
    relay.cut(false);
    told.extend(series.outcomes(COUNT - told.len() as u64).await);
    assert_all_answered(told, COUNT);
    assert_in_order(&two.service.posts.lock(), COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_loses_doubles_and_damages_datagrams_does_not_show() {
    const COUNT: u64 = 3_000;
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let relay = Relay::start(two.fabric.local_address()).await;
    relay.degrade(50, 200, 20);
    let to = peer(2, relay.address);
    let mut series = Series::new();
    let mut told = series.post_many(&one, &to, COUNT).await;
    told.extend(series.outcomes(COUNT - told.len() as u64).await);
    assert_all_answered(told, COUNT);
    assert_in_order(&two.service.posts.lock(), COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_forgotten_is_unknown_and_starts_anew() {
    let town = Town::new();
    let hasty = |mut settings: FabricSettings| {
        settings.keep_alive = Duration::from_millis(100);
        settings.idle_timeout = Duration::from_millis(500);
        settings.lane_forgotten_after = Duration::from_millis(200);
        settings
    };
    let one = Node::start(hasty(town.settings(1)));
    let two = Node::start(hasty(town.settings(2)));
    let relay = Relay::start(two.fabric.local_address()).await;
    let to = peer(2, relay.address);
    *two.service.manner.lock() = Manner::Hold;
    let mut series = Series::new();
    series.post(&one, &to, PATIENCE).unwrap();
    until("it has come", || two.service.held.lock().len() == 1).await;
    relay.cut(true);
    assert_eq!(series.outcome().await, (0, Err(PostError::Unknown)));
    relay.cut(false);
    *two.service.manner.lock() = Manner::Echo;
    assert_eq!(one.post(&to, 0, "again").await.unwrap(), "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_pass_while_posts_flood_the_peer() {
    let town = Town::new();
    let (one, two) = (town.start(1), town.start(2));
    let to = two.peer();
    let flood = async {
        let frame = Bytes::from(vec![7; 16 * 1024]);
        loop {
            for key in 0..64 {
                // What is refused is not missed.
                let _ = one.fabric.post(&to, key, frame.clone(), |_| {}, PATIENCE);
            }
            tokio::task::yield_now().await;
        }
    };
    let beats = async {
        until("the flood is on", || two.service.posts.lock().len() > 100).await;
        for _ in 0..20 {
            let beat = one.fabric.call(&to, ECHO, Bytes::new(), Duration::from_secs(2));
            beat.await.unwrap();
        }
    };
    tokio::select! {
        () = flood => {}
        () = beats => {}
    }
}
