//! What a program says on stdout.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::Error;

/// Writes one line to stdout and hands it over at once.
///
/// # Errors
/// [`Error::OutputClosed`] where nobody reads it any more.
pub fn line(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::OutputClosed,
        _ => Error::Failed(format!("the output cannot be written: {error}")),
    })
}

/// Writes one object as one line of JSON.
///
/// # Errors
/// As [`line()`].
pub fn object(value: &impl Serialize) -> Result<(), Error> {
    line(&json(value)?)
}

/// One object as one line of JSON.
///
/// # Errors
/// [`Error::Failed`] where it has no such form.
pub fn json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Failed(format!("cannot be written as JSON: {error}")))
}

/// A text of somebody else's as it may go to a terminal: whoever wrote it must not command ours.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                out.extend(c.escape_default());
            }
            c => out.push(c),
        }
    }
    out
}

/// A table for people: columns as wide as their widest cell.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_cannot_command_the_terminal() {
        assert_eq!(clean("oi\u{1b}[2J\nlá"), "oi\\u{1b}[2J\\nlá");
        assert_eq!(clean("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["server10".to_owned(), "1".to_owned()], vec!["é".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["name", "rank"], &rows), "name      rank\nserver10  1\né         22");
    }
}
