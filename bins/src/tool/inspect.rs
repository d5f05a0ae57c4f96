//! `dsv2 inspect`: what a data directory holds, and whether it is sound.

use std::path::{Path, PathBuf};

use clap::Args;
use dsv2_store::{Inspection, inspect_dir};
use serde_json::{Value, json};

use crate::error::Error;
use crate::output;

/// Verifies every line of a server's log, and prints what it holds. Changes nothing, and needs no stop of the server.
///
/// Of a directory that holds those of several servers, as `dsv2 up --data` makes it, each is looked at.
#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    /// The data directory.
    #[arg(value_name = "DATA-DIR")]
    dir: PathBuf,
    /// Says it as JSON, one object a directory and a line.
    #[arg(long)]
    json: bool,
}

pub(super) fn inspect(args: &InspectArgs) -> Result<(), Error> {
    let mut damaged = Vec::new();
    for dir in stores(&args.dir)? {
        let found = inspect_dir(&dir)?;
        if args.json {
            output::object(&object(&dir, &found))?;
        } else {
            output::line(&format!("{}\n{}", dir.display(), found))?;
        }
        if !found.is_sound() {
            damaged.push(dir.display().to_string());
        }
    }
    match damaged.as_slice() {
        [] => Ok(()),
        damaged => Err(Error::Check(format!("not sound: {}", damaged.join(", ")))),
    }
}

/// The directory itself, or those below it that are data directories of servers.
pub(super) fn stores(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let is_store =
        |dir: &Path| ["meta.json", "manifest.json", "users.json"].iter().any(|file| dir.join(file).is_file());
    let unusable = |error: std::io::Error| Error::Store(format!("{} cannot be read: {error}", dir.display()));
    if is_store(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unusable)? {
        let path = entry.map_err(unusable)?.path();
        if is_store(&path) {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Error::Store(format!(
            "{} is no data directory: there is no meta.json in it, nor one level below",
            dir.display()
        )));
    }
    Ok(found)
}

fn object(dir: &Path, found: &Inspection) -> Value {
    let files: Vec<Value> = found
        .files
        .iter()
        .map(|file| {
            json!({
                "path": file.path, "bytes": file.bytes, "lines": file.lines, "first_index": file.indices.0,
                "last_index": file.indices.1, "cut_bytes": file.cut_bytes, "damaged_bytes": file.damaged_bytes,
            })
        })
        .collect();
    let origins: Vec<Value> =
        found.origins.iter().map(|origin| json!({"origin": origin.origin.to_string(), "held": origin.held})).collect();
    let missing: Vec<Value> = found
        .recovery
        .missing
        .iter()
        .map(|missing| json!({"origin": missing.origin.to_string(), "first": missing.first, "last": missing.last}))
        .collect();
    let mut object = json!({
        "dir": dir.display().to_string(), "sound": found.is_sound(), "events": found.events, "last_index": found.last_index,
        "lost_indices": found.lost_indices, "waiting": found.recovery.waiting, "missing": missing, "files": files, "origins": origins,
        "retired": found.retired_events, "publish_floor": found.floors.publish.get(), "message_floor": found.floors.message.get(),
        "snapshot_index": found.snapshot_index,
    });
    if let (Some(meta), Some(fields)) = (&found.meta, object.as_object_mut()) {
        fields.extend(meta.name.as_ref().map(|name| ("server".to_owned(), name.as_str().into())));
        fields.insert("node".to_owned(), format!("{:032x}", meta.node).into());
        fields.insert("epoch".to_owned(), meta.epoch.into());
        fields.insert("clock_limit".to_owned(), meta.clock_limit.get().into());
    }
    if let (Some(damage), Some(fields)) = (&found.meta_damage, object.as_object_mut()) {
        fields.insert("meta_damage".to_owned(), damage.clone().into());
    }
    object
}
