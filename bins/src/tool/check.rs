//! `dsv2 check`: judges a history that any program wrote.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use clap::Args;
use dsv2_sync::history::{Checker, Record};

use crate::error::Error;
use crate::output;

/// Judges what clients saw: nothing lost, nothing doubled, everything in order.
///
/// The file holds one JSON object a line; docs/history.md lists them. Any program in any language may write it. Each broken
/// promise is printed with the number of the line that shows it.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The history, or `-` for standard input.
    #[arg(value_name = "HISTORY.jsonl")]
    file: PathBuf,
}

pub(super) fn check(args: &CheckArgs) -> Result<(), Error> {
    let from: Box<dyn BufRead> = if args.file.as_os_str() == "-" {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let file = File::open(&args.file)
            .map_err(|why| Error::Failed(format!("{} cannot be read: {why}", args.file.display())))?;
        Box::new(BufReader::with_capacity(1 << 16, file))
    };
    let mut checker = Checker::default();
    for (number, line) in (1..).zip(from.lines()) {
        let line = line.map_err(|why| Error::Failed(format!("line {number}: {why}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let record: Record =
            serde_json::from_str(&line).map_err(|why| Error::Failed(format!("line {number}: {why}")))?;
        checker.add(number, record);
    }
    let operations = checker.operations();
    let violations = checker.finish();
    for violation in &violations {
        output::line(&output::clean(&violation.to_string()))?;
    }
    match violations.len() {
        0 => output::line(&format!("{operations} operations, no promise broken")),
        broken => Err(Error::Check(format!("{broken} promises broken in {operations} operations"))),
    }
}
