//! What a selection expression can ask for, and which of it in which place.
//!
//! Every place where API Gateway takes a selection expression has its own few variables. The
//! [`Purpose`] of an expression is therefore needed to parse it: what could never have a value there
//! is refused when a configuration is loaded, not found empty when a message arrives.

use crate::route::jsonpath::{JsonPath, PathError, PathFault};

/// Parsed from the text between `$` or `${` and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// `request.body` and a path.
    RequestBody(JsonPath),
    /// `request.header.NAME`
    RequestHeader(Box<str>),
    /// `request.basepath`
    BasePath,
    /// `context.authorizer.usageIdentifierKey`
    UsageIdentifierKey,
    /// `integration.response.statuscode`, or `response.statuscode`, which is what API Gateway writes
    /// where it chooses the expression itself.
    ResponseStatus,
    /// `integration.response.header.NAME`
    ResponseHeader(Box<str>),
    /// `integration.response.multivalueheader.NAME`
    ResponseHeaderValues(Box<str>),
    /// `integration.response.body` and a path.
    ResponseBody(JsonPath),
}

/// What an expression is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Which route a message takes.
    Route,
    /// Which template makes an integration's request.
    RequestTemplate,
    /// Which model a message must fit.
    Model,
    /// Where a client's API key is.
    ApiKey,
    /// Which API a path of a domain belongs to.
    ApiMapping,
    /// Which of its responses an integration's answer is.
    IntegrationResponse,
    /// Which template makes the client's message of an integration's answer.
    ResponseTemplate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VariableFault {
    /// The name is none that we know, or has none where it needs one.
    Unknown,
    /// The variable exists, but not for this purpose.
    Misplaced,
    Path(PathError),
}

impl Purpose {
    /// What may be asked for, for a reader.
    pub fn variables(self) -> &'static str {
        match self {
            Purpose::Route | Purpose::RequestTemplate | Purpose::Model => "request.body.PATH",
            Purpose::ApiKey => "request.header.NAME and context.authorizer.usageIdentifierKey",
            Purpose::ApiMapping => "request.basepath",
            Purpose::IntegrationResponse => {
                "integration.response.statuscode, .header.NAME, .multivalueheader.NAME and .body.PATH"
            }
            Purpose::ResponseTemplate => {
                "request.body.PATH and integration.response.statuscode, .header.NAME and \
                 .multivalueheader.NAME"
            }
        }
    }

    fn allows(self, variable: &Variable) -> bool {
        match variable {
            Variable::RequestBody(_) => match self {
                Purpose::Route
                | Purpose::RequestTemplate
                | Purpose::Model
                | Purpose::ResponseTemplate => true,
                Purpose::ApiKey | Purpose::ApiMapping | Purpose::IntegrationResponse => false,
            },
            Variable::RequestHeader(_) | Variable::UsageIdentifierKey => self == Purpose::ApiKey,
            Variable::BasePath => self == Purpose::ApiMapping,
            Variable::ResponseStatus
            | Variable::ResponseHeader(_)
            | Variable::ResponseHeaderValues(_) => {
                matches!(self, Purpose::IntegrationResponse | Purpose::ResponseTemplate)
            }
            Variable::ResponseBody(_) => self == Purpose::IntegrationResponse,
        }
    }
}

impl Variable {
    pub(super) fn parse(text: &str, purpose: Purpose) -> Result<Variable, VariableFault> {
        let variable = Variable::parse_any(text)?;
        if purpose.allows(&variable) { Ok(variable) } else { Err(VariableFault::Misplaced) }
    }

    fn parse_any(text: &str) -> Result<Variable, VariableFault> {
        if let Some(path) = path_behind(text, "request.body") {
            return path.map(Variable::RequestBody);
        }
        if let Some(path) = path_behind(text, "integration.response.body") {
            return path.map(Variable::ResponseBody);
        }
        if let Some(name) = text.strip_prefix("request.header.") {
            return header_name(name).map(Variable::RequestHeader);
        }
        if let Some(name) = text.strip_prefix("integration.response.header.") {
            return header_name(name).map(Variable::ResponseHeader);
        }
        if let Some(name) = text.strip_prefix("integration.response.multivalueheader.") {
            return header_name(name).map(Variable::ResponseHeaderValues);
        }
        match text {
            "request.basepath" => Ok(Variable::BasePath),
            "context.authorizer.usageIdentifierKey" => Ok(Variable::UsageIdentifierKey),
            "integration.response.statuscode" | "response.statuscode" => {
                Ok(Variable::ResponseStatus)
            }
            _ => Err(VariableFault::Unknown),
        }
    }
}

/// None if the variable is another one.
fn path_behind(text: &str, prefix: &str) -> Option<Result<JsonPath, VariableFault>> {
    let path = text.strip_prefix(prefix)?;
    let parsed = JsonPath::parse(path).map_err(|PathError { at, why }| match why {
        // Something like `request.bodyguard`.
        PathFault::NotAStep if at == 0 => VariableFault::Unknown,
        why => VariableFault::Path(PathError { at: prefix.len() + at, why }),
    });
    Some(parsed)
}

/// A token (RFC 9110 section 5.6.2).
fn header_name(name: &str) -> Result<Box<str>, VariableFault> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(VariableFault::Unknown);
    }
    Ok(name.into())
}
