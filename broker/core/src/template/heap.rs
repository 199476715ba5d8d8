//! The values of a template while it is rendered, and how much may be done with them.
//!
//! Lists and maps are shared: what is changed through one variable is seen through another. They
//! live here until the end, and values are but their numbers, so that a list that holds itself is
//! neither a leak nor, when dropped, a recursion.
//!
//! Invariant: who makes a text, copies items or looks at them pays for it first.

use std::collections::BTreeMap;

use regex::Regex;

use crate::template::ordered_map::OrderedMap;
use crate::template::tree::Text;
use crate::template::{Dialect, Limits, RenderFault, numbers, pattern};

/// Lists and maps within each other, where they are looked through.
pub(super) const DEPTH_MAX: u32 = 80;
/// About the bytes that a value costs in a list or a map.
pub(super) const CELL_WORK: usize = 64;
/// A regular expression may become about that large, so it is priced as if it did.
const PATTERN_WORK: usize = 1 << 13;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Also what is undefined.
    Null,
    Boolean(bool),
    Integer(i128),
    Decimal(f64),
    Text(Text),
    List(ListId),
    Map(MapId),
    Entry(EntryId),
    /// `$input`
    Input,
    /// `$util`
    Utilities,
    /// `$foreach` of the loop that is inside so many others.
    Loop(usize),
    /// What `#define` named.
    Block(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListId(usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapId(usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId(usize);

#[derive(Debug, Default)]
pub(super) struct List {
    pub items: Vec<Value>,
    /// Came from JSON: it prints as JSON.
    pub is_json: bool,
}

#[derive(Debug)]
pub(super) struct Heap {
    lists: Vec<List>,
    maps: Vec<OrderedMap>,
    entries: Vec<(Text, Value)>,
    patterns: BTreeMap<Box<str>, Regex>,
    dialect: Dialect,
    bytes_max: usize,
    work_left: u64,
}

pub(super) type Outcome<T> = Result<T, RenderFault>;

impl Heap {
    pub fn new(dialect: Dialect, limits: Limits) -> Heap {
        Heap {
            lists: Vec::new(),
            maps: Vec::new(),
            entries: Vec::new(),
            patterns: BTreeMap::new(),
            dialect,
            bytes_max: limits.output_bytes_max,
            work_left: limits.work_max,
        }
    }

    pub fn pay(&mut self, work: usize) -> Outcome<()> {
        let work = u64::try_from(work).unwrap_or(u64::MAX);
        self.work_left = self.work_left.checked_sub(work).ok_or(RenderFault::TooMuchWork)?;
        Ok(())
    }

    /// For a text of so many bytes.
    pub fn pay_text(&mut self, bytes: usize) -> Outcome<()> {
        if bytes > self.bytes_max {
            return Err(RenderFault::TooLong { bytes_max: self.bytes_max });
        }
        self.pay(bytes)
    }

    pub fn pay_cells(&mut self, count: usize) -> Outcome<()> {
        self.pay(count.saturating_mul(CELL_WORK))
    }

    /// Appends to a text that is being made.
    pub fn append(&mut self, text: &mut String, more: &str) -> Outcome<()> {
        if text.len() + more.len() > self.bytes_max {
            return Err(RenderFault::TooLong { bytes_max: self.bytes_max });
        }
        self.pay(more.len() + 1)?;
        text.push_str(more);
        Ok(())
    }

    pub fn text(&mut self, text: impl AsRef<str> + Into<Text>) -> Outcome<Value> {
        self.pay_text(text.as_ref().len())?;
        Ok(Value::Text(text.into()))
    }

    pub fn new_list(&mut self, items: Vec<Value>, is_json: bool) -> Outcome<Value> {
        self.pay_cells(items.len() + 1)?;
        self.lists.push(List { items, is_json });
        Ok(Value::List(ListId(self.lists.len() - 1)))
    }

    pub fn new_map(&mut self, map: OrderedMap) -> Outcome<Value> {
        self.pay_cells(map.len() + 1)?;
        self.maps.push(map);
        Ok(Value::Map(MapId(self.maps.len() - 1)))
    }

    pub fn new_entry(&mut self, key: Text, value: Value) -> Outcome<Value> {
        self.pay_cells(1)?;
        self.entries.push((key, value));
        Ok(Value::Entry(EntryId(self.entries.len() - 1)))
    }

    pub fn list(&self, ListId(id): ListId) -> &List {
        &self.lists[id]
    }

    pub fn list_mut(&mut self, ListId(id): ListId) -> &mut List {
        &mut self.lists[id]
    }

    pub fn map(&self, MapId(id): MapId) -> &OrderedMap {
        &self.maps[id]
    }

    pub fn map_mut(&mut self, MapId(id): MapId) -> &mut OrderedMap {
        &mut self.maps[id]
    }

    pub fn entry(&self, EntryId(id): EntryId) -> &(Text, Value) {
        &self.entries[id]
    }

    /// Compiled once.
    pub fn pattern(&mut self, text: &str) -> Outcome<Regex> {
        if let Some(pattern) = self.patterns.get(text) {
            return Ok(pattern.clone());
        }
        self.pay(PATTERN_WORK + text.len() * CELL_WORK)?;
        let compiled = pattern::compile(text).map_err(RenderFault::Pattern)?;
        self.patterns.insert(text.into(), compiled.clone());
        Ok(compiled)
    }

    pub fn is_true(&self, value: &Value) -> bool {
        if self.dialect == Dialect::ApiGateway {
            return !matches!(value, Value::Boolean(false));
        }
        match value {
            Value::Null | Value::Boolean(false) => false,
            Value::Integer(number) => *number != 0,
            Value::Decimal(number) => *number != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(id) => !self.list(*id).items.is_empty(),
            Value::Map(id) => self.map(*id).len() != 0,
            Value::Boolean(true)
            | Value::Entry(_)
            | Value::Input
            | Value::Utilities
            | Value::Loop(_)
            | Value::Block(_) => true,
        }
    }

    /// As `==` compares: values of different kinds by their texts.
    pub fn is_same(&mut self, left: &Value, right: &Value) -> Outcome<bool> {
        let is_scalar = |value: &Value| {
            matches!(
                value,
                Value::Text(_) | Value::Integer(_) | Value::Decimal(_) | Value::Boolean(_)
            )
        };
        match (left, right) {
            (Value::Null, Value::Text(text)) | (Value::Text(text), Value::Null) => {
                Ok(self.dialect == Dialect::ApiGateway && text.is_empty())
            }
            (Value::Null, _) | (_, Value::Null) => {
                Ok(matches!((left, right), (Value::Null, Value::Null)))
            }
            (left, right) if is_scalar(left) != is_scalar(right) => {
                let (left, right) = (self.print(left)?, self.print(right)?);
                Ok(left == right)
            }
            (Value::Text(text), other) | (other, Value::Text(text)) => {
                self.pay(text.len())?;
                let other = self.print(other)?;
                Ok(**text == *other)
            }
            (left, right) => self.equals(left, right, 0),
        }
    }

    /// As Java's `equals` compares.
    pub fn equals(&mut self, left: &Value, right: &Value, depth: u32) -> Outcome<bool> {
        self.pay(1)?;
        if depth > DEPTH_MAX {
            return Err(RenderFault::TooDeep);
        }
        match (left, right) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Boolean(left), Value::Boolean(right)) => Ok(left == right),
            (Value::Text(left), Value::Text(right)) => {
                self.pay(left.len())?;
                Ok(left == right)
            }
            (Value::List(left), Value::List(right)) => self.lists_equal(*left, *right, depth),
            (Value::Map(left), Value::Map(right)) => self.maps_equal(*left, *right, depth),
            (Value::Entry(left), Value::Entry(right)) => Ok(left == right),
            (left, right) => Ok(numbers::compare(left, right).is_some_and(|order| order.is_eq())),
        }
    }

    fn lists_equal(&mut self, left: ListId, right: ListId, depth: u32) -> Outcome<bool> {
        let length = self.list(left).items.len();
        if left == right || length != self.list(right).items.len() {
            return Ok(left == right);
        }
        for index in 0..length {
            let item = self.list(left).items[index].clone();
            let other = self.list(right).items[index].clone();
            if !self.equals(&item, &other, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn maps_equal(&mut self, left: MapId, right: MapId, depth: u32) -> Outcome<bool> {
        if left == right || self.map(left).len() != self.map(right).len() {
            return Ok(left == right);
        }
        self.pay_cells(self.map(left).len())?;
        let entries = self.map(left).iter().cloned().collect::<Vec<_>>();
        for (key, value) in entries {
            let Some(other) = self.map(right).get(&key).cloned() else { return Ok(false) };
            if !self.equals(&value, &other, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
