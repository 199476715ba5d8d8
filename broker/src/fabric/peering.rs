//! What is the same for both ends of a connection: the introduction, and holding it while it lives.

use std::sync::Arc;

use posthorn_core::ids::NodeId;
use posthorn_proto::cluster::v1::Hello;
use quinn::{Connection, ConnectionError, ReadExactError, WriteError};
use tokio::sync::{broadcast, watch};

use super::common::Common;
use super::hello::{Agreed, ClusterId, PeerIdentity, TurnedAway, are_apart};
use super::stats::{FabricStats, Purpose, RefusalCause};
use super::wire::{CloseCode, MessageError, read_message, write_message};

/// A connection on which both sides have agreed to work together.
#[derive(Debug, Clone)]
pub(super) struct Established {
    pub(super) connection: Connection,
    pub(super) peer: PeerIdentity,
    /// What the peer said it belongs to when we met.
    cluster: Option<ClusterId>,
}

/// How an introduction can fail.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum IntroductionError {
    /// By us, and the peer was told why.
    #[error("refused: {0}")]
    Refused(#[from] TurnedAway),
    #[error("{0}")]
    Lost(#[from] MessageError),
}

/// What may end a connection from our side.
pub(super) struct Watch {
    peer: PeerIdentity,
    theirs: Option<ClusterId>,
    ours: watch::Receiver<Option<ClusterId>>,
    version: watch::Receiver<u32>,
    dropped: broadcast::Receiver<NodeId>,
}

/// Counts a connection as open for as long as this lives.
pub(super) struct OpenCount {
    stats: Arc<FabricStats>,
    purpose: Purpose,
}

impl Established {
    fn new(common: &Common, connection: Connection, agreed: Agreed) -> Established {
        let Agreed { version, peer, cluster, software } = agreed;
        common.refusals.on_established(peer.node);
        tracing::debug!(node = %peer.node, version, software, "met a peer");
        Established { connection, peer, cluster }
    }
}

/// The dialer speaks first.
pub(super) async fn introduce_as_dialer(
    common: &Common,
    connection: Connection,
    node: NodeId,
) -> Result<Established, IntroductionError> {
    let introduction = common.introduction();
    let (mut send, mut recv) = connection.open_bi().await.map_err(lost)?;
    write_message(&mut send, &introduction.to_hello()).await?;
    let hello: Hello = read_message(&mut recv).await?;
    let refuse = |away| turn_away(common, &connection, node, away);
    let agreed = introduction.judge(hello, node).map_err(refuse)?;
    Ok(Established::new(common, connection, agreed))
}

pub(super) async fn introduce_as_acceptor(
    common: &Common,
    connection: Connection,
    node: NodeId,
) -> Result<Established, IntroductionError> {
    let (mut send, mut recv) = connection.accept_bi().await.map_err(lost)?;
    let hello: Hello = match read_message(&mut recv).await {
        Ok(hello) => hello,
        Err(error @ (MessageError::TooLong(_) | MessageError::Malformed(_))) => {
            let cause = RefusalCause::MalformedHello;
            let away = TurnedAway { cause, reason: error.to_string() };
            return Err(turn_away(common, &connection, node, away))?;
        }
        Err(error @ (MessageError::Lost(_) | MessageError::Unwritten(_))) => Err(error)?,
    };
    let introduction = common.introduction();
    let refuse = |away| turn_away(common, &connection, node, away);
    let agreed = introduction.judge(hello, node).map_err(refuse)?;
    write_message(&mut send, &introduction.to_hello()).await?;
    Ok(Established::new(common, connection, agreed))
}

impl Watch {
    pub(super) fn new(common: &Common, established: &Established) -> Watch {
        Watch {
            peer: established.peer.clone(),
            theirs: established.cluster,
            ours: common.cluster.subscribe(),
            version: common.version.subscribe(),
            dropped: common.dropped.subscribe(),
        }
    }

    /// Waits until there is a reason to close the connection ourselves. To drop the wait loses
    /// nothing.
    pub(super) async fn verdict(&mut self) -> CloseCode {
        loop {
            if are_apart(*self.ours.borrow_and_update(), self.theirs) {
                return CloseCode::RefusedCluster;
            }
            if *self.version.borrow_and_update() > self.peer.versions.max {
                return CloseCode::RefusedVersion;
            }
            tokio::select! {
                changed = self.ours.changed() => if changed.is_err() { return CloseCode::Done },
                changed = self.version.changed() => if changed.is_err() { return CloseCode::Done },
                dropped = self.dropped.recv() => match dropped {
                    Ok(node) if node != self.peer.node => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                        return CloseCode::Dropped;
                    }
                    Err(broadcast::error::RecvError::Closed) => return CloseCode::Done,
                },
            }
        }
    }
}

impl OpenCount {
    pub(super) fn new(stats: &Arc<FabricStats>, purpose: Purpose) -> OpenCount {
        stats.connections_open.of(purpose).add(1);
        OpenCount { stats: stats.clone(), purpose }
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.stats.connections_open.of(self.purpose).subtract(1);
    }
}

fn lost(error: ConnectionError) -> MessageError {
    MessageError::Unwritten(WriteError::ConnectionLost(error))
}

fn turn_away(
    common: &Common,
    connection: &Connection,
    node: NodeId,
    away: TurnedAway,
) -> TurnedAway {
    common.refusals.on_refused(node, &away);
    let code = match away.cause {
        RefusalCause::Version => CloseCode::RefusedVersion,
        RefusalCause::AnotherCluster => CloseCode::RefusedCluster,
        _ => CloseCode::Refused,
    };
    connection.close(code.into(), away.reason.as_bytes());
    away
}

impl IntroductionError {
    /// How the connection ended, if that is what happened.
    pub(super) fn connection_error(&self) -> Option<&ConnectionError> {
        match self {
            IntroductionError::Lost(
                MessageError::Lost(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(
                    error,
                )))
                | MessageError::Unwritten(WriteError::ConnectionLost(error)),
            ) => Some(error),
            IntroductionError::Lost(_) | IntroductionError::Refused(_) => None,
        }
    }
}
