//! The life of one connection.
//!
//! ```text
//!               registered            accepted            close
//!  Registering ------------> Asking ------------> Open --------------> Closing
//!       |                     |  |                 |                      |
//!       |                     |  | client left     | ended                | ended, or
//!       |                     |  v                 v                      v too late
//!       | left, fenced        | Abandoned ------> Closed <----------------+
//!       |                     | refused            ^
//!       +---------------------+--------------------+
//! ```
//!
//! The directory is told before the `$connect` integration is asked: were it told beside that, a
//! crash between the backend's yes and the commit would leave a `$connect` that no `$disconnect`
//! ever follows, and a post from inside the `$connect` handler could overtake the registration.
//! What the directory was told must be taken back: `Retire` follows once if and only if `Register`
//! did.
//!
//! Inputs are `on_*`, [`Connection::close`] and [`Connection::handle_timeout`]; outputs are drained
//! with [`Connection::poll_action`] and [`Connection::poll_timeout`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::close::{CloseCause, CloseFrame};

#[derive(Debug)]
pub struct Connection {
    state: State,
    limits: Arc<Limits>,
    lifetime_max: Option<Duration>,
    /// When what let the client in is no longer good, if it is not to outlive that.
    expires_at: Option<Instant>,
    actions: VecDeque<Action>,
}

/// How long a connection may do what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Without a message in either direction. None is forever.
    pub idle_max: Option<Duration>,
    /// Between two of our Pings. None is never.
    pub ping_interval: Option<Duration>,
    /// From a Ping to the first sign of life.
    pub pong_max: Duration,
    /// From our Close frame to the client's.
    pub closing_max: Duration,
    /// Messages that the backend has not answered yet. More are left in the socket.
    pub in_flight_max: u32,
}

#[derive(Debug)]
enum State {
    Registering,
    Asking,
    Abandoned { cause: CloseCause },
    Open(Open),
    Closing { deadline: Instant, cause: CloseCause },
    Closed,
}

#[derive(Debug)]
struct Open {
    lifetime_ends_at: Option<Instant>,
    expires_at: Option<Instant>,
    /// The last message in either direction.
    active_at: Instant,
    /// The last sign of life from the client.
    heard_at: Instant,
    pinged_at: Option<Instant>,
    in_flight: u32,
}

/// What the shell is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell the directory.
    Register,
    /// Ask the `$connect` integration.
    CallConnect,
    /// Answer the handshake with 101.
    Upgrade,
    /// Answer the handshake with this status.
    Refuse {
        status: u16,
    },
    /// Give the message that was just received to its route.
    Dispatch,
    Ping,
    /// Accept no more posts, write what was accepted, then a Close frame.
    SendClose(CloseFrame),
    /// Accept no more posts. Call `$disconnect` if a cause is given, then take the entry out of the
    /// directory.
    Retire {
        disconnect: Option<CloseCause>,
    },
    /// Let go of the socket.
    Drop,
}

/// What `$connect` came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    Refused {
        status: u16,
    },
    /// The backend may have said yes and we did not hear it.
    Unknown {
        status: u16,
    },
}

impl Verdict {
    /// Of the handshake, as access logs have it.
    pub fn status(self) -> u16 {
        match self {
            Verdict::Accepted => 200,
            Verdict::Refused { status } | Verdict::Unknown { status } => status,
        }
    }
}

impl Connection {
    /// A handshake that admission let in. It may live for `lifetime_max` from its 101 on, forever
    /// if None: not one of the shared limits, since lifetimes are spread by chance.
    pub fn new(limits: Arc<Limits>, lifetime_max: Option<Duration>) -> Connection {
        let actions = VecDeque::from([Action::Register]);
        let state = State::Registering;
        Connection { state, limits, lifetime_max, expires_at: None, actions }
    }

    /// It is not to outlive what let the client in.
    pub fn expire_at(&mut self, expires_at: Instant) {
        self.expires_at = Some(expires_at);
    }

    /// The directory committed our entry: from here on the connection can be addressed.
    pub fn on_registered(&mut self) {
        if matches!(self.state, State::Registering) {
            self.enter(State::Asking, [Action::CallConnect]);
        }
    }

    /// The `$connect` integration answered, or never will.
    pub fn on_verdict(&mut self, now: Instant, verdict: Verdict) {
        match (&self.state, verdict) {
            (State::Asking, Verdict::Accepted) => self.upgrade(now),
            (State::Asking, Verdict::Refused { status }) => {
                self.actions.push_back(Action::Refuse { status });
                self.retire(None);
            }
            (State::Asking, Verdict::Unknown { status }) => {
                self.actions.push_back(Action::Refuse { status });
                self.retire(Some(CloseCause::Lost));
            }
            (State::Abandoned { cause }, Verdict::Accepted | Verdict::Unknown { .. }) => {
                let cause = cause.clone();
                self.retire(Some(cause));
            }
            (State::Abandoned { .. }, Verdict::Refused { .. }) => self.retire(None),
            (State::Registering | State::Open(_) | State::Closing { .. } | State::Closed, _) => (),
        }
    }

    /// Our run is over. Its connections are debts by now, which others settle.
    pub fn on_fenced(&mut self, now: Instant) {
        match self.state {
            State::Registering | State::Asking => {
                self.enter(State::Closed, [Action::Refuse { status: 503 }, Action::Drop]);
            }
            State::Open(_) => self.close(now, CloseCause::Fenced),
            State::Abandoned { .. } => self.enter(State::Closed, [Action::Drop]),
            State::Closing { .. } | State::Closed => (),
        }
    }

    pub fn on_message(&mut self, now: Instant) {
        if let State::Open(open) = &mut self.state {
            open.active_at = now;
            open.heard_at = now;
            open.in_flight += 1;
            self.actions.push_back(Action::Dispatch);
        }
    }

    /// A message that was dispatched has been dealt with.
    pub fn on_dispatched(&mut self) {
        if let State::Open(open) = &mut self.state {
            open.in_flight = open.in_flight.saturating_sub(1);
        }
    }

    /// A message was written to the client.
    pub fn on_sent(&mut self, now: Instant) {
        if let State::Open(open) = &mut self.state {
            open.active_at = now;
        }
    }

    /// The client sent a Ping of its own, which keeps the connection from being idle. API Gateway's
    /// documentation does not say; clients that ping do so to stay connected.
    pub fn on_ping(&mut self, now: Instant) {
        if let State::Open(open) = &mut self.state {
            open.active_at = now;
            open.heard_at = now;
        }
    }

    pub fn on_pong(&mut self, now: Instant) {
        if let State::Open(open) = &mut self.state {
            open.heard_at = now;
        }
    }

    /// We want it closed: says farewell and waits a little for the client's.
    pub fn close(&mut self, now: Instant, cause: CloseCause) {
        match self.state {
            State::Open(_) => {
                let farewell = Action::SendClose(cause.frame());
                let deadline = now + self.limits.closing_max;
                self.enter(State::Closing { deadline, cause }, [farewell]);
            }
            State::Registering | State::Asking => {
                self.actions.push_back(Action::Refuse { status: 503 });
                self.on_ended(cause);
            }
            State::Abandoned { .. } | State::Closing { .. } | State::Closed => (),
        }
    }

    /// The socket is over: nothing more can be read or written.
    pub fn on_ended(&mut self, cause: CloseCause) {
        match &self.state {
            State::Registering => self.retire(None),
            State::Asking => self.enter(State::Abandoned { cause }, []),
            State::Open(_) => self.retire(Some(cause)),
            // Why we closed it says more than how it then ended.
            State::Closing { cause, .. } => {
                let cause = cause.clone();
                self.retire(Some(cause));
            }
            State::Abandoned { .. } | State::Closed => (),
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(due) = self.poll_timeout() else { return };
        if now < due {
            return;
        }
        match &mut self.state {
            State::Open(open) => match open.overdue(&self.limits, now) {
                Some(CloseCause::Unresponsive) => self.retire(Some(CloseCause::Unresponsive)),
                Some(cause) => self.close(now, cause),
                None => {
                    open.pinged_at = Some(now);
                    self.actions.push_back(Action::Ping);
                }
            },
            State::Closing { cause, .. } => {
                let cause = cause.clone();
                self.retire(Some(cause));
            }
            State::Registering | State::Asking | State::Abandoned { .. } | State::Closed => (),
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Open(open) => open.next_timeout(&self.limits),
            State::Closing { deadline, .. } => Some(*deadline),
            State::Registering | State::Asking | State::Abandoned { .. } | State::Closed => None,
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether another message should be read from the socket. While closing, what the client
    /// still sends is read and ignored, until its Close frame.
    pub fn wants_messages(&self) -> bool {
        match &self.state {
            State::Open(open) => open.in_flight < self.limits.in_flight_max,
            State::Closing { .. } => true,
            State::Registering | State::Asking | State::Abandoned { .. } | State::Closed => false,
        }
    }

    fn upgrade(&mut self, now: Instant) {
        let open = Open {
            lifetime_ends_at: self.lifetime_max.map(|max| now + max),
            expires_at: self.expires_at,
            active_at: now,
            heard_at: now,
            pinged_at: None,
            in_flight: 0,
        };
        self.enter(State::Open(open), [Action::Upgrade]);
    }

    fn retire(&mut self, disconnect: Option<CloseCause>) {
        self.enter(State::Closed, [Action::Retire { disconnect }, Action::Drop]);
    }

    fn enter<const N: usize>(&mut self, state: State, actions: [Action; N]) {
        self.state = state;
        self.actions.extend(actions);
    }
}

impl Open {
    fn next_timeout(&self, limits: &Limits) -> Option<Instant> {
        [
            self.idle_at(limits),
            self.lifetime_ends_at,
            self.expires_at,
            self.unresponsive_at(limits),
            self.ping_at(limits),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What the connection has to end of by now, if anything.
    fn overdue(&self, limits: &Limits, now: Instant) -> Option<CloseCause> {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(self.unresponsive_at(limits)) {
            Some(CloseCause::Unresponsive)
        } else if is_due(self.expires_at) {
            Some(CloseCause::Expired)
        } else if is_due(self.lifetime_ends_at) {
            Some(CloseCause::Lifetime)
        } else if is_due(self.idle_at(limits)) {
            Some(CloseCause::Idle)
        } else {
            None
        }
    }

    fn idle_at(&self, limits: &Limits) -> Option<Instant> {
        limits.idle_max.map(|max| self.active_at + max)
    }

    fn unresponsive_at(&self, limits: &Limits) -> Option<Instant> {
        let unanswered = self.pinged_at.filter(|pinged_at| *pinged_at > self.heard_at)?;
        Some(unanswered + limits.pong_max)
    }

    fn ping_at(&self, limits: &Limits) -> Option<Instant> {
        let quiet_since = self.pinged_at.unwrap_or(self.heard_at).max(self.heard_at);
        limits.ping_interval.map(|interval| quiet_since + interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(600);
    const LIFETIME: Duration = Duration::from_secs(7200);
    const PING: Duration = Duration::from_secs(60);
    const PONG: Duration = Duration::from_secs(20);
    const CLOSING: Duration = Duration::from_secs(5);

    #[test]
    fn it_opens_once_the_directory_and_then_the_backend_agree() {
        let now = Instant::now();
        let mut connection = Connection::new(limits(), Some(LIFETIME));
        assert_eq!(drain(&mut connection), [Action::Register]);
        connection.on_registered();
        assert_eq!(drain(&mut connection), [Action::CallConnect]);
        connection.on_verdict(now, Verdict::Accepted);
        assert_eq!(drain(&mut connection), [Action::Upgrade]);
    }

    #[test]
    fn a_refusal_is_retired_without_disconnect() {
        let mut connection = asking();
        connection.on_verdict(Instant::now(), Verdict::Refused { status: 403 });
        let retire = Action::Retire { disconnect: None };
        let refused = [Action::Refuse { status: 403 }, retire, Action::Drop];
        assert_eq!(drain(&mut connection), refused);
        connection.on_registered();
        connection.on_ended(CloseCause::Lost);
        assert_eq!(drain(&mut connection), []);
    }

    #[test]
    fn an_unknown_verdict_is_refused_and_owes_a_disconnect() {
        let mut connection = asking();
        connection.on_verdict(Instant::now(), Verdict::Unknown { status: 504 });
        let expected = [Action::Refuse { status: 504 }, retired(CloseCause::Lost), Action::Drop];
        assert_eq!(drain(&mut connection), expected);
    }

    #[test]
    fn who_leaves_while_the_backend_is_asked_owes_a_disconnect_if_it_agrees() {
        for (verdict, disconnect) in [
            (Verdict::Accepted, Some(CloseCause::Lost)),
            (Verdict::Unknown { status: 504 }, Some(CloseCause::Lost)),
            (Verdict::Refused { status: 403 }, None),
        ] {
            let mut connection = asking();
            connection.on_ended(CloseCause::Lost);
            assert_eq!(drain(&mut connection), [], "the verdict is still owed");
            connection.on_verdict(Instant::now(), verdict);
            assert_eq!(drain(&mut connection), [Action::Retire { disconnect }, Action::Drop]);
        }
    }

    #[test]
    fn who_leaves_while_registering_is_still_retired() {
        let mut connection = Connection::new(limits(), Some(LIFETIME));
        connection.on_ended(CloseCause::Lost);
        connection.on_registered();
        let retire = Action::Retire { disconnect: None };
        assert_eq!(drain(&mut connection), [Action::Register, retire, Action::Drop]);
    }

    #[test]
    fn idleness_closes_and_retires_once() {
        let start = Instant::now();
        let mut connection = open(start, Limits { ping_interval: None, ..limit_values() });
        connection.on_sent(start + PING);
        let idle = start + PING + IDLE;
        assert_eq!(connection.poll_timeout(), Some(idle));
        connection.handle_timeout(idle);
        assert_eq!(drain(&mut connection), [Action::SendClose(CloseCause::Idle.frame())]);

        connection.on_ended(CloseCause::Lost);
        assert_eq!(drain(&mut connection), [retired(CloseCause::Idle), Action::Drop]);
        connection.handle_timeout(idle + CLOSING);
        assert_eq!(drain(&mut connection), []);
    }

    #[test]
    fn a_client_that_never_answers_our_close_is_dropped() {
        let start = Instant::now();
        let mut connection = open(start, limit_values());
        let frame = CloseFrame { code: 4000, reason: "bye".into() };
        connection.close(start, CloseCause::ByBackend(frame.clone()));
        connection.close(start, CloseCause::Idle);
        assert_eq!(drain(&mut connection), [Action::SendClose(frame.clone())]);
        connection.handle_timeout(start + CLOSING);
        let retired = retired(CloseCause::ByBackend(frame));
        assert_eq!(drain(&mut connection), [retired, Action::Drop]);
    }

    #[test]
    fn a_lifetime_ends_however_busy_the_connection_is() {
        let start = Instant::now();
        let mut connection = open(start, limit_values());
        connection.on_ping(start + LIFETIME);
        connection.handle_timeout(start + LIFETIME);
        assert_eq!(drain(&mut connection), [Action::SendClose(CloseCause::Lifetime.frame())]);
    }

    #[test]
    fn a_connection_may_end_with_what_let_its_client_in() {
        let start = Instant::now();
        let mut connection = Connection::new(Arc::new(limit_values()), Some(LIFETIME));
        let expires_at = start + LIFETIME / 2;
        connection.expire_at(expires_at);
        connection.on_registered();
        connection.on_verdict(start, Verdict::Accepted);
        connection.on_ping(expires_at - Duration::from_millis(1));
        connection.handle_timeout(expires_at - Duration::from_millis(1));
        drain(&mut connection);
        connection.on_ping(expires_at);
        connection.handle_timeout(expires_at);
        assert_eq!(drain(&mut connection), [Action::SendClose(CloseCause::Expired.frame())]);
    }

    #[test]
    fn a_client_that_does_not_answer_a_ping_is_given_up() {
        let start = Instant::now();
        let mut connection = open(start, limit_values());
        connection.handle_timeout(start + PING);
        assert_eq!(drain(&mut connection), [Action::Ping]);
        connection.on_pong(start + PING + PONG / 2);
        let next = start + PING + PONG / 2 + PING;
        assert_eq!(connection.poll_timeout(), Some(next));

        connection.handle_timeout(next);
        assert_eq!(drain(&mut connection), [Action::Ping]);
        assert_eq!(connection.poll_timeout(), Some(next + PONG));
        connection.handle_timeout(next + PONG);
        assert_eq!(drain(&mut connection), [retired(CloseCause::Unresponsive), Action::Drop]);
    }

    #[test]
    fn messages_beyond_the_limit_in_flight_are_left_in_the_socket() {
        let now = Instant::now();
        let mut connection = open(now, limit_values());
        connection.on_message(now);
        assert!(connection.wants_messages());
        connection.on_message(now);
        assert!(!connection.wants_messages());
        connection.on_dispatched();
        assert!(connection.wants_messages());
        assert_eq!(drain(&mut connection), [Action::Dispatch, Action::Dispatch]);
    }

    #[test]
    fn a_fenced_run_closes_what_is_open_and_refuses_what_is_opening() {
        let now = Instant::now();
        let mut asking = asking();
        asking.on_fenced(now);
        assert_eq!(drain(&mut asking), [Action::Refuse { status: 503 }, Action::Drop]);

        let mut open = open(now, limit_values());
        open.on_fenced(now);
        assert_eq!(drain(&mut open), [Action::SendClose(CloseCause::Fenced.frame())]);
    }

    fn open(now: Instant, limits: Limits) -> Connection {
        let mut connection = Connection::new(Arc::new(limits), Some(LIFETIME));
        connection.on_registered();
        connection.on_verdict(now, Verdict::Accepted);
        let opened = [Action::Register, Action::CallConnect, Action::Upgrade];
        assert_eq!(drain(&mut connection), opened);
        connection
    }

    fn asking() -> Connection {
        let mut connection = Connection::new(limits(), Some(LIFETIME));
        connection.on_registered();
        assert_eq!(drain(&mut connection), [Action::Register, Action::CallConnect]);
        connection
    }

    fn retired(cause: CloseCause) -> Action {
        Action::Retire { disconnect: Some(cause) }
    }

    fn limits() -> Arc<Limits> {
        Arc::new(limit_values())
    }

    fn limit_values() -> Limits {
        Limits {
            idle_max: Some(IDLE),
            ping_interval: Some(PING),
            pong_max: PONG,
            closing_max: CLOSING,
            in_flight_max: 2,
        }
    }

    fn drain(connection: &mut Connection) -> Vec<Action> {
        std::iter::from_fn(|| connection.poll_action()).collect()
    }
}
