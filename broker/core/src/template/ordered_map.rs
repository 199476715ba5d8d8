//! A map that keeps the order in which its keys came, as JSON objects and Velocity's maps do.
//!
//! Invariant: `places` names the place of each key in `entries`, and no other place.

use std::collections::BTreeMap;

use crate::template::heap::Value;
use crate::template::tree::Text;

#[derive(Debug, Clone, Default)]
pub(super) struct OrderedMap {
    entries: BTreeMap<u64, (Text, Value)>,
    places: BTreeMap<Text, u64>,
    next: u64,
}

impl OrderedMap {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        let place = self.places.get(key)?;
        self.entries.get(place).map(|(_, value)| value)
    }

    /// In the place of what the key had, which is returned, or else as the last.
    pub fn insert(&mut self, key: Text, value: Value) -> Option<Value> {
        if let Some(place) = self.places.get(&key) {
            let old = self.entries.insert(*place, (key, value));
            return old.map(|(_, value)| value);
        }
        self.places.insert(Text::clone(&key), self.next);
        self.entries.insert(self.next, (key, value));
        self.next += 1;
        None
    }

    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let place = self.places.remove(key)?;
        self.entries.remove(&place).map(|(_, value)| value)
    }

    pub fn clear(&mut self) {
        *self = OrderedMap::default();
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Text, Value)> {
        self.entries.values()
    }
}
