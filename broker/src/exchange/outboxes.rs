//! What waits for all clients of a node, and what becomes of it where it is too much: of one client, or
//! of all together.

use std::sync::atomic::{AtomicU64, Ordering};

use posthorn_core::message::Message;
use posthorn_core::outbox::OutboxLimits;

use crate::config::node::{EdgeSettings, SlowClients};

/// What a message takes up beside its payload, or a flood of empty ones would cost nothing.
const MESSAGE_BYTES: u64 = 64;
/// What may wait for any client whatever waits for others: those who read are served, however many do
/// not.
const ALLOWANCE_BYTES: u64 = 4096;

/// The same for all mailboxes of a node.
#[derive(Debug)]
pub struct Outboxes {
    pub(super) limits: OutboxLimits,
    pub(super) slow_clients: SlowClients,
    bytes_max: Option<u64>,
    bytes: AtomicU64,
}

/// All outboxes together hold as much as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Outboxes {
    pub fn new(settings: &EdgeSettings) -> Outboxes {
        let limits = OutboxLimits {
            bytes_max: settings.outbox_bytes_max as usize,
            messages_max: settings.outbox_messages_max as usize,
        };
        let (slow_clients, bytes_max) = (settings.slow_clients, settings.outboxes_bytes_max.0);
        Outboxes { limits, slow_clients, bytes_max, bytes: AtomicU64::new(0) }
    }

    /// Of all messages that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Before a message is put behind so many others, of so many bytes in all.
    pub(super) fn reserve(
        &self,
        message: &Message,
        (messages, payload_bytes): (usize, usize),
    ) -> Result<(), NoRoom> {
        let payload = message.payload.len();
        let is_allowed = cost(messages + 1, payload_bytes + payload) <= ALLOWANCE_BYTES;
        let cost = cost(1, payload);
        let before = self.bytes.fetch_add(cost, Ordering::Relaxed);
        if !is_allowed && self.bytes_max.is_some_and(|max| before + cost > max) {
            self.bytes.fetch_sub(cost, Ordering::Relaxed);
            return Err(NoRoom);
        }
        Ok(())
    }

    /// Once messages are out, with so many bytes of payload in all.
    pub(super) fn release(&self, messages: usize, payload_bytes: usize) {
        self.bytes.fetch_sub(cost(messages, payload_bytes), Ordering::Relaxed);
    }
}

fn cost(messages: usize, payload_bytes: usize) -> u64 {
    messages as u64 * MESSAGE_BYTES + payload_bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::Limit;

    #[test]
    fn all_together_hold_so_much_and_no_more() {
        let outboxes_bytes_max = Limit(Some(10_000));
        let settings = EdgeSettings { outboxes_bytes_max, ..EdgeSettings::default() };
        let outboxes = Outboxes::new(&settings);
        let (empty, large) = (Message::text(""), Message::text("x".repeat(9000)));
        assert_eq!(outboxes.reserve(&large, (0, 0)), Ok(()));
        assert_eq!(outboxes.reserve(&large, (0, 0)), Err(NoRoom));
        assert_eq!(outboxes.bytes(), 9064, "who was refused takes nothing");
        // Emptiness costs, too. Each client has an allowance.
        for waiting in 0..64 {
            assert_eq!(outboxes.reserve(&empty, (waiting, 0)), Ok(()), "{waiting}");
        }
        assert_eq!(outboxes.reserve(&empty, (64, 0)), Err(NoRoom));
        assert_eq!(outboxes.reserve(&Message::text("x"), (0, 0)), Ok(()), "another client");
        outboxes.release(1, 9000);
        assert_eq!(outboxes.reserve(&empty, (64, 0)), Ok(()));
        outboxes.release(66, 1);
        assert_eq!(outboxes.bytes(), 0);
    }
}
