//! The texts of values, which are those of Java's `toString`.
//!
//! | value | text |
//! |---|---|
//! | map | `{key=value, other=value}`, in its order |
//! | list of the template's making | `[value, value]` |
//! | list from JSON | JSON, whatever is in it |
//!
//! The last two are recorded from API Gateway: its JSON arrays are not those of Java, its objects
//! are.

use crate::template::RenderFault;
use crate::template::heap::{DEPTH_MAX, Heap, ListId, Outcome, Value};
use crate::template::numbers::decimal_text;
use crate::template::tree::Text;

impl Heap {
    pub fn print(&mut self, value: &Value) -> Outcome<Text> {
        if let Value::Text(text) = value {
            return Ok(Text::clone(text));
        }
        let mut text = String::new();
        self.print_into(&mut text, value, 0)?;
        Ok(text.into())
    }

    pub fn print_into(&mut self, out: &mut String, value: &Value, depth: u32) -> Outcome<()> {
        if depth > DEPTH_MAX {
            return Err(RenderFault::TooDeep);
        }
        match value {
            Value::Null if depth == 0 => Ok(()),
            Value::Null => self.append(out, "null"),
            Value::Boolean(value) => self.append(out, if *value { "true" } else { "false" }),
            Value::Integer(number) => self.append(out, &number.to_string()),
            Value::Decimal(number) => self.append(out, &decimal_text(*number)),
            Value::Text(text) => self.append(out, text),
            Value::List(id) if self.list(*id).is_json => self.print_json(out, value, depth),
            Value::List(id) => self.separated(out, *id, ("[", ", ", "]"), |heap, out, item| {
                heap.print_into(out, item, depth + 1)
            }),
            Value::Map(id) => {
                self.append(out, "{")?;
                self.pay_cells(self.map(*id).len())?;
                let entries = self.map(*id).iter().cloned().collect::<Vec<_>>();
                for (index, (key, value)) in entries.iter().enumerate() {
                    self.append(out, if index > 0 { ", " } else { "" })?;
                    self.append(out, key)?;
                    self.append(out, "=")?;
                    self.print_into(out, value, depth + 1)?;
                }
                self.append(out, "}")
            }
            Value::Entry(id) => {
                let (key, value) = self.entry(*id).clone();
                self.append(out, &key)?;
                self.append(out, "=")?;
                self.print_into(out, &value, depth + 1)
            }
            // What these are called nobody should depend on.
            Value::Input | Value::Utilities | Value::Loop(_) | Value::Block(_) => Ok(()),
        }
    }

    pub fn print_json(&mut self, out: &mut String, value: &Value, depth: u32) -> Outcome<()> {
        if depth > DEPTH_MAX {
            return Err(RenderFault::TooDeep);
        }
        match value {
            Value::Null => self.append(out, "null"),
            Value::Boolean(_) | Value::Integer(_) | Value::Decimal(_) => {
                self.print_into(out, value, depth)
            }
            Value::Text(text) => self.append_quoted(out, text),
            Value::List(id) => self.separated(out, *id, ("[", ",", "]"), |heap, out, item| {
                heap.print_json(out, item, depth + 1)
            }),
            Value::Map(id) => {
                self.append(out, "{")?;
                self.pay_cells(self.map(*id).len())?;
                let entries = self.map(*id).iter().cloned().collect::<Vec<_>>();
                for (index, (key, value)) in entries.iter().enumerate() {
                    self.append(out, if index > 0 { "," } else { "" })?;
                    self.append_quoted(out, key)?;
                    self.append(out, ":")?;
                    self.print_json(out, value, depth + 1)?;
                }
                self.append(out, "}")
            }
            Value::Entry(_)
            | Value::Input
            | Value::Utilities
            | Value::Loop(_)
            | Value::Block(_) => {
                let text = self.print(value)?;
                self.append_quoted(out, &text)
            }
        }
    }

    fn append_quoted(&mut self, out: &mut String, text: &str) -> Outcome<()> {
        self.pay_text(text.len())?;
        let quoted = serde_json::Value::from(text).to_string();
        self.append(out, &quoted)
    }

    /// The items of a list, between and around what the triple says.
    fn separated(
        &mut self,
        out: &mut String,
        list: ListId,
        (opening, separator, closing): (&str, &str, &str),
        print: impl Fn(&mut Heap, &mut String, &Value) -> Outcome<()>,
    ) -> Outcome<()> {
        self.append(out, opening)?;
        for index in 0..self.list(list).items.len() {
            self.append(out, if index > 0 { separator } else { "" })?;
            let item = self.list(list).items[index].clone();
            print(self, out, &item)?;
        }
        self.append(out, closing)
    }
}
