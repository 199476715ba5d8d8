//! Commands that pages show are understood by the binary.

use std::process::Command;

use posthorn_chaos::process::binary;

use crate::pages::{self, Page};

#[test]
fn the_binary_understands_every_command_that_is_shown() {
    let pages = pages::all();
    let (mut count, mut faults) = (0, Vec::new());
    for (place, line) in shown(&pages) {
        for words in calls(&line) {
            count += 1;
            // Everything before it is parsed, and nothing is done.
            let output = Command::new(binary()).args(&words).arg("--help").output();
            let output = output.expect("the binary can be started");
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                faults.push(format!("{place}: posthorn {}: {error}", words.join(" ")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 20, "{count} commands were found");
}

#[test]
fn commands_are_found_in_what_is_shown() {
    let console =
        "$ POSTHORN_TOKEN=x posthorn post --api a \\\n    ID 'two words' | cat\nposthorn: no\n";
    let found: Vec<_> = commands(console, true).iter().flat_map(|line| calls(line)).collect();
    assert_eq!(found, [["post", "--api", "a", "1", "two words"].map(str::to_owned)]);
    let script = "cd /x && target/release/posthorn dev --nodes 1 # comment\n";
    let found: Vec<_> = commands(script, false).iter().flat_map(|line| calls(line)).collect();
    assert_eq!(found, [["dev", "--nodes", "1"].map(str::to_owned)]);
}

/// Commands of blocks, and code within the prose, which may be one. With their places.
pub fn shown(pages: &[Page]) -> impl Iterator<Item = (String, String)> {
    let blocks = pages.iter().flat_map(|page| &page.blocks);
    let blocks = blocks.filter(|block| matches!(&*block.language, "sh" | "console"));
    let in_blocks = blocks.flat_map(|block| {
        commands(&block.text, block.language == "console")
            .into_iter()
            .map(move |command| (block.to_string(), command))
    });
    let in_prose = pages.iter().flat_map(|page| {
        page.code().map(|(number, code)| (format!("{}:{number}", page.path.display()), code.into()))
    });
    in_blocks.chain(in_prose)
}

/// Whole commands, however many lines they take. In a console, what is printed is none.
fn commands(text: &str, is_console: bool) -> Vec<String> {
    let mut commands = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = match (is_console, line.strip_prefix("$ ")) {
            (true, None) => continue,
            (true, Some(command)) => command,
            (false, _) => line,
        };
        let mut command = line.to_owned();
        while let Some(begun) = command.strip_suffix('\\') {
            command = format!("{begun} {}", lines.next().unwrap_or_default().trim_start());
        }
        commands.push(command);
    }
    commands
}

/// The words behind `posthorn`, each time that a line calls it.
fn calls(line: &str) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for command in split(line) {
        let is_setting = |word: &String| {
            word.split_once('=').is_some_and(|(name, _)| {
                name.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
            })
        };
        let mut words = command.into_iter().skip_while(is_setting).peekable();
        let program = words.next().unwrap_or_default();
        let is_ours = program.rsplit('/').next() == Some("posthorn");
        if is_ours && words.peek().is_some() {
            // A number stands for what the reader has to fill in where there must be one.
            let fill = |word: String| if word == "ID" { "1".to_owned() } else { word };
            calls.push(words.map(fill).collect());
        }
    }
    calls
}

/// Into commands, and these into words.
fn split(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, '#') if word.is_none() => break,
            (None, ';' | '|' | '&' | '>' | '<' | '(' | ')') => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    commands
}
