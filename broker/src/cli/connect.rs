//! `posthorn connect`: a WebSocket client for the terminal.

use std::io::IsTerminal as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_tungstenite::connect_async;
use tungstenite::{Error, Message};

use crate::cli::{ConnectArguments, Exit, advice, print};

pub(super) async fn connect(arguments: &ConnectArguments) -> Exit {
    let ConnectArguments { url, json } = arguments;
    let mut socket = match connect_async(url).await {
        Ok((socket, _)) => socket,
        Err(error) => return tell_refusal(url, &error),
    };
    if std::io::stderr().is_terminal() {
        eprintln!("connected; a line you type is a message, Ctrl-D ends");
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut is_typing = true;
    loop {
        tokio::select! {
            line = lines.next_line(), if is_typing => match line {
                Ok(Some(line)) => {
                    if let Err(error) = socket.send(Message::text(line)).await {
                        return tell_end(&error);
                    }
                }
                Ok(None) | Err(_) => {
                    is_typing = false;
                    if let Err(error) = socket.close(None).await {
                        return tell_end(&error);
                    }
                }
            },
            message = socket.next() => match message {
                Some(Ok(message)) => {
                    if let Err(exit) = show(&message, *json) {
                        return exit;
                    }
                }
                Some(Err(error)) => return tell_end(&error),
                None => return Exit::Success,
            },
        }
    }
}

fn show(message: &Message, is_json: bool) -> Result<(), Exit> {
    if is_json {
        return json_of(message).map_or(Ok(()), |line| print::json(&line));
    }
    match message {
        Message::Text(text) => print::line(text),
        Message::Binary(payload) => {
            let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
            print::line(&format!("binary {hex}"))
        }
        Message::Close(Some(frame)) => {
            eprintln!("closed: {} {}", u16::from(frame.code), frame.reason);
            Ok(())
        }
        Message::Close(None) => {
            eprintln!("closed");
            Ok(())
        }
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
    }
}

/// The names are documented with the command: programs rely on them.
fn json_of(message: &Message) -> Option<Value> {
    match message {
        Message::Text(text) => Some(json!({ "text": text.as_str() })),
        Message::Binary(payload) => Some(json!({ "binary": STANDARD.encode(payload) })),
        Message::Close(frame) => {
            let code = frame.as_ref().map(|frame| u16::from(frame.code));
            let reason = frame.as_ref().map(|frame| frame.reason.as_str());
            Some(json!({ "closed": { "code": code, "reason": reason } }))
        }
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => None,
    }
}

fn tell_refusal(url: &str, error: &Error) -> Exit {
    match error {
        Error::Http(response) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let (status, body) = (response.status(), print::plain(&body));
            let what = format!("{url}: refused with {status} {body}");
            print::failure(&what, advice::of_refusal(status));
            Exit::Failed
        }
        Error::Url(_) | Error::HttpFormat(_) => {
            let what = format!("{url}: {error}");
            print::failure(&what, Some("a URL is as in ws://127.0.0.1:8080/dev"));
            Exit::Usage
        }
        error => {
            let what = format!("{url}: {error}");
            print::failure(&what, Some("is this a node's `edge.listen`, and is the node running?"));
            Exit::Unavailable
        }
    }
}

fn tell_end(error: &Error) -> Exit {
    match error {
        Error::ConnectionClosed => Exit::Success,
        error => {
            print::failure(&error.to_string(), None);
            Exit::Failed
        }
    }
}
