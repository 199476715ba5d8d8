//! Which posts a connection has accepted lately, so that a repeated one is not delivered twice.
//!
//! AWS SDKs silently repeat a post whose answer they did not get, under one invocation ID. Every
//! repetition ends at the same owner, so that its memory is enough. A post that was refused is not
//! remembered: it may be tried again under the same key.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use crate::message::{Message, MessageKind};
use crate::outbox::Position;

/// Keys remembered for one connection. The oldest is forgotten first.
pub const KEYS_MAX: usize = 64;
/// How long a key is remembered: longer than an SDK goes on repeating.
pub const AGE_MAX: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub struct Recent {
    /// Oldest first.
    posts: VecDeque<Post>,
}

/// What a key says about a post that has just come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Never,
    /// The same post was accepted, at this place.
    Accepted(Position),
    /// The key came with another payload.
    Otherwise,
}

#[derive(Debug)]
struct Post {
    key: Box<str>,
    fingerprint: u64,
    position: Position,
    accepted_at: Instant,
}

impl Recent {
    pub fn look_up(&mut self, now: Instant, key: &str, message: &Message) -> Seen {
        let is_old = |post: &Post| now.saturating_duration_since(post.accepted_at) > AGE_MAX;
        while self.posts.front().is_some_and(is_old) {
            self.posts.pop_front();
        }
        match self.posts.iter().find(|post| *post.key == *key) {
            Some(post) if post.fingerprint == fingerprint(message) => Seen::Accepted(post.position),
            Some(_) => Seen::Otherwise,
            None => Seen::Never,
        }
    }

    pub fn on_accepted(&mut self, now: Instant, key: &str, message: &Message, position: Position) {
        if self.posts.len() >= KEYS_MAX {
            self.posts.pop_front();
        }
        let fingerprint = fingerprint(message);
        self.posts.push_back(Post { key: key.into(), fingerprint, position, accepted_at: now });
    }
}

/// Tells a mistaken use of a key from a repetition; it need not withstand a forger, who could only
/// deceive himself.
fn fingerprint(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    (message.kind == MessageKind::Text).hash(&mut hasher);
    message.payload.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_known_by_its_key_for_a_while() {
        let start = Instant::now();
        let (one, other) = (Message::text("one"), Message::text("other"));
        let mut recent = Recent::default();
        assert_eq!(recent.look_up(start, "key", &one), Seen::Never);
        recent.on_accepted(start, "key", &one, 7);

        assert_eq!(recent.look_up(start + AGE_MAX, "key", &one), Seen::Accepted(7));
        assert_eq!(recent.look_up(start + AGE_MAX, "key", &other), Seen::Otherwise);
        let binary = Message::binary("one");
        assert_eq!(recent.look_up(start + AGE_MAX, "key", &binary), Seen::Otherwise);
        let later = start + AGE_MAX + Duration::from_nanos(1);
        assert_eq!(recent.look_up(later, "key", &one), Seen::Never);
    }

    #[test]
    fn the_oldest_key_makes_room() {
        let (start, message) = (Instant::now(), Message::text("x"));
        let mut recent = Recent::default();
        for key in 0..=KEYS_MAX {
            recent.on_accepted(start, &key.to_string(), &message, 1);
        }
        assert_eq!(recent.look_up(start, "0", &message), Seen::Never);
        assert_eq!(recent.look_up(start, "1", &message), Seen::Accepted(1));
    }
}
