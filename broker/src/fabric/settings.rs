//! What an operator may choose, and the limits that hold whatever is chosen.

use std::net::SocketAddr;
use std::time::Duration;

use posthorn_core::ids::{ClusterName, NodeId};

use super::hello::{PROTOCOL_VERSIONS, ProtocolVersions};
use super::lane::{UNTOLD_BYTES_MAX, Window};

use super::tls::TlsFiles;

#[derive(Debug, Clone)]
pub struct FabricSettings {
    /// The one UDP socket for all that goes between nodes.
    pub listen: SocketAddr,
    pub node: NodeId,
    pub cluster: ClusterName,
    pub files: TlsFiles,
    /// Our release's name, for people.
    pub software: String,
    pub versions: ProtocolVersions,
    /// How often who dialed a connection makes itself heard when there is nothing to say.
    pub keep_alive: Duration,
    /// A connection on which nothing was heard for so long is lost.
    pub idle_timeout: Duration,
    /// From the first packet to the peer's first words. Who is slower was not reached.
    pub dial_timeout: Duration,
    /// A lane that was without a connection for so long is forgotten, and what was sent on it and
    /// not answered is unknown. Must outlast the leases of runs by far: a peer that resumes later
    /// is told apart from one that never went away by its run only.
    pub lane_forgotten_after: Duration,
    pub limits: FabricLimits,
}

#[derive(Debug, Clone)]
pub struct FabricLimits {
    /// Connections being accepted at once. More are refused; those who have not proved their
    /// address must do so once a quarter is in use.
    pub handshakes_max: usize,
    /// Accepted connections at once. More are refused.
    pub connections_max: usize,
    /// Peers that we dial. More are unreachable.
    pub peers_max: usize,
    /// Calls and uploads under way on a connection. More wait.
    pub streams_max: u32,
    /// A request, an upload's header, or a response. Larger ones are refused.
    pub call_bytes_max: usize,
    /// Requests held at once for one connection's calls. More are not read until others are
    /// answered.
    pub call_bytes_held_max: usize,
    /// A post's frame. Larger ones are refused, and those that are larger than the peer's limit are
    /// not sent.
    pub frame_bytes_max: usize,
    /// An answer to a post. A larger one is not given: the post's outcome is unknown. The less of
    /// both sides' holds.
    pub answer_bytes_max: usize,
    /// Frames held for a peer, over all its lanes: waiting, or not yet answered. More are refused.
    pub lane_frames_max: usize,
    /// Bytes of frames held for a peer: waiting, or not known to be received. More are refused.
    pub lane_bytes_max: usize,
    /// Frames sent on a lane and not answered. More wait. The less of both sides' holds.
    pub lane_unanswered_max: u64,
    /// Bytes of frames sent on a lane and not known to be received. More wait.
    pub lane_unreceived_bytes_max: usize,
}

/// The limits contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FabricLimitsError {
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    #[error("{0} must be at most {1}")]
    TooLarge(&'static str, usize),
    #[error("call_bytes_held_max must be at least call_bytes_max")]
    CallOverHeld,
    #[error("lane_bytes_max must be at least frame_bytes_max")]
    FrameOverLane,
    #[error("lane_unreceived_bytes_max must be at least frame_bytes_max + {0}")]
    FrameOverWindow(usize),
    #[error("keep_alive must be less than half of idle_timeout, and neither may be zero")]
    KeepAlive,
}

impl FabricSettings {
    pub fn new(
        listen: SocketAddr,
        node: NodeId,
        cluster: ClusterName,
        files: TlsFiles,
    ) -> FabricSettings {
        FabricSettings {
            listen,
            node,
            cluster,
            files,
            software: concat!("posthorn ", env!("CARGO_PKG_VERSION")).to_owned(),
            versions: PROTOCOL_VERSIONS,
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(2),
            lane_forgotten_after: Duration::from_secs(60),
            limits: FabricLimits::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), FabricLimitsError> {
        let is_alive = !self.keep_alive.is_zero() && self.keep_alive * 2 < self.idle_timeout;
        if !is_alive {
            return Err(FabricLimitsError::KeepAlive);
        }
        self.limits.check()
    }

    pub(super) fn window(&self) -> Window {
        Window {
            unanswered_max: self.limits.lane_unanswered_max,
            unreceived_bytes_max: self.limits.lane_unreceived_bytes_max,
        }
    }
}

impl FabricLimits {
    fn check(&self) -> Result<(), FabricLimitsError> {
        let FabricLimits {
            handshakes_max,
            connections_max,
            peers_max,
            streams_max,
            call_bytes_max,
            call_bytes_held_max,
            frame_bytes_max,
            answer_bytes_max,
            lane_frames_max,
            lane_bytes_max,
            lane_unanswered_max,
            lane_unreceived_bytes_max,
        } = self.clone();
        let whole = [
            ("handshakes_max", handshakes_max, 1 << 16),
            ("connections_max", connections_max, 1 << 20),
            ("peers_max", peers_max, 1 << 20),
            ("streams_max", streams_max as usize, 1 << 16),
            ("call_bytes_max", call_bytes_max, 1 << 28),
            ("call_bytes_held_max", call_bytes_held_max, 1 << 31),
            ("frame_bytes_max", frame_bytes_max, 1 << 28),
            ("answer_bytes_max", answer_bytes_max, 1 << 28),
            ("lane_frames_max", lane_frames_max, 1 << 28),
            ("lane_bytes_max", lane_bytes_max, 1 << 40),
            ("lane_unreceived_bytes_max", lane_unreceived_bytes_max, 1 << 40),
            ("lane_unanswered_max", usize::try_from(lane_unanswered_max).unwrap_or(0), 1 << 24),
        ];
        for (name, value, max) in whole {
            if value == 0 {
                return Err(FabricLimitsError::Zero(name));
            }
            if value > max {
                return Err(FabricLimitsError::TooLarge(name, max));
            }
        }
        if call_bytes_held_max < call_bytes_max {
            return Err(FabricLimitsError::CallOverHeld);
        }
        if lane_bytes_max < frame_bytes_max {
            return Err(FabricLimitsError::FrameOverLane);
        }
        // What the receiver has and has not said must leave room for one frame more.
        if lane_unreceived_bytes_max < frame_bytes_max + UNTOLD_BYTES_MAX {
            return Err(FabricLimitsError::FrameOverWindow(UNTOLD_BYTES_MAX));
        }
        Ok(())
    }
}

impl Default for FabricLimits {
    fn default() -> FabricLimits {
        FabricLimits {
            handshakes_max: 64,
            connections_max: 1024,
            peers_max: 1024,
            streams_max: 256,
            call_bytes_max: 8 * 1024 * 1024,
            call_bytes_held_max: 64 * 1024 * 1024,
            frame_bytes_max: 1024 * 1024,
            answer_bytes_max: 4 * 1024,
            lane_frames_max: 64 * 1024,
            lane_bytes_max: 64 * 1024 * 1024,
            lane_unanswered_max: 4096,
            lane_unreceived_bytes_max: 8 * 1024 * 1024,
        }
    }
}
