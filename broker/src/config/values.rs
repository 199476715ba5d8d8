//! The kinds of values that settings have, each parsed once into the type that the broker believes.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// A duration written as a whole number of milliseconds, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millis(pub Duration);

/// A duration written as a whole number of seconds, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub Duration);

/// A duration written as a whole number of seconds, 0 included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause(pub Duration);

/// A limit, or the word `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<T>(pub Option<T>);

impl Millis {
    pub const fn new(millis: u64) -> Millis {
        Millis(Duration::from_millis(millis))
    }
}

impl Seconds {
    pub const fn new(seconds: u64) -> Seconds {
        Seconds(Duration::from_secs(seconds))
    }
}

impl Pause {
    pub const fn new(seconds: u64) -> Pause {
        Pause(Duration::from_secs(seconds))
    }
}

impl<'de> Deserialize<'de> for Pause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pause, D::Error> {
        u64::deserialize(deserializer).map(Pause::new)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
        positive(deserializer).map(Millis::new)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seconds, D::Error> {
        positive(deserializer).map(Seconds::new)
    }
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Err(D::Error::invalid_value(Unexpected::Unsigned(0), &"a whole number, at least 1")),
        number => Ok(number),
    }
}

/// What a limit counts in.
pub trait Unit: Sized {
    fn from_number(number: u64) -> Self;
}

impl Unit for u64 {
    fn from_number(number: u64) -> u64 {
        number
    }
}

impl Unit for Millis {
    fn from_number(number: u64) -> Millis {
        Millis::new(number)
    }
}

impl Unit for Seconds {
    fn from_number(number: u64) -> Seconds {
        Seconds::new(number)
    }
}

impl<'de, T: Unit> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Limit<T>, D::Error> {
        deserializer.deserialize_any(LimitVisitor(PhantomData))
    }
}

struct LimitVisitor<T>(PhantomData<T>);

impl<T: Unit> Visitor<'_> for LimitVisitor<T> {
    type Value = Limit<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, at least 1, or the word none")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Limit<T>, E> {
        match number {
            0 => Err(E::invalid_value(Unexpected::Unsigned(0), &self)),
            number => Ok(Limit(Some(T::from_number(number)))),
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Limit<T>, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Limit<T>, E> {
        match word {
            "none" => Ok(Limit(None)),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }
}
