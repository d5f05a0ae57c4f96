//! A data directory for each of several servers that are started alike, as the replicas of a container service are.

use std::io::ErrorKind;
use std::path::Path;

use dsv2_core::ServerName;
use dsv2_net::server::{Server, ServerError, ServerOptions};
use dsv2_store::StoreError;

use crate::error::Error;

/// How many directories are tried, which is as many servers as `dsv2 up` starts.
const DIRECTORIES: u8 = 64;

/// Starts a server in the first of `root/NAME1`, `root/NAME2`, … that no process holds, under that name. The data directory of the
/// options becomes a symbolic link to it.
///
/// The store's own lock decides who holds what, so a crash frees a directory, and two that start at once never share one. A
/// directory that is damaged is an error, and not passed over: its server's promises would be forgotten silently.
///
/// # Errors
/// As [`Server::start`] has it, with the directory; [`Error::Usage`] where something else than a link is in the link's place;
/// [`Error::Failed`] where all are held.
pub(super) async fn start(mut options: ServerOptions, root: &Path) -> Result<Server, Error> {
    let link = options.data.take().unwrap_or_else(|| "data".into());
    refuse_other(&link)?;
    let stem = options.name.clone();
    for number in 1..=DIRECTORIES {
        options.name = ServerName::new(&format!("{stem}{number}"))?;
        let dir = root.join(options.name.as_str());
        options.data = Some(dir.clone());
        match Server::start(options.clone()).await {
            Ok(server) => {
                point(&link, &dir)?;
                tracing::info!(name = %server.name(), directory = %dir.display(), "claimed a data directory");
                return Ok(server);
            }
            Err(ServerError::Store(StoreError::Locked { holder })) => {
                tracing::debug!(directory = %dir.display(), holder, "the directory is in use, the next one is tried");
            }
            Err(error) => {
                return Err(match Error::from(error) {
                    Error::Store(text) => Error::Store(format!("{}: {text}", dir.display())),
                    other => other,
                });
            }
        }
    }
    Err(Error::Failed(format!("all of the {DIRECTORIES} directories in {} are in use", root.display())))
}

/// Nothing of a user's is replaced by a link.
fn refuse_other(link: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(link) {
        Ok(found) if !found.is_symlink() => Err(Error::Usage(format!(
            "--claim makes --data a symbolic link, and {} is something else: move it away, or into the directory to claim in",
            link.display()
        ))),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Makes `link` a symbolic link to `dir`, in place of an earlier one.
#[cfg(unix)]
fn point(link: &Path, dir: &Path) -> Result<(), Error> {
    // In one step, since another server may do the same at the same place.
    let mut new = link.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    std::os::unix::fs::symlink(std::path::absolute(dir)?, &new)?;
    Ok(std::fs::rename(&new, link)?)
}

#[cfg(not(unix))]
fn point(_link: &Path, _dir: &Path) -> Result<(), Error> {
    Err(Error::Usage("--claim needs symbolic links, which this system does not have".to_owned()))
}
