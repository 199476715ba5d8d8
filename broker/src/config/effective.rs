//! The configuration that is in force, as YAML with comments: what each key is about is said where it
//! comes for the first time.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::config::reference::{Default, Group, Key, Shape};

const COLUMNS: usize = 100;
/// What YAML takes for something other than a text.
const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];

/// `value` has no keys but those of the group.
pub fn yaml(group: &Group, value: &Value) -> String {
    let mut writer = Writer { text: String::new(), told: BTreeSet::new() };
    writer.group(group, value, 0);
    writer.text
}

struct Writer {
    text: String,
    /// The groups whose keys were explained.
    told: BTreeSet<&'static str>,
}

impl Writer {
    fn group(&mut self, group: &Group, value: &Value, depth: usize) {
        let is_new = self.told.insert(group.kind);
        for Key { name, doc, shape, default, secret: _ } in &group.keys {
            if is_new {
                if depth == 0 && !self.text.is_empty() {
                    self.text.push('\n');
                }
                self.comment(doc, depth);
            }
            match value.get(name) {
                Some(value) => {
                    let is_default = *default == Default::Value(value.clone());
                    let note = if is_default && is_plain(shape) { "  # default" } else { "" };
                    self.member(name, shape, value, depth, note);
                }
                None if is_new => {
                    let default = match default {
                        Default::Absent(Some(text)) => text.as_str(),
                        Default::Absent(None) | Default::Required | Default::Value(_) => "",
                    };
                    let line = format!("# {name}: {default}");
                    self.line(depth, line.trim_end());
                }
                None => (),
            }
        }
    }

    fn member(&mut self, name: &str, shape: &Shape, value: &Value, depth: usize, note: &str) {
        match (shape, value) {
            (Shape::Group(group), Value::Object(members)) if !members.is_empty() => {
                self.line(depth, &format!("{name}:"));
                self.group(group, value, depth + 1);
            }
            (Shape::Map(inner), Value::Object(members)) if !members.is_empty() => {
                self.line(depth, &format!("{name}:"));
                self.map(inner, members, depth + 1);
            }
            (Shape::List(inner), Value::Array(items)) if !items.is_empty() && !is_plain(inner) => {
                self.line(depth, &format!("{name}:"));
                for item in items {
                    self.line(depth + 1, &format!("- {item}"));
                }
            }
            _ => self.line(depth, &format!("{name}: {value}{note}")),
        }
    }

    fn map(&mut self, inner: &Shape, members: &Map<String, Value>, depth: usize) {
        for (name, member) in members {
            let is_plain = name
                .starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '$')
                && name[1..]
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
                && !WORDS.contains(&&*name.to_ascii_lowercase());
            let name = if is_plain { name.clone() } else { Value::from(name.as_str()).to_string() };
            self.member(&name, inner, member, depth, "");
        }
    }

    fn comment(&mut self, text: &str, depth: usize) {
        let mut line = String::from("#");
        for word in text.split_whitespace() {
            if line.len() + word.len() + 2 * depth >= COLUMNS {
                self.line(depth, &line);
                "#".clone_into(&mut line);
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(depth, &line);
    }

    fn line(&mut self, depth: usize, text: &str) {
        self.text.push_str(&"  ".repeat(depth));
        self.text.push_str(text);
        self.text.push('\n');
    }
}

fn is_plain(shape: &Shape) -> bool {
    match shape {
        Shape::Words(_) | Shape::OneOf(_) => true,
        Shape::List(inner) => is_plain(inner),
        Shape::Group(_) | Shape::Map(_) => false,
    }
}
