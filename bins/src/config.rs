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

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use crate::cli::{Flag, SHARED};
use crate::error::Error;
use crate::nearest::suggestion;

/// The sections that there may be: programs, and tools of `dsv2`.
pub const SECTIONS: [&str; 15] = [
    "broker",
    "proxy",
    "server",
    "reference",
    "client",
    "bot",
    "up",
    "status",
    "ping",
    "doctor",
    "inspect",
    "import",
    "sim",
    "bench",
    "completions",
];

/// A configuration file.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    table: Table,
}

impl ConfigFile {
    /// Reads it, and refuses what no program knows: a mistyped section would go unnoticed otherwise.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn read(path: PathBuf) -> Result<Self, Error> {
        Self::load(path)?.known()
    }

    /// Reads it, whatever keys it has.
    ///
    /// # Errors
    /// [`Error::Config`] where it cannot be read, or is no TOML.
    pub fn load(path: PathBuf) -> Result<Self, Error> {
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::toml(path, &text),
            Err(error) => Err(Error::Config { path, why: error.to_string() }),
        }
    }

    /// As [`ConfigFile::read`], from its text.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn parse(path: PathBuf, text: &str) -> Result<Self, Error> {
        Self::toml(path, text)?.known()
    }

    fn toml(path: PathBuf, text: &str) -> Result<Self, Error> {
        match text.parse() {
            Ok(table) => Ok(Self { path, table }),
            Err(error) => Err(Error::Config { path, why: format!("{error}").trim_end().to_owned() }),
        }
    }

    fn known(self) -> Result<Self, Error> {
        match self.strangers().into_iter().next() {
            Some(why) => Err(self.error(why)),
            None => Ok(self),
        }
    }

    /// Sections, and keys outside of them, that no program knows.
    fn strangers(&self) -> Vec<String> {
        let stranger = |(key, value): (&String, &Value)| match value {
            Value::Table(_) if !SECTIONS.contains(&key.as_str()) => {
                let meant = suggestion(key, SECTIONS);
                Some(format!("there is no section [{key}]{meant}; there are {}", SECTIONS.join(", ")))
            }
            Value::Table(_) => None,
            _ if !SHARED.contains(&key.as_str()) => {
                let (meant, shared) = (suggestion(key, SHARED), SHARED.join(", "));
                Some(format!("`{key}` belongs into a section{meant}; for all programs there are {shared}"))
            }
            _ => None,
        };
        self.table.iter().filter_map(stranger).collect()
    }

    /// Refuses keys in the sections of `known` flags that are none of them.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn check(&self, known: &[Flag]) -> Result<(), Error> {
        self.unknown_keys(known).into_iter().next().map_or(Ok(()), |why| Err(self.error(why)))
    }

    fn unknown_keys(&self, known: &[Flag]) -> Vec<String> {
        let mut found = Vec::new();
        for (section, value) in &self.table {
            let Value::Table(keys) = value else { continue };
            let own = known.iter().filter(|flag| flag.section == *section);
            let flags: BTreeSet<&str> = own.map(|flag| flag.long.as_str()).collect();
            if flags.is_empty() {
                continue;
            }
            let is_known = |key: &&String| flags.contains(key.as_str()) || SHARED.contains(&key.as_str());
            found.extend(keys.keys().filter(|key| !is_known(key)).map(|key| {
                let listed: Vec<&str> = flags.iter().copied().collect();
                let meant = suggestion(key, listed.iter().copied());
                format!("[{section}] has no `{key}`{meant}; it has {}", listed.join(", "))
            }));
        }
        found
    }

    /// Everything that is wrong with it, where `known` are the flags of all programs.
    pub(crate) fn problems(&self, known: &[Flag]) -> Vec<String> {
        let mut found = self.strangers();
        found.extend(self.unknown_keys(known));
        for flag in known {
            if let Err(error) = self.with_default(flag.arg.clone(), &flag.section, &flag.long) {
                let why = error.to_string();
                // A shared key is a default of many programs.
                if !found.contains(&why) {
                    found.push(why);
                }
            }
        }
        found
    }

    /// Whether it gives a flag a default.
    pub(crate) fn sets(&self, section: &str, flag: &str) -> bool {
        self.value(section, flag).is_some()
    }

    fn value(&self, section: &str, flag: &str) -> Option<&Value> {
        let own = self.table.get(section).and_then(Value::as_table).and_then(|keys| keys.get(flag));
        own.or_else(|| self.table.get(flag).filter(|_| SHARED.contains(&flag)))
    }

    /// The flag with the default that the file gives it, if it gives one.
    pub(crate) fn with_default(&self, arg: Arg, section: &str, flag: &str) -> Result<Arg, Error> {
        let Some(value) = self.value(section, flag) else { return Ok(arg) };
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
    match refused(&arg, values) {
        None => Ok(arg.required(false).default_values(values.to_vec())),
        Some(reason) => Err(Error::Usage(format!("{origin}: {reason}"))),
    }
}

/// Why a flag does not take these values, if it does not.
pub(crate) fn refused(arg: &Arg, values: &[String]) -> Option<String> {
    // A switch takes its variable as a word, and no value on the command line.
    if !arg.get_action().takes_values() {
        return None;
    }
    let probe =
        Command::new("probe").no_binary_name(true).arg(arg.clone().env(None::<&str>).required(false).global(false));
    let given = format!("--{}={}", arg.get_long().unwrap_or_default(), values.join(","));
    let error = probe.try_get_matches_from([given]).err()?.to_string();
    Some(error.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
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
            ("[servr]\n", "there is no section [servr] (did you mean `server`?)"),
            ("data = 'x'", "`data`"),
            ("[server]\ndat = 'x'", "did you mean `data`"),
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
