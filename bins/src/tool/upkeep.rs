//! `dsv2 snapshot`, `dsv2 compact`, `dsv2 retire`: upkeep of data directories that are at rest.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use dsv2_core::{ServerName, Timestamp};
use dsv2_store::{EventStore, JsonlConfig, JsonlStore, Snapshotted, StoreStats};
use dsv2_sync::stored;
use indicatif::ProgressBar;
use serde_json::json;

use super::inspect::stores;
use crate::error::Error;
use crate::keep::Keeping;
use crate::output;

/// Reads and checks a server's whole log, and leaves a snapshot beside it, from which the next start is quick.
///
/// The server must be stopped: a running one makes its own. Of a directory that holds those of several servers, each is
/// looked after.
#[derive(Args, Debug)]
pub(super) struct SnapshotArgs {
    /// The data directory.
    #[arg(value_name = "DATA-DIR")]
    dir: PathBuf,
    /// Says it as JSON, one object a directory and a line.
    #[arg(long)]
    json: bool,
}

/// Removes retired messages from the files of a stopped server; with the flags of "Retention", retires older ones first.
///
/// Servers with voters retire messages by themselves, all the same ones, and are given the flags of "Retention"
/// themselves; here they are for a server that works alone. Of every topic, the last message of each of a server's
/// lives stays. Of a directory that holds those of several servers, each is looked after.
#[derive(Args, Debug)]
pub(super) struct CompactArgs {
    /// The data directory.
    #[arg(value_name = "DATA-DIR")]
    dir: PathBuf,
    #[command(flatten)]
    keeping: Keeping,
    /// Says it as JSON, one object a directory and a line.
    #[arg(long)]
    json: bool,
}

/// Declares a voter gone for good: what is final, and so retention, no longer waits for it.
///
/// Say it in the data directory of one other server, which is stopped; started again, that one tells all the others. The
/// voter that is gone still counts where a majority is needed, as one that never answers, until all servers are
/// started with another list. It cannot be taken back: a server of that name is refused from then on, and may come back
/// under another name, with an empty directory.
#[derive(Args, Debug)]
pub(super) struct RetireArgs {
    /// The voter that is gone.
    #[arg(value_name = "SERVER")]
    server: ServerName,
    /// The data directory of another server.
    #[arg(value_name = "DATA-DIR")]
    dir: PathBuf,
    /// Says it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn retire(args: &RetireArgs) -> Result<(), Error> {
    if !args.dir.join("meta.json").is_file() {
        return Err(Error::Store(format!(
            "{} is no server's data directory: there is no meta.json in it",
            args.dir.display()
        )));
    }
    let mut store = open(&args.dir)?;
    let mut meta = store.meta().clone();
    if meta.name.as_ref() == Some(&args.server) {
        let text =
            format!("{} is {}'s own directory: say it in that of a server that stays", args.dir.display(), args.server);
        return Err(Error::Usage(text));
    }
    let new = meta.departed.insert(args.server.clone());
    store.save_meta(&meta)?;
    let by = meta.name.map_or_else(|| "this server".to_owned(), |name| name.to_string());
    if args.json {
        return output::object(&json!({"retired": args.server.as_str(), "told_by": by, "new": new}));
    }
    output::line(&format!("{} is declared gone for good; start {by}, which tells the others", args.server))
}

pub(super) fn snapshot(args: &SnapshotArgs) -> Result<(), Error> {
    for dir in stores(&args.dir)? {
        let store = open(&dir)?;
        let made = make(&store, &dir)?;
        if args.json {
            output::object(&json!({"dir": dir.display().to_string(), "events": made.0, "bytes": made.1}))?;
        } else {
            output::line(&format!("{}: a snapshot of {} events, {} bytes", dir.display(), made.0, made.1))?;
        }
    }
    Ok(())
}

pub(super) fn compact(args: &CompactArgs) -> Result<(), Error> {
    let retention = args.keeping.retention();
    for dir in stores(&args.dir)? {
        let mut store = open(&dir)?;
        let before = store.stats();
        if !retention.keeps_all() {
            check_alone(&store, &dir)?;
            let floors = store.floors_for(&retention, now());
            store.retire(floors, &BTreeSet::new())?;
        }
        let progress = ProgressBar::new_spinner().with_message("files compacted");
        while store.compact()? {
            progress.inc(1);
        }
        progress.set_message("files compressed");
        while store.pack()? {
            progress.inc(1);
        }
        progress.finish_and_clear();
        make(&store, &dir)?;
        tell(args.json, &dir, &before, &store.stats())?;
    }
    Ok(())
}

fn tell(json: bool, dir: &Path, before: &StoreStats, after: &StoreStats) -> Result<(), Error> {
    let dir = dir.display().to_string();
    let retired = before.events - after.events;
    if json {
        return output::object(&json!({
            "dir": dir, "retired": retired, "events": after.events, "bytes_before": before.disk_bytes, "bytes": after.disk_bytes,
        }));
    }
    let (was, is) = (before.disk_bytes, after.disk_bytes);
    output::line(&format!(
        "{dir}: {retired} messages retired, {} events left; {was} bytes before, {is} now",
        after.events
    ))
}

fn open(dir: &Path) -> Result<JsonlStore, Error> {
    Ok(JsonlStore::open_dir(dir, JsonlConfig::default())?)
}

/// What one server alone retires, the others of its cluster would keep.
fn check_alone(store: &JsonlStore, dir: &Path) -> Result<(), Error> {
    let servers: BTreeSet<&ServerName> = store.vector().iter().map(|(origin, _)| &origin.server).collect();
    if servers.len() < 2 {
        return Ok(());
    }
    let names = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(Error::Usage(format!(
        "{} holds events of several servers ({names}): start them with the same flags of \"Retention\" instead",
        dir.display()
    )))
}

/// Yields how many events and bytes are in it.
fn make(store: &JsonlStore, dir: &Path) -> Result<(u64, u64), Error> {
    let nameless = || Error::Store(format!("{} has never been a server's: it has no name", dir.display()));
    let name = store.meta().name.clone().ok_or_else(nameless)?;
    let disk = store.disk().ok_or_else(nameless)?;
    match stored::snapshot(&disk, &name, store.floors(), true)? {
        Snapshotted::Made { events, bytes, .. } => Ok((events, bytes)),
        Snapshotted::Damaged(damage) => {
            let hint = "start the server beside others, which give back what is missing";
            Err(Error::Check(format!("{}: the log is damaged ({damage}): {hint}", dir.display())))
        }
        _ => Ok((store.stats().events, 0)),
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }
}
