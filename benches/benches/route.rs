//! Which route a message takes, against parsing the same message into a tree.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use posthorn_core::message::Message;
use posthorn_core::route::expression::{Expression, Purpose};
use posthorn_core::route::table::{RouteKey, RouteTable};

const MESSAGE: &str = r#"{"action":"sendmessage","requestId":"b2c5e9d8","data":{"room":"lobby","text":"good morning to all of you","mentions":["alice","bob"],"sent_at":1767225600123}}"#;

fn select(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    let message = Message::text(MESSAGE);
    for (name, expression) in [
        ("top-level key", "$request.body.action"),
        ("nested key", "$request.body.data.room"),
        ("static", "sendmessage"),
    ] {
        let table = table(expression);
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(table.select(black_box(&message))));
        });
    }
    group.bench_function("baseline: a tree of serde_json", |bencher| {
        bencher.iter(|| {
            let tree: serde_json::Value =
                serde_json::from_str(black_box(MESSAGE)).expect("it is JSON");
            black_box(tree["action"].as_str().map(str::len))
        });
    });
    group.finish();
}

fn table(expression: &str) -> RouteTable<u32> {
    let expression = Expression::parse(expression, Purpose::Route).expect("it is an expression");
    let keys = ["$default", "join", "leave", "sendmessage", "lobby"];
    let route = |(number, key): (u32, &&str)| (key.parse::<RouteKey>().expect("a key"), number);
    let routes: BTreeMap<_, _> = (0..).zip(&keys).map(route).collect();
    RouteTable::new(expression, routes)
}

criterion_group!(benches, select);
criterion_main!(benches);
