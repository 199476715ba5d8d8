//! What a caller shows to be given the next page.
//!
//! ```text
//! token = base64url( version issued_at position mac )
//! version = 1 byte, issued_at = 8 bytes, milliseconds since 1970, the highest first
//! position = 0 shard | 1 connection ID: 1 byte, and 2 or 16
//! mac = 32 bytes: HMAC-SHA-256 of all before it, and of the question
//! ```
//!
//! It is good for the question that it was an answer to, of the caller who asked it, at any node of the
//! cluster, for a while. Nobody can make one up.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::auth::hash::Sha256;
use crate::ids::ConnectionId;
use crate::listing::{Filter, Position};

const VERSION: u8 = 1;
const MAC_BYTES: usize = 32;
/// What no token is longer than.
const CHARS_MAX: usize = 128;
const AGE_MAX_MS: u64 = 3_600_000;

/// By which the nodes of a cluster know their tokens.
pub struct TokenKey(hmac::Key);

/// What is asked, by whom: pages of another question do not go on with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question(Sha256);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("it is not what this cluster answered this caller and these filters with")]
    Foreign,
    #[error("it is older than an hour")]
    Stale,
}

impl Question {
    pub fn new(caller: &str, filter: &Filter) -> Question {
        let Filter { api_id, stage, owner, source_ip, connected_after_ms, connected_before_ms } =
            filter;
        // Quotation marks in texts are escaped, so that no two questions are written alike.
        let text = format!(
            "{caller:?} {api_id:?} {stage:?} {owner:?} {source_ip:?} {connected_after_ms:?} \
             {connected_before_ms:?}"
        );
        Question(Sha256::of(text.as_bytes()))
    }
}

impl TokenKey {
    /// A key that all nodes of a cluster derive from what they alone share.
    pub fn of_cluster(cluster_id: &[u8; 16]) -> TokenKey {
        let parent = hmac::Key::new(hmac::HMAC_SHA256, cluster_id);
        let derived = hmac::sign(&parent, b"posthorn page tokens 1");
        TokenKey(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    pub fn seal(&self, question: Question, position: Position, now_ms: u64) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(now_ms.to_be_bytes());
        match position {
            Position::Shard(shard) => {
                bytes.push(0);
                bytes.extend(shard.to_be_bytes());
            }
            Position::Behind(connection) => {
                bytes.push(1);
                bytes.extend(connection.as_bytes());
            }
        }
        let mac = hmac::sign(&self.0, &signed(&bytes, question));
        bytes.extend(mac.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub fn open(
        &self,
        token: &str,
        question: Question,
        now_ms: u64,
    ) -> Result<Position, TokenError> {
        let bytes = Some(token).filter(|token| token.len() <= CHARS_MAX);
        let bytes = bytes.and_then(|token| URL_SAFE_NO_PAD.decode(token).ok());
        let bytes = bytes.ok_or(TokenError::Foreign)?;
        let (said, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or(TokenError::Foreign)?;
        hmac::verify(&self.0, &signed(said, question), mac).map_err(|_| TokenError::Foreign)?;
        let (issued_at_ms, position) = parse(said).ok_or(TokenError::Foreign)?;
        // Another node issued it, perhaps, whose clock is a little ahead.
        if now_ms.saturating_sub(issued_at_ms) > AGE_MAX_MS {
            return Err(TokenError::Stale);
        }
        Ok(position)
    }
}

fn signed(said: &[u8], question: Question) -> Vec<u8> {
    [said, &question.0.0].concat()
}

/// What we said, as no one else can have.
fn parse(said: &[u8]) -> Option<(u64, Position)> {
    let ([VERSION], said) = said.split_first_chunk::<1>()? else { return None };
    let (issued_at_ms, said) = said.split_first_chunk()?;
    let position = match said.split_first()? {
        (0, shard) => Position::Shard(u16::from_be_bytes(shard.try_into().ok()?)),
        (1, connection) => Position::Behind(ConnectionId::try_from(connection).ok()?),
        _ => return None,
    };
    Some((u64::from_be_bytes(*issued_at_ms), position))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::NodeId;

    proptest! {
        #[test]
        fn a_token_says_what_it_was_given_and_changed_says_nothing(
            bits: [u8; 16], shard: u16, now_ms: u32, place: prop::sample::Index, other: u8,
        ) {
            let connection = ConnectionId::from_random(bits);
            for position in [Position::Shard(shard), Position::Behind(connection)] {
                let token = key(1).seal(question("a"), position, now_ms.into());
                let opened = key(1).open(&token, question("a"), now_ms.into());
                prop_assert_eq!(opened, Ok(position));
                let mut changed = token.clone().into_bytes();
                changed[place.index(token.len())] = other;
                let changed = String::from_utf8_lossy(&changed).into_owned();
                if changed != token {
                    let opened = key(1).open(&changed, question("a"), now_ms.into());
                    prop_assert_eq!(opened, Err(TokenError::Foreign));
                }
            }
        }

        #[test]
        fn any_text_is_refused(token in ".{0,200}") {
            let opened = key(1).open(&token, question("a"), 0);
            prop_assert_eq!(opened, Err(TokenError::Foreign));
        }
    }

    #[test]
    fn a_token_is_good_for_one_cluster_one_question_and_one_hour() {
        let token = key(1).seal(question("a"), Position::FIRST, 5_000);
        let open = |key: TokenKey, question, now_ms| key.open(&token, question, now_ms);
        assert_eq!(open(key(1), question("a"), 5_000 + AGE_MAX_MS), Ok(Position::FIRST));
        assert_eq!(open(key(1), question("a"), 0), Ok(Position::FIRST));
        assert_eq!(open(key(1), question("a"), 5_001 + AGE_MAX_MS), Err(TokenError::Stale));
        assert_eq!(open(key(2), question("a"), 5_000), Err(TokenError::Foreign));
        assert_eq!(open(key(1), question("b"), 5_000), Err(TokenError::Foreign));
    }

    #[test]
    fn other_filters_are_another_question() {
        let texts = |api: &str, stage: &str| Filter {
            api_id: Some(api.into()),
            stage: Some(stage.into()),
            ..Filter::default()
        };
        let questions = [
            question("a"),
            Question::new("a", &texts("x", "y")),
            Question::new("a", &texts("x\" Some(\"y", "")),
            Question::new("a", &Filter { owner: Some(NodeId(1)), ..Filter::default() }),
            Question::new("a", &Filter { connected_after_ms: Some(1), ..Filter::default() }),
            Question::new("a", &Filter { connected_before_ms: Some(1), ..Filter::default() }),
        ];
        for (place, one) in questions.iter().enumerate() {
            assert!(!questions[..place].contains(one), "{place}");
        }
    }

    fn key(cluster: u8) -> TokenKey {
        TokenKey::of_cluster(&[cluster; 16])
    }

    fn question(caller: &str) -> Question {
        Question::new(caller, &Filter::default())
    }
}
