//! `dsv2-reference`.

use std::path::PathBuf;

use clap::Parser;
use dsv2_net::Endpoint;
use dsv2_net::reference::{Reference, ReferenceOptions};

use super::ready;
use crate::admin::{Admin, AdminArgs, Watched};
use crate::args::{Common, Part, Place};
use crate::cli::HasCommon;
use crate::error::Error;
use crate::shutdown::Shutdown;

/// The reference: gives every server its rank, and lists the servers that live.
///
/// Nothing else needs it: stopped, it keeps new servers from getting a rank, and harms no running one.
#[derive(Debug, Parser)]
#[command(name = "dsv2-reference", version)]
pub struct ReferenceArgs {
    /// Where servers ask it [default: tcp://127.0.0.1:5559]
    #[arg(long, value_name = "URL")]
    bind: Option<Endpoint>,
    /// Where it keeps the ranks it gave; without, servers tell it theirs after a restart.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    common: Common,
}

impl HasCommon for ReferenceArgs {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// Runs it until the process is asked to end.
///
/// # Errors
/// [`Error::Bind`], [`Error::Admin`], [`Error::Usage`], and [`Error::Failed`] where its file of ranks cannot be used.
pub async fn reference(args: ReferenceArgs) -> Result<(), Error> {
    let mut options = ReferenceOptions::default();
    options.bind = args.place.endpoint(args.bind.as_ref(), Part::Reference)?;
    options.data = args.data;
    let mut shutdown = Shutdown::install()?;
    let admin = Admin::open(&args.admin, &shutdown).await?;
    let mut reference = Reference::start(options).await?;
    let watched = Watched::Reference(reference.handle());
    ready("reference", &[("reference", reference.endpoint().to_string())], admin.map(|admin| (admin, watched)))?;
    tokio::select! {
        () = shutdown.wait() => {}
        ended = reference.ended() => return Ok(ended?),
    }
    Ok(reference.stop().await?)
}
