//! Access logs: a line of the operator's making for each request, with API Gateway's `$context`
//! variables filled in (its page "Configure logging for WebSocket APIs").
//!
//! * A line stays a line, whatever clients and backends say: values are escaped as JSON has it.
//! * A variable without a value is `-`, as at API Gateway. Where that would be no JSON, it is `null`.

pub mod failure;
mod variable;

use std::fmt::Write as _;

use crate::access_log::failure::Failure;
use crate::access_log::variable::Variable;
use crate::event::connection_info::ConnectionInfo;
use crate::event::context::Request;
use crate::event::ids::MessageId;

/// As many as API Gateway takes.
pub const FORMAT_BYTES_MAX: usize = 3 * 1024;
/// Of a value; the rest is cut off.
const VALUE_BYTES_MAX: usize = 1024;

/// A line with variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    parts: Box<[Part]>,
}

/// What is to be logged.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// For [`EventType::ConnectionApi`] it is of the caller, but for the connection.
    pub info: &'a ConnectionInfo,
    pub request: Request,
    pub event_type: EventType,
    /// None if no route fits.
    pub route_key: Option<&'a str>,
    pub message_id: Option<MessageId>,
    /// What the client is told, or would be if a message had a status.
    pub status: u16,
    /// Why it was refused, or failed.
    pub failure: Option<Failure<'a>>,
    /// Why a message does not fit its model, or what a handshake lacks.
    pub misfit: Option<&'a str>,
    /// How long the authorizer took, if there is one.
    pub authorizer_latency_ms: Option<u64>,
    pub integration: Option<IntegrationCall<'a>>,
    /// How the connection ended: status code and reason.
    pub closed: Option<(u16, &'a str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    Connect,
    Message,
    Disconnect,
    /// A call of the `@connections` API.
    ConnectionApi,
}

/// What calling an integration came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntegrationCall<'a> {
    pub latency_ms: u64,
    /// What it answered.
    pub status: Option<u16>,
    /// Why it did not answer.
    pub error: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("a format has at most {FORMAT_BYTES_MAX} bytes")]
    TooLong,
    #[error("must contain $context.requestId or $context.extendedRequestId")]
    WithoutRequestId,
    #[error("`{0}` is no variable of an access log")]
    UnknownVariable(Box<str>),
    #[error("is one line, or JSON")]
    NotOneLine,
    #[error("begins as JSON and is none: {0}")]
    NotJson(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Variable(Variable, Place),
}

/// Where a variable stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In plain text.
    Text,
    /// Within a string of JSON.
    JsonText,
    /// Where JSON has a value.
    JsonValue,
}

enum Value<'a> {
    Text(&'a dyn std::fmt::Display),
    /// A text in quotation marks of its own.
    Quoted(&'a dyn std::fmt::Display),
    Number(u64),
}

impl Format {
    pub fn parse(text: &str) -> Result<Format, FormatError> {
        let text = text.trim();
        if text.len() > FORMAT_BYTES_MAX {
            return Err(FormatError::TooLong);
        }
        let is_json = text.starts_with('{');
        if !is_json && text.contains(char::is_control) {
            return Err(FormatError::NotOneLine);
        }
        let mut parts = Vec::new();
        let (mut rest, mut is_quoted) = (text, false);
        while let Some(start) = rest.find('$') {
            let literal = &rest[..start];
            is_quoted ^= is_json && quotes(literal) % 2 == 1;
            push_text(&mut parts, literal, is_json);
            let length = name_length(&rest[start + 1..]);
            let name = &rest[start..start + 1 + length];
            let variable = name.strip_prefix("$context.").and_then(Variable::parse);
            let variable = variable.ok_or_else(|| FormatError::UnknownVariable(name.into()))?;
            let place = match (is_json, is_quoted) {
                (false, _) => Place::Text,
                (true, true) => Place::JsonText,
                (true, false) => Place::JsonValue,
            };
            parts.push(Part::Variable(variable, place));
            rest = &rest[start + 1 + length..];
        }
        push_text(&mut parts, rest, is_json);
        let format = Format { parts: parts.into() };
        let is_request_id = |part: &Part| matches!(part, Part::Variable(Variable::RequestId, _));
        if !format.parts.iter().any(is_request_id) {
            return Err(FormatError::WithoutRequestId);
        }
        if is_json {
            let sample = format.fill(|_, write| write(Value::Text(&"x")));
            serde_json::from_str::<serde::de::IgnoredAny>(&sample)
                .map_err(|error| FormatError::NotJson(error.to_string().into()))?;
        }
        Ok(format)
    }

    /// The line, without its end.
    pub fn line(&self, entry: &Entry<'_>) -> String {
        self.fill(|variable, write| variable.resolve(entry, write))
    }

    /// `resolve` gives the value of a variable to the function that it gets, if there is one.
    fn fill(&self, resolve: impl Fn(&Variable, &mut dyn FnMut(Value<'_>))) -> String {
        let mut line = String::with_capacity(256);
        for part in &self.parts {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Variable(variable, place) => {
                    let before = line.len();
                    resolve(variable, &mut |value| write_value(&mut line, value, *place));
                    if line.len() == before {
                        line.push_str(match place {
                            Place::Text | Place::JsonText => "-",
                            Place::JsonValue => "null",
                        });
                    }
                }
            }
        }
        line
    }
}

fn write_value(line: &mut String, value: Value<'_>, place: Place) {
    match (value, place) {
        (Value::Number(number), _) => line.push_str(&number.to_string()),
        (Value::Text(text), Place::Text | Place::JsonText) => push_escaped(line, text),
        (Value::Quoted(text), Place::JsonText) => push_between(line, "\\\"", text),
        (Value::Quoted(text), Place::Text)
        | (Value::Text(text) | Value::Quoted(text), Place::JsonValue) => {
            push_between(line, "\"", text);
        }
    }
}

fn push_between(line: &mut String, quote: &str, text: &dyn std::fmt::Display) {
    line.push_str(quote);
    push_escaped(line, text);
    line.push_str(quote);
}

fn push_escaped(line: &mut String, text: &dyn std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = write!(Escaped { line, left: VALUE_BYTES_MAX }, "{text}");
}

/// Escapes what is written through it as within a string of JSON.
struct Escaped<'a> {
    line: &'a mut String,
    left: usize,
}

impl std::fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            let Some(left) = self.left.checked_sub(character.len_utf8()) else { return Ok(()) };
            self.left = left;
            match character {
                '"' => self.line.push_str("\\\""),
                '\\' => self.line.push_str("\\\\"),
                '\n' => self.line.push_str("\\n"),
                '\r' => self.line.push_str("\\r"),
                '\t' => self.line.push_str("\\t"),
                // Also those that end a line, or colour a terminal, without being ASCII.
                _ if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') => {
                    write!(self.line, "\\u{:04x}", u32::from(character))?;
                }
                _ => self.line.push(character),
            }
        }
        Ok(())
    }
}

/// Quotation marks that no backslash stands before.
fn quotes(json: &str) -> usize {
    let (mut count, mut is_escaped) = (0, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => count += 1,
            _ => (),
        }
    }
    count
}

/// JSON may be written over several lines, and is logged as one.
fn push_text(parts: &mut Vec<Part>, text: &str, is_json: bool) {
    if text.is_empty() {
        return;
    }
    let text = if is_json { text.replace(['\n', '\r'], " ") } else { text.to_owned() };
    parts.push(Part::Text(text.into()));
}

/// A full stop that ends a sentence is no part of a name.
fn name_length(text: &str) -> usize {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let length = text.bytes().take_while(|byte| is_letter(*byte)).count();
    text[..length].trim_end_matches(['.', '-']).len()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::access_log::failure::ResponseType;
    use crate::event::connection_info::Authorized;
    use crate::event::ids::RequestId;
    use crate::ids::ConnectionId;

    #[test]
    fn the_formats_that_api_gateways_console_proposes() {
        let info = info();
        let entry = message(&info);
        for (format, line) in [
            (
                r#"$context.identity.sourceIp - - [$context.requestTime] "$context.eventType $context.routeKey $context.connectionId" $context.status $context.requestId"#,
                r#"192.0.2.7 - - [29/Nov/2023:08:04:03 +0000] "MESSAGE say \"hi\"\n AAAAAAAAAAAAAAAAAAAAAA" 200 AAAAAAAAAAAAAAA="#,
            ),
            (
                r#"{"requestId":"$context.requestId","ip":"$context.identity.sourceIp","caller":"$context.identity.caller","status":"$context.status","principal":"$context.authorizer.principalId","plan":"$context.authorizer.plan","none":"$context.authorizer.none"}"#,
                r#"{"requestId":"AAAAAAAAAAAAAAA=","ip":"192.0.2.7","caller":"-","status":"200","principal":"ada","plan":"fr\\ee","none":"-"}"#,
            ),
            (
                "{\n  \"id\": \"$context.extendedRequestId\",\n  \"at\": $context.requestTimeEpoch, \"key\": $context.routeKey,\n  \"latency\": $context.integrationLatency, \"error\": $context.error.message\n}\n",
                r#"{   "id": "AAAAAAAAAAAAAAA=",   "at": 1701245043417, "key": "say \"hi\"\n",   "latency": 12, "error": null }"#,
            ),
        ] {
            let line_of = Format::parse(format).unwrap().line(&entry);
            assert_eq!(line_of, line);
        }
    }

    #[test]
    fn a_line_stays_a_line_whatever_is_said() {
        let info = ConnectionInfo {
            user_agent: Some("a\r\n{\"x\":1}\u{1b}[31m\u{2028}\0\u{85}\"\\".into()),
            ..info()
        };
        let entry = message(&info);
        for format in [
            "$context.requestId $context.identity.userAgent",
            r#"{"a":"$context.identity.userAgent","b":$context.identity.userAgent,"c":"$context.requestId"}"#,
        ] {
            let line = Format::parse(format).unwrap().line(&entry);
            assert!(!line.contains(char::is_control) && !line.contains('\u{2028}'), "{line}");
            if line.starts_with('{') {
                let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(value["a"], *info.user_agent.as_deref().unwrap());
                assert_eq!(value["a"], value["b"]);
            }
        }
        let long = ConnectionInfo { user_agent: Some("ü".repeat(5000).into()), ..info.clone() };
        let format = Format::parse("$context.requestId $context.identity.userAgent").unwrap();
        assert!(format.line(&message(&long)).len() <= 18 + VALUE_BYTES_MAX);
    }

    #[test]
    fn a_failure_is_told_by_its_message_and_its_kind() {
        let info = info();
        let response_type = Some(ResponseType::BadRequestBody);
        let failure = Some(Failure { message: "Bad request body", response_type });
        let failed = Entry { failure, misfit: Some("no \"a\""), ..message(&info) };
        for (format, failed_line, line) in [
            (
                "$context.requestId $context.error.messageString $context.error.responseType",
                r#"AAAAAAAAAAAAAAA= "Bad request body" BAD_REQUEST_BODY"#,
                "AAAAAAAAAAAAAAA= - -",
            ),
            (
                r#"{"$context.requestId":$context.error.messageString,"a":"$context.error.message"}"#,
                r#"{"AAAAAAAAAAAAAAA=":"Bad request body","a":"Bad request body"}"#,
                r#"{"AAAAAAAAAAAAAAA=":null,"a":"-"}"#,
            ),
            (
                r#"{"$context.requestId":"$context.error.messageString","a":$context.error.validationErrorString}"#,
                r#"{"AAAAAAAAAAAAAAA=":"\"Bad request body\"","a":"no \"a\""}"#,
                r#"{"AAAAAAAAAAAAAAA=":"-","a":null}"#,
            ),
        ] {
            let format = Format::parse(format).unwrap();
            assert_eq!(format.line(&failed), failed_line);
            assert_eq!(format.line(&message(&info)), line);
        }
    }

    #[test]
    fn what_cannot_be_a_format_is_refused() {
        let unknown = |name: &str| FormatError::UnknownVariable(name.into());
        for (format, error) in [
            ("", FormatError::WithoutRequestId),
            ("$context.status", FormatError::WithoutRequestId),
            ("$context.requestId $context.stauts", unknown("$context.stauts")),
            ("$context.requestId $input.body", unknown("$input.body")),
            ("$context.requestId $", unknown("$")),
            ("$context.requestId\n$context.status", FormatError::NotOneLine),
        ] {
            assert_eq!(Format::parse(format), Err(error), "{format}");
        }
        assert_eq!(Format::parse(&"x".repeat(4000)), Err(FormatError::TooLong));
        for format in [r#"{"a": $context.requestId"#, r#"{"a": "$context.requestId" "b": 1}"#] {
            assert!(matches!(Format::parse(format), Err(FormatError::NotJson(_))), "{format}");
        }
    }

    fn info() -> ConnectionInfo {
        ConnectionInfo {
            connection: ConnectionId::from_random([0; 16]),
            api_id: "chat".into(),
            stage: "dev".into(),
            domain_name: "localhost".into(),
            host: "localhost".into(),
            source_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
            user_agent: None,
            connected_at_ms: 1_701_245_041_796,
            api_key: None,
            authorized: Some(Authorized {
                principal_id: "ada".into(),
                context: vec![("plan".into(), "fr\\ee".into())],
            }),
            signer: None,
        }
    }

    fn message(info: &ConnectionInfo) -> Entry<'_> {
        Entry {
            info,
            request: Request { id: RequestId::from_random([0; 11]), at_ms: 1_701_245_043_417 },
            event_type: EventType::Message,
            route_key: Some("say \"hi\"\n"),
            message_id: None,
            status: 200,
            failure: None,
            misfit: None,
            authorizer_latency_ms: None,
            integration: Some(IntegrationCall { latency_ms: 12, status: Some(200), error: None }),
            closed: None,
        }
    }
}
