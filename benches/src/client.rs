//! A WebSocket client that costs little, so that the machine is left to the nodes.

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use posthorn_chaos::cluster::Cluster;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::frames::{self, Frame};

const READ_BYTES: usize = 512;
const HEAD_BYTES_MAX: usize = 4096;

pub struct Client {
    stream: TcpStream,
    received: BytesMut,
}

impl Client {
    /// Connects to `/dev` of a node. Returns once the handshake was answered with 101.
    pub async fn connect(edge: SocketAddr) -> io::Result<Client> {
        let mut stream = TcpStream::connect(edge).await?;
        stream.set_nodelay(true)?;
        // Whoever connects and leaves ten thousands of times would otherwise run out of ports.
        stream.set_zero_linger()?;
        let request = format!(
            "GET /dev HTTP/1.1\r\nHost: {edge}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             User-Agent: posthorn-load\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut client = Client { stream, received: BytesMut::new() };
        client.read_answer().await?;
        Ok(client)
    }

    /// Asks the node for our connection ID.
    pub async fn id(&mut self) -> io::Result<String> {
        let question = frames::masked(frames::TEXT, br#"{"action":"whoami"}"#);
        self.stream.write_all(&question).await?;
        let answer = self.next().await?;
        String::from_utf8(answer.into()).map_err(io::Error::other)
    }

    /// Sends frames as they are.
    pub async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames).await
    }

    /// The next message. Pings are answered meanwhile.
    pub async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            match self.take()? {
                Some(Frame { opcode: frames::PING, payload }) => {
                    self.stream.write_all(&frames::masked(frames::PONG, &payload)).await?;
                }
                Some(Frame { payload, .. }) => return Ok(payload),
                None => self.read().await?,
            }
        }
    }

    /// A message that has come already.
    pub fn take(&mut self) -> io::Result<Option<Frame>> {
        match frames::take(&mut self.received) {
            Some(Frame { opcode: frames::CLOSE, payload }) => {
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                Err(io::Error::other(format!("closed by the node: {reason}")))
            }
            frame => Ok(frame),
        }
    }

    async fn read_answer(&mut self) -> io::Result<()> {
        loop {
            if let Some(end) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.received.split_to(end + 4);
                return match head.starts_with(b"HTTP/1.1 101 ") {
                    true => Ok(()),
                    false => Err(io::Error::other(String::from_utf8_lossy(&head).into_owned())),
                };
            }
            if self.received.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("an endless answer to a handshake"));
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        self.received.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Where clients connect to a node.
pub fn edge(cluster: &Cluster, node: usize) -> SocketAddr {
    cluster.node(node).at("edge")
}
