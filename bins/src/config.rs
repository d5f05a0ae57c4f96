//! The configuration file: TOML that gives flags other defaults.
//!
//! ```toml
//! base-port = 7000          # for every program
//! serde = "msgpack"
//!
//! [server]                  # for dsv2-server
//! name = "server1"
//! voters = ["server1", "server2", "server3"]
//!
//! [up]                      # for dsv2 up
//! servers = 5
//! ```

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use crate::cli::SHARED;
use crate::error::Error;

/// The sections that there may be: programs, and tools of `dsv2`.
pub const SECTIONS: [&str; 13] = [
    "broker",
    "proxy",
    "server",
    "reference",
    "client",
    "bot",
    "up",
    "status",
    "ping",
    "inspect",
    "import",
    "sim",
    "bench",
];

/// A configuration file.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    table: Table,
}

impl ConfigFile {
    /// Reads it.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn read(path: PathBuf) -> Result<Self, Error> {
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) => Err(Error::Config { path, why: error.to_string() }),
        }
    }

    /// Takes its text, and refuses what no program knows: a mistyped section would go unnoticed otherwise.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn parse(path: PathBuf, text: &str) -> Result<Self, Error> {
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(error) => return Err(Error::Config { path, why: format!("{error}").trim_end().to_owned() }),
        };
        let file = Self { path, table };
        for (key, value) in &file.table {
            match value {
                Value::Table(_) if !SECTIONS.contains(&key.as_str()) => {
                    return Err(file.error(format!("there is no section [{key}]; there are {}", SECTIONS.join(", "))));
                }
                Value::Table(_) => {}
                _ if !SHARED.contains(&key.as_str()) => {
                    let shared = SHARED.join(", ");
                    return Err(
                        file.error(format!("`{key}` belongs into a section; for all programs there are {shared}"))
                    );
                }
                _ => {}
            }
        }
        Ok(file)
    }

    /// Refuses keys in the sections of `known` flags that are none of them.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn check(&self, known: &[(String, String)]) -> Result<(), Error> {
        for (section, value) in &self.table {
            let Value::Table(keys) = value else { continue };
            let flags: Vec<&str> =
                known.iter().filter(|(of, _)| of == section).map(|(_, flag)| flag.as_str()).collect();
            let unknown = |key: &&String| !flags.contains(&key.as_str()) && !SHARED.contains(&key.as_str());
            if flags.is_empty() {
                continue;
            }
            if let Some(key) = keys.keys().find(unknown) {
                return Err(self.error(format!("[{section}] has no `{key}`; it has {}", flags.join(", "))));
            }
        }
        Ok(())
    }

    /// The flag with the default that the file gives it, if it gives one.
    pub(crate) fn with_default(&self, arg: Arg, section: &str, flag: &str) -> Result<Arg, Error> {
        let own = self.table.get(section).and_then(Value::as_table).and_then(|keys| keys.get(flag));
        let shared = || self.table.get(flag).filter(|_| SHARED.contains(&flag));
        let Some(value) = own.or_else(shared) else { return Ok(arg) };
        let values = match (value, arg.get_action()) {
            (Value::Boolean(false), ArgAction::SetTrue) => return Ok(arg),
            (Value::Boolean(true), ArgAction::SetTrue) => return Ok(arg.default_value("true")),
            (_, ArgAction::SetTrue) => return Err(self.error(format!("`{flag}` is true or false"))),
            (Value::Array(items), _) => items.iter().map(text).collect(),
            (value, _) => text(value).map(|text| vec![text]),
        };
        let values =
            values.ok_or_else(|| self.error(format!("`{flag}` is neither a text nor a number, nor a list of them")))?;
        with_default(arg, &values, &format!("the configuration file {}", self.path.display()))
    }

    fn error(&self, why: String) -> Error {
        Error::Config { path: self.path.clone(), why }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The flag with another default, which must be one that the flag takes.
pub(crate) fn with_default(arg: Arg, values: &[String], origin: &str) -> Result<Arg, Error> {
    let flag = arg.get_long().unwrap_or_default().to_owned();
    let probe =
        Command::new("probe").no_binary_name(true).arg(arg.clone().env(None::<&str>).required(false).global(false));
    let given = format!("--{flag}={}", values.join(","));
    match probe.try_get_matches_from([given]) {
        Ok(_) => Ok(arg.required(false).default_values(values.to_vec())),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(Error::Usage(format!("{origin}: {reason}")))
        }
    }
}

/// The file that the arguments, or else the environment, name. It must be known before the arguments can be read.
pub(crate) fn path(argv: &[OsString]) -> Option<PathBuf> {
    let mut rest = argv.iter().skip(1);
    while let Some(arg) = rest.next() {
        match arg.to_str() {
            Some("--") => break,
            Some("--config") => return rest.next().map(PathBuf::from),
            Some(text) => {
                if let Some(path) = text.strip_prefix("--config=") {
                    return Some(path.into());
                }
            }
            None => {}
        }
    }
    std::env::var_os("DSV2_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Program, parse_for_test};

    #[derive(Debug, Parser, PartialEq)]
    struct Args {
        #[arg(long, global = true, default_value_t = 5555)]
        base_port: u16,
        #[arg(long)]
        data: Option<PathBuf>,
        #[arg(long, value_delimiter = ',')]
        voters: Vec<String>,
        #[arg(long)]
        fast: bool,
    }

    const SERVER: Program = Program { section: "server", tools: false, log: "info" };

    fn parse(argv: &[&str], text: &str) -> Result<Args, String> {
        let file = ConfigFile::parse("x.toml".into(), text).map_err(|error| error.to_string())?;
        parse_for_test(SERVER, argv, Some(&file))
    }

    #[test]
    fn the_file_gives_defaults_and_flags_win() -> Result<(), String> {
        let text = "base-port = 7000\n[server]\nvoters = ['a', 'b']\nfast = true\n[bot]\nrate = 1.5";
        let args = parse(&["x"], text)?;
        assert_eq!(args, Args { base_port: 7000, data: None, voters: vec!["a".into(), "b".into()], fast: true });
        let args = parse(&["x", "--base-port", "8000", "--voters", "c"], text)?;
        assert_eq!((args.base_port, args.voters), (8000, vec!["c".to_owned()]));
        Ok(())
    }

    #[test]
    fn what_no_program_knows_is_refused_by_name() {
        for (text, needle) in [
            ("[servr]\n", "[servr]"),
            ("data = 'x'", "`data`"),
            ("[server]\ndat = 'x'", "`dat`"),
            ("base-port = 'high'", "high"),
            ("[server]\nfast = 1", "`fast`"),
            ("[server]\nvoters = [[1]]", "`voters`"),
            ("base-port = ", "x.toml"),
        ] {
            let error = parse(&["x"], text).expect_err(text);
            assert!(error.contains(needle), "{text}: {error}");
        }
    }

    #[test]
    fn the_file_is_named_before_a_double_dash() {
        let path = |argv: &[&str]| path(&argv.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(path(&["x", "up", "--config", "a.toml"]), Some("a.toml".into()));
        assert_eq!(path(&["x", "--config=b.toml"]), Some("b.toml".into()));
    }
}
