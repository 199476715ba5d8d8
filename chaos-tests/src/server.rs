//! A plain HTTP server that remembers what it was sent, to the byte, and answers whatever it is bid,
//! HTTP or not.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::within;

type Answers = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// Dropping it ends it, and what it was still saying.
pub struct Server {
    address: SocketAddr,
    requests: Mutex<mpsc::UnboundedReceiver<Request>>,
    server: JoinHandle<()>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What goes to the wire. The connection is closed behind it.
pub struct Reply {
    pub bytes: Vec<u8>,
    /// Is sent again and again behind the bytes, slowly where it is short.
    pub endless: Option<Vec<u8>>,
}

impl Server {
    /// Starts one that answers each request as `answers` says.
    pub async fn start(answers: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a listener has an address");
        let (sender, requests) = mpsc::unbounded_channel();
        let answers: Answers = Arc::new(answers);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                connections.spawn(serve(stream, sender.clone(), answers.clone()));
            }
        });
        Server { address, requests: Mutex::new(requests), server }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next request, in the order of their coming.
    pub async fn request(&self) -> Request {
        let mut requests = self.requests.lock().await;
        within("a request", requests.recv()).await.expect("the server serves")
    }

    /// Whether a request came that nobody has looked at.
    pub async fn was_called(&self) -> bool {
        self.requests.lock().await.try_recv().is_ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("the body is text")
    }
}

impl Reply {
    /// A sound answer.
    pub fn new(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Reply {
        let body = body.as_ref();
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} So\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
        );
        Reply { bytes: [head.as_bytes(), body].concat(), endless: None }
    }

    pub fn raw(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply { bytes: bytes.into(), endless: None }
    }
}

async fn serve(mut stream: TcpStream, sender: mpsc::UnboundedSender<Request>, answers: Answers) {
    let Some(request) = read(&mut stream).await else { return };
    let Reply { bytes, endless } = answers(&request);
    // Where nobody looks at requests any more, the test is over.
    let _ = sender.send(request);
    let mut sent = stream.write_all(&bytes).await;
    while let (Ok(()), Some(more)) = (&sent, &endless) {
        if more.len() < 1024 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        sent = stream.write_all(more).await;
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).expect("a head is text");
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let headers = lines.filter_map(|line| line.split_once(": "));
    let mut request = Request {
        method: first.next().unwrap_or_default().to_owned(),
        target: first.next().unwrap_or_default().to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: bytes.split_off(end + 4),
    };
    let length = request.header("content-length").map_or(Ok(0), str::parse);
    let length = length.expect("a length is a number");
    while request.body.len() < length {
        if stream.read_buf(&mut request.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(request)
}
