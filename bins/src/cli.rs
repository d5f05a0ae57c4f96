//! From the command line to a running program: flags, environment, configuration file, log, runtime, exit code.

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Parser};
use serde::Serialize;

use crate::args::Common;
use crate::config::{self, ConfigFile};
use crate::error::{EXIT_CODES, Error};
use crate::logging;

/// What comes after every `--help`.
const CONFIGURATION: &str = "\
Configuration: a flag wins over its environment variable, which wins over the configuration file. The file is TOML;
its keys are the long flags. Keys before the first section are for all programs, a section [server], [client], [bot],
[up], … is for that program or tool alone.";

/// Flags that mean the same in every program: their variables and keys carry no program's name.
pub(crate) const SHARED: [&str; 5] = ["config", "log-format", "host", "base-port", "serde"];

/// Variables that the programs of the family know, and the flags that they stand for.
pub(crate) const FAMILY: [(&str, &str, &str); 2] = [("", "serde", "SERDE"), ("server", "name", "SERVER_NAME")];

/// The tools that look for mistakes in configuration and environment themselves.
const FORGIVING: [&str; 2] = ["doctor", "config"];

/// What is particular about a program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its section in the configuration file, and the middle of its variables: `DSV2_SERVER_DATA`.
    pub section: &'static str,
    /// Whether its subcommands are tools with sections of their own.
    pub tools: bool,
    /// What it logs where `RUST_LOG` says nothing.
    pub log: &'static str,
}

/// Arguments that hold the common ones.
pub trait HasCommon {
    /// Them.
    fn common(&self) -> &Common;
    /// What is logged where `RUST_LOG` says nothing, if that differs from the program's own.
    fn log(&self) -> Option<&'static str> {
        None
    }
}

/// Runs a program from the first look at its arguments to its exit code.
pub fn run<A, B, F>(program: Program, body: B) -> ExitCode
where
    A: Parser + HasCommon,
    B: FnOnce(A) -> F,
    F: Future<Output = Result<(), Error>>,
{
    let result = parse::<A>(program, std::env::args_os().collect()).and_then(|args| {
        logging::init(args.common().log_format, args.log().unwrap_or(program.log));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(body(args));
        // A thread may still wait for a line that will never come.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    });
    let Err(error) = result else { return ExitCode::SUCCESS };
    if !matches!(error, Error::OutputClosed) {
        let name = A::command().get_name().to_owned();
        eprintln!("{name}: {error}");
        if let Some(hint) = error.hint() {
            eprintln!("{name}: hint: {hint}");
        }
    }
    error.exit_code()
}

/// Reads the arguments, with the environment and the configuration file below them. `--help`, `--version` and wrong
/// flags end the process here, as clap does it.
fn parse<A: Parser>(program: Program, argv: Vec<OsString>) -> Result<A, Error> {
    let mode = if program.tools && asks_forgiving::<A>(&argv) { Mode::Forgiving } else { Mode::Strict };
    let file = match (config::path(&argv), mode) {
        (None, _) => None,
        (Some(path), Mode::Strict) => Some(ConfigFile::read(path)?),
        (Some(path), _) => ConfigFile::load(path).ok(),
    };
    let command = command::<A>(program, file.as_ref(), mode)?.0;
    let matches = command.get_matches_from(argv);
    A::from_arg_matches(&matches).map_err(|error| error.exit())
}

/// Whether a tool is asked for that has to work where configuration and environment are wrong, to say so.
fn asks_forgiving<A: Parser>(argv: &[OsString]) -> bool {
    let matches = A::command().try_get_matches_from(argv).ok();
    matches.as_ref().and_then(|matches| matches.subcommand_name()).is_some_and(|tool| FORGIVING.contains(&tool))
}

/// A program as it is built, without defaults from here, and its flags.
pub(crate) fn describe<A: Parser>(program: Program) -> (Command, Vec<Flag>) {
    // Without defaults nothing can be wrong with them.
    command::<A>(program, None, Mode::Bare).unwrap_or_else(|_| (A::command(), Vec::new()))
}

/// A flag's value, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The long flag.
    pub flag: String,
    /// Its value, as it was written; none where the program decides by itself.
    pub value: Option<String>,
    /// `flag`, `environment NAME`, `file` or `default`.
    pub from: String,
}

/// What a program, or the tool that the arguments name, would run with.
///
/// # Errors
/// [`Error::Usage`], [`Error::Config`].
pub(crate) fn settings<A: Parser>(
    program: Program,
    file: Option<&ConfigFile>,
    argv: &[OsString],
) -> Result<Vec<Setting>, Error> {
    let (command, flags) = command::<A>(program, file, Mode::Strict)?;
    let usage = |error: clap::Error| {
        let text = error.to_string();
        Error::Usage(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
    };
    let matches = command.try_get_matches_from(argv).map_err(usage)?;
    let mut levels = vec![&matches];
    while let Some((_, below)) = levels.last().and_then(|last| last.subcommand()) {
        levels.push(below);
    }
    let section = matches.subcommand_name().filter(|_| program.tools).unwrap_or(program.section);
    let mut found: Vec<Setting> = Vec::new();
    for flag in flags.iter().filter(|flag| flag.section == section || SHARED.contains(&flag.long.as_str())) {
        if !found.iter().any(|setting| setting.flag == flag.long) {
            found.push(setting(flag, section, file, &levels));
        }
    }
    Ok(found)
}

/// Where a value came from. To clap, what stands in the file or in a variable of the family is a default.
fn setting(flag: &Flag, section: &str, file: Option<&ConfigFile>, levels: &[&ArgMatches]) -> Setting {
    let id = flag.arg.get_id();
    let level = levels.iter().rev().find(|level| level.ids().any(|present| present == id));
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let family = FAMILY.iter().filter(|(of, long, _)| *long == flag.long && (of.is_empty() || *of == section));
    let from = match level.and_then(|level| level.value_source(id.as_str())) {
        Some(ValueSource::CommandLine) => "flag".to_owned(),
        Some(ValueSource::EnvVariable) => format!("environment {}", flag.variable()),
        _ => match family.map(|(_, _, name)| *name).find(is_set) {
            Some(name) => format!("environment {name}"),
            None if file.is_some_and(|file| file.sets(section, &flag.long)) => "file".to_owned(),
            None => "default".to_owned(),
        },
    };
    let values = level.and_then(|level| level.get_raw(id.as_str()));
    let value = values.map(|all| all.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(","));
    Setting { flag: flag.long.clone(), value, from }
}

fn command<A: Parser>(program: Program, file: Option<&ConfigFile>, mode: Mode) -> Result<(Command, Vec<Flag>), Error> {
    let command = A::command().after_help(CONFIGURATION.to_owned() + "\n\n" + EXIT_CODES);
    let mut furnisher = Furnisher { file, mode, flags: Vec::new(), failed: None };
    let mut command = furnisher.furnish(command, program.section);
    let names: Vec<String> = command.get_subcommands().map(|tool| tool.get_name().to_owned()).collect();
    for name in names {
        let section = if program.tools { name.clone() } else { program.section.to_owned() };
        command = command.mut_subcommand(name, |tool| furnisher.furnish_all(tool, &section));
    }
    match (furnisher.failed, file) {
        (Some(error), _) => Err(error),
        (None, Some(file)) if mode == Mode::Strict => file.check(&furnisher.flags).map(|()| (command, furnisher.flags)),
        (None, _) => Ok((command, furnisher.flags)),
    }
}

/// What becomes of a default that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It is an error.
    Strict,
    /// It is passed over.
    Forgiving,
    /// There are no defaults but the built-in ones.
    Bare,
}

/// A long flag of a program or tool, with its variable.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The section of the configuration file that may set it.
    pub section: String,
    /// Its name, which is its key there.
    pub long: String,
    pub(crate) arg: Arg,
}

impl Flag {
    /// Its variable in the environment.
    #[must_use]
    pub fn variable(&self) -> String {
        variable(if SHARED.contains(&self.long.as_str()) { "" } else { &self.section }, &self.long)
    }
}

/// Gives flags their variables and defaults.
struct Furnisher<'a> {
    file: Option<&'a ConfigFile>,
    mode: Mode,
    flags: Vec<Flag>,
    failed: Option<Error>,
}

impl Furnisher<'_> {
    /// A tool with the tools below it, which share its section.
    fn furnish_all(&mut self, tool: Command, section: &str) -> Command {
        let tool = self.furnish(tool, section);
        tool.mut_subcommands(|below| self.furnish_all(below, section))
    }

    /// Gives every long flag its variable, and as its default what the configuration file says.
    fn furnish(&mut self, command: Command, section: &str) -> Command {
        command.mut_args(|arg| match arg.get_long().map(str::to_owned) {
            Some(long) if !is_built_in(&arg) => self.furnish_flag(arg, section, long),
            _ => arg,
        })
    }

    fn furnish_flag(&mut self, arg: Arg, section: &str, long: String) -> Arg {
        let family = FAMILY.iter().find(|(of, flag, _)| *flag == long && (of.is_empty() || *of == section));
        let arg = match family {
            Some((_, _, name)) => {
                let text = arg.get_help().map(ToString::to_string).unwrap_or_default();
                arg.help(format!("{text} [env of the family: {name}]"))
            }
            None => arg,
        };
        let flag = Flag { section: section.to_owned(), long, arg: arg.clone() };
        let (variable, long) = (flag.variable(), flag.long.clone());
        self.flags.push(flag);
        if self.mode == Mode::Bare {
            return arg.env(variable);
        }
        let inherited =
            family.and_then(|(_, _, name)| Some((format!("the variable {name}"), std::env::var(name).ok()?)));
        let arg = match std::env::var(&variable) {
            Ok(value)
                if self.mode == Mode::Forgiving && config::refused(&arg, std::slice::from_ref(&value)).is_some() =>
            {
                arg
            }
            _ => arg.env(variable),
        };
        let default = match inherited.filter(|(_, value)| !value.is_empty()) {
            Some((origin, value)) => config::with_default(arg.clone(), &[value], &origin),
            None => self.file.map_or(Ok(arg.clone()), |file| file.with_default(arg.clone(), section, &long)),
        };
        default.unwrap_or_else(|error| {
            if self.mode == Mode::Strict {
                self.failed.get_or_insert(error);
            }
            arg
        })
    }
}

fn is_built_in(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version)
}

fn variable(section: &str, long: &str) -> String {
    let parts = ["dsv2", section, long].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("_").replace('-', "_").to_uppercase()
}

/// A program's arguments from a text, for tests.
#[cfg(test)]
pub(crate) fn parse_for_test<A: Parser>(
    program: Program,
    argv: &[&str],
    file: Option<&ConfigFile>,
) -> Result<A, String> {
    let command = command::<A>(program, file, Mode::Strict).map_err(|error| error.to_string())?.0;
    let matches = command.try_get_matches_from(argv).map_err(|error| error.to_string())?;
    A::from_arg_matches(&matches).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_named_after_program_and_flag() {
        assert_eq!(variable("server", "coordinator-rank"), "DSV2_SERVER_COORDINATOR_RANK");
        assert_eq!(variable("", "base-port"), "DSV2_BASE_PORT");
    }
}
