//! A WebSocket client.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tungstenite::handshake::client::{Request, Response};
use tungstenite::{Error, Message};

use crate::within;

pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    pub async fn connect(url: &str) -> Result<Client, Error> {
        let (socket, _) = within("an answer to a handshake", connect_async(url)).await?;
        Ok(Client { socket })
    }

    /// Connects by a request of one's own, and returns what it was answered with.
    pub async fn connect_by(request: Request) -> Result<(Client, Response), Error> {
        let (socket, response) = within("an answer to a handshake", connect_async(request)).await?;
        Ok((Client { socket }, response))
    }

    /// Opens one at an address, whatever host the URL names.
    pub async fn connect_at(address: SocketAddr, url: &str) -> Result<Client, Error> {
        let stream = MaybeTlsStream::Plain(TcpStream::connect(address).await?);
        let opened = Box::pin(tokio_tungstenite::client_async(url, stream));
        let (socket, _) = within("an answer to a handshake", opened).await?;
        Ok(Client { socket })
    }

    /// Asks the node for our connection ID. The API must have the route `whoami`.
    pub async fn id(&mut self) -> String {
        self.send(r#"{"action":"whoami"}"#).await;
        self.text().await
    }

    pub async fn send(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        self.socket.send(message).await.expect("the connection is open");
    }

    /// The next message that is not a Ping or a Pong.
    pub async fn next(&mut self) -> Result<Message, Error> {
        loop {
            match within("a message", self.socket.next()).await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => (),
                Some(result) => return result,
                None => return Err(Error::ConnectionClosed),
            }
        }
    }

    /// The next message, which must be a text.
    pub async fn text(&mut self) -> String {
        match self.next().await {
            Ok(Message::Text(text)) => text.as_str().to_owned(),
            other => panic!("not a text: {other:?}"),
        }
    }

    /// The code and reason of the Close frame that must come next.
    pub async fn closed(&mut self) -> (u16, String) {
        match self.next().await {
            Ok(Message::Close(Some(frame))) => {
                (frame.code.into(), frame.reason.as_str().to_owned())
            }
            other => panic!("not closed: {other:?}"),
        }
    }

    pub async fn close(&mut self) {
        // It may be closed already.
        let _ = self.socket.close(None).await;
    }

    pub fn into_inner(self) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        self.socket
    }
}
