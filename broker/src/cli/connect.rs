//! `posthorn connect`: a WebSocket client for the terminal.

use std::io::IsTerminal as _;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_tungstenite::connect_async;
use tungstenite::{Error, Message};

use crate::cli::Exit;

pub(super) async fn connect(url: &str) -> Exit {
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
                Some(Ok(message)) => print(&message),
                Some(Err(error)) => return tell_end(&error),
                None => return Exit::Success,
            },
        }
    }
}

fn print(message: &Message) {
    match message {
        Message::Text(text) => println!("{text}"),
        Message::Binary(payload) => {
            let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("binary {hex}");
        }
        Message::Close(Some(frame)) => {
            eprintln!("closed: {} {}", u16::from(frame.code), frame.reason);
        }
        Message::Close(None) => eprintln!("closed"),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => (),
    }
}

fn tell_refusal(url: &str, error: &Error) -> Exit {
    match error {
        Error::Http(response) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            eprintln!("posthorn: {url}: refused with {} {body}", response.status());
            Exit::Failed
        }
        Error::Url(_) | Error::HttpFormat(_) => {
            eprintln!("posthorn: {url}: {error}");
            Exit::Usage
        }
        error => {
            eprintln!("posthorn: {url}: {error}");
            Exit::Unavailable
        }
    }
}

fn tell_end(error: &Error) -> Exit {
    match error {
        Error::ConnectionClosed => Exit::Success,
        error => {
            eprintln!("posthorn: {error}");
            Exit::Failed
        }
    }
}
