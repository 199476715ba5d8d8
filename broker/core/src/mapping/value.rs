//! The right side of a parameter's mapping: where its value comes from.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::mapping::parameters::ParameterFault;
use crate::mapping::responses::Answer;
use crate::route::json::{self, Key, Kind};
use crate::route::jsonpath::{JsonPath, PathError};
use crate::route::stringify::stringify;
use crate::template::Source;

/// API Gateway's quota.
const TEXT_CHARACTERS_MAX: usize = 512;

/// What a request is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestValue {
    Common(CommonValue),
    /// `route.request.header.NAME`
    Header(Box<str>, Count),
    /// `route.request.querystring.NAME`
    Query(Box<str>, Count),
    /// `route.request.body` and perhaps a path.
    Body(Option<JsonPath>),
}

/// What a response is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ResponseValue {
    Common(CommonValue),
    /// `integration.response.header.NAME`
    Header(Box<str>, Count),
    /// `integration.response.body` and perhaps a path.
    Body(Option<JsonPath>),
    /// `integration.response.statuscode`
    Status,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CommonValue {
    /// `'text'`
    Static(Box<str>),
    /// `context.NAME.NAME`
    Context(Box<[Key]>),
    /// `stageVariables.NAME`
    StageVariable(Box<str>),
}

/// Of several values with one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Last,
    All,
}

/// None, one or, of headers and query strings, several.
pub(super) type Values<'a> = Vec<Cow<'a, str>>;

impl RequestValue {
    pub fn parse(text: &str) -> Result<RequestValue, ParameterFault> {
        if let Some(common) = CommonValue::parse(text)? {
            return Ok(RequestValue::Common(common));
        }
        let Some(rest) = text.strip_prefix("route.request.") else {
            return Err(ParameterFault::UnknownValue);
        };
        if let Some(path) = rest.strip_prefix("body") {
            return body_path(path).map(RequestValue::Body);
        }
        let (kind, name) = rest.split_once('.').ok_or(ParameterFault::UnknownValue)?;
        let name = parse_name(name)?;
        match kind {
            "header" => Ok(RequestValue::Header(name, Count::Last)),
            "multivalueheader" => Ok(RequestValue::Header(name, Count::All)),
            "querystring" => Ok(RequestValue::Query(name, Count::Last)),
            "multivaluequerystring" => Ok(RequestValue::Query(name, Count::All)),
            _ => Err(ParameterFault::UnknownValue),
        }
    }

    pub fn of<'a>(&'a self, source: &Source<'a>) -> Values<'a> {
        let Source { body, headers, query, context, stage_variables } = *source;
        match self {
            RequestValue::Common(value) => value.of(context, stage_variables),
            RequestValue::Header(name, count) => count.of(headers.all_ignoring_case(name)),
            RequestValue::Query(name, count) => count.of(query.all(name)),
            RequestValue::Body(path) => of_body(body, path.as_ref()),
        }
    }
}

impl ResponseValue {
    pub fn parse(text: &str) -> Result<ResponseValue, ParameterFault> {
        if let Some(common) = CommonValue::parse(text)? {
            return Ok(ResponseValue::Common(common));
        }
        let Some(rest) = text.strip_prefix("integration.response.") else {
            return Err(ParameterFault::UnknownValue);
        };
        if rest == "statuscode" {
            return Ok(ResponseValue::Status);
        }
        if let Some(path) = rest.strip_prefix("body") {
            return body_path(path).map(ResponseValue::Body);
        }
        let (kind, name) = rest.split_once('.').ok_or(ParameterFault::UnknownValue)?;
        let name = parse_name(name)?;
        match kind {
            "header" => Ok(ResponseValue::Header(name, Count::Last)),
            "multivalueheader" => Ok(ResponseValue::Header(name, Count::All)),
            _ => Err(ParameterFault::UnknownValue),
        }
    }

    pub fn of<'a>(
        &'a self,
        answer: &Answer<'a>,
        context: &'a str,
        stage_variables: &'a BTreeMap<String, String>,
    ) -> Values<'a> {
        match self {
            ResponseValue::Common(value) => value.of(context, stage_variables),
            ResponseValue::Header(name, count) => count.of(answer.headers.all_ignoring_case(name)),
            ResponseValue::Body(path) => of_body(answer.body, path.as_ref()),
            ResponseValue::Status => vec![answer.status.to_string().into()],
        }
    }
}

impl CommonValue {
    /// None if it is of another kind.
    fn parse(text: &str) -> Result<Option<CommonValue>, ParameterFault> {
        if text.chars().count() > TEXT_CHARACTERS_MAX {
            return Err(ParameterFault::ValueTooLong { characters_max: TEXT_CHARACTERS_MAX });
        }
        if let Some(rest) = text.strip_prefix('\'') {
            let text = rest.strip_suffix('\'').ok_or(ParameterFault::Unquoted)?;
            return Ok(Some(CommonValue::Static(text.into())));
        }
        if let Some(path) = text.strip_prefix("context.") {
            let keys = path.split('.').map(|name| parse_name(name).map(Key::Name));
            return keys.collect::<Result<_, _>>().map(|keys| Some(CommonValue::Context(keys)));
        }
        let name = text.strip_prefix("stageVariables.");
        name.map(|name| parse_name(name).map(CommonValue::StageVariable)).transpose()
    }

    fn of<'a>(
        &'a self,
        context: &'a str,
        stage_variables: &'a BTreeMap<String, String>,
    ) -> Values<'a> {
        let value = match self {
            CommonValue::Static(text) => Some(Cow::Borrowed(&**text)),
            CommonValue::Context(keys) => {
                let found = json::find(context, keys).ok().flatten();
                found.filter(|value| value.kind() != Kind::Null).map(stringify)
            }
            CommonValue::StageVariable(name) => {
                stage_variables.get(&**name).map(|value| value.as_str().into())
            }
        };
        Vec::from_iter(value)
    }
}

impl Count {
    fn of<'a>(self, values: &'a [Cow<'a, str>]) -> Values<'a> {
        let borrow = |value: &'a Cow<'a, str>| Cow::Borrowed(&**value);
        match self {
            Count::Last => values.last().map(borrow).into_iter().collect(),
            Count::All => values.iter().map(borrow).collect(),
        }
    }
}

/// What API Gateway lets a parameter be called.
pub(super) fn parse_name(name: &str) -> Result<Box<str>, ParameterFault> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._$-".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_valid) {
        return Err(ParameterFault::Name { name: name.into() });
    }
    Ok(name.into())
}

fn body_path(path: &str) -> Result<Option<JsonPath>, ParameterFault> {
    match path {
        "" => Ok(None),
        path if !path.starts_with(['.', '[']) => Err(ParameterFault::UnknownValue),
        path => {
            let parsed = JsonPath::parse(path);
            let path = parsed.map_err(|PathError { at, why }| ParameterFault::Path { at, why })?;
            Ok(Some(path))
        }
    }
}

fn of_body<'a>(body: &'a str, path: Option<&JsonPath>) -> Values<'a> {
    let Some(path) = path else { return vec![body.into()] };
    let selection = path.select(body).ok();
    Vec::from_iter(selection.and_then(|selection| selection.text()))
}
