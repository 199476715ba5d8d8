//! Values of JSON text, and what `$input` finds in one.

use crate::route::json::{self, Kind, NotJson};
use crate::route::jsonpath::{JsonPath, PathError, Selection};
use crate::route::stringify::compact;
use crate::template::RenderFault;
use crate::template::heap::{Heap, Outcome, Value};
use crate::template::numbers;
use crate::template::ordered_map::OrderedMap;

/// Of a body that is only looked through: it is read that much faster than values are made.
const BYTES_PER_WORK: usize = 16;

impl Heap {
    pub fn parse_json(&mut self, text: &str) -> Outcome<Value> {
        self.pay(text.len())?;
        let value = json::parse(text).map_err(|NotJson| RenderFault::NotJson)?;
        self.of_json(value)
    }

    /// Recurses as deep as JSON may nest, which is not deep.
    fn of_json(&mut self, value: json::Value<'_>) -> Outcome<Value> {
        self.pay(value.raw().len())?;
        match value.kind() {
            Kind::Null => Ok(Value::Null),
            Kind::Boolean => Ok(Value::Boolean(value.raw() == "true")),
            // A number that is too large for us stays as it is written.
            Kind::Number => match numbers::parse(value.raw()) {
                Some(number) => Ok(number),
                None => self.text(value.raw()),
            },
            Kind::String => self.text(value.as_string().unwrap_or_default()),
            Kind::Array => {
                let mut items = Vec::new();
                for element in value.elements() {
                    self.pay_cells(1)?;
                    items.push(self.of_json(element)?);
                }
                self.new_list(items, true)
            }
            Kind::Object => {
                let mut map = OrderedMap::default();
                for (name, member) in value.members() {
                    self.pay_cells(1)?;
                    map.insert(name.decode().into(), self.of_json(member)?);
                }
                self.new_map(map)
            }
        }
    }

    /// What is at a path of a body. Null if there is nothing.
    pub fn find(&mut self, body: &str, path: &str) -> Outcome<Value> {
        match self.select(body, path)? {
            Found::Text(text) => self.text(text),
            Found::Missing => Ok(Value::Null),
            Found::One(value) => self.of_json(value),
            Found::Many(values) => {
                let mut items = Vec::new();
                for value in values {
                    self.pay_cells(1)?;
                    items.push(self.of_json(value)?);
                }
                self.new_list(items, true)
            }
        }
    }

    /// The same as JSON. An empty string if there is nothing.
    pub fn find_json(&mut self, body: &str, path: &str) -> Outcome<Value> {
        match self.select(body, path)? {
            Found::Text(text) => {
                let mut quoted = String::new();
                self.print_json(&mut quoted, &Value::Text(text.into()), 0)?;
                self.text(quoted)
            }
            Found::Missing => self.text("\"\""),
            Found::One(value) => self.text(compact(value.raw())),
            Found::Many(values) => {
                let mut text = String::from("[");
                for (index, value) in values.into_iter().enumerate() {
                    self.append(&mut text, if index > 0 { "," } else { "" })?;
                    self.append(&mut text, &compact(value.raw()))?;
                }
                self.append(&mut text, "]")?;
                self.text(text)
            }
        }
    }

    fn select<'a>(&mut self, body: &'a str, path: &str) -> Outcome<Found<'a>> {
        let path = Path::parse(path)?;
        let passes = if path.is_indefinite() { json::DEPTH_MAX as usize } else { 1 };
        self.pay(body.len().saturating_mul(passes) / BYTES_PER_WORK)?;
        let selected = match &path {
            Path::Whole => json::parse(body).map(Selection::One),
            Path::Steps(path) => path.select(body),
        };
        Ok(match (selected, path) {
            (Ok(Selection::Missing), _) => Found::Missing,
            (Ok(Selection::One(value)), _) => Found::One(value),
            (Ok(Selection::Many(values)), _) => {
                self.pay_cells(values.len())?;
                Found::Many(values)
            }
            // A body that is not JSON is a text, which has nothing within.
            (Err(NotJson), Path::Whole) => Found::Text(body),
            (Err(NotJson), Path::Steps(_)) => Found::Missing,
        })
    }
}

enum Found<'a> {
    Missing,
    /// The body is not JSON, and all of it was asked for.
    Text(&'a str),
    One(json::Value<'a>),
    Many(Vec<json::Value<'a>>),
}

enum Path {
    /// `$`
    Whole,
    Steps(JsonPath),
}

impl Path {
    /// Begins with `$` or, as in Jayway's implementation, leaves `$.` out.
    fn parse(text: &str) -> Outcome<Path> {
        let trimmed = text.trim();
        let steps = match trimmed.strip_prefix('$') {
            Some("") => return Ok(Path::Whole),
            Some(steps) => JsonPath::parse(steps),
            None if trimmed.starts_with(['.', '[']) => JsonPath::parse(trimmed),
            None => JsonPath::parse(&format!(".{trimmed}")),
        };
        let fault = |PathError { at, why }| RenderFault::Path { path: text.into(), at, why };
        steps.map(Path::Steps).map_err(fault)
    }

    fn is_indefinite(&self) -> bool {
        match self {
            Path::Whole => false,
            Path::Steps(path) => !path.is_definite(),
        }
    }
}
