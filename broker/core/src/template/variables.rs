//! `$input`, `$context` and `$stageVariables`: what a template is told.

use crate::event::fields::Fields;
use crate::template::heap::{Heap, Outcome, Value};
use crate::template::ordered_map::OrderedMap;
use crate::template::{RenderFault, Source};

/// What API Gateway has for a body where there is none.
const EMPTY_BODY: &str = "{}";

/// The variables of API Gateway, made when they are first asked for.
#[derive(Debug)]
pub(super) struct Variables<'a> {
    source: &'a Source<'a>,
    context: Option<Value>,
    stage_variables: Option<Value>,
    parameters: Option<Value>,
}

impl<'a> Variables<'a> {
    pub fn new(source: &'a Source<'a>) -> Variables<'a> {
        Variables { source, context: None, stage_variables: None, parameters: None }
    }

    /// None if the name is not one of ours.
    pub fn get(&mut self, heap: &mut Heap, name: &str) -> Outcome<Option<Value>> {
        match name {
            "input" => Ok(Some(Value::Input)),
            "util" => Ok(Some(Value::Utilities)),
            "context" => self.context(heap).map(Some),
            "stageVariables" => self.stage_variables(heap).map(Some),
            _ => Ok(None),
        }
    }

    fn context(&mut self, heap: &mut Heap) -> Outcome<Value> {
        if let Some(context) = &self.context {
            return Ok(context.clone());
        }
        let context = heap.parse_json(self.source.context).map_err(|fault| match fault {
            RenderFault::NotJson => RenderFault::Context,
            other => other,
        })?;
        let Value::Map(_) = context else { return Err(RenderFault::Context) };
        Ok(self.context.insert(context).clone())
    }

    fn stage_variables(&mut self, heap: &mut Heap) -> Outcome<Value> {
        if let Some(variables) = &self.stage_variables {
            return Ok(variables.clone());
        }
        let mut map = OrderedMap::default();
        for (name, value) in self.source.stage_variables {
            let value = heap.text(value.as_str())?;
            map.insert(name.as_str().into(), value);
        }
        let map = heap.new_map(map)?;
        Ok(self.stage_variables.insert(map).clone())
    }

    pub fn input_property(&mut self, heap: &mut Heap, name: &str) -> Outcome<Value> {
        match name {
            "body" => heap.text(self.body()),
            _ => Ok(Value::Null),
        }
    }

    /// Null if there is no such method with such arguments.
    pub fn call_input(
        &mut self,
        heap: &mut Heap,
        name: &str,
        arguments: &[Value],
    ) -> Outcome<Value> {
        match (name, arguments) {
            ("json", [path]) => {
                let path = heap.print(path)?;
                heap.find_json(self.body(), &path)
            }
            ("path", [path]) => {
                let path = heap.print(path)?;
                heap.find(self.body(), &path)
            }
            ("params", []) => self.parameters(heap),
            ("params", [name]) => {
                let name = heap.print(name)?;
                heap.pay(1)?;
                let Source { headers, query, .. } = self.source;
                let header = || headers.last_ignoring_case(&name);
                heap.text(query.last(&name).or_else(header).unwrap_or_default())
            }
            ("getBody", []) => heap.text(self.body()),
            _ => Ok(Value::Null),
        }
    }

    /// A WebSocket API has no parameters in its paths: that map is empty.
    fn parameters(&mut self, heap: &mut Heap) -> Outcome<Value> {
        if let Some(parameters) = &self.parameters {
            return Ok(parameters.clone());
        }
        let Source { headers, query, .. } = self.source;
        let none = Fields::default();
        let mut map = OrderedMap::default();
        for (name, fields) in [("path", &none), ("querystring", *query), ("header", *headers)] {
            map.insert(name.into(), last_values(heap, fields)?);
        }
        let map = heap.new_map(map)?;
        Ok(self.parameters.insert(map).clone())
    }

    fn body(&self) -> &'a str {
        if self.source.body.is_empty() { EMPTY_BODY } else { self.source.body }
    }
}

fn last_values(heap: &mut Heap, fields: &Fields<'_>) -> Outcome<Value> {
    let mut map = OrderedMap::default();
    for (name, values) in fields.iter() {
        let value = heap.text(values.last().map_or("", |value| value))?;
        heap.pay_text(name.len())?;
        map.insert(name.into(), value);
    }
    heap.new_map(map)
}
