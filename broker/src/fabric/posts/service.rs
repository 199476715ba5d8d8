//! What receives posts, and how it answers.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::hello::PeerIdentity;
use super::super::lane::Answer;

/// Receives peers' posts.
pub trait PostService: Send + Sync + 'static {
    /// Called in the order of the posts of each lane, from the lane's task: it must not block. The
    /// next frame of the lane comes when this returns, whether or not the reply was sent.
    fn on_frame(&self, from: &PeerIdentity, frame: Bytes, reply: Reply);
}

/// The way back to who posted: from anywhere, once, now or later.
///
/// Dropped unsent, it tells the sender `PostError::Unknown`: the frame came, and what became of it
/// nobody says.
#[derive(Debug)]
pub struct Reply {
    sequence: u64,
    answer_bytes_max: usize,
    answers: Option<mpsc::Sender<(u64, Answer)>>,
}

impl Reply {
    pub(super) fn new(
        sequence: u64,
        answer_bytes_max: usize,
        answers: mpsc::Sender<(u64, Answer)>,
    ) -> Reply {
        Reply { sequence, answer_bytes_max, answers: Some(answers) }
    }

    /// Never blocks. An answer over the limit is dropped, as the reply would be.
    pub fn send(mut self, answer: Bytes) {
        if answer.len() > self.answer_bytes_max {
            tracing::error!(bytes = answer.len(), "an answer over the limit");
            return;
        }
        self.give(Answer::Given(answer));
    }

    fn give(&mut self, answer: Answer) {
        let Some(answers) = self.answers.take() else { return };
        // There is room for as many as frames may be unanswered. A closed mailbox means that the
        // session is over, and the sender was or will be told that it does not know.
        if let Err(mpsc::error::TrySendError::Full(_)) = answers.try_send((self.sequence, answer)) {
            tracing::error!("more answers than questions");
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.give(Answer::Abandoned);
    }
}
