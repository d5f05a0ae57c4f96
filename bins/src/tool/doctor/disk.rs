//! Room, owners and permissions.

use std::path::Path;

use super::finding::Found;

/// Fewer files than this and a server soon cannot make the next one.
#[cfg(unix)]
const FEW_FILES: u64 = 1_000;

/// The directory itself, or the closest one above it that is there.
fn closest(dir: &Path) -> &Path {
    let there = dir.ancestors().find(|above| above.exists());
    there.filter(|above| !above.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// The file system that the directory is on, or would be.
#[cfg(unix)]
pub(super) fn look(dir: &Path, min_free: u64) -> Vec<Found> {
    use rustix::fs::{StatVfsMountFlags, statvfs};
    let system = match statvfs(closest(dir)) {
        Ok(system) => system,
        Err(error) => {
            let what = format!("its file system does not tell how it is: {error}");
            return vec![Found::warning(what, "look at the mount, and at the kernel's log")];
        }
    };
    let mut found = Vec::new();
    if system.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let remedy = "mount it for writing; if the system did that by itself after an error, look at the disk first";
        found.push(Found::problem("its file system is read-only", remedy));
    }
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    if free < min_free {
        let what = format!("{} are free, below the bound of {}", size(free), size(min_free));
        let remedy =
            "make room, let retention take old messages (--keep-age, --keep-bytes), or lower the bound: --min-free";
        found.push(Found::problem(what, remedy));
    }
    // Some file systems make places for files as they need them, and tell of none.
    if system.f_files > 0 && system.f_favail < FEW_FILES {
        let what = format!("its file system has room for {} more files only", system.f_favail);
        found.push(Found::problem(what, "remove files there, or make the file system anew with more inodes"));
    }
    if found.is_empty() {
        found.push(Found::ok(format!("{} are free", size(free))));
    }
    found
}

/// Elsewhere nothing is told.
#[cfg(not(unix))]
pub(super) fn look(_dir: &Path, _min_free: u64) -> Vec<Found> {
    Vec::new()
}

/// A number of bytes for people.
#[cfg(unix)]
fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(scale, _)| bytes >= *scale);
    unit.map_or_else(|| format!("{bytes} bytes"), |(scale, name)| format!("{:.1} {name}", bytes as f64 / scale as f64))
}

/// A directory that is not there: whether a server could make it.
pub(super) fn may_be_made(dir: &Path) -> Found {
    let above = closest(dir);
    if !above.is_dir() {
        let what = format!("cannot be made: {} is no directory", above.display());
        return Found::problem(what, "name another directory with --data");
    }
    match denied(above, true) {
        None => Found::ok("is not there yet: the first start of its server makes it"),
        Some(why) => {
            let what = format!("is not there and cannot be made: {} {why}", above.display());
            Found::problem(what, format!("make it, and give it to the user that runs the server: {}", ownership(dir)))
        }
    }
}

/// The command that gives a directory to this user.
fn ownership(dir: &Path) -> String {
    format!("chown -R {} {}", user().map_or_else(|| "USER".to_owned(), |user| user.to_string()), dir.display())
}

/// Whether this user may work in a directory, and in the files there.
pub(super) fn permissions(dir: &Path) -> Option<Found> {
    let remedy = || format!("run the server as the owner, or give it the directory: {}", ownership(dir));
    if let Some(why) = denied(dir, true) {
        return Some(Found::problem(why, remedy()));
    }
    let below = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    // Its messages are one level further down.
    let within = |path: std::path::PathBuf| {
        let deeper: Vec<_> =
            std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        std::iter::once(path).chain(deeper)
    };
    let bad = below.flat_map(within).find_map(|path| Some((denied(&path, path.is_dir())?, path)));
    if let Some((why, path)) = bad {
        let name = path.strip_prefix(dir).unwrap_or(&path).display();
        return Some(Found::problem(format!("{name} in it {why}"), remedy()));
    }
    foreign(dir)
}

/// Root may do everything, and what it makes belongs to it: the owner's server could not read that afterwards.
#[cfg(unix)]
fn foreign(dir: &Path) -> Option<Found> {
    use std::os::unix::fs::MetadataExt;
    let (owner, user) = (std::fs::metadata(dir).ok()?.uid(), user()?);
    let what = format!("belongs to user {owner}, and this is user {user}");
    let remedy = format!(
        "run its server, and this, as user {owner}: files that another user makes there may be unreadable to it; or give it \
         the directory: {}",
        ownership(dir)
    );
    (owner != user).then(|| Found::warning(what, remedy))
}

#[cfg(not(unix))]
fn foreign(_dir: &Path) -> Option<Found> {
    None
}

#[cfg(unix)]
fn user() -> Option<u32> {
    Some(rustix::process::geteuid().as_raw())
}

#[cfg(not(unix))]
fn user() -> Option<u32> {
    None
}

/// What this user may not do there that a server must.
#[cfg(unix)]
fn denied(path: &Path, is_dir: bool) -> Option<String> {
    use rustix::fs::{Access, access};
    use std::os::unix::fs::MetadataExt;
    let mut rights = vec![(Access::READ_OK, "read"), (Access::WRITE_OK, "written")];
    if is_dir {
        rights.push((Access::EXEC_OK, "entered"));
    }
    // That a whole file system is read-only is told by another check.
    let is_denied =
        |right: &Access| matches!(access(path, *right), Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM));
    let (_, right) = rights.into_iter().find(|(right, _)| is_denied(right))?;
    let owner = std::fs::metadata(path)
        .map_or_else(|_| String::new(), |found| format!(" (owner {}, mode {:o})", found.uid(), found.mode() & 0o7777));
    Some(format!("cannot be {right} by this user{owner}"))
}

/// Elsewhere only what is marked read-only is known.
#[cfg(not(unix))]
fn denied(path: &Path, is_dir: bool) -> Option<String> {
    let read_only = std::fs::metadata(path).is_ok_and(|found| found.permissions().readonly());
    (read_only && !is_dir).then(|| "cannot be written by this user".to_owned())
}
