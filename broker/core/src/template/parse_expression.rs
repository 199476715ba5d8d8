//! Reads references, and the expressions within directives.
//!
//! ```text
//! reference  = "$" ["!"] ( path / "{" path "}" )
//! path       = name *( "." name / "." name "(" [ expression *( "," expression ) ] ")"
//!                    / "[" expression "]" )
//! expression = unary *( operator unary )
//! unary      = ( "!" / "not" / "-" ) unary / primary
//! primary    = reference / number / "true" / "false" / "null" / 'text' / "text"
//!            / "(" expression ")" / "[" list or range "]" / "{" map "}"
//! ```

use crate::template::ParseFault;
use crate::template::parse::{At, Parser};
use crate::template::tree::{Expression, ExpressionKind, Operator, Reference, Step};

/// The longest first where one begins another.
const OPERATORS: &[(&str, Operator)] = &[
    ("||", Operator::Or),
    ("&&", Operator::And),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("+", Operator::Add),
    ("-", Operator::Subtract),
    ("*", Operator::Multiply),
    ("/", Operator::Divide),
    ("%", Operator::Remainder),
];

const WORDS: &[(&str, Operator)] = &[
    ("or", Operator::Or),
    ("and", Operator::And),
    ("eq", Operator::Equal),
    ("ne", Operator::NotEqual),
    ("le", Operator::LessOrEqual),
    ("ge", Operator::GreaterOrEqual),
    ("lt", Operator::Less),
    ("gt", Operator::Greater),
];

impl Parser<'_> {
    /// The reference whose dollar is here. None, and no step taken, if the dollar is but a dollar.
    pub(super) fn reference(&mut self) -> At<Option<Reference>> {
        let (start, at) = (self.at, self.position());
        self.at += 1;
        let is_silent = self.take("!");
        let is_braced = self.take("{");
        let Some(name) = self.name() else {
            self.at = start;
            return Ok(None);
        };
        let name = name.into();
        let steps = self.steps()?;
        if is_braced && !self.take("}") {
            return Err(self.fault_at(at, ParseFault::Unclosed("}")));
        }
        let source = self.text[start..self.at].into();
        Ok(Some(Reference { at, source, is_silent, name, steps }))
    }

    fn steps(&mut self) -> At<Box<[Step]>> {
        let mut steps = Vec::new();
        loop {
            let start = self.at;
            if self.take("[") {
                let index = self.expression()?;
                self.expect("]")?;
                steps.push(Step::Index(index));
                continue;
            }
            if !self.take(".") {
                break;
            }
            let Some(name) = self.name() else {
                // The full stop of a sentence.
                self.at = start;
                break;
            };
            let name = name.into();
            steps.push(if self.take("(") {
                Step::Method(name, self.expressions(")")?)
            } else {
                Step::Property(name)
            });
        }
        Ok(steps.into())
    }

    /// Separated by commas, up to what closes them.
    fn expressions(&mut self, closing: &'static str) -> At<Box<[Expression]>> {
        let mut expressions = Vec::new();
        self.skip_space();
        if self.take(closing) {
            return Ok(expressions.into());
        }
        loop {
            expressions.push(self.expression()?);
            self.skip_space();
            if !self.take(",") {
                self.expect(closing)?;
                return Ok(expressions.into());
            }
        }
    }

    pub(super) fn expression(&mut self) -> At<Expression> {
        self.expression_above(0)
    }

    /// As far as operators bind tighter than the number says.
    fn expression_above(&mut self, precedence: u8) -> At<Expression> {
        let depth = self.depth;
        self.descend()?;
        let mut left = self.unary()?;
        loop {
            let start = self.at;
            self.skip_space();
            match self.operator() {
                Some(operator) if operator.precedence() > precedence => {
                    // A chain of operators is as deep a tree as it is long.
                    self.descend()?;
                    let right = self.expression_above(operator.precedence())?;
                    let at = left.at;
                    let kind = ExpressionKind::Binary(operator, Box::new(left), Box::new(right));
                    left = Expression { at, kind };
                }
                Some(_) | None => {
                    self.at = start;
                    self.depth = depth;
                    return Ok(left);
                }
            }
        }
    }

    fn operator(&mut self) -> Option<Operator> {
        if let Some((_, operator)) = OPERATORS.iter().find(|(sign, _)| self.take(sign)) {
            return Some(*operator);
        }
        let word = self.word();
        let (_, operator) = WORDS.iter().find(|(name, _)| *name == word)?;
        self.at += word.len();
        Some(*operator)
    }

    fn unary(&mut self) -> At<Expression> {
        let depth = self.depth;
        self.descend()?;
        self.skip_space();
        let at = self.position();
        let kind = if self.take("!") || self.take_word("not") {
            ExpressionKind::Not(Box::new(self.unary()?))
        } else if self.take("-") {
            ExpressionKind::Negate(Box::new(self.unary()?))
        } else {
            return self.primary().inspect(|_| self.depth = depth);
        };
        self.depth = depth;
        Ok(Expression { at, kind })
    }

    fn primary(&mut self) -> At<Expression> {
        let at = self.position();
        let kind = match self.peek() {
            Some('$') => match self.reference()? {
                Some(reference) => ExpressionKind::Reference(reference),
                None => return Err(self.fault(ParseFault::NotAnExpression)),
            },
            Some('(') => {
                self.at += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Some('[') => self.list()?,
            Some('{') => self.map()?,
            Some(quote @ ('"' | '\'')) => self.quoted(quote)?,
            Some(digit) if digit.is_ascii_digit() || digit == '.' => self.number()?,
            Some(_) | None => self.constant()?,
        };
        Ok(Expression { at, kind })
    }

    fn constant(&mut self) -> At<ExpressionKind> {
        let kind = match self.word() {
            "true" => ExpressionKind::Boolean(true),
            "false" => ExpressionKind::Boolean(false),
            "null" => ExpressionKind::Null,
            _ => return Err(self.fault(ParseFault::NotAnExpression)),
        };
        self.at += self.word().len();
        Ok(kind)
    }

    fn list(&mut self) -> At<ExpressionKind> {
        self.at += 1;
        self.skip_space();
        if self.take("]") {
            return Ok(ExpressionKind::List(Box::default()));
        }
        let first = self.expression()?;
        self.skip_space();
        if self.take("..") {
            let last = self.expression()?;
            self.expect("]")?;
            return Ok(ExpressionKind::Range(Box::new(first), Box::new(last)));
        }
        let mut items = vec![first];
        if self.take(",") {
            items.extend(self.expressions("]")?);
        } else {
            self.expect("]")?;
        }
        Ok(ExpressionKind::List(items.into()))
    }

    fn map(&mut self) -> At<ExpressionKind> {
        self.at += 1;
        let mut entries = Vec::new();
        self.skip_space();
        if self.take("}") {
            return Ok(ExpressionKind::Map(entries.into()));
        }
        loop {
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?));
            self.skip_space();
            if !self.take(",") {
                self.expect("}")?;
                return Ok(ExpressionKind::Map(entries.into()));
            }
        }
    }

    /// A backslash means nothing in either kind of quotes; a quote is written twice.
    fn quoted(&mut self, quote: char) -> At<ExpressionKind> {
        let at = self.position();
        self.at += 1;
        let mut content = String::new();
        loop {
            let Some(length) = self.rest().find(quote) else {
                return Err(self.fault_at(at, ParseFault::Unquoted));
            };
            content.push_str(&self.rest()[..length]);
            self.at += length + 1;
            if self.peek() != Some(quote) {
                break;
            }
            content.push(quote);
            self.at += 1;
        }
        if quote == '\'' || !content.contains(['$', '#']) {
            return Ok(ExpressionKind::Text(content.into()));
        }
        Ok(ExpressionKind::Interpolated(self.within(at, &content)?))
    }

    fn number(&mut self) -> At<ExpressionKind> {
        let rest = self.rest();
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let whole = digits(rest);
        let fraction = rest[whole..].strip_prefix('.').map_or(0, digits);
        if fraction == 0 {
            // What follows may be a range, as in `1..3`.
            let integer = rest[..whole].parse().map_err(|_| self.fault(ParseFault::Number))?;
            self.at += whole;
            return Ok(ExpressionKind::Integer(integer));
        }
        let mut length = whole + 1 + fraction;
        if let Some(exponent) = rest[length..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let count = digits(&exponent[sign..]);
            length += if count > 0 { 1 + sign + count } else { 0 };
        }
        let decimal = rest[..length].parse::<f64>().ok().filter(|number| number.is_finite());
        let decimal = decimal.ok_or_else(|| self.fault(ParseFault::Number))?;
        self.at += length;
        Ok(ExpressionKind::Decimal(decimal))
    }
}
