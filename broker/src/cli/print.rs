//! What commands print: JSON for programs, tables for people.

use std::io::{self, Write as _};

use serde_json::Value;

use crate::cli::Exit;

/// Who reads our output may stop when he has enough of it: that is no failure, and the end.
pub(super) fn text(text: &str) -> Result<(), Exit> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Exit::Success),
        Err(error) => {
            failure(&format!("standard output: {error}"), None);
            Err(Exit::Failed)
        }
    }
}

pub(super) fn line(text: &str) -> Result<(), Exit> {
    self::text(&format!("{text}\n"))
}

/// One line.
pub(super) fn json(value: &Value) -> Result<(), Exit> {
    line(&value.to_string())
}

/// Tells the user what did not work, and what to do next, where anybody knows.
pub(super) fn failure(what: &str, next: Option<&str>) {
    let name = match is_coloured_at(&io::stderr()) {
        true => format!("\x1b[{}mposthorn:\x1b[0m", Colour::Red as u8),
        false => "posthorn:".to_owned(),
    };
    // Who does not read what went wrong still has the exit code.
    let _ = writeln!(io::stderr(), "{name} {what}");
    if let Some(next) = next {
        let _ = writeln!(io::stderr(), "  {next}");
    }
}

/// Columns, each as wide as its widest cell.
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
}

pub(super) struct Cell {
    text: String,
    colour: Option<Colour>,
}

/// As terminals number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|cell| cell.to_string().into()).collect()] }
    }

    pub(super) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    pub(super) fn render(&self, is_coloured: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell: &Cell| cell.text.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let line = |row: &Vec<Cell>| {
            let last = row.len().saturating_sub(1);
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                let width = if column == last { 0 } else { *width };
                cell.render(width, is_coloured)
            });
            cells.collect::<Vec<_>>().join("  ") + "\n"
        };
        self.rows.iter().map(line).collect()
    }
}

impl Cell {
    pub(super) fn coloured(text: impl Into<String>, colour: Colour) -> Cell {
        Cell { colour: Some(colour), ..Cell::from(text.into()) }
    }

    fn render(&self, width: usize, is_coloured: bool) -> String {
        let padding = " ".repeat(width.saturating_sub(self.text.chars().count()));
        match self.colour {
            Some(colour) if is_coloured => {
                format!("\x1b[{}m{}\x1b[0m{padding}", colour as u8, self.text)
            }
            Some(_) | None => format!("{}{padding}", self.text),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text: plain(&text), colour: None }
    }
}

impl<T: ToString> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or_else(|| "-".to_owned(), |value| value.to_string()).into()
    }
}

/// Whether colours are of use: a person looks at a terminal, and has not said no (no-color.org).
pub(super) fn is_coloured() -> bool {
    is_coloured_at(&io::stdout())
}

fn is_coloured_at(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

/// What other machines said, without what could move a terminal's cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// In its two largest units.
pub(super) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s}s"),
        (0, h, m, _) => format!("{h}h{m}m"),
        (d, h, _, _) => format!("{d}d{h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_with_and_without_colours() {
        let mut table = Table::new(&["NODE", "STATE"]);
        table.push(vec![Cell::coloured("1", Colour::Red), "a\x1b[2Jb".to_owned().into()]);
        table.push(vec![None::<u32>.into(), Some(7).into()]);
        assert_eq!(table.render(false), "NODE  STATE\n1     a\u{fffd}[2Jb\n-     7\n");
        let coloured = "NODE  STATE\n\x1b[31m1\x1b[0m     a\u{fffd}[2Jb\n-     7\n";
        assert_eq!(table.render(true), coloured);
    }

    #[test]
    fn durations_are_told_in_two_units() {
        for (ms, text) in [
            (0, "0s"),
            (59_999, "59s"),
            (61_000, "1m1s"),
            (3_600_000, "1h0m"),
            (90_000_000, "1d1h"),
            (u64::MAX, "213503982334d14h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
