//! A history, told connection by connection.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Context, Event, Kind, Outcome, Record};
use crate::oracle::{Promise, Violation};

#[derive(Default)]
pub(super) struct Story {
    pub(super) connections: BTreeMap<String, Connection>,
    violations: Vec<Violation>,
}

/// All that is known of a connection.
#[derive(Default)]
pub(super) struct Connection {
    pub(super) id: String,
    pub(super) opened_at: Option<u64>,
    pub(super) close_begun_at: Option<u64>,
    /// When its client saw the end, and with which code.
    pub(super) closed: Option<(u64, Option<u16>)>,
    /// In the order of their sending.
    pub(super) posts: Vec<Post>,
    /// By sender and sequence, in the order of their coming.
    pub(super) received: Vec<(u64, u64)>,
    pub(super) calls: Vec<Call>,
}

pub(super) struct Post {
    pub(super) sender: u64,
    pub(super) sequence: u64,
    pub(super) begun_at: u64,
    /// None while it is under way.
    pub(super) ended: Option<(u64, Outcome)>,
}

pub(super) struct Call {
    pub(super) at: u64,
    pub(super) kind: Kind,
    pub(super) run: String,
    pub(super) context: Context,
    pub(super) status: u16,
}

impl Connection {
    pub(super) fn violation(&self, promise: Promise, what: impl Into<String>) -> Violation {
        Violation { promise, connection: self.id.clone(), what: what.into() }
    }

    /// When somebody outside may first have known that it was ending.
    pub(super) fn ending_at(&self) -> Option<u64> {
        let told = self.disconnects().next().map(|call| call.at);
        let closed = self.closed.map(|(at, _)| at);
        [told, closed, self.close_begun_at].into_iter().flatten().min()
    }

    pub(super) fn disconnects(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| call.kind == Kind::Disconnect)
    }
}

impl Story {
    pub(super) fn of(records: &[Record]) -> Story {
        let mut story = Story::default();
        let mut clients = BTreeMap::<u64, String>::new();
        let mut posts = BTreeMap::<(u64, u64), (String, usize)>::new();
        for Record { at, event } in records {
            let at = *at;
            match event {
                Event::Opened { client, connection } => {
                    clients.insert(*client, connection.clone());
                    story.open(at, connection);
                }
                Event::Received { client, target, sender, sequence } => {
                    let own = clients.get(client).cloned().unwrap_or_default();
                    story.receive(&own, target, *sender, *sequence);
                }
                Event::CloseBegin { client } => {
                    if let Some(connection) = story.of_client(&clients, *client) {
                        connection.close_begun_at.get_or_insert(at);
                    }
                }
                Event::Closed { client, code } => {
                    if let Some(connection) = story.of_client(&clients, *client) {
                        connection.closed.get_or_insert((at, *code));
                    }
                }
                Event::PostBegin { sender, sequence, connection: id, .. } => {
                    let connection = story.connection(id);
                    let place = (id.clone(), connection.posts.len());
                    posts.insert((*sender, *sequence), place);
                    let (sender, sequence) = (*sender, *sequence);
                    connection.posts.push(Post { sender, sequence, begun_at: at, ended: None });
                }
                Event::PostEnd { sender, sequence, outcome } => {
                    if let Some((id, place)) = posts.get(&(*sender, *sequence)) {
                        story.connection(id).posts[*place].ended = Some((at, *outcome));
                    }
                }
                Event::Called { kind, connection, run, context, status, sequence: _ } => {
                    let (kind, run, status) = (*kind, run.clone(), *status);
                    let call = Call { at, kind, run, context: context.clone(), status };
                    story.connection(connection).calls.push(call);
                }
                Event::OpenBegin { .. }
                | Event::OpenFailed { .. }
                | Event::FaultBegin { .. }
                | Event::FaultEnd { .. } => (),
            }
        }
        story
    }

    /// What was received and never sent, and what was sent to others; IDs that came twice.
    pub(super) fn invented(&self) -> Vec<Violation> {
        let mut violations = self.violations.clone();
        for connection in self.connections.values() {
            let sent: BTreeSet<_> =
                connection.posts.iter().map(|post| (post.sender, post.sequence)).collect();
            let invented = connection.received.iter().filter(|received| !sent.contains(received));
            violations.extend(invented.map(|received| {
                let what = format!("received {received:?}, which nobody sent it");
                connection.violation(Promise::NeverToAStranger, what)
            }));
        }
        violations
    }

    fn open(&mut self, at: u64, id: &str) {
        let connection = self.connection(id);
        if connection.opened_at.replace(at).is_some() {
            let violation = connection.violation(Promise::NeverToAStranger, "the ID came twice");
            self.violations.push(violation);
        }
    }

    fn receive(&mut self, own: &str, target: &str, sender: u64, sequence: u64) {
        let connection = self.connection(own);
        connection.received.push((sender, sequence));
        if own != target {
            let what = format!("received ({sender}, {sequence}), which was for {target}");
            let violation = connection.violation(Promise::NeverToAStranger, what);
            self.violations.push(violation);
        }
    }

    fn of_client(
        &mut self,
        clients: &BTreeMap<u64, String>,
        client: u64,
    ) -> Option<&mut Connection> {
        clients.get(&client).map(|id| self.connection(id))
    }

    fn connection(&mut self, id: &str) -> &mut Connection {
        let new = || Connection { id: id.to_owned(), ..Connection::default() };
        self.connections.entry(id.to_owned()).or_insert_with(new)
    }
}
