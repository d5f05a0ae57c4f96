//! What a part tells those who run it: `/metrics`, `/healthz` and `/readyz`, by HTTP, on `--admin ADDR`.
//!
//! ```text
//!   GET /metrics ──► parts: each loop is asked for its numbers ──► the recorder of the `metrics` crates ──► text
//!   GET /healthz ──► does every loop answer?                       ▲
//!   GET /readyz  ──► can every part do its work?                   └── storage threads record how long groups take
//! ```
//!
//! Counters and gauges are read when somebody looks, into a recorder that lives for that answer: nobody pays for what
//! nobody looks at, and what is gone is not told of any more. Only what cannot be read later, how long groups took, goes to
//! the recorder of the process.

pub mod catalogue;
mod http;
mod publish;
mod watched;

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use watched::Watched;

use crate::error::Error;
use crate::shutdown::Shutdown;

/// How often what threads recorded is put in its place, so that it takes little memory while nobody looks.
const UPKEEP: Duration = Duration::from_secs(5);

/// The flag of every part that goes on.
#[derive(Args, Clone, Debug, Default)]
pub struct AdminArgs {
    /// Serves /metrics, /healthz and /readyz by HTTP at HOST:PORT, or at PORT of this machine alone; port 0 for any. There is
    /// no authentication.
    #[arg(long, value_name = "ADDR", help_heading = "General")]
    admin: Option<AdminAddr>,
}

/// Where to serve: `9464` and `127.0.0.1:9464` on the loopback interface, `*:9464` on every address, `host:9464`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAddr {
    host: String,
    port: u16,
}

impl FromStr for AdminAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = port.parse().map_err(|_| format!("{port:?} is no port: give HOST:PORT, or PORT"))?;
        let host = match host.trim_start_matches('[').trim_end_matches(']') {
            "" => "127.0.0.1",
            "*" => "0.0.0.0",
            host => host,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// An endpoint that serves.
#[derive(Debug)]
pub struct Admin {
    at: SocketAddr,
    parts: watch::Sender<Option<Vec<Watched>>>,
}

impl Admin {
    /// Binds, begins to record, and serves until the process ends; `None` where no address was given. To be called before
    /// any part starts: storage threads look for the recorder when they begin, and a long start is to be seen.
    ///
    /// # Errors
    /// [`Error::Admin`] where the address cannot be had.
    pub async fn open(args: &AdminArgs, shutdown: &Shutdown) -> Result<Option<Self>, Error> {
        let Some(AdminAddr { host, port }) = &args.admin else { return Ok(None) };
        let failed = |why: std::io::Error| Error::Admin { host: host.clone(), port: *port, why };
        let listener = TcpListener::bind((host.as_str(), *port)).await.map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        let recorder = record().map_err(|error| Error::Failed(format!("metrics cannot be recorded: {error}")))?;
        let (parts, watched) = watch::channel(None);
        tokio::spawn({
            let recorder = recorder.clone();
            async move {
                loop {
                    tokio::time::sleep(UPKEEP).await;
                    recorder.run_upkeep();
                }
            }
        });
        tokio::spawn(http::serve(listener, http::Teller { parts: watched, shutdown: shutdown.clone(), recorder }));
        tracing::info!(%at, "serves /metrics, /healthz and /readyz");
        Ok(Some(Self { at, parts }))
    }

    /// Where it is, with the actual port.
    #[must_use]
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// The parts have started.
    pub fn watch(&self, parts: Vec<Watched>) {
        self.parts.send_replace(Some(parts));
    }
}

fn record() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in catalogue::CATALOGUE {
        if let catalogue::Kind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let recorder = builder.install_recorder()?;
    catalogue::describe(|kind| matches!(kind, catalogue::Kind::Histogram(_)));
    Ok(recorder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_it_serves_others() {
        let parse = |text: &str| text.parse().map(|AdminAddr { host, port }| (host, port));
        let local = |port| Ok(("127.0.0.1".to_owned(), port));
        assert_eq!((parse("9464"), parse(":0")), (local(9464), local(0)));
        assert_eq!(parse("*:9464"), Ok(("0.0.0.0".to_owned(), 9464)));
        assert_eq!(parse("[::1]:9464"), Ok(("::1".to_owned(), 9464)));
        assert!(parse("here").is_err() && parse("127.0.0.1:70000").is_err());
    }
}
