//! Arithmetic, and the texts of numbers, which are Java's.

use std::cmp::Ordering;

use crate::template::RenderFault;
use crate::template::heap::{Outcome, Value};
use crate::template::tree::Operator;

/// None where the two have no order.
pub(super) fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => Some(left.cmp(right)),
        _ => decimal(left)?.partial_cmp(&decimal(right)?),
    }
}

/// Null where Velocity says so: with what is no number, and of a division by zero.
pub(super) fn calculate(operator: Operator, left: &Value, right: &Value) -> Outcome<Value> {
    if let (Value::Integer(left), Value::Integer(right)) = (left, right) {
        return calculate_integer(operator, *left, *right);
    }
    let (Some(left), Some(right)) = (decimal(left), decimal(right)) else {
        return Ok(Value::Null);
    };
    Ok(match operator {
        Operator::Add => Value::Decimal(left + right),
        Operator::Subtract => Value::Decimal(left - right),
        Operator::Multiply => Value::Decimal(left * right),
        Operator::Divide | Operator::Remainder if right == 0.0 => Value::Null,
        Operator::Divide => Value::Decimal(left / right),
        Operator::Remainder => Value::Decimal(left % right),
        _ => Value::Null,
    })
}

fn calculate_integer(operator: Operator, left: i128, right: i128) -> Outcome<Value> {
    let result = match operator {
        Operator::Add => left.checked_add(right),
        Operator::Subtract => left.checked_sub(right),
        Operator::Multiply => left.checked_mul(right),
        Operator::Divide | Operator::Remainder if right == 0 => return Ok(Value::Null),
        Operator::Divide => left.checked_div(right),
        Operator::Remainder => left.checked_rem(right),
        _ => return Ok(Value::Null),
    };
    result.map(Value::Integer).ok_or(RenderFault::Overflow)
}

pub(super) fn negate(value: &Value) -> Outcome<Value> {
    match value {
        Value::Decimal(number) => Ok(Value::Decimal(-number)),
        other => calculate(Operator::Subtract, &Value::Integer(0), other),
    }
}

/// Java writes a number that is neither small nor large with a point, and others with an exponent.
pub(super) fn decimal_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if number == 0.0 || (1e-3..1e7).contains(&number.abs()) {
        return with_point(&number.to_string());
    }
    let text = format!("{number:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}E{exponent}", with_point(mantissa))
}

/// None if it is not one as Java's `parseInt` and `parseDouble` read them.
pub(super) fn parse(text: &str) -> Option<Value> {
    if let Ok(integer) = text.parse() {
        return Some(Value::Integer(integer));
    }
    let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    number.map(Value::Decimal)
}

/// Of a number. None if it has no such method.
pub(super) fn call(value: &Value, name: &str, arguments: &[Value]) -> Option<Value> {
    let number = decimal(value)?;
    match (name, arguments) {
        ("intValue" | "longValue", []) => Some(match value {
            Value::Integer(integer) => Value::Integer(*integer),
            // Saturates, as Java does.
            _ => Value::Integer(number as i128),
        }),
        ("doubleValue" | "floatValue", []) => Some(Value::Decimal(number)),
        // Static in Java, and so to be had from any number.
        ("parseInt" | "parseLong" | "parseDouble" | "valueOf", [Value::Text(text)]) => parse(text),
        ("compareTo", [other]) => compare(value, other).map(|order| Value::Integer(order as i128)),
        _ => None,
    }
}

fn decimal(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Decimal(number) => Some(*number),
        _ => None,
    }
}

fn with_point(digits: &str) -> String {
    if digits.contains('.') { digits.to_owned() } else { format!("{digits}.0") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_written_as_java_writes_them() {
        for (number, text) in [
            (2.0, "2.0"),
            (-0.5, "-0.5"),
            (0.0, "0.0"),
            (0.001, "0.001"),
            (0.0001, "1.0E-4"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (1.5e300, "1.5E300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(decimal_text(number), text);
        }
    }
}
