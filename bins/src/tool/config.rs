//! `dsv2 config`: whether the configuration file is right, and where each setting comes from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::catalog;
use crate::config::{self, ConfigFile};
use crate::error::Error;
use crate::output;

/// Checks the configuration file for all programs, or shows where each setting of a program comes from.
#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Checks the file that --config or DSV2_CONFIG names: every section and key, for all programs. Exit code 2 if
    /// something is wrong.
    Check,
    /// Shows what a program would run with, and whether a flag, the environment, the file or the built-in default says so.
    Show(ShowArgs),
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// Says it as JSON, an object a line.
    #[arg(long)]
    json: bool,
    /// The program as it would be called, with its flags: `dsv2-server --name server1`, `dsv2 up`.
    #[arg(value_name = "PROGRAM", required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    argv: Vec<OsString>,
}

pub(super) fn config(args: &ConfigArgs, file: Option<PathBuf>) -> Result<(), Error> {
    match &args.action {
        Action::Check => check(file),
        Action::Show(args) => show(args, file),
    }
}

fn check(path: Option<PathBuf>) -> Result<(), Error> {
    let path = path.ok_or_else(|| Error::Usage("no file is named: say which with --config FILE".to_owned()))?;
    let file = ConfigFile::load(path.clone())?;
    let problems = file.problems(&catalog::flags());
    for problem in &problems {
        output::line(&output::clean(problem))?;
    }
    match problems.len() {
        0 => output::line(&format!("{}: every key is known, and takes its value", path.display())),
        many => Err(Error::Config { path, why: format!("{many} of its settings are wrong") }),
    }
}

fn show(args: &ShowArgs, path: Option<PathBuf>) -> Result<(), Error> {
    // The program's own --config wins over that of this tool.
    let path = config::path(&args.argv).or(path);
    let file = path.clone().map(ConfigFile::read).transpose()?;
    let settings = catalog::settings(file.as_ref(), &args.argv)?;
    if args.json {
        return settings.iter().try_for_each(output::object);
    }
    let named = path.as_deref().map_or_else(String::new, |path: &Path| format!(" {}", path.display()));
    let rows: Vec<Vec<String>> = settings
        .into_iter()
        .map(|setting| {
            let from = if setting.from == "file" { format!("file{named}") } else { setting.from };
            vec![setting.flag, output::clean(setting.value.as_deref().unwrap_or("-")), from]
        })
        .collect();
    output::line(&output::table(&["flag", "value", "from"], &rows))
}
