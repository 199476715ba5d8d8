//! The methods of lists, which are those of Java's `List`.

use crate::template::RenderFault;
use crate::template::heap::{CELL_WORK, Heap, ListId, Outcome, Value};

impl Heap {
    /// Null if there is no such method with such arguments.
    pub fn call_list(&mut self, id: ListId, name: &str, arguments: &[Value]) -> Outcome<Value> {
        let length = self.list(id).items.len();
        // What is inserted or removed moves what is behind it.
        let moves = matches!(name, "add" | "remove" | "clear");
        self.pay(if moves { CELL_WORK + length } else { 1 })?;
        match (name, arguments) {
            ("size" | "length", []) => Ok(Value::Integer(length as i128)),
            ("isEmpty", []) => Ok(Value::Boolean(length == 0)),
            ("get", [Value::Integer(index)]) => {
                let place = place(*index, length)?;
                Ok(self.list(id).items[place].clone())
            }
            ("set", [Value::Integer(index), value]) => {
                let place = place(*index, length)?;
                Ok(std::mem::replace(&mut self.list_mut(id).items[place], value.clone()))
            }
            ("add", [value]) => {
                self.list_mut(id).items.push(value.clone());
                Ok(Value::Boolean(true))
            }
            ("add", [Value::Integer(index), value]) => {
                let place = place(*index, length + 1)?;
                self.list_mut(id).items.insert(place, value.clone());
                Ok(Value::Null)
            }
            ("addAll", [Value::List(other)]) => {
                self.pay_cells(self.list(*other).items.len())?;
                let items = self.list(*other).items.clone();
                let is_changed = !items.is_empty();
                self.list_mut(id).items.extend(items);
                Ok(Value::Boolean(is_changed))
            }
            ("remove", [Value::Integer(index)]) => {
                let place = place(*index, length)?;
                Ok(self.list_mut(id).items.remove(place))
            }
            ("remove", [value]) => {
                let place = self.position(id, value)?;
                if let Some(place) = place {
                    self.list_mut(id).items.remove(place);
                }
                Ok(Value::Boolean(place.is_some()))
            }
            ("clear", []) => {
                self.list_mut(id).items.clear();
                Ok(Value::Null)
            }
            ("contains", [value]) => Ok(Value::Boolean(self.position(id, value)?.is_some())),
            ("containsAll", [Value::List(other)]) => self.contains_all(id, *other),
            ("indexOf", [value]) => {
                Ok(Value::Integer(self.position(id, value)?.map_or(-1, |place| place as i128)))
            }
            ("lastIndexOf", [value]) => self.last_position(id, value),
            ("subList", [Value::Integer(from), Value::Integer(to)]) => {
                let (from, to) = (place(*from, length + 1)?, place(*to, length + 1)?);
                let items = self.list(id).items.get(from..to);
                let index = from as i128;
                let items = items.ok_or(RenderFault::OutOfRange { index, length })?.to_vec();
                self.new_list(items, false)
            }
            ("toArray" | "iterator", []) => Ok(Value::List(id)),
            ("equals", [other]) => Ok(Value::Boolean(self.equals(&Value::List(id), other, 0)?)),
            ("toString", []) => self.print(&Value::List(id)).map(Value::Text),
            _ => Ok(Value::Null),
        }
    }

    fn position(&mut self, id: ListId, value: &Value) -> Outcome<Option<usize>> {
        for place in 0..self.list(id).items.len() {
            let item = self.list(id).items[place].clone();
            if self.equals(&item, value, 0)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn last_position(&mut self, id: ListId, value: &Value) -> Outcome<Value> {
        for place in (0..self.list(id).items.len()).rev() {
            let item = self.list(id).items[place].clone();
            if self.equals(&item, value, 0)? {
                return Ok(Value::Integer(place as i128));
            }
        }
        Ok(Value::Integer(-1))
    }

    fn contains_all(&mut self, id: ListId, other: ListId) -> Outcome<Value> {
        for place in 0..self.list(other).items.len() {
            let item = self.list(other).items[place].clone();
            if self.position(id, &item)?.is_none() {
                return Ok(Value::Boolean(false));
            }
        }
        Ok(Value::Boolean(true))
    }
}

pub(super) fn place(index: i128, length: usize) -> Outcome<usize> {
    let place = usize::try_from(index).ok().filter(|place| *place < length);
    place.ok_or(RenderFault::OutOfRange { index, length })
}
