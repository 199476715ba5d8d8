//! What costs nothing must cost nothing: a message finds its route without allocating.

use std::alloc::System;
use std::collections::BTreeMap;
use std::hint::black_box;

use posthorn_core::message::Message;
use posthorn_core::route::expression::{Expression, Purpose};
use posthorn_core::route::table::{RouteKey, RouteTable, Selected};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_static_expression_and_a_plain_key_find_their_route_without_an_allocation() {
    let message = Message::text(
        r#"{"id":7,"data":{"room":"lobby","list":[1,2,{"a":null}]},"action":"join","more":"ü\n"}"#,
    );
    for (expression, expected) in [
        ("join", Some("join")),
        ("$request.body.action", Some("join")),
        ("$request.body.data.room", Some("lobby")),
        ("$request.body.none", None),
    ] {
        let table = table(expression);
        let region = Region::new(ALLOCATOR);
        let selected = table.select(black_box(&message));
        let allocations = region.change().allocations;
        let key = match selected {
            Selected::Route { key, .. } => Some(key.as_str()),
            Selected::Default(_) | Selected::None => None,
        };
        assert_eq!((key, allocations), (expected, 0), "{expression}");
    }
    // The measure measures: an array's text is made anew.
    let table = table("$request.body.data.list");
    let region = Region::new(ALLOCATOR);
    black_box(table.select(&message));
    assert!(region.change().allocations > 0);
}

fn table(expression: &str) -> RouteTable<u32> {
    let expression = Expression::parse(expression, Purpose::Route).expect("an expression");
    let route = |(number, key): (u32, &str)| (key.parse::<RouteKey>().expect("a key"), number);
    let routes: BTreeMap<_, _> = (0..).zip(["$default", "join", "lobby"]).map(route).collect();
    RouteTable::new(expression, routes)
}
