//! Conditions of policies.
//!
//! | operators | keys |
//! |---|---|
//! | `StringEquals`, `StringEqualsIgnoreCase`, `StringLike`, and their `Not` | `aws:UserAgent`, `aws:Referer` |
//! | `IpAddress`, `NotIpAddress` | `aws:SourceIp` |
//! | `Bool` | `aws:SecureTransport` |
//! | `Numeric…` | `aws:EpochTime` |
//! | `Date…` | `aws:CurrentTime`, `aws:EpochTime` |
//! | `Null` | all |
//!
//! All others are refused. A key without a value fails its condition, unless the operator is
//! negated.

use std::net::IpAddr;

use crate::auth::pattern::{Pattern, UnknownVariable};
use crate::auth::policy::read::Version;
use crate::auth::time::parse_extended;
use crate::proxies::IpBlock;
use crate::route::json::{Kind, Value};

/// What conditions ask about.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    pub source_ip: IpAddr,
    /// Whether the client came over TLS.
    pub is_secure: bool,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    pub user_agent: Option<&'a str>,
    pub referer: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    key: Key,
    is_negated: bool,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    #[error("`Condition` is not an object of objects")]
    NotAnObject,
    #[error("the condition operator `{0}` is not supported")]
    Operator(Box<str>),
    #[error("the condition key `{0}` is not supported")]
    Key(Box<str>),
    #[error("the condition operator `{operator}` cannot be used with `{key}`")]
    Mismatch { operator: Box<str>, key: Box<str> },
    #[error("a value for the condition operator `{0}` is none")]
    Value(Box<str>),
    #[error("{0}")]
    Variable(#[from] UnknownVariable),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    SourceIp,
    SecureTransport,
    CurrentTime,
    EpochTime,
    UserAgent,
    Referer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Text(Comparison),
    Address,
    Bool,
    Number(Order),
    Date(Order),
    Null,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equals,
    EqualsIgnoringCase,
    Like,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Holds if it holds for any of the values.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Equals(Vec<String>),
    EqualsIgnoringCase(Vec<String>),
    Like(Vec<Pattern>),
    Within(Vec<IpBlock>),
    Is(Vec<bool>),
    Seconds(Order, Vec<u64>),
    Milliseconds(Order, Vec<u64>),
    IsAbsent(Vec<bool>),
}

pub(super) fn read(
    conditions: Value<'_>,
    version: Version,
) -> Result<Vec<Condition>, ConditionError> {
    let mut read = Vec::new();
    for (operator, keys) in members(conditions)? {
        for (key, values) in members(keys)? {
            read.push(read_one(&operator, &key, values, version)?);
        }
    }
    Ok(read)
}

fn members(value: Value<'_>) -> Result<Vec<(String, Value<'_>)>, ConditionError> {
    if value.kind() != Kind::Object {
        return Err(ConditionError::NotAnObject);
    }
    Ok(value.members().map(|(name, value)| (name.decode().into_owned(), value)).collect())
}

fn read_one(
    operator_name: &str,
    key_name: &str,
    values: Value<'_>,
    version: Version,
) -> Result<Condition, ConditionError> {
    let (operator, is_negated) = operator_named(operator_name)
        .ok_or_else(|| ConditionError::Operator(operator_name.into()))?;
    let key = Key::named(key_name).ok_or_else(|| ConditionError::Key(key_name.into()))?;
    if !key.can(operator) {
        let (operator, key) = (operator_name.into(), key_name.into());
        return Err(ConditionError::Mismatch { operator, key });
    }
    let bad = || ConditionError::Value(operator_name.into());
    let texts = scalars(values).ok_or_else(bad)?;
    let test = match operator {
        Operator::Text(Comparison::Like) => {
            let patterns = texts.iter().map(|text| version.pattern(text));
            Test::Like(patterns.collect::<Result<_, _>>()?)
        }
        Operator::Text(comparison) => {
            // Only so that a variable is refused rather than compared as it is written.
            texts.iter().try_for_each(|text| version.pattern(text).map(|_| ()))?;
            match comparison {
                Comparison::EqualsIgnoringCase => Test::EqualsIgnoringCase(texts),
                Comparison::Equals | Comparison::Like => Test::Equals(texts),
            }
        }
        Operator::Address => Test::Within(all(&texts, |text| text.parse().ok()).ok_or_else(bad)?),
        Operator::Bool => Test::Is(all(&texts, boolean).ok_or_else(bad)?),
        Operator::Null => Test::IsAbsent(all(&texts, boolean).ok_or_else(bad)?),
        Operator::Number(order) => Test::Seconds(order, all(&texts, number).ok_or_else(bad)?),
        Operator::Date(order) => Test::Milliseconds(order, all(&texts, date).ok_or_else(bad)?),
    };
    Ok(Condition { key, is_negated, test })
}

fn operator_named(name: &str) -> Option<(Operator, bool)> {
    let order = |text: &str| {
        Some(match text {
            "Equals" => (Order::Equal, false),
            "NotEquals" => (Order::Equal, true),
            "LessThan" => (Order::Less, false),
            "LessThanEquals" => (Order::LessOrEqual, false),
            "GreaterThan" => (Order::Greater, false),
            "GreaterThanEquals" => (Order::GreaterOrEqual, false),
            _ => return None,
        })
    };
    if let Some(rest) = name.strip_prefix("Numeric") {
        return order(rest).map(|(order, is_negated)| (Operator::Number(order), is_negated));
    }
    if let Some(rest) = name.strip_prefix("Date") {
        return order(rest).map(|(order, is_negated)| (Operator::Date(order), is_negated));
    }
    Some(match name {
        "StringEquals" => (Operator::Text(Comparison::Equals), false),
        "StringNotEquals" => (Operator::Text(Comparison::Equals), true),
        "StringEqualsIgnoreCase" => (Operator::Text(Comparison::EqualsIgnoringCase), false),
        "StringNotEqualsIgnoreCase" => (Operator::Text(Comparison::EqualsIgnoringCase), true),
        "StringLike" => (Operator::Text(Comparison::Like), false),
        "StringNotLike" => (Operator::Text(Comparison::Like), true),
        "IpAddress" => (Operator::Address, false),
        "NotIpAddress" => (Operator::Address, true),
        "Bool" => (Operator::Bool, false),
        "Null" => (Operator::Null, false),
        _ => return None,
    })
}

impl Key {
    /// Names are the same in any case.
    fn named(name: &str) -> Option<Key> {
        Some(match &*name.to_ascii_lowercase() {
            "aws:sourceip" => Key::SourceIp,
            "aws:securetransport" => Key::SecureTransport,
            "aws:currenttime" => Key::CurrentTime,
            "aws:epochtime" => Key::EpochTime,
            "aws:useragent" => Key::UserAgent,
            "aws:referer" => Key::Referer,
            _ => return None,
        })
    }

    fn can(self, operator: Operator) -> bool {
        match operator {
            Operator::Text(_) => matches!(self, Key::UserAgent | Key::Referer),
            Operator::Address => self == Key::SourceIp,
            Operator::Bool => self == Key::SecureTransport,
            Operator::Number(_) => self == Key::EpochTime,
            Operator::Date(_) => matches!(self, Key::CurrentTime | Key::EpochTime),
            Operator::Null => true,
        }
    }

    fn text<'a>(self, circumstances: &Circumstances<'a>) -> Option<&'a str> {
        match self {
            Key::UserAgent => circumstances.user_agent,
            Key::Referer => circumstances.referer,
            Key::SourceIp | Key::SecureTransport | Key::CurrentTime | Key::EpochTime => None,
        }
    }

    fn is_absent(self, circumstances: &Circumstances<'_>) -> bool {
        match self {
            Key::UserAgent | Key::Referer => self.text(circumstances).is_none(),
            Key::SourceIp | Key::SecureTransport | Key::CurrentTime | Key::EpochTime => false,
        }
    }
}

impl Condition {
    pub(super) fn holds(&self, circumstances: &Circumstances<'_>) -> bool {
        let text = self.key.text(circumstances);
        let Circumstances { source_ip, is_secure, now_ms, .. } = *circumstances;
        let is_any = match &self.test {
            Test::Equals(values) => text.is_some_and(|text| values.iter().any(|one| one == text)),
            Test::EqualsIgnoringCase(values) => text.is_some_and(|text| {
                let text = text.to_lowercase();
                values.iter().any(|one| one.to_lowercase() == text)
            }),
            Test::Like(patterns) => {
                text.is_some_and(|text| patterns.iter().any(|pattern| pattern.matches(text)))
            }
            Test::Within(blocks) => blocks.iter().any(|block| block.contains(source_ip)),
            Test::Is(values) => values.contains(&is_secure),
            Test::Seconds(order, values) => {
                values.iter().any(|value| order.is_met(now_ms / 1000, *value))
            }
            Test::Milliseconds(order, values) => {
                // The clock that conditions know has no fractions.
                let now_ms = now_ms - now_ms % 1000;
                values.iter().any(|value| order.is_met(now_ms, *value))
            }
            Test::IsAbsent(values) => values.contains(&self.key.is_absent(circumstances)),
        };
        is_any != self.is_negated
    }
}

impl Order {
    fn is_met(self, found: u64, wanted: u64) -> bool {
        match self {
            Order::Equal => found == wanted,
            Order::Less => found < wanted,
            Order::LessOrEqual => found <= wanted,
            Order::Greater => found > wanted,
            Order::GreaterOrEqual => found >= wanted,
        }
    }
}

/// One text, number or truth value, or a list of one and more.
fn scalars(value: Value<'_>) -> Option<Vec<String>> {
    let scalar = |value: Value<'_>| match value.kind() {
        Kind::String => value.as_string().map(|text| text.into_owned()),
        Kind::Number | Kind::Boolean => Some(value.raw().to_owned()),
        Kind::Null | Kind::Array | Kind::Object => None,
    };
    let scalars: Vec<_> = if value.kind() == Kind::Array {
        value.elements().map(scalar).collect::<Option<_>>()?
    } else {
        vec![scalar(value)?]
    };
    (!scalars.is_empty()).then_some(scalars)
}

fn all<T>(texts: &[String], parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    texts.iter().map(|text| parse(text)).collect()
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Seconds since 1970, or ISO 8601.
fn date(text: &str) -> Option<u64> {
    match number(text) {
        Some(seconds) => seconds.checked_mul(1000),
        None => parse_extended(text),
    }
}
