//! `posthorn tail`: what one connection does, live.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use posthorn_core::event::time::IsoTime;
use posthorn_proto::v1::admin_service_client::AdminServiceClient;
use posthorn_proto::v1::{TailEvent, TailRequest, TailResponse};
use serde_json::{Map, Value};

use crate::cli::access::tell;
use crate::cli::{Exit, TailArguments, print};

pub(super) async fn tail(arguments: &TailArguments) -> Exit {
    follow(arguments).await.unwrap_or_else(|exit| exit)
}

async fn follow(arguments: &TailArguments) -> Result<Exit, Exit> {
    let TailArguments { api, connection_id, payloads, json } = arguments;
    let access = api.connect().await?;
    let request = TailRequest { connection_id: connection_id.clone(), payloads: *payloads };
    let mut client = AdminServiceClient::new(access.channel.clone());
    let events = client.tail(access.request(request)).await.map_err(|status| tell(&status))?;
    let mut events = events.into_inner();
    while let Some(event) = events.message().await.map_err(|status| tell(&status))? {
        match json {
            true => print::json(&json_of(&event))?,
            false => print::text(&text_of(&event))?,
        }
    }
    Ok(Exit::Success)
}

/// The names are documented with the command: programs rely on them.
fn json_of(event: &TailResponse) -> Value {
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| drop(map.insert(name.to_owned(), value));
    put("at_ms", event.at_ms.into());
    put("event", name_of(event.event()).into());
    if event.lost > 0 {
        put("lost", event.lost.into());
    }
    match event.event() {
        TailEvent::Received | TailEvent::Sent | TailEvent::Refused => {
            put("bytes", event.bytes.into());
            put("is_binary", event.is_binary.into());
            match payload_of(event) {
                Some(Ok(text)) => put("text", text.into()),
                Some(Err(binary)) => put("binary", STANDARD.encode(binary).into()),
                None => (),
            }
        }
        _ => (),
    }
    match event.event() {
        TailEvent::Received => put("route", event.route.clone().into()),
        TailEvent::Handled => {
            put("route", event.route.clone().into());
            put("status", event.status.into());
            put("error", Some(&*event.error).filter(|error| !error.is_empty()).into());
            put("latency_us", event.latency_us.into());
        }
        TailEvent::Refused => put("error", event.error.clone().into()),
        TailEvent::CloseReceived | TailEvent::CloseSent | TailEvent::Ended => {
            put("code", event.close_code.into());
            put("reason", event.close_reason.clone().into());
            if event.event() == TailEvent::Ended {
                put("cause", event.cause.clone().into());
            }
        }
        _ => (),
    }
    Value::Object(map)
}

fn text_of(event: &TailResponse) -> String {
    let time = IsoTime(event.at_ms.max(0).cast_unsigned());
    let route =
        event.route.as_ref().map_or("no route".to_owned(), |route| format!("route {route}"));
    let size = || {
        let kind = if event.is_binary { "binary" } else { "text" };
        format!("{kind}, {} bytes", event.bytes)
    };
    let what = match event.event() {
        TailEvent::Received => format!("{}, {route}", size()),
        TailEvent::Handled => {
            let ms = event.latency_us as f64 / 1000.0;
            format!("{route}, {} in {ms:.1} ms {}", event.status, event.error)
        }
        TailEvent::Sent => size(),
        TailEvent::Refused => format!("{}: {}", size(), event.error),
        TailEvent::CloseReceived | TailEvent::CloseSent => {
            format!("{} {}", event.close_code, event.close_reason)
        }
        TailEvent::Ended => {
            format!("{}: {} {}", event.cause, event.close_code, event.close_reason)
        }
        TailEvent::Unspecified
        | TailEvent::Began
        | TailEvent::PingReceived
        | TailEvent::PongReceived
        | TailEvent::PingSent => String::new(),
    };
    let payload = match payload_of(event) {
        Some(Ok(text)) => format!("    {}\n", print::plain(&text)),
        Some(Err(binary)) => {
            let hex: String = binary.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("    {hex}\n")
        }
        None => String::new(),
    };
    let lost = match event.lost {
        0 => String::new(),
        lost => format!("{lost} events were lost here: they came faster than they were read\n"),
    };
    let line = format!("{time}  {:14}  {}", name_of(event.event()), print::plain(&what));
    format!("{lost}{}\n{payload}", line.trim_end())
}

/// What was shown of a payload, if anything was. A text may have been cut within a letter.
fn payload_of(event: &TailResponse) -> Option<Result<String, &[u8]>> {
    let payload = Some(&*event.payload).filter(|payload| !payload.is_empty())?;
    match event.is_binary {
        true => Some(Err(payload)),
        false => Some(Ok(String::from_utf8_lossy(payload).into_owned())),
    }
}

fn name_of(event: TailEvent) -> &'static str {
    match event {
        TailEvent::Unspecified => "unknown",
        TailEvent::Began => "began",
        TailEvent::Received => "received",
        TailEvent::Handled => "handled",
        TailEvent::Sent => "sent",
        TailEvent::Refused => "refused",
        TailEvent::PingReceived => "ping_received",
        TailEvent::PongReceived => "pong_received",
        TailEvent::PingSent => "ping_sent",
        TailEvent::CloseReceived => "close_received",
        TailEvent::CloseSent => "close_sent",
        TailEvent::Ended => "ended",
    }
}
