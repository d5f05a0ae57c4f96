//! `dsv2 completions` and `dsv2 man`: what shells and manuals know of the programs, made from their flags.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::catalog;
use crate::error::Error;
use crate::output;

/// Prints the completions of all seven programs for a shell, or of one.
///
/// bash: `source <(dsv2 completions bash)`. fish: `dsv2 completions fish | source`. zsh, elvish and PowerShell: see
/// docs/operations.md.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// Which shell.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
    /// Only this program's, as zsh wants it: a file each.
    #[arg(long, value_name = "PROGRAM")]
    program: Option<String>,
}

/// Writes the manual pages of all programs and tools into a directory, a file each: dsv2.1, dsv2-up.1, dsv2-server.1, …
///
/// The directory is made where there is none, and files of these names are replaced. `man -l DIR/dsv2.1` shows one;
/// `man` finds them by itself in man1 of a directory of its path.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Where to.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<(), Error> {
    let programs = || catalog::programs().into_iter().map(|(command, _)| command);
    let wanted = |command: &Command| args.program.as_deref().is_none_or(|program| program == command.get_name());
    let mut text = Vec::new();
    for mut command in programs().filter(wanted) {
        let name = command.get_name().to_owned();
        clap_complete::generate(args.shell, &mut command, name, &mut text);
    }
    if text.is_empty() {
        let names: Vec<String> = programs().map(|command| command.get_name().to_owned()).collect();
        return Err(Error::Usage(format!("there is no such program; there are {}", names.join(", "))));
    }
    let text = String::from_utf8_lossy(&text);
    output::line(text.trim_end())
}

pub(super) fn man(args: &ManArgs) -> Result<(), Error> {
    let failed =
        |path: &Path, error: &std::io::Error| Error::Failed(format!("{} cannot be written: {error}", path.display()));
    std::fs::create_dir_all(&args.dir).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            Error::Usage(format!("{} is no directory: name one to write to", args.dir.display()))
        }
        _ => failed(&args.dir, &error),
    })?;
    let mut pages = Vec::new();
    for (mut command, _) in catalog::programs() {
        // Flags of the program that its tools have as well.
        command.build();
        let name = command.get_name().to_owned();
        render(command, &name, &mut pages);
    }
    for (name, page) in &pages {
        let path = args.dir.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(|error| failed(&path, &error))?;
    }
    output::line(&format!("{} pages in {}", pages.len(), args.dir.display()))
}

/// The page of a program or tool, which is called by these words, and those of the tools below it.
fn render(command: Command, words: &str, pages: &mut Vec<(String, Vec<u8>)>) {
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        render(below.clone(), &format!("{words} {}", below.get_name()), pages);
    }
    let name = words.replace(' ', "-");
    let release = env!("CARGO_PKG_VERSION");
    let command = command.name(name.clone()).bin_name(words.to_owned()).version(release).disable_help_subcommand(true);
    let man = Man::new(command).title(name.to_uppercase()).source(format!("DS-v2 {release}"));
    let mut page = Vec::new();
    // A vector takes everything.
    if man.render(&mut page).is_ok() {
        pages.push((name, page));
    }
}
