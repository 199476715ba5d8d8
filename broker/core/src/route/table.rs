//! Which route a message takes.
//!
//! Invariants:
//!
//! * A message never selects `$connect` or `$disconnect`, whatever it says.
//! * What selects no route of its own takes `$default`, if there is one.
//!
//! Where API Gateway's documentation leaves a choice:
//!
//! * A text that is not JSON takes `$default`, also if the expression is a mixture that would come
//!   to a route's key without it.
//! * Unless the expression is static: it asks for nothing in a message, so that no message is looked
//!   into, and every one takes the same route.
//! * A binary message (API Gateway refuses them) is taken for not JSON, whatever bytes it has. A
//!   handler of `join` was written for text, and its event's body is text always.
//! * `$default` selected by name is `$default`.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::message::{Message, MessageKind};
use crate::route::expression::{Expression, ExpressionError, RequestBody};

/// The routes of a stage. `T` is what a route leads to.
#[derive(Debug, Clone)]
pub struct RouteTable<T> {
    expression: Expression,
    /// The routes that messages can select by name: all but the next three.
    routes: BTreeMap<RouteKey, T>,
    connect: Option<T>,
    disconnect: Option<T>,
    default: Option<T>,
}

/// What names a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey(Box<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selected<'a, T> {
    Route {
        key: &'a RouteKey,
        value: &'a T,
    },
    Default(&'a T),
    /// No route fits, and there is no `$default`.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteKeyError {
    #[error("a route key is not empty")]
    Empty,
    #[error("a route key has at most {max} bytes, this one {bytes}", max = RouteKey::BYTES_MAX)]
    TooLong { bytes: usize },
    #[error("a route key has no control characters")]
    ControlCharacter,
    #[error("only $connect, $disconnect and $default begin with a dollar")]
    Reserved,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteTableError {
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    #[error("route {0} is there twice")]
    Twice(RouteKey),
}

impl<T> RouteTable<T> {
    /// `expression` was parsed for [`Purpose::Route`](crate::route::expression::Purpose::Route).
    pub fn new(expression: Expression, mut routes: BTreeMap<RouteKey, T>) -> RouteTable<T> {
        RouteTable {
            expression,
            connect: routes.remove(RouteKey::CONNECT),
            disconnect: routes.remove(RouteKey::DISCONNECT),
            default: routes.remove(RouteKey::DEFAULT),
            routes,
        }
    }

    pub fn select(&self, message: &Message) -> Selected<'_, T> {
        match self.named_by(message) {
            Some((key, value)) => Selected::Route { key, value },
            None => self.default.as_ref().map_or(Selected::None, Selected::Default),
        }
    }

    pub fn connect(&self) -> Option<&T> {
        self.connect.as_ref()
    }

    pub fn disconnect(&self) -> Option<&T> {
        self.disconnect.as_ref()
    }

    /// Allocates nothing if the expression is static, or is one variable that names a plain string.
    fn named_by(&self, message: &Message) -> Option<(&RouteKey, &T)> {
        if let Some(key) = self.expression.as_static() {
            return self.routes.get_key_value(key);
        }
        match message.kind {
            MessageKind::Text => {
                let body = RequestBody(str::from_utf8(&message.payload).ok()?);
                let key = self.expression.evaluate(&body).ok()?;
                self.routes.get_key_value(&*key)
            }
            MessageKind::Binary => None,
        }
    }
}

impl<T> Selected<'_, T> {
    /// The key as an event names it.
    pub fn key(&self) -> Option<&str> {
        match self {
            Selected::Route { key, .. } => Some(key.as_str()),
            Selected::Default(_) => Some(RouteKey::DEFAULT),
            Selected::None => None,
        }
    }
}

impl RouteKey {
    pub const CONNECT: &str = "$connect";
    pub const DISCONNECT: &str = "$disconnect";
    pub const DEFAULT: &str = "$default";
    pub const BYTES_MAX: usize = 128;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RouteKey {
    type Err = RouteKeyError;

    fn from_str(text: &str) -> Result<RouteKey, RouteKeyError> {
        if text.is_empty() {
            return Err(RouteKeyError::Empty);
        }
        if text.len() > Self::BYTES_MAX {
            return Err(RouteKeyError::TooLong { bytes: text.len() });
        }
        if text.contains(char::is_control) {
            return Err(RouteKeyError::ControlCharacter);
        }
        match text {
            Self::CONNECT | Self::DISCONNECT | Self::DEFAULT => Ok(RouteKey(text.into())),
            _ if text.starts_with('$') => Err(RouteKeyError::Reserved),
            _ => Ok(RouteKey(text.into())),
        }
    }
}

impl Borrow<str> for RouteKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
