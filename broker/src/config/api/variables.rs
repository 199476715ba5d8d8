//! Stage variables: what they may be, and filling them in.

use std::collections::BTreeMap;

/// Names and values are limited as API Gateway limits them.
const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 2048;
const BEGIN: &str = "${stageVariables.";

/// The text speaks of a variable that the stage does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SubstituteError {
    #[error("the stage has no variable `{0}`")]
    Unknown(String),
    #[error("`${{` is not closed")]
    NotClosed,
}

/// The text with each `${stageVariables.name}` replaced by its value.
pub(super) fn substitute(
    text: &str,
    variables: &BTreeMap<String, String>,
) -> Result<String, SubstituteError> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(BEGIN) {
        let (name, after) = behind.split_once('}').ok_or(SubstituteError::NotClosed)?;
        let value = variables.get(name).ok_or_else(|| SubstituteError::Unknown(name.to_owned()))?;
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// What is wrong with a variable, if anything is.
pub(super) fn fault_of(name: &str, value: &str) -> Option<&'static str> {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_value_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#&=,".contains(&byte);
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_name_byte) {
        return Some("a stage variable's name is 1 to 64 of A-Z, a-z, 0-9 and _");
    }
    let is_value = value.len() <= VALUE_BYTES_MAX && value.bytes().all(is_value_byte);
    (!is_value).then_some("a stage variable's value is up to 2048 of A-Z, a-z, 0-9 and -._~:/?#&=,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_once() {
        let pairs = [("host", "a.b"), ("path", "p")];
        let variables = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let filled = |text| substitute(text, &variables);
        assert_eq!(
            filled("http://${stageVariables.host}/${stageVariables.path}").as_deref(),
            Ok("http://a.b/p")
        );
        assert_eq!(filled("http://x").as_deref(), Ok("http://x"));
        assert_eq!(filled("${stageVariables.x}"), Err(SubstituteError::Unknown("x".to_owned())));
        assert_eq!(filled("${stageVariables.x"), Err(SubstituteError::NotClosed));
    }
}
