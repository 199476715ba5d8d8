//! From JSON to a policy.

use crate::auth::pattern::{Pattern, UnknownVariable};
use crate::auth::policy::condition::{self, ConditionError};
use crate::auth::policy::{Choice, Effect, Policy, RESOURCE_CHARS_MAX, Statement};
use crate::route::json::{Kind, Value};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("`{0}` is not an object")]
    NotAnObject(&'static str),
    #[error("there is no `{0}`")]
    Absent(&'static str),
    #[error("the element `{0}` is not supported")]
    Unknown(Box<str>),
    #[error("the element `{0}` is there twice")]
    Repeated(Box<str>),
    #[error("`{0}` and `Not{0}` exclude each other")]
    Both(&'static str),
    #[error("`{0}` is neither a text nor a list of texts")]
    Texts(&'static str),
    #[error("`Version` is neither `2012-10-17` nor `2008-10-17`")]
    Version,
    #[error("`Effect` is neither `Allow` nor `Deny`")]
    Effect,
    #[error("a resource has at most {RESOURCE_CHARS_MAX} characters")]
    ResourceTooLong,
    #[error("{0}")]
    Variable(#[from] UnknownVariable),
    #[error("{0}")]
    Condition(#[from] ConditionError),
}

/// The version of the language, which says whether `${` begins a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Of2008,
    Of2012,
}

impl Version {
    pub(super) fn pattern(self, text: &str) -> Result<Pattern, UnknownVariable> {
        match self {
            Version::Of2008 => Ok(Pattern::new(text)),
            Version::Of2012 => Pattern::with_variables(text),
        }
    }
}

pub(super) fn policy(document: Value<'_>) -> Result<Policy, PolicyError> {
    let names = ["Version", "Id", "Statement"];
    let [version, _, statement] = members(document, "policyDocument", names)?;
    let version = match version.map(|version| version.as_string().unwrap_or_default()) {
        None => Version::Of2008,
        Some(text) if text == "2008-10-17" => Version::Of2008,
        Some(text) if text == "2012-10-17" => Version::Of2012,
        Some(_) => return Err(PolicyError::Version),
    };
    let statement = statement.ok_or(PolicyError::Absent("Statement"))?;
    let statements: Result<_, _> = match statement.kind() {
        Kind::Array => statement.elements().map(|one| read_statement(one, version)).collect(),
        Kind::Null | Kind::Boolean | Kind::Number | Kind::String | Kind::Object => {
            read_statement(statement, version).map(|statement| vec![statement])
        }
    };
    Ok(Policy { statements: statements? })
}

fn read_statement(statement: Value<'_>, version: Version) -> Result<Statement, PolicyError> {
    let names = ["Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"];
    let [_, effect, action, not_action, resource, not_resource, condition] =
        members(statement, "Statement", names)?;
    let effect = effect.ok_or(PolicyError::Absent("Effect"))?;
    let effect = match effect.as_string().as_deref() {
        Some("Allow") => Effect::Allow,
        Some("Deny") => Effect::Deny,
        Some(_) | None => return Err(PolicyError::Effect),
    };
    let lowercase = |text: &str| Ok(version.pattern(text)?.to_lowercase());
    let bounded = |text: &str| {
        if text.chars().count() > RESOURCE_CHARS_MAX {
            return Err(PolicyError::ResourceTooLong);
        }
        Ok(version.pattern(text)?)
    };
    let conditions = match condition {
        Some(condition) => condition::read(condition, version)?,
        None => Vec::new(),
    };
    Ok(Statement {
        effect,
        actions: choice("Action", action, not_action, lowercase)?,
        resources: choice("Resource", resource, not_resource, bounded)?,
        conditions,
    })
}

fn choice(
    name: &'static str,
    positive: Option<Value<'_>>,
    negative: Option<Value<'_>>,
    pattern: impl Fn(&str) -> Result<Pattern, PolicyError>,
) -> Result<Choice, PolicyError> {
    let patterns = |value| -> Result<Vec<Pattern>, PolicyError> {
        let texts = texts(value).ok_or(PolicyError::Texts(name))?;
        texts.iter().map(|text| pattern(text)).collect()
    };
    match (positive, negative) {
        (Some(_), Some(_)) => Err(PolicyError::Both(name)),
        (Some(value), None) => Ok(Choice::AnyOf(patterns(value)?)),
        (None, Some(value)) => Ok(Choice::NoneOf(patterns(value)?)),
        (None, None) => Err(PolicyError::Absent(name)),
    }
}

/// One text, or a list of one and more.
fn texts(value: Value<'_>) -> Option<Vec<String>> {
    let text = |value: Value<'_>| value.as_string().map(|text| text.into_owned());
    let texts: Vec<_> = match value.kind() {
        Kind::Array => value.elements().map(text).collect::<Option<_>>()?,
        Kind::Null | Kind::Boolean | Kind::Number | Kind::String | Kind::Object => {
            vec![text(value)?]
        }
    };
    (!texts.is_empty()).then_some(texts)
}

/// The members with these names. Others are refused, and so is a name that comes twice: it is not
/// known which of the two was meant.
fn members<'a, const COUNT: usize>(
    object: Value<'a>,
    what: &'static str,
    names: [&str; COUNT],
) -> Result<[Option<Value<'a>>; COUNT], PolicyError> {
    if object.kind() != Kind::Object {
        return Err(PolicyError::NotAnObject(what));
    }
    let mut found = [None; COUNT];
    for (name, value) in object.members() {
        let name = name.decode();
        let place = names.iter().position(|known| *known == name);
        let place = place.ok_or_else(|| PolicyError::Unknown((&*name).into()))?;
        if found[place].replace(value).is_some() {
            return Err(PolicyError::Repeated((&*name).into()));
        }
    }
    Ok(found)
}
