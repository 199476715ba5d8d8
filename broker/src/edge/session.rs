//! One connection's task, from its 101 to its last byte: it does what [`Connection`] decides.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use posthorn_core::connection::{Action, CloseCause, CloseFrame, Connection};
use posthorn_core::message::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use crate::clock::epoch_ms;
use crate::edge::socket::{Received, Socket};
use crate::exchange::Gateway;
use crate::exchange::mailbox::Mailbox;
use crate::exchange::tail::{Glimpse, What};

/// Written to the socket before anything else is looked at, so that one busy connection cannot
/// occupy its thread.
const BATCH_BYTES_MAX: usize = 16 * 1024;
/// How long a closed socket may go on sending before it is let go.
const LINGER_MAX: Duration = Duration::from_secs(1);

pub(super) struct Session<S> {
    machine: Connection,
    socket: Socket<S>,
    mailbox: Arc<Mailbox>,
    gateway: Arc<Gateway>,
    pace: Arc<Pace>,
    control_frames: ControlFrames,
    timer: Option<Pin<Box<Sleep>>>,
    /// The message that the machine is about to have dispatched.
    received: Option<Message>,
    /// The Close frame that goes out once everything that was accepted has.
    farewell: Option<CloseFrame>,
    /// What the client sent makes no sense: nothing more is read as frames.
    is_faulty: bool,
}

/// How fast a client must and may send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// From where we begin to wait for the rest of a message until it is whole.
    pub(super) message_max: Option<Duration>,
    /// Pings, and Pongs that answer none of ours.
    pub(super) control_frames_per_s_max: Option<u64>,
}

/// Counts a client's control frames within a second.
#[derive(Debug, Default)]
struct ControlFrames {
    /// When the second began.
    since: Option<Instant>,
    count: u64,
}

/// Everything that can happen to a session. If it is not here, it does not happen.
enum Event {
    Received(Received),
    Mail,
    /// Somebody wishes it closed, while the client does not take what was queued before.
    Wished(CloseCause),
    Farewell,
    Written,
    Ended(CloseCause),
    TimedOut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// `machine` is open: its 101 was written.
    pub(super) fn new(
        machine: Connection,
        socket: Socket<S>,
        mailbox: Arc<Mailbox>,
        gateway: Arc<Gateway>,
        pace: Arc<Pace>,
    ) -> Session<S> {
        Session {
            machine,
            socket,
            mailbox,
            gateway,
            pace,
            control_frames: ControlFrames::default(),
            timer: None,
            received: None,
            farewell: None,
            is_faulty: false,
        }
    }

    /// Borrows, since a future that owns what it was given keeps it twice, and every idle connection
    /// pays for that.
    pub(super) async fn run(&mut self) {
        loop {
            while let Some(action) = self.machine.poll_action() {
                if action == Action::Drop {
                    self.let_go().await;
                    return;
                }
                self.perform(action).await;
            }
            let event = std::future::poll_fn(|cx| self.poll_event(cx)).await;
            self.apply(event).await;
        }
    }

    /// Waits. Takes nothing from anybody but the socket, whose message it returns.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.mailbox.register(cx);
        if !self.socket.is_flushed() {
            if let Poll::Ready(result) = self.socket.poll_flush(cx) {
                return Poll::Ready(result.map_or_else(Event::Ended, |()| Event::Written));
            }
            if let Poll::Ready(cause) = self.mailbox.poll_wish(cx) {
                return Poll::Ready(Event::Wished(cause));
            }
        } else if self.mailbox.has_mail() {
            return Poll::Ready(Event::Mail);
        } else if self.farewell.is_some() {
            return Poll::Ready(Event::Farewell);
        } else if self.is_faulty {
            // The farewell is with the kernel. RFC 6455 section 7.1.7 has us not wait for more.
            return Poll::Ready(Event::Ended(CloseCause::Lost));
        }
        if !self.machine.wants_messages() || self.is_faulty {
            self.socket.pause();
        } else if let Poll::Ready(result) = self.socket.poll_read(cx) {
            return Poll::Ready(result.map_or_else(Event::Ended, Event::Received));
        }
        if self.poll_timer(cx).is_ready() {
            return Poll::Ready(Event::TimedOut);
        }
        Poll::Pending
    }

    /// A timer that fires too early only makes the machine say when to fire next, so it is not reset
    /// each time that a message puts the deadline off.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = [self.machine.poll_timeout(), self.message_due()].into_iter().flatten().min();
        let Some(due) = due else { return Poll::Pending };
        let due = due.into();
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() > due || timer.is_elapsed() {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }

    /// When the rest of a message must have come.
    fn message_due(&self) -> Option<Instant> {
        Some(self.socket.unfinished_since()? + self.pace.message_max?)
    }

    async fn apply(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Received(Received::Message(message)) => {
                self.received = Some(message);
                self.machine.on_message(now);
            }
            Event::Received(Received::Ping) => {
                self.mailbox.tails.show(|_| What::PingReceived);
                self.machine.on_ping(now);
                self.on_control_frame(now);
            }
            Event::Received(Received::Pong(number)) => {
                self.mailbox.tails.show(|_| What::PongReceived);
                self.machine.on_pong(now);
                if !number.is_some_and(|number| self.mailbox.on_pong(number)) {
                    self.on_control_frame(now);
                }
            }
            Event::Received(Received::Close(frame)) => {
                self.mailbox.tails.show(|_| What::CloseReceived(frame.clone()));
                self.machine.on_ended(CloseCause::ByClient(frame));
            }
            Event::Mail => self.send_mail(now).await,
            Event::Wished(cause) => self.close(now, cause),
            Event::Farewell => self.send_farewell().await,
            Event::Written => self.mailbox.on_written(),
            Event::Ended(cause) => self.end(now, cause),
            Event::TimedOut if self.message_due().is_some_and(|due| due <= now) => {
                self.end(now, CloseCause::Unfinished);
            }
            Event::TimedOut => self.machine.handle_timeout(now),
        }
    }

    fn on_control_frame(&mut self, now: Instant) {
        let count = self.control_frames.on_one(now);
        if self.pace.control_frames_per_s_max.is_some_and(|max| count > max) {
            self.end(now, CloseCause::TooManyControlFrames);
        }
    }

    /// What the client did wrong is told to it; what just ended is ended.
    fn end(&mut self, now: Instant, cause: CloseCause) {
        match cause {
            CloseCause::ProtocolError
            | CloseCause::NotUtf8
            | CloseCause::MessageTooBig
            | CloseCause::TooManyFragments
            | CloseCause::Unfinished
            | CloseCause::TooManyControlFrames => {
                self.is_faulty = true;
                self.machine.close(now, cause);
            }
            CloseCause::ByClient(_)
            | CloseCause::ByBackend(_)
            | CloseCause::Idle
            | CloseCause::Lifetime
            | CloseCause::Unresponsive
            | CloseCause::TooSlow
            | CloseCause::Lost
            | CloseCause::BinaryRefused
            | CloseCause::Throttled
            | CloseCause::Expired
            | CloseCause::Drained(_)
            | CloseCause::Fenced => self.machine.on_ended(cause),
        }
    }

    async fn send_mail(&mut self, now: Instant) {
        let mail = self.mailbox.take(BATCH_BYTES_MAX);
        for _ in 0..mail.dispatched {
            self.machine.on_dispatched();
        }
        if !mail.messages.is_empty() {
            self.machine.on_sent(now);
            self.mailbox.on_active(epoch_ms());
            self.gateway.metrics().edge.messages_sent.increment(mail.messages.len() as u64);
            self.show_sent(&mail.messages);
            let mut messages = mail.messages.into_iter();
            let ping = mail.ping;
            let queued = std::future::poll_fn(|cx| {
                let queued = messages.try_for_each(|message| self.socket.queue(cx, message));
                let ping = ping.map_or(Ok(()), |number| {
                    self.mailbox.tails.show(|_| What::PingSent);
                    self.socket.queue_ping(cx, Some(number))
                });
                Poll::Ready(queued.and(ping))
            });
            if let Err(cause) = queued.await {
                self.machine.on_ended(cause);
                return;
            }
        } else if let Some(number) = mail.ping {
            self.ping(Some(number)).await;
        }
        if let Some(cause) = mail.close {
            self.close(now, cause);
        }
    }

    fn close(&mut self, now: Instant, cause: CloseCause) {
        match cause {
            CloseCause::Fenced => self.machine.on_fenced(now),
            cause => self.machine.close(now, cause),
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Dispatch => {
                if let Some(message) = self.received.take() {
                    self.mailbox.on_active(epoch_ms());
                    self.gateway.dispatch(&self.mailbox, message);
                }
            }
            Action::Ping => self.ping(None).await,
            Action::SendClose(frame) => {
                self.mailbox.shut();
                self.farewell = Some(frame);
            }
            Action::Retire { disconnect } => {
                self.mailbox.end();
                if let Some(cause) = &disconnect {
                    self.gateway.on_closed(cause);
                }
                self.gateway.retire(&self.mailbox, disconnect);
            }
            // The opening performed these.
            Action::Register | Action::CallConnect | Action::Upgrade | Action::Refuse { .. } => (),
            Action::Drop => (),
        }
    }

    /// To who looks on.
    fn show_sent(&self, messages: &[Message]) {
        if self.mailbox.tails.is_on() {
            for message in messages {
                let sent = |with_payload| What::Sent(Glimpse::of(message, with_payload));
                self.mailbox.tails.show(sent);
            }
        }
    }

    async fn ping(&mut self, number: Option<u64>) {
        self.mailbox.tails.show(|_| What::PingSent);
        let queued =
            std::future::poll_fn(|cx| Poll::Ready(self.socket.queue_ping(cx, number))).await;
        if let Err(cause) = queued {
            self.machine.on_ended(cause);
        }
    }

    async fn send_farewell(&mut self) {
        let Some(frame) = self.farewell.take() else { return };
        self.mailbox.tails.show(|_| What::CloseSent(frame.clone()));
        let queued =
            std::future::poll_fn(|cx| Poll::Ready(self.socket.queue_close(cx, &frame))).await;
        if let Err(cause) = queued {
            self.machine.on_ended(cause);
        }
    }

    /// Sends what is still queued, such as the answer to the client's Close frame, and lets the
    /// socket go. Closing it with bytes unread would make the kernel reset the connection and take
    /// the farewell back.
    async fn let_go(&mut self) {
        self.mailbox.end();
        self.gateway.let_go(&self.mailbox);
        let farewell = async {
            let _ = std::future::poll_fn(|cx| self.socket.poll_flush(cx)).await;
            let _ = std::future::poll_fn(|cx| self.socket.poll_shutdown(cx)).await;
            std::future::poll_fn(|cx| self.socket.poll_drain(cx)).await;
        };
        // Who does not take it in time misses it.
        let _ = tokio::time::timeout(LINGER_MAX, farewell).await;
    }
}

impl ControlFrames {
    /// How many there were within a second, this one included.
    fn on_one(&mut self, now: Instant) -> u64 {
        let is_same = |since: Instant| now.duration_since(since) < Duration::from_secs(1);
        if !self.since.is_some_and(is_same) {
            *self = ControlFrames { since: Some(now), count: 0 };
        }
        self.count += 1;
        self.count
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn an_idle_connection_costs_little() {
        fn bytes_of<'a, F: Future>(_: fn(&'a mut Session<TcpStream>) -> F) -> usize {
            size_of::<Session<TcpStream>>() + size_of::<F>()
        }
        let bytes = bytes_of(Session::run);
        assert!(bytes <= 1_100, "{bytes}");
    }
}
