//! The request that opens a WebSocket, read and judged strictly.
//!
//! It is parsed here and not by a server library because the events that backends receive keep the
//! spelling of header names, and because each kind of bad request has a status of its own.

use httparse::{EMPTY_HEADER, Status};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// As many as API Gateway passes on, and more than any client sends.
const HEADERS_MAX: usize = 100;
const READ_BYTES: usize = 2048;

/// A request that asks for a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) path: String,
    /// What stands behind the `?`, if there is one.
    pub(super) query: Option<String>,
    /// In the order and spelling of the client. Bytes that are not UTF-8 are replaced.
    pub(super) headers: Vec<(String, String)>,
    pub(super) host: String,
    pub(super) key: String,
    /// In the order of the client's preference.
    pub(super) subprotocols: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadLimits {
    pub(super) header_bytes_max: usize,
    pub(super) url_bytes_max: usize,
}

/// Why a request opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    /// The client left, or the connection broke. There is nobody to answer.
    #[error("the connection ended within the request")]
    Ended,
    #[error("the request is not HTTP: {0}")]
    Malformed(&'static str),
    #[error("the path and query are too long")]
    UrlTooLong,
    #[error("the headers are too large or too many")]
    HeadersTooLarge,
    #[error("only GET opens a WebSocket")]
    NotGet,
    #[error("this is not a WebSocket handshake")]
    NotWebSocket,
    #[error("only version 13 of the WebSocket protocol is spoken")]
    WrongVersion,
}

impl BadHead {
    /// The status, and a header that belongs to it.
    pub(super) fn status(self) -> (u16, Option<(&'static str, &'static str)>) {
        match self {
            BadHead::Ended | BadHead::Malformed(_) => (400, None),
            BadHead::UrlTooLong => (414, None),
            BadHead::HeadersTooLarge => (431, None),
            BadHead::NotGet => (405, Some(("Allow", "GET"))),
            BadHead::NotWebSocket => (426, Some(("Upgrade", "websocket"))),
            // RFC 6455 section 4.4.
            BadHead::WrongVersion => (426, Some(("Sec-WebSocket-Version", "13"))),
        }
    }
}

/// Reads a request. Returns with it what the client has already sent behind it.
pub(super) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    limits: HeadLimits,
) -> Result<(Head, Vec<u8>), BadHead> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = end_of_head(&bytes) {
            let early = bytes.split_off(end);
            return parse(&bytes, limits).map(|head| (head, early));
        }
        refuse_early(&bytes, limits)?;
        bytes.reserve(READ_BYTES);
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return Err(BadHead::Ended),
            Ok(_) => (),
        }
    }
}

/// What can be refused before the request is whole.
fn refuse_early(bytes: &[u8], limits: HeadLimits) -> Result<(), BadHead> {
    let is_token = |byte: &u8| byte.is_ascii_uppercase();
    if let Some(first) = bytes.first()
        && !is_token(first)
    {
        return Err(BadHead::Malformed("it does not begin with a method"));
    }
    let request_line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    // `GET ` before the path and ` HTTP/1.1` behind it.
    if request_line > limits.url_bytes_max + 16 {
        return Err(BadHead::UrlTooLong);
    }
    if bytes.len() > limits.header_bytes_max {
        return Err(BadHead::HeadersTooLarge);
    }
    Ok(())
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|start| start + 4)
}

fn parse(bytes: &[u8], limits: HeadLimits) -> Result<Head, BadHead> {
    refuse_early(bytes, limits)?;
    // httparse takes a bare line feed for the end of a line.
    let is_bare = |(at, byte): (usize, &u8)| *byte == b'\n' && (at == 0 || bytes[at - 1] != b'\r');
    if bytes.iter().enumerate().any(is_bare) {
        return Err(BadHead::Malformed("a line ends without a carriage return"));
    }
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Complete(_)) => (),
        Ok(Status::Partial) => return Err(BadHead::Malformed("it has no end")),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::HeadersTooLarge),
        Err(httparse::Error::Version) => return Err(BadHead::NotWebSocket),
        Err(_) => return Err(BadHead::Malformed("its syntax is wrong")),
    }
    let url = request.path.unwrap_or_default();
    if url.len() > limits.url_bytes_max {
        return Err(BadHead::UrlTooLong);
    }
    judge(&request)?;
    let (path, query) = match url.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (url, None),
    };
    let fields = Fields(request.headers);
    Ok(Head {
        path: path.to_owned(),
        query,
        host: fields.host()?,
        key: fields.key()?,
        subprotocols: fields.list("sec-websocket-protocol").map(str::to_owned).collect(),
        headers: fields.owned(),
    })
}

/// Whether it asks for a WebSocket (RFC 6455 section 4.2.1).
fn judge(request: &httparse::Request<'_, '_>) -> Result<(), BadHead> {
    let fields = Fields(request.headers);
    if request.method != Some("GET") {
        return Err(BadHead::NotGet);
    }
    if request.version != Some(1) {
        return Err(BadHead::NotWebSocket);
    }
    if !request.path.unwrap_or_default().starts_with('/') {
        return Err(BadHead::Malformed("its target is not a path"));
    }
    // A body would be taken for frames.
    let is_zero = |value: &[u8]| value.trim_ascii() == b"0";
    if fields.all("content-length").any(|value| !is_zero(value))
        || fields.all("transfer-encoding").next().is_some()
    {
        return Err(BadHead::Malformed("it has a body"));
    }
    let upgrade: Vec<_> = fields.list("upgrade").collect();
    if upgrade.is_empty() {
        return Err(BadHead::NotWebSocket);
    }
    if !upgrade.iter().any(|token| token.eq_ignore_ascii_case("websocket")) {
        return Err(BadHead::Malformed("it asks for an unknown upgrade"));
    }
    if !fields.list("connection").any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(BadHead::NotWebSocket);
    }
    match fields.all("sec-websocket-version").collect::<Vec<_>>()[..] {
        [version] if version.trim_ascii() == b"13" => Ok(()),
        _ => Err(BadHead::WrongVersion),
    }
}

struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|f| f.value)
    }

    /// The members of a comma-separated list, spread over however many fields.
    fn list(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        let values = self.all(name).filter_map(|value| str::from_utf8(value).ok());
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|member| !member.is_empty())
    }

    fn host(&self) -> Result<String, BadHead> {
        let bad = BadHead::Malformed("it needs one Host");
        let [host] = self.all("host").collect::<Vec<_>>()[..] else { return Err(bad) };
        let host = str::from_utf8(host).map_err(|_| bad)?.trim();
        let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
        let is_host = !host.is_empty() && host.bytes().all(is_host_byte);
        is_host.then(|| host.to_ascii_lowercase()).ok_or(bad)
    }

    /// 16 bytes in base64 (RFC 6455 section 4.1), which nobody needs to know.
    fn key(&self) -> Result<String, BadHead> {
        let bad = BadHead::Malformed("its Sec-WebSocket-Key is not 16 bytes of base64");
        let [key] = self.all("sec-websocket-key").collect::<Vec<_>>()[..] else { return Err(bad) };
        let key = str::from_utf8(key).map_err(|_| bad)?.trim();
        let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, key);
        match decoded {
            Ok(bytes) if bytes.len() == 16 => Ok(key.to_owned()),
            Ok(_) | Err(_) => Err(bad),
        }
    }

    fn owned(&self) -> Vec<(String, String)> {
        let own = |field: &httparse::Header<'_>| {
            (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned())
        };
        self.0.iter().map(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { header_bytes_max: 2048, url_bytes_max: 100 };
    const GOOD: &str = "GET /dev?a=1 HTTP/1.1\r\nHost: Example.com:80\r\nUpgrade: websocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[tokio::test]
    async fn a_handshake_is_read_with_what_stands_behind_it() {
        let text = format!("{GOOD}early");
        let (head, early) = read_text(&text).await.expect("it is good");
        assert_eq!((&*head.path, head.query.as_deref()), ("/dev", Some("a=1")));
        assert_eq!(head.host, "example.com:80");
        assert_eq!(head.headers[0], ("Host".to_owned(), "Example.com:80".to_owned()));
        assert_eq!(early, b"early");
    }

    #[tokio::test]
    async fn lists_and_odd_spellings_are_understood() {
        let text = GOOD
            .replace(
                "Upgrade: websocket",
                "uPGRADE: foo, WebSocket\r\nSEC-websocket-protocol: a, b",
            )
            .replace("keep-alive, Upgrade", "x,upgrade");
        let (head, _) = read_text(&text).await.expect("it is good");
        assert_eq!(head.subprotocols, ["a", "b"]);
    }

    #[tokio::test]
    async fn each_fault_has_its_status() {
        let long = format!("GET /{} HTTP/1.1", "x".repeat(200));
        let large = format!("X: {}\r\nHost", "x".repeat(3000));
        let many = format!("{}Host", "X: y\r\n".repeat(100));
        for (from, to, status) in [
            ("GET /dev?a=1 HTTP/1.1", &*long, 414),
            ("Host", &*large, 431),
            ("Host", &*many, 431),
            ("GET", "POST", 405),
            ("GET", "get", 400),
            ("HTTP/1.1", "HTTP/1.0", 426),
            ("HTTP/1.1", "HTTP/2.0", 426),
            ("/dev", "http://other/dev", 400),
            ("Upgrade: websocket\r\n", "", 426),
            ("Upgrade: websocket", "Upgrade: h2c", 400),
            ("keep-alive, Upgrade", "keep-alive", 426),
            ("Version: 13", "Version: 8", 426),
            ("Version: 13", "Version: 13, 8", 426),
            ("Sec-WebSocket-Version: 13\r\n", "", 426),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", 400),
            ("Sec-WebSocket-Key", "X-Key", 400),
            ("Host", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nHost", 400),
            ("Host: Example.com:80\r\n", "", 400),
            ("Host", "Host: a\r\nHost", 400),
            ("Example.com:80", "example.com/path", 400),
            ("Host", "Content-Length: 5\r\nHost", 400),
            ("Host", "Transfer-Encoding: chunked\r\nHost", 400),
            ("Host", "X: a\r\n b\r\nHost", 400),
            ("Host", "X: a\0\r\nHost", 400),
            ("Host", "X: a\nHost", 400),
            ("Host:", "Host :", 400),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from} must occur");
            let bad = read_text(&text).await.expect_err(to);
            assert_eq!(bad.status().0, status, "{from} -> {to}: {bad}");
        }
    }

    #[tokio::test]
    async fn garbage_is_refused_before_it_is_whole() {
        for garbage in ["\x16\x03\x01\x02\0", "\0\0\0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            assert!(matches!(read_text(garbage).await, Err(bad) if bad != BadHead::Ended));
        }
        assert_eq!(read_text("GET /dev HTT").await, Err(BadHead::Ended));
    }

    async fn read_text(text: &str) -> Result<(Head, Vec<u8>), BadHead> {
        read(&mut text.as_bytes(), LIMITS).await
    }
}
