//! What may be written, as the types have it that are read: for the reference of the configuration, and
//! for who wants to see the configuration that is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use posthorn_core::ids::{ClusterName, NodeId};
use posthorn_core::proxies::Proxies;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::config::Written;
use crate::config::reach::DeniedAddresses;
use crate::config::values::{Limit, Millis, Pause, Seconds};

/// A value of the configuration. Sections derive it, from the same source that serde does.
pub(super) trait Setting {
    fn shape() -> Shape;
    /// As it would be written, or none where nothing would be.
    fn written(&self) -> Option<Value>;
}

/// What may be written somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// One value, in words.
    Words(&'static str),
    /// One of these words, and what each means.
    OneOf(Vec<(&'static str, String)>),
    Group(Group),
    List(Box<Shape>),
    /// By names that the operator chooses.
    Map(Box<Shape>),
}

/// Keys that stand together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The same for all places that have the same keys.
    pub kind: &'static str,
    pub doc: String,
    pub keys: Vec<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    pub doc: String,
    pub shape: Shape,
    pub default: Default,
    /// Whether it is not for everybody's eyes, and how it is shown then.
    pub secret: Option<Secret>,
}

/// What a key that is missing comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Default {
    /// It must be there.
    Required,
    Value(Value),
    /// Nothing, or what these words say.
    Absent(Option<String>),
}

/// How a secret is shown, so that what is shown could be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// A hash, of what may be easy to guess: other digits, no two the same.
    Hash,
    /// An address, which may have a user's name and password in it: without these.
    Address,
    /// Texts by name, where what stands in quotation marks is taken as it is: other words.
    Literals,
}

/// All that a configuration may have.
pub fn sections() -> Group {
    let Shape::Group(group) = Written::shape() else { unreachable!("a file has keys") };
    group
}

/// Lines of comments as one text. Links to code are for who reads the code.
pub(super) fn prose(lines: &[&str]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ").replace("[`", "`").replace("`]", "`")
}

impl Default {
    pub(super) fn of(value: &impl Setting) -> Default {
        value.written().map_or(Default::Absent(None), Default::Value)
    }
}

/// Puts other values in the place of secrets.
pub(super) fn mask(group: &Group, value: &mut Value) {
    let mut hashes = 0;
    mask_group(group, value, &mut hashes);
}

fn mask_group(group: &Group, value: &mut Value, hashes: &mut u64) {
    for Key { name, shape, secret, .. } in &group.keys {
        let Some(value) = value.get_mut(name) else { continue };
        match secret {
            Some(secret) => secret.mask(value, hashes),
            None => mask_shape(shape, value, hashes),
        }
    }
}

fn mask_shape(shape: &Shape, value: &mut Value, hashes: &mut u64) {
    match (shape, value) {
        (Shape::Group(group), value) => mask_group(group, value, hashes),
        (Shape::List(inner), Value::Array(items)) => {
            items.iter_mut().for_each(|item| mask_shape(inner, item, hashes));
        }
        (Shape::Map(inner), Value::Object(items)) => {
            items.values_mut().for_each(|item| mask_shape(inner, item, hashes));
        }
        (Shape::Words(_) | Shape::OneOf(_) | Shape::List(_) | Shape::Map(_), _) => (),
    }
}

impl Secret {
    fn mask(self, value: &mut Value, hashes: &mut u64) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.mask(item, hashes)),
            Value::Object(items) => items.values_mut().for_each(|item| self.mask(item, hashes)),
            Value::String(text) => match self {
                Secret::Hash => {
                    *hashes += 1;
                    *text = format!("{hashes:064x}");
                }
                Secret::Address => {
                    let (before, rest) = text.split_once("://").unwrap_or(("", text));
                    let end = rest.find(['/', '?']).unwrap_or(rest.len());
                    if let Some(at) = rest[..end].rfind('@') {
                        *text = format!("{before}://{}", &rest[at + 1..]);
                    }
                }
                Secret::Literals => {
                    if text.starts_with('\'') {
                        "'masked'".clone_into(text);
                    }
                }
            },
            Value::Null | Value::Bool(_) | Value::Number(_) => (),
        }
    }
}

/// Values that are one word or number.
macro_rules! plain {
    ($($kind:ty: $words:literal, $written:expr;)*) => {
        $(impl Setting for $kind {
            fn shape() -> Shape {
                Shape::Words($words)
            }

            fn written(&self) -> Option<Value> {
                let written: fn(&$kind) -> Value = $written;
                Some(written(self))
            }
        })*
    };
}

plain! {
    bool: "`true` or `false`", |value| (*value).into();
    u8: "whole number", |value| (*value).into();
    u16: "whole number", |value| (*value).into();
    u32: "whole number", |value| (*value).into();
    u64: "whole number", |value| (*value).into();
    usize: "whole number", |value| (*value).into();
    f64: "number", |value| (*value).into();
    String: "text", |value| value.as_str().into();
    Arc<str>: "text", |value| (**value).into();
    Box<str>: "text", |value| (**value).into();
    PathBuf: "file", |value| value.display().to_string().into();
    SocketAddr: "IP address and port", |value| value.to_string().into();
    NodeId: "whole number", |value| value.0.into();
    ClusterName: "DNS label or name", |value| value.to_string().into();
    Millis: "whole number, at least 1", |value| (value.0.as_millis() as u64).into();
    Seconds: "whole number, at least 1", |value| value.0.as_secs().into();
    Pause: "whole number", |value| value.0.as_secs().into();
    Value: "anything", Value::clone;
}

impl Setting for Proxies {
    fn shape() -> Shape {
        Shape::List(Box::new(Shape::Words("IP address, or block of them")))
    }

    fn written(&self) -> Option<Value> {
        Some(self.0.iter().map(ToString::to_string).collect())
    }
}

impl Setting for DeniedAddresses {
    fn shape() -> Shape {
        Shape::List(Box::new(Shape::Words("IP address, block of them, or `own_listeners`")))
    }

    fn written(&self) -> Option<Value> {
        Some(self.texts().collect())
    }
}

impl<T: Setting> Setting for Limit<T> {
    fn shape() -> Shape {
        Shape::Words("whole number, at least 1, or `none`")
    }

    fn written(&self) -> Option<Value> {
        self.0.as_ref().map_or_else(|| Some("none".into()), T::written)
    }
}

impl<T: Setting> Setting for Option<T> {
    fn shape() -> Shape {
        T::shape()
    }

    fn written(&self) -> Option<Value> {
        self.as_ref()?.written()
    }
}

impl<T: Setting> Setting for Spanned<T> {
    fn shape() -> Shape {
        T::shape()
    }

    fn written(&self) -> Option<Value> {
        self.value.written()
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }

    fn written(&self) -> Option<Value> {
        Some(self.iter().filter_map(T::written).collect())
    }
}

impl<T: Setting> Setting for BTreeSet<T> {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }

    fn written(&self) -> Option<Value> {
        Some(self.iter().filter_map(T::written).collect())
    }
}

impl<K: AsRef<str>, T: Setting> Setting for BTreeMap<K, T> {
    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }

    fn written(&self) -> Option<Value> {
        let item = |(name, item): (&K, &T)| Some((name.as_ref().to_owned(), item.written()?));
        Some(Value::Object(self.iter().filter_map(item).collect()))
    }
}
