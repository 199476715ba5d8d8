//! Renders the tree of a template.
//!
//! Invariants:
//!
//! * Each step is paid for, so that no number of loops goes on for ever.
//! * What nests is counted, also through `#define`, which a template may name within itself.

use std::collections::BTreeMap;

use crate::template::heap::{Heap, Outcome, Value};
use crate::template::lists::place;
use crate::template::numbers;
use crate::template::ordered_map::OrderedMap;
use crate::template::tree::{
    Expression, ExpressionKind, Node, Operator, Position, Reference, Step, Text,
};
use crate::template::variables::Variables;
use crate::template::{Dialect, Limits, RenderError, RenderFault, Source};

/// Blocks and expressions within each other. Twice what a parser lets through without operators.
const DEPTH_MAX: u32 = 160;
const STEP_WORK: usize = 4;

pub(super) struct Evaluator<'t> {
    heap: Heap,
    variables: Variables<'t>,
    /// What `#set`, `#foreach` and `#define` named.
    named: BTreeMap<Text, Value>,
    loops: Vec<Loop>,
    defined: Vec<&'t [Node]>,
    depth: u32,
    dialect: Dialect,
    limits: Limits,
}

#[derive(Debug, Clone, Copy)]
struct Loop {
    index: usize,
    has_next: bool,
}

/// How a block ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Through,
    Broken,
    Stopped,
}

type At<T> = Result<T, RenderError>;

impl<'t> Evaluator<'t> {
    pub fn new(source: &'t Source<'t>, dialect: Dialect, limits: Limits) -> Evaluator<'t> {
        Evaluator {
            heap: Heap::new(dialect, limits),
            variables: Variables::new(source),
            named: BTreeMap::new(),
            loops: Vec::new(),
            defined: Vec::new(),
            depth: 0,
            dialect,
            limits,
        }
    }

    pub fn render(mut self, nodes: &'t [Node]) -> At<String> {
        let mut out = String::new();
        self.block(&mut out, nodes, Position { line: 1, column: 1 })?;
        Ok(out)
    }

    fn block(&mut self, out: &mut String, nodes: &'t [Node], at: Position) -> At<Flow> {
        self.descend().map_err(|why| RenderError { at, why })?;
        let mut flow = Flow::Through;
        for node in nodes {
            flow = self.node(out, node, at)?;
            if flow != Flow::Through {
                break;
            }
        }
        self.depth -= 1;
        Ok(flow)
    }

    fn node(&mut self, out: &mut String, node: &'t Node, at: Position) -> At<Flow> {
        match node {
            Node::Text(text) => {
                self.heap.append(out, text).map_err(|why| RenderError { at, why })?;
            }
            Node::Reference(reference) => self.print(out, reference)?,
            Node::Set { target, value } => {
                let value = self.expression(value)?;
                self.set(target, value)?;
            }
            Node::If { branches, otherwise } => {
                for (condition, block) in branches {
                    let value = self.expression(condition)?;
                    if self.heap.is_true(&value) {
                        return self.block(out, block, condition.at);
                    }
                }
                return self.block(out, otherwise, at);
            }
            Node::Foreach { at, name, list, body } => {
                return self.foreach(out, *at, name, list, body);
            }
            Node::Define { name, body } => {
                self.heap.pay_cells(1).map_err(|why| RenderError { at, why })?;
                self.defined.push(body);
                self.named.insert(Text::clone(name), Value::Block(self.defined.len() - 1));
            }
            Node::Break => return Ok(Flow::Broken),
            Node::Stop => return Ok(Flow::Stopped),
        }
        Ok(Flow::Through)
    }

    fn foreach(
        &mut self,
        out: &mut String,
        at: Position,
        name: &Text,
        list: &'t Expression,
        body: &'t [Node],
    ) -> At<Flow> {
        let list = self.expression(list)?;
        let items = self.items(&list).map_err(|why| RenderError { at, why })?;
        let before = self.named.get(name).cloned();
        let length = items.len();
        let mut flow = Flow::Through;
        for (index, item) in items.into_iter().enumerate() {
            let iterations_max = self.limits.iterations_max;
            if index >= iterations_max as usize {
                let why = RenderFault::TooManyIterations { iterations_max };
                return Err(RenderError { at, why });
            }
            self.named.insert(Text::clone(name), item);
            self.loops.push(Loop { index, has_next: index + 1 < length });
            flow = self.block(out, body, at)?;
            self.loops.pop();
            if flow != Flow::Through {
                break;
            }
        }
        match before {
            Some(value) => self.named.insert(Text::clone(name), value),
            None => self.named.remove(name),
        };
        Ok(if flow == Flow::Stopped { Flow::Stopped } else { Flow::Through })
    }

    /// What a loop goes through: of a map its values, of what is no collection nothing.
    fn items(&mut self, value: &Value) -> Outcome<Vec<Value>> {
        match value {
            Value::List(id) => {
                self.heap.pay_cells(self.heap.list(*id).items.len())?;
                Ok(self.heap.list(*id).items.clone())
            }
            Value::Map(id) => self.heap.values(*id),
            _ => Ok(Vec::new()),
        }
    }

    fn print(&mut self, out: &mut String, reference: &'t Reference) -> At<()> {
        let at = reference.at;
        match self.reference(reference)? {
            Value::Null if self.dialect == Dialect::Velocity && !reference.is_silent => {
                self.heap.append(out, &reference.source)
            }
            Value::Block(index) => {
                // A `#break` in it ends it, and no more.
                self.block(out, self.defined[index], at)?;
                Ok(())
            }
            value => self.heap.print_into(out, &value, 0),
        }
        .map_err(|why| RenderError { at, why })
    }

    fn set(&mut self, target: &'t Reference, value: Value) -> At<()> {
        let at = target.at;
        let Some((last, before)) = target.steps.split_last() else {
            self.heap.pay_cells(1).map_err(|why| RenderError { at, why })?;
            self.named.insert(Text::clone(&target.name), value);
            return Ok(());
        };
        let holder = self.value_at(target, before)?;
        let key = match last {
            Step::Property(name) => Value::Text(Text::clone(name)),
            Step::Index(index) => self.expression(index)?,
            Step::Method(..) => Value::Null,
        };
        match (holder, last, key) {
            (_, Step::Method(..), _) => Err(RenderFault::NotAssignable),
            (Value::Map(id), _, key) => self.heap.put(id, &key, &value).map(drop),
            (Value::List(id), _, key @ Value::Integer(_)) => {
                self.heap.call_list(id, "set", &[key, value]).map(drop)
            }
            _ => Err(RenderFault::NotAssignable),
        }
        .map_err(|why| RenderError { at, why })
    }

    fn reference(&mut self, reference: &'t Reference) -> At<Value> {
        self.value_at(reference, &reference.steps)
    }

    fn value_at(&mut self, reference: &'t Reference, steps: &'t [Step]) -> At<Value> {
        let at = reference.at;
        let mut value = self.variable(&reference.name).map_err(|why| RenderError { at, why })?;
        for step in steps {
            value = match step {
                Step::Property(name) => self.property(&value, name),
                Step::Index(index) => {
                    let index = self.expression(index)?;
                    self.index(&value, &index)
                }
                Step::Method(name, arguments) => {
                    let mut values = Vec::with_capacity(arguments.len());
                    for argument in arguments {
                        let value = self.expression(argument)?;
                        values.push(self.rendered(value, at)?);
                    }
                    value = self.rendered(value, at)?;
                    self.call(&value, name, &values)
                }
            }
            .map_err(|why| RenderError { at, why })?;
        }
        Ok(value)
    }

    /// A method sees the text of what `#define` named.
    fn rendered(&mut self, value: Value, at: Position) -> At<Value> {
        let Value::Block(index) = value else { return Ok(value) };
        let mut text = String::new();
        self.block(&mut text, self.defined[index], at)?;
        Ok(Value::Text(text.into()))
    }

    fn variable(&mut self, name: &Text) -> Outcome<Value> {
        self.heap.pay(STEP_WORK)?;
        if let Some(value) = self.named.get(name) {
            return Ok(value.clone());
        }
        if let Some(value) = self.variables.get(&mut self.heap, name)? {
            return Ok(value);
        }
        let Some(inner) = self.loops.len().checked_sub(1) else { return Ok(Value::Null) };
        Ok(match &**name {
            "foreach" => Value::Loop(inner),
            "velocityCount" => self.loop_property(inner, "count"),
            "velocityHasNext" => self.loop_property(inner, "hasNext"),
            _ => Value::Null,
        })
    }

    fn property(&mut self, value: &Value, name: &Text) -> Outcome<Value> {
        self.heap.pay(STEP_WORK)?;
        match value {
            Value::Map(id) => self.heap.get(*id, &Value::Text(Text::clone(name))),
            Value::Entry(id) => self.heap.call_entry(*id, name),
            Value::Input => self.variables.input_property(&mut self.heap, name),
            Value::Loop(depth) => Ok(self.loop_property(*depth, name)),
            // Java's getters by their short names.
            Value::List(id) if &**name == "empty" => self.heap.call_list(*id, "isEmpty", &[]),
            Value::Text(text) if &**name == "empty" => Ok(Value::Boolean(text.is_empty())),
            _ => Ok(Value::Null),
        }
    }

    fn index(&mut self, value: &Value, index: &Value) -> Outcome<Value> {
        self.heap.pay(STEP_WORK)?;
        match (value, index) {
            (Value::Map(id), key) => self.heap.get(*id, key),
            (Value::List(id), Value::Integer(index)) => {
                let items = &self.heap.list(*id).items;
                Ok(items[place(*index, items.len())?].clone())
            }
            _ => Ok(Value::Null),
        }
    }

    fn call(&mut self, value: &Value, name: &Text, arguments: &[Value]) -> Outcome<Value> {
        self.heap.pay(STEP_WORK)?;
        match value {
            Value::Text(text) => self.heap.call_text(text, name, arguments),
            Value::List(id) => self.heap.call_list(*id, name, arguments),
            Value::Map(id) => self.heap.call_map(*id, name, arguments),
            Value::Entry(id) if arguments.is_empty() => self.heap.call_entry(*id, name),
            Value::Input => self.variables.call_input(&mut self.heap, name, arguments),
            Value::Utilities => self.heap.call_utilities(name, arguments),
            Value::Boolean(_) | Value::Integer(_) | Value::Decimal(_) => match (&**name, arguments)
            {
                ("toString", []) => self.heap.print(value).map(Value::Text),
                ("equals", [other]) => Ok(Value::Boolean(self.heap.equals(value, other, 0)?)),
                _ => Ok(numbers::call(value, name, arguments).unwrap_or(Value::Null)),
            },
            Value::Null | Value::Entry(_) | Value::Loop(_) | Value::Block(_) => Ok(Value::Null),
        }
    }

    /// Null if the loop is over.
    fn loop_property(&self, depth: usize, name: &str) -> Value {
        let Some(Loop { index, has_next }) = self.loops.get(depth).copied() else {
            return Value::Null;
        };
        match name {
            "index" => Value::Integer(index as i128),
            "count" => Value::Integer(index as i128 + 1),
            "hasNext" => Value::Boolean(has_next),
            "first" => Value::Boolean(index == 0),
            "last" => Value::Boolean(!has_next),
            "parent" => depth.checked_sub(1).map_or(Value::Null, Value::Loop),
            _ => Value::Null,
        }
    }

    fn expression(&mut self, expression: &'t Expression) -> At<Value> {
        let at = expression.at;
        self.descend().map_err(|why| RenderError { at, why })?;
        let value = match &expression.kind {
            ExpressionKind::Null => Value::Null,
            ExpressionKind::Boolean(value) => Value::Boolean(*value),
            ExpressionKind::Integer(number) => Value::Integer(*number),
            ExpressionKind::Decimal(number) => Value::Decimal(*number),
            ExpressionKind::Text(text) => Value::Text(Text::clone(text)),
            ExpressionKind::Interpolated(nodes) => {
                let mut text = String::new();
                self.block(&mut text, nodes, at)?;
                Value::Text(text.into())
            }
            ExpressionKind::Reference(reference) => self.reference(reference)?,
            ExpressionKind::List(items) => self.list(at, items)?,
            ExpressionKind::Range(first, last) => {
                let (first, last) = (self.expression(first)?, self.expression(last)?);
                self.range(&first, &last).map_err(|why| RenderError { at, why })?
            }
            ExpressionKind::Map(entries) => self.map(at, entries)?,
            ExpressionKind::Not(inner) => {
                let value = self.expression(inner)?;
                Value::Boolean(!self.heap.is_true(&value))
            }
            ExpressionKind::Negate(inner) => {
                let value = self.expression(inner)?;
                numbers::negate(&value).map_err(|why| RenderError { at, why })?
            }
            ExpressionKind::Binary(operator, left, right) => {
                self.binary(at, *operator, left, right)?
            }
        };
        self.depth -= 1;
        Ok(value)
    }

    fn list(&mut self, at: Position, items: &'t [Expression]) -> At<Value> {
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            values.push(self.expression(item)?);
        }
        self.heap.new_list(values, false).map_err(|why| RenderError { at, why })
    }

    fn map(&mut self, at: Position, entries: &'t [(Expression, Expression)]) -> At<Value> {
        let mut map = OrderedMap::default();
        for (key, value) in entries {
            let (key, value) = (self.expression(key)?, self.expression(value)?);
            let key = self.heap.print(&key).map_err(|why| RenderError { at, why })?;
            map.insert(key, value);
        }
        self.heap.new_map(map).map_err(|why| RenderError { at, why })
    }

    /// Downwards if the last is less than the first. Null if they are no integers.
    fn range(&mut self, first: &Value, last: &Value) -> Outcome<Value> {
        let (Value::Integer(first), Value::Integer(last)) = (first, last) else {
            return Ok(Value::Null);
        };
        let (low, high) = (*first.min(last), *first.max(last));
        let length = usize::try_from(high.saturating_sub(low)).unwrap_or(usize::MAX);
        self.heap.pay_cells(length.saturating_add(1))?;
        let mut items = (low..=high).map(Value::Integer).collect::<Vec<_>>();
        if first > last {
            items.reverse();
        }
        self.heap.new_list(items, false)
    }

    fn binary(
        &mut self,
        at: Position,
        operator: Operator,
        left: &'t Expression,
        right: &'t Expression,
    ) -> At<Value> {
        let left = self.expression(left)?;
        // The right side is not looked at where the left says it all.
        let decided = match operator {
            Operator::And if !self.heap.is_true(&left) => Some(false),
            Operator::Or if self.heap.is_true(&left) => Some(true),
            _ => None,
        };
        if let Some(value) = decided {
            return Ok(Value::Boolean(value));
        }
        let right = self.expression(right)?;
        self.combine(operator, &left, &right).map_err(|why| RenderError { at, why })
    }

    fn combine(&mut self, operator: Operator, left: &Value, right: &Value) -> Outcome<Value> {
        let order = || numbers::compare(left, right);
        Ok(match operator {
            Operator::And | Operator::Or => Value::Boolean(self.heap.is_true(right)),
            Operator::Equal => Value::Boolean(self.heap.is_same(left, right)?),
            Operator::NotEqual => Value::Boolean(!self.heap.is_same(left, right)?),
            // What has no order is neither less nor greater.
            Operator::Less => Value::Boolean(order().is_some_and(|order| order.is_lt())),
            Operator::LessOrEqual => Value::Boolean(order().is_some_and(|order| order.is_le())),
            Operator::Greater => Value::Boolean(order().is_some_and(|order| order.is_gt())),
            Operator::GreaterOrEqual => Value::Boolean(order().is_some_and(|order| order.is_ge())),
            Operator::Add if matches!((left, right), (Value::Text(_), _) | (_, Value::Text(_))) => {
                let mut text = String::new();
                self.heap.print_into(&mut text, left, 0)?;
                self.heap.print_into(&mut text, right, 0)?;
                self.heap.text(text)?
            }
            Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder => numbers::calculate(operator, left, right)?,
        })
    }

    fn descend(&mut self) -> Outcome<()> {
        if self.depth >= DEPTH_MAX {
            return Err(RenderFault::TooDeep);
        }
        self.depth += 1;
        self.heap.pay(STEP_WORK)
    }
}
