//! From a file's text to written settings, and how to say what is wrong with it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;
use serde_saphyr::Spanned;

use crate::config::place::place_of;

/// Larger than any sensible configuration; it keeps a wrong path from filling the memory.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
const ENVIRONMENT_PREFIX: &str = "POSTHORN_";

thread_local! {
    /// What this thread has read, or looked for, of the configuration that it is reading.
    static FILES: RefCell<BTreeSet<PathBuf>> = const { RefCell::new(BTreeSet::new()) };
}

/// Why a configuration is not believed. Its text is one line.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    place: Option<(u64, u64)>,
    key: String,
    rule: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.rule)
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong within one item of a file: the key below it, where that stands, and the rule.
#[derive(Debug)]
pub struct Fault {
    key: String,
    place: Option<(u64, u64)>,
    rule: String,
}

impl Fault {
    pub fn new(key: impl Into<String>, rule: impl Into<String>) -> Fault {
        Fault { key: key.into(), place: None, rule: rule.into() }
    }

    /// A fault of a value that knows where it was written.
    pub fn at<T>(key: impl Into<String>, value: &Spanned<T>, rule: impl Into<String>) -> Fault {
        let place = Some((value.referenced.line(), value.referenced.column()));
        Fault { place, ..Fault::new(key, rule) }
    }
}

impl ConfigError {
    /// A fault whose key is whole.
    pub(super) fn of_section(file: &Path, fault: Fault) -> ConfigError {
        let Fault { key, place, rule } = fault;
        ConfigError { file: file.to_owned(), place, key, rule }
    }

    pub(super) fn rule(file: &Path, key: &str, rule: String) -> ConfigError {
        ConfigError { file: file.to_owned(), place: None, key: key.to_owned(), rule }
    }

    /// Rules that look across keys do not know where these stand: it is looked up.
    pub(super) fn placed(self) -> ConfigError {
        let ConfigError { file, place, key, rule } = self;
        let known = place.filter(|(line, _)| *line > 0);
        let look_up = || place_of(&text_of(&file).ok()?, &key);
        let place = known.or_else(look_up);
        ConfigError { file, place, key, rule }
    }

    /// A fault of an item that stands at `key`.
    pub(super) fn below(file: &Path, key: &str, fault: Fault) -> ConfigError {
        let Fault { key: inner, place, rule } = fault;
        let key = if inner.is_empty() { key.to_owned() } else { format!("{key}.{inner}") };
        ConfigError { file: file.to_owned(), place, key, rule }
    }
}

pub(super) fn read<T: DeserializeOwned>(file: &Path) -> Result<T, ConfigError> {
    parse(file, &whole(file)?)
}

/// Reads a file and puts what the environment says over it.
pub(super) fn read_with<T: DeserializeOwned>(
    file: &Path,
    environment: &[(String, String)],
) -> Result<T, ConfigError> {
    let text = whole(file)?;
    let overrides: Vec<_> = environment
        .iter()
        .filter_map(|(name, value)| {
            let path = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_ascii_lowercase();
            path.contains("__").then_some((name, path, value))
        })
        .collect();
    if overrides.is_empty() {
        return parse(file, &text);
    }
    let mut tree: Value = parse(file, &text)?;
    for (name, path, value) in overrides {
        let value = serde_saphyr::from_str(value).unwrap_or_else(|_| Value::String(value.clone()));
        put(&mut tree, &path, value)
            .map_err(|rule| ConfigError::rule(Path::new("environment"), name, rule))?;
    }
    // The tree knows no lines. What the file alone has wrong was better said by the file.
    serde_path_to_error::deserialize(&tree).map_err(|error| {
        let key = key_of(error.path(), &tree);
        ConfigError::rule(file, &key, format!("{} (with the environment)", error.inner()))
    })
}

/// Turns each written item of a map into a believed one.
pub(super) fn believe<W, B>(
    file: &Path,
    written: &BTreeMap<Arc<str>, W>,
    believe: impl Fn(Arc<str>, &W) -> Result<B, Fault>,
) -> Result<Vec<Arc<B>>, ConfigError> {
    let believed = written.iter().map(|(id, item)| {
        believe(id.clone(), item)
            .map(Arc::new)
            .map_err(|fault| ConfigError::below(file, &format!("apis.{id}"), fault))
    });
    believed.collect()
}

/// Does what reads a configuration, and returns with it every file that it read or looked for.
pub(super) fn noting_files<T>(read: impl FnOnce() -> T) -> (T, BTreeSet<PathBuf>) {
    FILES.take();
    let result = read();
    (result, FILES.take())
}

/// Reads a file that belongs to a configuration. There is no other way to, so that none is overlooked
/// when the configuration is to be read anew as soon as one changes.
pub(super) fn text_of(file: &Path) -> io::Result<String> {
    FILES.with_borrow_mut(|files| files.insert(file.to_owned()));
    let mut text = String::new();
    File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn whole(file: &Path) -> Result<String, ConfigError> {
    text_of(file).map_err(|error| ConfigError::rule(file, "", error.to_string()))
}

fn parse<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, ConfigError> {
    let mut key = String::new();
    let options = serde_saphyr::options! { with_snippet: false };
    let parsed = serde_saphyr::with_deserializer_from_str_with_options(text, options, |input| {
        serde_path_to_error::deserialize(input).map_err(|error| {
            key = key_of(error.path(), &serde_saphyr::from_str(text).unwrap_or_default());
            error.into_inner()
        })
    });
    parsed.map_err(|error: serde_saphyr::Error| {
        let place = error.location().map(|at| (at.line(), at.column()));
        let place = place.filter(|(line, _)| *line > 0);
        ConfigError { file: file.to_owned(), place, key: key.clone(), rule: rule_of(&error) }
    })
}

/// A value that knows its place is read as the member `value` of something. What was not written
/// is not named.
fn key_of(path: &serde_path_to_error::Path, written: &Value) -> String {
    let mut place = Some(written);
    let mut key = String::new();
    for segment in path {
        let (name, inner) = match segment {
            Segment::Map { key } => (key.clone(), place.and_then(|place| place.get(key))),
            Segment::Seq { index } => {
                (format!("[{index}]"), place.and_then(|place| place.get(index)))
            }
            Segment::Enum { variant } => (variant.clone(), None),
            Segment::Unknown => continue,
        };
        if inner.is_none() && name == "value" {
            continue;
        }
        if !key.is_empty() && !name.starts_with('[') {
            key.push('.');
        }
        key.push_str(&name);
        place = inner;
    }
    key
}

/// The library's message without its own account of the place, in one line.
fn rule_of(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let text = text.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
    let text = text.rsplit_once(" at line ").map_or(text, |(rule, _)| rule);
    text.replace('\n', " ")
}

fn put(tree: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let mut place = tree;
    for step in path.split("__") {
        if place.is_null() {
            *place = Value::Object(serde_json::Map::new());
        }
        let Value::Object(map) = place else {
            return Err(format!("`{step}` lies below a value"));
        };
        place = map.entry(step).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}
