//! Mapping templates: what makes an integration's request of a message, and a message of its answer.
//!
//! The language is Velocity's (VTL, that of version 1.7, which API Gateway uses), and the variables
//! `$input`, `$context`, `$stageVariables` and `$util` are API Gateway's.
//!
//! ```text
//! text ──parse──▶ Template ──render(Source, Dialect, Limits)──▶ text
//! ```
//!
//! Invariants:
//!
//! * No template, whatever it says, panics, runs without end or takes memory without end: see
//!   [`Limits`].
//! * Rendering changes nothing and knows nothing but its arguments.
//!
//! Left out: `#parse`, `#include`, `#evaluate` and macros, which API Gateway leaves as they stand in
//! the text as well; and lookaround and backreferences in regular expressions, which could take
//! exponential time.

mod evaluate;
mod heap;
mod json;
mod lists;
mod maps;
mod numbers;
mod ordered_map;
mod parse;
mod parse_expression;
pub(crate) mod pattern;
mod print;
mod texts;
mod tree;
mod utilities;
mod variables;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::event::fields::Fields;
use crate::route::jsonpath::PathFault;
pub use crate::template::tree::Position;

/// API Gateway's quota.
pub const TEMPLATE_BYTES_MAX: usize = 300 * 1024;

#[derive(Debug)]
pub struct Template {
    nodes: tree::Block,
}

/// What the variables of a template stand for.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Of the message, or of the integration's answer: `$input.body`, `.json(…)` and `.path(…)`.
    pub body: &'a str,
    /// `$input.params()`; none except on `$connect`.
    pub headers: &'a Fields<'a>,
    /// The same.
    pub query: &'a Fields<'a>,
    /// A JSON object: `$context`.
    pub context: &'a str,
    pub stage_variables: &'a BTreeMap<String, String>,
}

/// What counts as true, and what an undefined reference prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// As recorded from API Gateway: what is undefined, or null, is much like an empty text. So it
    /// prints nothing, equals `""`, and is true, as all is but `false`.
    #[default]
    ApiGateway,
    /// As Velocity documents it: an undefined reference prints as it is written unless it is silent
    /// (`$!`). What is undefined, null, empty or zero is false.
    Velocity,
}

/// Where rendering ends with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of what comes out, and of every text on the way.
    pub output_bytes_max: usize,
    /// Of one `#foreach`.
    pub iterations_max: u32,
    /// One unit is a step taken or about a byte of memory. So this bounds time and memory.
    pub work_max: u64,
}

/// A text that is no template, and where it ceases to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {why}", .at.line, .at.column)]
pub struct ParseError {
    pub at: Position,
    pub why: ParseFault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseFault {
    #[error("a template has at most {TEMPLATE_BYTES_MAX} bytes")]
    TooLong,
    #[error("nested too deeply")]
    TooDeep,
    #[error("here stands what has no beginning: #end, #else or #elseif")]
    Stray,
    #[error("`{0}` is missing to what begins here")]
    Unclosed(&'static str),
    #[error("a quote without its other")]
    Unquoted,
    #[error("`{0}` is expected here")]
    Expected(&'static str),
    #[error("a value is expected here: a reference, a text in quotes, a number, a list or a map")]
    NotAnExpression,
    #[error("a name without properties is expected here, as in `$item`")]
    NotAName,
    #[error("a number that is too large")]
    Number,
}

/// A template had no result, and where it was then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {why}", .at.line, .at.column)]
pub struct RenderError {
    pub at: Position,
    pub why: RenderFault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderFault {
    #[error("a text is longer than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    #[error("a loop runs more than {iterations_max} times")]
    TooManyIterations { iterations_max: u32 },
    #[error("more is to be done than a template may do")]
    TooMuchWork,
    #[error("nested too deeply, perhaps within itself")]
    TooDeep,
    #[error("a number becomes too large")]
    Overflow,
    #[error("there is no place {index} among {length}")]
    OutOfRange { index: i128, length: usize },
    #[error("not a regular expression that can be used: {0}")]
    Pattern(Box<str>),
    #[error("`{path}`, at byte {at}: {why}")]
    Path { path: Box<str>, at: usize, why: PathFault },
    #[error("not JSON")]
    NotJson,
    #[error("not base64")]
    NotBase64,
    #[error("the context is not a JSON object")]
    Context,
    #[error("nothing can be set here")]
    NotAssignable,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { output_bytes_max: 1 << 20, iterations_max: 1000, work_max: 1 << 24 }
    }
}

impl Template {
    pub fn parse(text: &str) -> Result<Template, ParseError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            let at = Position { line: 1, column: 1 };
            return Err(ParseError { at, why: ParseFault::TooLong });
        }
        parse::parse(text).map(|nodes| Template { nodes })
    }

    pub fn render(
        &self,
        source: &Source<'_>,
        dialect: Dialect,
        limits: Limits,
    ) -> Result<String, RenderError> {
        evaluate::Evaluator::new(source, dialect, limits).render(&self.nodes)
    }
}
