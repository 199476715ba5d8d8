//! A WebSocket client.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::{HeaderMap, Uri};
use tungstenite::{Error, Message};

use crate::papers::dial;
use crate::within;

pub struct Client<S = MaybeTlsStream<TcpStream>> {
    socket: WebSocketStream<S>,
}

/// How a handshake was refused.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub headers: HeaderMap,
    /// Null if it is not JSON.
    pub body: Value,
}

impl Client {
    pub async fn connect(url: &str) -> Result<Client, Error> {
        let (socket, _) = within("an answer to a handshake", connect_async(url)).await?;
        Ok(Client { socket })
    }

    /// Connects with more headers, and returns those of the answer.
    pub async fn knock(
        url: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(Client, HeaderMap), Refused> {
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("a header's value"));
        }
        let answer = within("an answer to a handshake", connect_async(request)).await;
        match answer {
            Ok((socket, response)) => Ok((Client { socket }, response.headers().clone())),
            Err(Error::Http(response)) => {
                let (head, body) = response.into_parts();
                let body = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
                Err(Refused { status: head.status.as_u16(), headers: head.headers, body })
            }
            Err(error) => panic!("{url}: {error}"),
        }
    }

    /// Opens one at an address, whatever host the URL names.
    pub async fn connect_at(address: SocketAddr, url: &str) -> Result<Client, Error> {
        let stream = MaybeTlsStream::Plain(TcpStream::connect(address).await?);
        let opened = Box::pin(tokio_tungstenite::client_async(url, stream));
        let (socket, _) = within("an answer to a handshake", opened).await?;
        Ok(Client { socket })
    }
}

impl Client<TlsStream<TcpStream>> {
    /// Opens one at an address over TLS, whatever host the URL names.
    pub async fn connect_over_tls(
        address: SocketAddr,
        url: &str,
        config: ClientConfig,
    ) -> Result<Client<TlsStream<TcpStream>>, Error> {
        let uri: Uri = url.parse().expect("a URL");
        let stream = dial(address, uri.host().expect("a host"), config).await?;
        let opened = Box::pin(tokio_tungstenite::client_async(url, stream));
        let (socket, _) = within("an answer to a handshake", opened).await?;
        Ok(Client { socket })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
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

    pub fn into_inner(self) -> WebSocketStream<S> {
        self.socket
    }
}
