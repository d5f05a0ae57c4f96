//! What a check found, and how it is told.

use std::io::IsTerminal;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::output;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ok,
    /// It may be meant so.
    Warning,
    Problem,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }

    /// As terminals are told: green, yellow, red.
    const fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\u{1b}[32m",
            Self::Warning => "\u{1b}[33m",
            Self::Problem => "\u{1b}[31m",
        }
    }
}

/// What was found: a sentence, and a remedy where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Ok(String),
    Warning { what: String, remedy: String },
    Problem { what: String, remedy: String },
}

impl Found {
    pub(super) fn ok(what: impl Into<String>) -> Self {
        Self::Ok(what.into())
    }

    pub(super) fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Warning { what: what.into(), remedy: remedy.into() }
    }

    pub(super) fn problem(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Problem { what: what.into(), remedy: remedy.into() }
    }
}

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    check: &'static str,
    /// What was looked at: an endpoint, a server, a directory.
    subject: String,
    found: Found,
}

impl Finding {
    pub(super) fn new(check: &'static str, subject: &(impl ToString + ?Sized), found: Found) -> Self {
        Self { check, subject: subject.to_string(), found }
    }

    pub(super) const fn state(&self) -> State {
        match self.found {
            Found::Ok(_) => State::Ok,
            Found::Warning { .. } => State::Warning,
            Found::Problem { .. } => State::Problem,
        }
    }

    fn what(&self) -> &str {
        match &self.found {
            Found::Ok(what) | Found::Warning { what, .. } | Found::Problem { what, .. } => what,
        }
    }

    fn remedy(&self) -> Option<&str> {
        match &self.found {
            Found::Ok(_) => None,
            Found::Warning { remedy, .. } | Found::Problem { remedy, .. } => Some(remedy),
        }
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("check", self.check)?;
        map.serialize_entry("subject", &self.subject)?;
        map.serialize_entry("result", self.state().word())?;
        map.serialize_entry("what", self.what())?;
        if let Some(remedy) = self.remedy() {
            map.serialize_entry("remedy", remedy)?;
        }
        map.end()
    }
}

/// Whether stdout takes colours: a terminal, whose user has not declined them by `NO_COLOR`.
pub(super) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A line for each finding, and one below it for its remedy.
pub(super) fn people(findings: &[Finding], colours: bool) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for finding in findings {
        let state = finding.state();
        let (from, to) = if colours { (state.colour(), "\u{1b}[0m") } else { ("", "") };
        let subject = output::clean(&finding.subject);
        let subject = if subject.is_empty() { subject } else { format!("{subject}: ") };
        let (word, check, what) = (state.word(), finding.check, sentence(finding.what()));
        lines.push(format!("{from}{word:<7}{to}  {check:<width$}  {subject}{what}"));
        if let Some(remedy) = finding.remedy() {
            lines.push(format!("{:<7}  {:<width$}    {}", "", "", sentence(&format!("→ {remedy}"))));
        }
    }
    lines.join("\n")
}

/// A text on one line, harmless to terminals.
fn sentence(text: &str) -> String {
    let one_line: Vec<&str> = text.split_whitespace().collect();
    output::clean(&one_line.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_state_sentence_and_remedy_and_colours_only_where_wanted() {
        let findings = [
            Finding::new("disk", "data", Found::ok("there is room")),
            Finding::new("ports", "tcp://a:1", Found::problem("taken\nby \u{1b}[2J", "stop it")),
        ];
        let text = people(&findings, false);
        let plain = "ok       disk   data: there is room\n\
            problem  ports  tcp://a:1: taken by \\u{1b}[2J\n                  → stop it";
        assert_eq!(text, plain);
        assert!(people(&findings, true).contains("\u{1b}[31mproblem\u{1b}[0m"));
    }
}
