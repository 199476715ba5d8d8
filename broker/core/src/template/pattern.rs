//! Regular expressions of others' making: in templates, and as keys of integration responses.
//!
//! They are matched in time linear in the text, and are small. That costs Java's lookaround and
//! backreferences, which are refused.

use regex::{Regex, RegexBuilder};

const BYTES_MAX: usize = 1024;
const COMPILED_BYTES_MAX: usize = 1 << 17;
const NESTED_MAX: u32 = 32;

pub(crate) fn compile(text: &str) -> Result<Regex, Box<str>> {
    if text.len() > BYTES_MAX {
        return Err(format!("longer than {BYTES_MAX} bytes").into());
    }
    let compiled = RegexBuilder::new(text)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(COMPILED_BYTES_MAX)
        .nest_limit(NESTED_MAX)
        .build();
    compiled.map_err(|error| error.to_string().into())
}

/// Matches whole texts only.
pub(crate) fn compile_whole(text: &str) -> Result<Regex, Box<str>> {
    // With parentheses around it, something like `a)(b` would become an expression.
    compile(text)?;
    compile(&whole(text))
}

pub(crate) fn whole(text: &str) -> String {
    format!(r"\A(?:{text})\z")
}
