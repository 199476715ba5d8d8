//! The methods of maps and of their entries, which are those of Java's `Map` and `Map.Entry`.
//!
//! A key is a text: a number as a key is the same as its text. What `keySet`, `values` and `entrySet`
//! give are lists, which do not change with the map.

use crate::template::heap::{EntryId, Heap, MapId, Outcome, Value};
use crate::template::tree::Text;

impl Heap {
    /// Null if there is no such method with such arguments.
    pub fn call_map(&mut self, id: MapId, name: &str, arguments: &[Value]) -> Outcome<Value> {
        self.pay(1)?;
        match (name, arguments) {
            ("size", []) => Ok(Value::Integer(self.map(id).len() as i128)),
            ("isEmpty", []) => Ok(Value::Boolean(self.map(id).len() == 0)),
            ("get", [key]) => self.get(id, key),
            ("getOrDefault", [key, default]) => {
                let key = self.print(key)?;
                Ok(self.map(id).get(&key).unwrap_or(default).clone())
            }
            ("containsKey", [key]) => {
                let key = self.print(key)?;
                Ok(Value::Boolean(self.map(id).get(&key).is_some()))
            }
            ("containsValue", [value]) => self.contains_value(id, value),
            ("put", [key, value]) => self.put(id, key, value),
            ("putIfAbsent", [key, value]) => match self.get(id, key)? {
                Value::Null => self.put(id, key, value),
                present => Ok(present),
            },
            ("putAll", [Value::Map(other)]) => {
                self.pay_cells(self.map(*other).len())?;
                let entries = self.map(*other).iter().cloned().collect::<Vec<_>>();
                for (key, value) in entries {
                    self.map_mut(id).insert(key, value);
                }
                Ok(Value::Null)
            }
            ("remove", [key]) => {
                let key = self.print(key)?;
                Ok(self.map_mut(id).remove(&key).unwrap_or(Value::Null))
            }
            ("clear", []) => {
                self.map_mut(id).clear();
                Ok(Value::Null)
            }
            ("keySet" | "values" | "entrySet", []) => self.view(id, name),
            ("equals", [other]) => Ok(Value::Boolean(self.equals(&Value::Map(id), other, 0)?)),
            ("toString", []) => self.print(&Value::Map(id)).map(Value::Text),
            _ => Ok(Value::Null),
        }
    }

    pub fn call_entry(&mut self, id: EntryId, name: &str) -> Outcome<Value> {
        let (key, value) = self.entry(id);
        match name {
            "key" | "getKey" => Ok(Value::Text(Text::clone(key))),
            "value" | "getValue" => Ok(value.clone()),
            "toString" => self.print(&Value::Entry(id)).map(Value::Text),
            _ => Ok(Value::Null),
        }
    }

    pub fn get(&mut self, id: MapId, key: &Value) -> Outcome<Value> {
        let key = self.print(key)?;
        Ok(self.map(id).get(&key).cloned().unwrap_or(Value::Null))
    }

    /// What the key had before.
    pub fn put(&mut self, id: MapId, key: &Value, value: &Value) -> Outcome<Value> {
        self.pay_cells(1)?;
        let key = self.print(key)?;
        Ok(self.map_mut(id).insert(key, value.clone()).unwrap_or(Value::Null))
    }

    fn contains_value(&mut self, id: MapId, value: &Value) -> Outcome<Value> {
        let values = self.values(id)?;
        for other in values {
            if self.equals(&other, value, 0)? {
                return Ok(Value::Boolean(true));
            }
        }
        Ok(Value::Boolean(false))
    }

    pub fn values(&mut self, id: MapId) -> Outcome<Vec<Value>> {
        self.pay_cells(self.map(id).len())?;
        Ok(self.map(id).iter().map(|(_, value)| value.clone()).collect())
    }

    fn view(&mut self, id: MapId, name: &str) -> Outcome<Value> {
        self.pay_cells(self.map(id).len())?;
        let entries = self.map(id).iter().cloned().collect::<Vec<_>>();
        let mut items = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            items.push(match name {
                "keySet" => Value::Text(key),
                "values" => value,
                _ => self.new_entry(key, value)?,
            });
        }
        self.new_list(items, false)
    }
}
