//! The rules of the house that the compiler does not know.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms in floor order. A room names only rooms of lower floors, and those of its own floor that
/// stand before it.
const FLOORS: &[&[&str]] = &[
    &["clock", "descriptors", "draining"],
    &["config", "telemetry", "tls"],
    &["fabric", "integration"],
    &["consensus"],
    &["exchange"],
    &["operator"],
    &["api", "edge"],
    &["reload", "node"],
    &["cli"],
];

/// Libraries that only one room may name.
const OWNED: &[(&str, &str)] =
    &[("openraft", "consensus"), ("sled", "consensus"), ("quinn", "fabric")];

/// Words that have no business in the pure core.
const IMPURE: &[&str] = &[
    "tokio",
    "async fn",
    "Instant::now",
    "SystemTime",
    "getrandom",
    "rand::",
    "std::fs",
    "std::net::Tcp",
    "HashMap",
    "HashSet",
    "thread_local",
    "std::env",
];

const LINES_MAX: usize = 600;

#[test]
fn rooms_name_only_rooms_below_them() {
    let mut faults = Vec::new();
    for (path, text) in sources("src") {
        let Some(place) = place_of(&room_of(&path)) else { continue };
        for (number, line) in code_of(&text) {
            for named in line.split("crate::").skip(1).map(first_word) {
                let is_below = place_of(&named).is_none_or(|other| other <= place);
                if !is_below {
                    faults.push(format!("{}:{number}: names `{named}`", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_room_stands_on_a_floor() {
    for (path, _) in sources("src") {
        let room = room_of(&path);
        let is_plan = matches!(&*room, "lib" | "main");
        assert!(is_plan || place_of(&room).is_some(), "{} is in no room", path.display());
    }
}

#[test]
fn libraries_stay_in_the_rooms_that_own_them() {
    for (path, text) in sources("src") {
        let room = room_of(&path);
        for (number, line) in code_of(&text) {
            let code = outside_quotes(line);
            for (library, owner) in OWNED.iter().filter(|(_, owner)| *owner != room) {
                let names = code.contains(&format!("{library}::"))
                    || code.contains(&format!("use {library}"));
                assert!(!names, "{}:{number}: {library} belongs to {owner}", path.display());
            }
        }
    }
}

#[test]
fn the_core_is_pure() {
    for (path, text) in sources("core/src") {
        for (number, line) in code_of(&text) {
            for word in IMPURE {
                assert!(!line.contains(word), "{}:{number}: `{word}`", path.display());
            }
        }
    }
}

#[test]
fn files_fit_in_a_head() {
    for (path, text) in ["src", "core/src"].into_iter().flat_map(sources) {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in ["src", "core/src"].into_iter().flat_map(sources) {
        let is_test = path.components().any(|part| part.as_os_str() == "tests");
        assert!(is_test || text.starts_with("//!"), "{} begins without a word", path.display());
    }
}

/// Floor, and place on it.
fn place_of(room: &str) -> Option<(usize, usize)> {
    FLOORS.iter().enumerate().find_map(|(floor, rooms)| {
        rooms.iter().position(|name| *name == room).map(|place| (floor, place))
    })
}

/// Lines that are neither comments nor tests.
fn code_of(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = code.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Texts in quotes may speak of anything.
fn outside_quotes(line: &str) -> String {
    line.split('"').step_by(2).collect()
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn room_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).expect("a source lies under src");
    let first = inside.components().next().expect("a path has a first step");
    Path::new(first.as_os_str()).with_extension("").display().to_string()
}

fn sources(folder: &str) -> impl Iterator<Item = (PathBuf, String)> + use<> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be listed") {
            let path = entry.expect("an entry can be read").path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "rs" => files.push(path),
                Some(_) | None => (),
            }
        }
    }
    files.into_iter().map(|path| {
        let text = fs::read_to_string(&path).expect("a source is text");
        (path, text)
    })
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
