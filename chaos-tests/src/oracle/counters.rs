//! What a node counted is what others saw of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::history::{Event, Outcome, Record};
use crate::oracle::{Promise, Violation};

/// What a process says of itself once nothing is under way at it any more, and since when it runs.
pub struct Counted {
    pub node: usize,
    /// On the clock of the history.
    pub since: u64,
    /// The text of its metrics, as Prometheus reads it.
    pub metrics: String,
}

/// How often something happened: at least, and at most, where nobody saw what came of some.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    surely: u64,
    perhaps: u64,
}

/// What others saw of a process.
#[derive(Default)]
struct Sight {
    opened: Seen,
    /// By what their senders were told.
    posts: BTreeMap<Outcome, Seen>,
    /// Clients that were told by a Close frame that their node lets them go.
    let_go: u64,
}

pub(super) fn check(records: &[Record], counted: &Counted, violations: &mut Vec<Violation>) {
    let Counted { node, since, metrics } = counted;
    let Sight { opened, posts, let_go } = Sight::of(records, *node, *since);
    let sum = |series: &[&str]| series.iter().map(|series| value(metrics, series)).sum::<u64>();
    let mut expect = |what: &str, counted: u64, seen: RangeInclusive<u64>| {
        if !seen.contains(&counted) {
            let what = format!("{what}: counted {counted}, while others saw {seen:?}");
            let connection = format!("node {node}");
            violations.push(Violation { promise: Promise::TruthInMetrics, connection, what });
        }
    };
    let told_opened = sum(&["posthorn_connections_opened_total"]);
    expect("opened", told_opened, opened.range());
    expect("closed", sum(&["posthorn_connections_closed_total"]), told_opened..=told_opened);
    expect("open", sum(&["posthorn_connections"]), 0..=0);
    let closes = "posthorn_connections_closed_total{cause=";
    let told_let_go = ["\"drained\"}", "\"fenced\"}"].map(|cause| format!("{closes}{cause}"));
    let told_let_go = told_let_go.each_ref().map(String::as_str);
    expect("let go", sum(&told_let_go), let_go..=told_opened);
    for (outcome, labels) in [
        (Outcome::Ok, &["ok"] as &[_]),
        (Outcome::Gone, &["gone"]),
        (Outcome::Busy, &["too_slow"]),
        (Outcome::Unavailable, &["unavailable", "busy"]),
        (Outcome::Unknown, &["unknown"]),
    ] {
        let series: Vec<_> = labels
            .iter()
            .map(|label| format!("posthorn_posts_total{{outcome=\"{label}\"}}"))
            .collect();
        let series: Vec<_> = series.iter().map(String::as_str).collect();
        let mut seen = posts.get(&outcome).copied().unwrap_or_default();
        // Of these the node may have said anything.
        seen.perhaps += posts.get(&Outcome::Silence).map_or(0, |silence| silence.total());
        expect(&format!("posts that were {outcome:?}"), sum(&series), seen.range());
    }
}

impl Sight {
    fn of(records: &[Record], node: usize, since: u64) -> Sight {
        let mut sight = Sight::default();
        // Clients and posts that came to this node, and when.
        let (mut clients, mut posts) = (BTreeMap::new(), BTreeMap::new());
        let mut inside = BTreeSet::new();
        for Record { at, event } in records {
            match event {
                Event::OpenBegin { client, node: asked } if *asked == node => {
                    clients.insert(*client, *at);
                }
                Event::Opened { client, .. } if clients.contains_key(client) && *at >= since => {
                    sight.opened.add(clients[client] >= since);
                    inside.insert(*client);
                }
                Event::OpenFailed { client, status: None }
                    if clients.contains_key(client) && *at >= since =>
                {
                    sight.opened.add(false);
                }
                Event::Closed { client, code: Some(1012) } if inside.contains(client) => {
                    sight.let_go += 1;
                }
                Event::PostBegin { sender, sequence, node: asked, .. } if *asked == node => {
                    posts.insert((*sender, *sequence), *at);
                }
                Event::PostEnd { sender, sequence, outcome } if *at >= since => {
                    if let Some(begun_at) = posts.get(&(*sender, *sequence)) {
                        sight.posts.entry(*outcome).or_default().add(*begun_at >= since);
                    }
                }
                _ => (),
            }
        }
        sight
    }
}

impl Seen {
    fn add(&mut self, surely: bool) {
        match surely {
            true => self.surely += 1,
            false => self.perhaps += 1,
        }
    }

    fn total(self) -> u64 {
        self.surely + self.perhaps
    }

    fn range(self) -> RangeInclusive<u64> {
        self.surely..=self.total()
    }
}

/// The sum of all series of that name, or of the one with those labels.
fn value(metrics: &str, series: &str) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(series)?;
        let rest = match rest.strip_prefix('{') {
            Some(labels) => labels.split_once('}')?.1,
            None => rest,
        };
        rest.strip_prefix(' ')?.parse::<f64>().ok()
    });
    values.sum::<f64>() as u64
}
