//! What a template is once it is parsed.
//!
//! Nothing here nests deeper than the parser allows, so whoever walks it, or drops it, may recurse.

use std::sync::Arc;

/// Shared between the tree and the values made of it.
pub type Text = Arc<str>;

pub(super) type Block = Box<[Node]>;

#[derive(Debug)]
pub(super) enum Node {
    Text(Box<str>),
    Reference(Reference),
    Set {
        target: Reference,
        value: Expression,
    },
    /// The conditions in their order, then what holds without any.
    If {
        branches: Box<[(Expression, Block)]>,
        otherwise: Block,
    },
    Foreach {
        at: Position,
        name: Text,
        list: Expression,
        body: Block,
    },
    Define {
        name: Text,
        body: Block,
    },
    Break,
    Stop,
}

#[derive(Debug)]
pub(super) struct Reference {
    pub at: Position,
    /// As written, which is what an undefined reference prints in some dialects.
    pub source: Box<str>,
    /// Written `$!`.
    pub is_silent: bool,
    pub name: Text,
    pub steps: Box<[Step]>,
}

#[derive(Debug)]
pub(super) enum Step {
    Property(Text),
    Method(Text, Box<[Expression]>),
    Index(Expression),
}

#[derive(Debug)]
pub(super) struct Expression {
    pub at: Position,
    pub kind: ExpressionKind,
}

#[derive(Debug)]
pub(super) enum ExpressionKind {
    Null,
    Boolean(bool),
    Integer(i128),
    Decimal(f64),
    Text(Text),
    /// A text in double quotes, with something in it to be replaced.
    Interpolated(Block),
    Reference(Reference),
    List(Box<[Expression]>),
    Range(Box<Expression>, Box<Expression>),
    Map(Box<[(Expression, Expression)]>),
    Not(Box<Expression>),
    Negate(Box<Expression>),
    Binary(Operator, Box<Expression>, Box<Expression>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// A place in a template. Both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl Operator {
    /// What binds tighter has a larger number.
    pub fn precedence(self) -> u8 {
        match self {
            Operator::Or => 1,
            Operator::And => 2,
            Operator::Equal | Operator::NotEqual => 3,
            Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual => 4,
            Operator::Add | Operator::Subtract => 5,
            Operator::Multiply | Operator::Divide | Operator::Remainder => 6,
        }
    }
}
