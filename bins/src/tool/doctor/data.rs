//! Data directories, and the disks that they are on.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dsv2_store::inspect_dir;
use serde_json::Value;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use super::finding::{Finding, Found};
use super::servers::Seen;
use super::{disk, system, unfinished};
use crate::tool::inspect::stores;

/// Where a server keeps its data that is not told otherwise.
const DEFAULT: &str = "data";

/// A data directory that is there.
struct Store {
    /// As it was given.
    path: PathBuf,
    /// What it really is, whatever links lead there.
    real: PathBuf,
    name: Option<String>,
    node: Option<String>,
    /// Voters that were declared gone for good.
    departed: Vec<String>,
    holder: Option<system::Holder>,
}

/// What was seen of the data directories.
#[derive(Default)]
pub(super) struct Data {
    stores: Vec<Store>,
    findings: Vec<Finding>,
}

/// The directories to look at: those that were given, or the one that a server takes by itself, where it is there.
pub(super) fn directories(given: &[PathBuf]) -> Vec<PathBuf> {
    let default = || Path::new(DEFAULT).is_dir().then(|| PathBuf::from(DEFAULT));
    if given.is_empty() { default().into_iter().collect() } else { given.to_vec() }
}

/// Looks at each of them, and reads the logs, all at the same time.
pub(super) async fn look(dirs: &[PathBuf], min_free: u64, within: Duration) -> Data {
    let mut looking = JoinSet::new();
    // One level below is where `dsv2 up` keeps those of its servers.
    let each = dirs.iter().flat_map(|dir| stores(dir).unwrap_or_else(|_| vec![dir.clone()]));
    for (number, dir) in each.enumerate() {
        looking.spawn(async move { (number, look_at(dir, min_free, within).await) });
    }
    let mut seen = looking.join_all().await;
    seen.sort_by_key(|(number, _)| *number);
    let mut data = Data::default();
    for (_, one) in seen {
        data.stores.extend(one.stores);
        data.findings.extend(one.findings);
    }
    if dirs.is_empty() {
        let text = "none was looked at: name those of this machine with --data DIR,…";
        data.findings.push(Finding::new("data", "", Found::ok(text)));
    }
    data
}

async fn look_at(dir: PathBuf, min_free: u64, within: Duration) -> Data {
    let subject = dir.display().to_string();
    let outside = dir.clone();
    // A file system on a network that is gone answers nobody.
    let outside = timeout(within, spawn_blocking(move || from_outside(&outside, min_free))).await;
    let mut data = match outside {
        Ok(Ok(data)) => data,
        _ => Data { findings: vec![unfinished("data", &subject, within)], ..Data::default() },
    };
    if !data.stores.is_empty() {
        let found = match timeout(within, spawn_blocking(move || sound(&dir))).await {
            Ok(Ok(found)) => Finding::new("data", &subject, found),
            _ => {
                let what = format!("its log was not read to its end within {} s", within.as_secs());
                let remedy =
                    format!("`dsv2 inspect {subject}` reads all of it; or give more time with --timeout SECONDS");
                Finding::new("data", &subject, Found::warning(what, remedy))
            }
        };
        data.findings.push(found);
    }
    data
}

/// Everything but the log.
fn from_outside(dir: &Path, min_free: u64) -> Data {
    let mut data = Data::default();
    let add = |data: &mut Data, check, found| data.findings.push(Finding::new(check, &dir.display(), found));
    for found in disk::look(dir, min_free) {
        add(&mut data, "disk", found);
    }
    match std::fs::metadata(dir) {
        Ok(metadata) if !metadata.is_dir() => {
            let remedy = "name a directory with --data, or move that file away";
            add(&mut data, "data", Found::problem("is no directory", remedy));
        }
        Ok(_) => {
            if let Some(found) = disk::permissions(dir) {
                add(&mut data, "data", found);
            }
            match store(dir) {
                Some(store) => data.stores.push(store),
                None => add(&mut data, "data", no_store(dir)),
            }
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let found = disk::may_be_made(dir);
            add(&mut data, "data", found);
        }
        Err(error) => {
            let remedy = "look at the owner and the permissions of the directories above it";
            add(&mut data, "data", Found::problem(format!("cannot be looked at: {error}"), remedy));
        }
    }
    data
}

/// What `meta.json` says. Whether that is sound is found where the log is read.
fn store(dir: &Path) -> Option<Store> {
    let meta = std::fs::read_to_string(dir.join("meta.json")).ok();
    if meta.is_none() && !dir.join("manifest.json").is_file() && !dir.join("users.json").is_file() {
        return None;
    }
    let meta: Value = meta.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let text = |key: &str| meta[key].as_str().map(str::to_owned);
    let departed = meta["departed"].as_array().into_iter().flatten();
    Some(Store {
        path: dir.to_owned(),
        real: dir.canonicalize().unwrap_or_else(|_| dir.to_owned()),
        name: text("name"),
        node: text("node"),
        departed: departed.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        holder: system::lock_holder(dir),
    })
}

/// A directory without a server's data, which may be meant for a new one.
fn no_store(dir: &Path) -> Found {
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Found::ok("is empty: the first start of its server fills it"),
        Ok(false) => Found::warning(
            "holds something, but no data of a server: there is no meta.json in it, nor one level below",
            "name the data directory of a server with --data; give a new server an empty one",
        ),
        Err(error) => Found::problem(format!("cannot be listed: {error}"), "look at its owner and its permissions"),
    }
}

fn sound(dir: &Path) -> Found {
    let remedy = format!(
        "`dsv2 inspect {0}` tells what; restart its server, which gets back from the others what damage took; if meta.json is \
         damaged, restore a backup of this very directory, or start with an empty one",
        dir.display()
    );
    match inspect_dir(dir) {
        Ok(found) if found.is_sound() => Found::ok(format!("its log is sound: {} events", found.events)),
        Ok(found) => {
            let why = found.meta_damage.unwrap_or_else(|| match found.recovery.damage.first() {
                Some(damage) => damage.to_string(),
                None => "events are missing".to_owned(),
            });
            Found::problem(format!("its log is damaged: {why}"), remedy)
        }
        Err(error) => Found::problem(format!("its log cannot be read: {error}"), remedy),
    }
}

impl Data {
    /// What is to be said, now that it is known which servers answer.
    pub(super) fn judged(self, servers: &Seen) -> Vec<Finding> {
        let mut findings = self.findings;
        findings.extend(self.stores.iter().filter_map(|store| held(store, servers)));
        findings.extend(self.stores.iter().filter_map(|store| departed(store, servers)));
        findings.extend(shared(&self.stores));
        findings
    }
}

fn held(store: &Store, servers: &Seen) -> Option<Finding> {
    let holder = store.holder.as_ref()?;
    let found = match &store.name {
        Some(name) if !servers.answers(name) => Found::warning(
            format!("is held by {holder}, while no server {name} answers"),
            "if that is a tool at work, let it finish; if it is a server, see that it is told this place, and look at its log",
        ),
        _ => Found::ok(format!("is held by {holder}")),
    };
    Some(Finding::new("data", &store.path.display(), found))
}

/// A directory that says of a living server that it is gone for good, its own included.
fn departed(store: &Store, servers: &Seen) -> Option<Finding> {
    let own = store.name.as_ref();
    let back = store.departed.iter().find(|name| servers.answers(name) || own == Some(*name))?;
    let what = format!("says that {back} is gone for good, and it is there");
    let remedy = "stop that server: it may come back under another name with an empty directory";
    Some(Finding::new("voters", &store.path.display(), Found::problem(what, remedy)))
}

/// Directories that were given twice, and names that stand in two of them.
fn shared(stores: &[Store]) -> Vec<Finding> {
    let mut by_place = BTreeMap::<&Path, Vec<&Store>>::new();
    stores.iter().for_each(|store| by_place.entry(&store.real).or_default().push(store));
    let mut findings = Vec::new();
    let mut by_name = BTreeMap::<&str, Vec<&Store>>::new();
    for same in by_place.values() {
        if let [first, second, ..] = same.as_slice() {
            let what = format!("is the same directory as {}", second.path.display());
            let remedy = "give every server a --data directory of its own";
            findings.push(Finding::new("data", &first.path.display(), Found::problem(what, remedy)));
        }
        if let Some((first, name)) = same.first().and_then(|first| Some((*first, first.name.as_deref()?))) {
            by_name.entry(name).or_default().push(first);
        }
    }
    for (name, same) in by_name {
        let [first, second, ..] = same.as_slice() else { continue };
        let copied = if first.node == second.node { ", one is a copy of the other" } else { "" };
        let what = format!("belongs to server {name}, as {} does{copied}", second.path.display());
        let remedy = "start only one of them; a new server needs a name of its own and an empty directory";
        findings.push(Finding::new("names", &first.path.display(), Found::problem(what, remedy)));
    }
    findings
}
