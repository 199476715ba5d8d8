//! A sound history passes, and each lie that is planted into it is found.

use super::*;
use crate::history::{Context, Event, Kind, Outcome};

#[test]
fn a_sound_history_has_no_violation() {
    assert_eq!(found(&sound(), End::InPeace), []);
}

#[test]
fn an_accepted_post_may_be_lost_only_with_its_connection() {
    let lost = without(&sound(), |event| matches!(event, Event::Received { sequence: 2, .. }));
    assert_eq!(found(&lost, End::InPeace), [], "the connection ended");
    let alive = without(&lost, is_end);
    assert_eq!(found(&alive, End::InPeace), [Promise::Prefix]);
    assert_eq!(found(&alive, End::Midway), [], "it may still come");
    let gap = without(&sound(), |event| matches!(event, Event::Received { sequence: 0, .. }));
    assert_eq!(found(&gap, End::InPeace), [Promise::Prefix]);
}

#[test]
fn what_was_unknown_may_come_or_not_and_what_was_refused_may_not() {
    for (outcome, expected) in [
        (Outcome::Unknown, vec![]),
        (Outcome::Silence, vec![]),
        (Outcome::Unavailable, vec![Promise::Prefix]),
        (Outcome::Busy, vec![Promise::Prefix]),
    ] {
        let told = changed(&sound(), |event| match event {
            Event::PostEnd { sender, sequence: 1, .. } => {
                Event::PostEnd { sender, sequence: 1, outcome }
            }
            event => event,
        });
        assert_eq!(found(&told, End::InPeace), expected, "{outcome:?}");
        let missing = without(&told, |event| matches!(event, Event::Received { sequence: 1, .. }));
        assert_eq!(found(&missing, End::InPeace), [], "{outcome:?}");
    }
}

#[test]
fn twice_and_out_of_order_is_found() {
    let mut twice = sound();
    twice.insert(11, Event::Received { client: 1, target: "A".into(), sender: 7, sequence: 0 });
    assert_eq!(found(&twice, End::InPeace), [Promise::OnceAndInOrder]);
    let mut swapped = sound();
    let places: Vec<_> = (0..swapped.len())
        .filter(|place| matches!(swapped[*place], Event::Received { .. }))
        .collect();
    swapped.swap(places[0], places[1]);
    assert_eq!(found(&swapped, End::InPeace), [Promise::OnceAndInOrder]);
    let stray = changed(&swapped, |event| match event {
        Event::PostEnd { sender, sequence: 0, .. } => {
            Event::PostEnd { sender, sequence: 0, outcome: Outcome::Silence }
        }
        event => event,
    });
    assert_eq!(found(&stray, End::InPeace), [], "nobody waited for it any more");
}

#[test]
fn a_strangers_message_an_invented_one_and_an_id_that_comes_twice_are_found() {
    let receive = |target: &str, sequence| {
        let target = target.to_owned();
        Event::Received { client: 1, target, sender: 9, sequence }
    };
    let mut stranger = sound();
    stranger.insert(8, receive("B", 0));
    assert_eq!(found(&stranger, End::InPeace), [Promise::NeverToAStranger; 2]);
    let mut invented = sound();
    invented.insert(8, receive("A", 0));
    assert_eq!(found(&invented, End::InPeace), [Promise::NeverToAStranger]);
    let mut again = sound();
    again.insert(8, Event::Opened { client: 2, connection: "A".into() });
    assert_eq!(found(&again, End::Midway), [Promise::NeverToAStranger]);
}

#[test]
fn who_acts_after_the_end_is_found() {
    let mut late = sound();
    late.push(called(Kind::Message, "node-0.1"));
    assert_eq!(found(&late, End::InPeace), [Promise::OneOwner]);
    let mut interleaved = sound();
    interleaved.push(called(Kind::Disconnect, "node-1.1"));
    assert_eq!(found(&interleaved, End::InPeace), [], "an heir may repeat it");
    interleaved.push(called(Kind::Disconnect, "node-0.1"));
    assert_eq!(found(&interleaved, End::InPeace), [Promise::OneOwner]);
    let mut accepted = sound();
    accepted.extend(post(3, Outcome::Ok));
    assert_eq!(found(&accepted, End::InPeace), [Promise::Prefix]);
}

#[test]
fn a_lifecycle_that_is_not_whole_is_found() {
    let silent = without(&sound(), |event| is_call(event, Kind::Disconnect));
    assert_eq!(found(&silent, End::InPeace), [Promise::Lifecycle]);
    assert_eq!(found(&silent, End::Midway), [], "it may still come");
    let unasked = without(&sound(), |event| is_call(event, Kind::Connect));
    assert_eq!(found(&unasked, End::InPeace), [Promise::Lifecycle; 2]);
    let untold = without(&unasked, |event| !is_call(event, Kind::Disconnect));
    assert_eq!(found(&untold, End::InPeace), [], "its node died before it could tell");
    let mut again = sound();
    again.insert(2, called(Kind::Connect, "node-0.1"));
    assert_eq!(found(&again, End::InPeace), [Promise::Lifecycle]);
    let other = changed(&sound(), |event| match event {
        Event::Called { kind: Kind::Disconnect, connection, run, sequence, status, .. } => {
            let context = Context { connected_at: 5, ..Context::default() };
            Event::Called { kind: Kind::Disconnect, connection, run, sequence, context, status }
        }
        event => event,
    });
    assert_eq!(found(&other, End::InPeace), [Promise::Lifecycle]);
    let unanswered = changed(&sound(), |event| match event {
        Event::Called { kind: Kind::Disconnect, connection, run, sequence, context, .. } => {
            let (kind, status) = (Kind::Disconnect, 500);
            Event::Called { kind, connection, run, sequence, context, status }
        }
        event => event,
    });
    assert_eq!(found(&unanswered, End::InPeace), [Promise::Lifecycle]);
}

#[test]
fn gone_while_it_is_open_and_open_after_it_was_gone_are_found() {
    let alive = without(&sound(), is_end);
    let mut gone = alive.clone();
    gone.extend(post(3, Outcome::Gone));
    assert_eq!(found(&gone, End::InPeace), [Promise::Reachable]);
    let mut back = sound();
    back.extend(post(3, Outcome::Gone));
    assert_eq!(found(&back, End::InPeace), []);
    back.extend(post(4, Outcome::Ok));
    assert_eq!(found(&back, End::InPeace), [Promise::Prefix, Promise::Reachable]);
}

#[test]
fn a_history_can_be_saved_and_judged_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, records) = (folder.path().join("history"), records(&sound()));
    crate::history::save(&records, &path).expect("it is saved");
    assert_eq!(crate::history::load(&path).expect("it is read"), records);
}

/// One connection, three posts, and its end.
fn sound() -> Vec<Event> {
    let mut events = vec![
        Event::OpenBegin { client: 1, node: 0 },
        called(Kind::Connect, "node-0.1"),
        Event::Opened { client: 1, connection: "A".into() },
    ];
    events.extend((0..3).flat_map(|sequence| post(sequence, Outcome::Ok)));
    events.push(called(Kind::Message, "node-0.1"));
    let received = |sequence| {
        let target = "A".to_owned();
        Event::Received { client: 1, target, sender: 7, sequence }
    };
    events.extend((0..3).map(received));
    events.push(Event::CloseBegin { client: 1 });
    events.push(Event::Closed { client: 1, code: Some(1000) });
    events.push(called(Kind::Disconnect, "node-0.1"));
    events
}

fn post(sequence: u64, outcome: Outcome) -> [Event; 2] {
    let connection = "A".to_owned();
    [
        Event::PostBegin { sender: 7, sequence, connection, node: 1 },
        Event::PostEnd { sender: 7, sequence, outcome },
    ]
}

fn called(kind: Kind, run: &str) -> Event {
    let (connection, run, context) = ("A".to_owned(), run.to_owned(), Context::default());
    Event::Called { kind, connection, run, sequence: 1, context, status: 200 }
}

fn is_call(event: &Event, asked: Kind) -> bool {
    matches!(event, Event::Called { kind, .. } if *kind == asked)
}

fn is_end(event: &Event) -> bool {
    matches!(event, Event::CloseBegin { .. } | Event::Closed { .. })
        || is_call(event, Kind::Disconnect)
}

fn without(events: &[Event], is_left_out: impl Fn(&Event) -> bool) -> Vec<Event> {
    events.iter().filter(|event| !is_left_out(event)).cloned().collect()
}

fn changed(events: &[Event], change: impl Fn(Event) -> Event) -> Vec<Event> {
    events.iter().cloned().map(change).collect()
}

fn found(events: &[Event], end: End) -> Vec<Promise> {
    let mut found: Vec<_> =
        judge(&records(events), end).into_iter().map(|violation| violation.promise).collect();
    found.sort();
    found
}

#[test]
fn what_a_node_counts_is_what_others_saw() {
    // A post that nobody answered may have come to anything.
    let mut events = sound();
    events.extend(post(3, Outcome::Silence));
    let records = records(&events);
    let counted = |node, since, metrics: String| {
        judge_counters(&records, &Counted { node, since, metrics }).len()
    };
    let owner = |opened: u64, closed: u64, open: u64| {
        format!(
            "# HELP posthorn_connections Open.\nposthorn_connections {open}\n\
             posthorn_connections_opened_total {opened}\n\
             posthorn_connections_closed_total{{cause=\"by_client\"}} {closed}\n"
        )
    };
    assert_eq!(counted(0, 0, owner(1, 1, 0)), 0);
    assert_eq!(counted(0, 0, owner(2, 2, 0)), 1, "opened one too many");
    assert_eq!(counted(0, 0, owner(1, 0, 0)), 1, "closed one too few");
    assert_eq!(counted(0, 0, owner(1, 1, 1)), 1, "one is left");
    assert_eq!(counted(0, 500_000, owner(1, 1, 0)), 0, "asked before it was started, let in after");
    assert_eq!(counted(0, 3_000_000, owner(1, 1, 0)), 1, "let in by the process before it");
    let called = |ok: u64, gone: u64| {
        let series = "posthorn_posts_total{outcome=";
        format!("{series}\"ok\"}} {ok}\n{series}\"gone\"}} {gone}\n")
    };
    assert_eq!(counted(1, 0, called(3, 0)), 0);
    assert_eq!(counted(1, 0, called(4, 0)), 0);
    assert_eq!(counted(1, 0, called(3, 1)), 0);
    assert_eq!(counted(1, 0, called(2, 0)), 1);
    assert_eq!(counted(1, 0, called(5, 0)), 1);
    assert_eq!(counted(1, 0, called(3, 2)), 1);
}

#[test]
fn the_ledger_tells_what_happened_and_what_never_did() {
    let mut events = sound();
    events.extend(post(3, Outcome::Unavailable));
    events.extend(post(4, Outcome::Unknown));
    events.push(called(Kind::Disconnect, "node-1.1"));
    events.push(Event::FaultBegin { fault: "Play(Delay { mean: 1ms, spread: 1ms })".to_owned() });
    let mut ledger = ledger(&records(&events));
    ledger.retain(|(_, times)| *times > 0);
    let ledger: Vec<_> = ledger.iter().map(|(what, times)| (&**what, *times)).collect();
    assert_eq!(
        ledger,
        [
            ("a post accepted that arrived", 3),
            ("a post told unavailable", 1),
            ("a post told unknown that did not arrive", 1),
            ("a $disconnect by another run", 1),
            ("a $disconnect told again", 1),
            ("a fault: Play Delay", 1),
        ]
    );
}

/// A second between any two.
fn records(events: &[Event]) -> Vec<Record> {
    let times = (0..).map(|second| second * 1_000_000);
    times.zip(events).map(|(at, event)| Record { at, event: event.clone() }).collect()
}
