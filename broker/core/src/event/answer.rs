//! What a Lambda proxy integration answers.
//!
//! Read leniently where nothing is lost by it: unknown members are ignored, `null` is as good as
//! absent, a number or truth value may stand for a header. A status code that is no integer from 100
//! to 599 is refused, and so is a body that is not text: with them it is not known what was meant.
//!
//! How large an answer may be is for the caller to limit.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::message::Message;
use crate::route::json::{self, Kind, Value};
use crate::route::stringify::stringify;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Those of `multiValueHeaders`, then those of `headers` that are not among them already.
    pub headers: Vec<(String, String)>,
    /// Binary if it came as base64.
    pub body: Option<Message>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("the answer is not a JSON object")]
    NotAnObject,
    #[error("the answer has no integer `statusCode` from 100 to 599")]
    StatusCode,
    #[error("`headers` are not texts by name")]
    Headers,
    #[error("`multiValueHeaders` are not lists of texts by name")]
    MultiValueHeaders,
    #[error("`body` is not text")]
    Body,
    #[error("`isBase64Encoded` is neither true nor false")]
    IsBase64Encoded,
    #[error("`body` is not base64, although `isBase64Encoded`")]
    NotBase64,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Result<Answer, AnswerError> {
        let text = str::from_utf8(bytes).map_err(|_| AnswerError::NotAnObject)?;
        let answer = json::parse(text).map_err(|_| AnswerError::NotAnObject)?;
        if answer.kind() != Kind::Object {
            return Err(AnswerError::NotAnObject);
        }
        let Members { status_code, headers, multi_value_headers, body, is_base64_encoded } =
            Members::of(answer);
        Ok(Answer {
            status: parse_status(status_code)?,
            headers: parse_headers(headers, multi_value_headers)?,
            body: parse_body(body, is_base64_encoded)?,
        })
    }
}

#[derive(Default)]
struct Members<'a> {
    status_code: Option<Value<'a>>,
    headers: Option<Value<'a>>,
    multi_value_headers: Option<Value<'a>>,
    body: Option<Value<'a>>,
    is_base64_encoded: Option<Value<'a>>,
}

impl<'a> Members<'a> {
    fn of(answer: Value<'a>) -> Members<'a> {
        let mut members = Members::default();
        for (name, value) in answer.members() {
            let value = Some(value).filter(|value| value.kind() != Kind::Null);
            match &*name.decode() {
                "statusCode" => members.status_code = value,
                "headers" => members.headers = value,
                "multiValueHeaders" => members.multi_value_headers = value,
                "body" => members.body = value,
                "isBase64Encoded" => members.is_base64_encoded = value,
                _ => (),
            }
        }
        members
    }
}

fn parse_status(value: Option<Value<'_>>) -> Result<u16, AnswerError> {
    let number = value.filter(|value| value.kind() == Kind::Number);
    let status = number.and_then(|number| number.raw().parse().ok());
    status.filter(|status| (100..600).contains(status)).ok_or(AnswerError::StatusCode)
}

fn parse_headers(
    single: Option<Value<'_>>,
    multiple: Option<Value<'_>>,
) -> Result<Vec<(String, String)>, AnswerError> {
    let mut headers = Vec::new();
    if let Some(multiple) = multiple {
        expect(multiple, Kind::Object).ok_or(AnswerError::MultiValueHeaders)?;
        for (name, values) in multiple.members() {
            expect(values, Kind::Array).ok_or(AnswerError::MultiValueHeaders)?;
            for value in values.elements() {
                let value = scalar(value).ok_or(AnswerError::MultiValueHeaders)?;
                headers.push((name.decode().into_owned(), value));
            }
        }
    }
    let multiple = headers.len();
    if let Some(single) = single {
        expect(single, Kind::Object).ok_or(AnswerError::Headers)?;
        for (name, value) in single.members() {
            let name = name.decode().into_owned();
            let value = scalar(value).ok_or(AnswerError::Headers)?;
            let is_same = |(other, other_value): &(String, String)| {
                other.eq_ignore_ascii_case(&name) && *other_value == value
            };
            if !headers[..multiple].iter().any(is_same) {
                headers.push((name, value));
            }
        }
    }
    Ok(headers)
}

fn parse_body(
    body: Option<Value<'_>>,
    is_base64_encoded: Option<Value<'_>>,
) -> Result<Option<Message>, AnswerError> {
    let is_base64_encoded = match is_base64_encoded.map(Value::raw) {
        Some("true") => true,
        Some("false") | None => false,
        Some(_) => return Err(AnswerError::IsBase64Encoded),
    };
    let Some(body) = body else { return Ok(None) };
    let text = body.as_string().ok_or(AnswerError::Body)?;
    if !is_base64_encoded {
        return Ok(Some(Message::text(text)));
    }
    let bytes = STANDARD.decode(&*text).map_err(|_| AnswerError::NotBase64)?;
    Ok(Some(Message::binary(bytes)))
}

fn expect(value: Value<'_>, kind: Kind) -> Option<()> {
    (value.kind() == kind).then_some(())
}

fn scalar(value: Value<'_>) -> Option<String> {
    match value.kind() {
        Kind::String | Kind::Number | Kind::Boolean => Some(stringify(value).into_owned()),
        Kind::Null | Kind::Array | Kind::Object => None,
    }
}
