//! Texts in which `*` stands for any characters and `?` for any one.

use std::fmt;

#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    /// No two [`Part::Any`] are neighbours.
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// `*`
    Any,
    /// `?`
    One,
    Exactly(char),
}

/// `${name}`: what it stands for is not known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy variable `${{{0}}}` is not supported")]
pub struct UnknownVariable(pub Box<str>);

impl Pattern {
    pub fn new(text: &str) -> Pattern {
        let parts = text.chars().map(|character| match character {
            '*' => Part::Any,
            '?' => Part::One,
            character => Part::Exactly(character),
        });
        Pattern::of(parts.collect())
    }

    /// As policies of version 2012-10-17 are written: `${*}`, `${?}` and `${$}` stand for these
    /// characters themselves.
    pub fn with_variables(text: &str) -> Result<Pattern, UnknownVariable> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${") {
            let (name, behind) = behind.split_once('}').unwrap_or((behind, ""));
            parts.extend(Pattern::new(before).parts);
            parts.push(match name {
                "*" => Part::Exactly('*'),
                "?" => Part::Exactly('?'),
                "$" => Part::Exactly('$'),
                name => return Err(UnknownVariable(name.into())),
            });
            rest = behind;
        }
        parts.extend(Pattern::new(rest).parts);
        Ok(Pattern::of(parts))
    }

    fn of(mut parts: Vec<Part>) -> Pattern {
        parts.dedup_by(|next, one| (*next, *one) == (Part::Any, Part::Any));
        Pattern { parts: parts.into() }
    }

    /// Every ASCII letter in lower case.
    pub fn to_lowercase(&self) -> Pattern {
        let parts = self.parts.iter().map(|part| match part {
            Part::Exactly(character) => Part::Exactly(character.to_ascii_lowercase()),
            Part::Any | Part::One => *part,
        });
        Pattern { parts: parts.collect() }
    }

    /// Whether it matches every text: it is `*`.
    pub fn is_any(&self) -> bool {
        *self.parts == [Part::Any]
    }

    /// In at most as many steps as the product of both lengths.
    pub fn matches(&self, text: &str) -> bool {
        let (mut parts, mut rest) = (&*self.parts, text.chars());
        // Where to go on, if it fails further on: the last `*` takes one character more.
        let mut last_any: Option<(&[Part], std::str::Chars<'_>)> = None;
        loop {
            let mut behind = rest.clone();
            match (parts, behind.next()) {
                ([], None) => return true,
                ([Part::Any, others @ ..], _) => {
                    last_any = Some((others, rest.clone()));
                    parts = others;
                    continue;
                }
                ([Part::One, others @ ..], Some(_)) => {
                    (parts, rest) = (others, behind);
                    continue;
                }
                ([Part::Exactly(wanted), others @ ..], Some(found)) if *wanted == found => {
                    (parts, rest) = (others, behind);
                    continue;
                }
                ([], Some(_)) | ([Part::One | Part::Exactly(_), ..], _) => (),
            }
            let Some((others, from)) = &mut last_any else { return false };
            if from.next().is_none() {
                return false;
            }
            (parts, rest) = (*others, from.clone());
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.parts.iter().map(|part| match part {
            Part::Any => '*',
            Part::One => '?',
            Part::Exactly(character) => *character,
        });
        fmt::Debug::fmt(&text.collect::<String>(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_is_any_text_and_a_question_mark_any_character() {
        for (pattern, text, is_match) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("a*b*c", "aXbXbXc", true),
            ("?", "ä", true),
            ("?", "", false),
            ("a?c", "abbc", false),
            ("**a", "ba", true),
            ("arn:*:api/*/$connect", "arn:x:y:api/prod/$connect", true),
            ("a", "A", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), is_match, "{pattern} {text}");
        }
    }

    #[test]
    fn wildcards_can_be_escaped_and_other_variables_are_refused() {
        let pattern = Pattern::with_variables("a${*}${?}${$}*").unwrap();
        assert!(pattern.matches("a*?$b"));
        assert!(!pattern.matches("ab?$b"));
        let refused = Pattern::with_variables("a/${aws:username}").unwrap_err();
        assert_eq!(refused, UnknownVariable("aws:username".into()));
        assert!(Pattern::with_variables("${").is_err());
    }

    #[test]
    fn many_stars_do_not_take_forever() {
        let pattern = Pattern::new(&"a*".repeat(200));
        assert!(!pattern.matches(&format!("b{}", "a".repeat(5000))));
        assert!(!Pattern::new(&format!("{}b", "*a".repeat(200))).matches(&"a".repeat(5000)));
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            let pattern_chars: Vec<_> = pattern.chars().collect();
            let text_chars: Vec<_> = text.chars().collect();
            let expected = by_definition(&pattern_chars, &text_chars);
            prop_assert_eq!(Pattern::new(&pattern).matches(&text), expected);
        }
    }

    fn by_definition(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            (['*', rest @ ..], text) => {
                (0..=text.len()).any(|taken| by_definition(rest, &text[taken..]))
            }
            ([_, ..], []) => false,
            ([wanted, rest @ ..], [found, others @ ..]) => {
                (*wanted == '?' || wanted == found) && by_definition(rest, others)
            }
        }
    }
}
