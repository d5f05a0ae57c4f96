//! The reference as a process runs it: the machine of `dsv2-sync`, a file of ranks, and a socket.
//!
//! ```no_run
//! use dsv2_net::reference::{Reference, ReferenceOptions};
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let reference = Reference::start(ReferenceOptions::default()).await?;
//! println!("ranks are given at {}", reference.endpoint());
//! reference.stop().await?;
//! # Ok(())
//! # }
//! ```

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dsv2_core::{Limits as BodyLimits, Machine as _, Request};
use dsv2_sync::reference::{RankRecord, Reference as Machine, ReferenceConfig, ReferenceEffect, ReferenceInput};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::endpoint::{BindError, Endpoint};
use crate::engine::{Limits, PeerId, Router, RouterEvent, SocketStats};
use crate::server::Envelope;
use crate::stats::{Answers, Asker, Mark, Questions};
use crate::time::Clocks;

/// The file of ranks in the data directory: JSON Lines, one rank a line, only ever appended to.
const RANKS: &str = "ranks.jsonl";

/// What a reference is told at its start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReferenceOptions {
    /// Where it listens.
    pub bind: Endpoint,
    /// Its data directory; where there is none, the servers must tell it their ranks after a restart.
    pub data: Option<PathBuf>,
}

impl Default for ReferenceOptions {
    /// The seed's port on this machine, 5559, and no data directory.
    fn default() -> Self {
        Self { bind: Endpoint::tcp("127.0.0.1", 5559), data: None }
    }
}

/// Why a reference did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// It cannot listen.
    #[error("the reference cannot listen: {0}")]
    Bind(#[from] BindError),
    /// Its file of ranks cannot be used.
    #[error("{path} cannot be used: {source}")]
    Ranks {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of the file is no rank. Ranks must not be given twice, so this is not passed over.
    #[error("{path}, line {line}, is no rank: {why}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// Its task ended.
    #[error("the reference's task ended: {0}")]
    Ended(String),
}

/// A running reference. Dropping it stops it at once.
#[derive(Debug)]
pub struct Reference {
    endpoint: Endpoint,
    handle: ReferenceHandle,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ReferenceError>>,
}

/// A reference's numbers at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReferenceStats {
    /// Servers that have a rank.
    pub ranked: usize,
    /// Those of them that were heard of lately.
    pub alive: usize,
    /// Answers given.
    pub answers: Answers,
    /// Where servers ask.
    pub socket: SocketStats,
}

/// Asks a running reference for its numbers. Cheap to clone; stays valid after the reference's end.
#[derive(Clone, Debug)]
pub struct ReferenceHandle(Asker<ReferenceStats>);

impl ReferenceHandle {
    /// Its numbers. `None` where it has ended. Its own loop answers, so give it a deadline. Cancel-safe.
    pub async fn stats(&self) -> Option<ReferenceStats> {
        self.0.ask().await
    }
}

impl Reference {
    /// Reads the ranks it gave before, and begins to answer.
    ///
    /// # Errors
    /// [`ReferenceError`]; nothing runs then.
    pub async fn start(options: ReferenceOptions) -> Result<Self, ReferenceError> {
        let (ranks, file) = match &options.data {
            Some(dir) => Ranks::open(dir).map(|(ranks, file)| (ranks, Some(file)))?,
            None => (Vec::new(), None),
        };
        let mut config = ReferenceConfig::default();
        config.ranks = ranks;
        let router = Router::bind(&options.bind, Limits::default()).await?;
        let endpoint = router.endpoint().clone();
        let (stop, stopped) = watch::channel(false);
        let (asker, asked) = Asker::new();
        let task = tokio::spawn(run(Machine::new(config), file, router, asked, stopped));
        Ok(Self { endpoint, handle: ReferenceHandle(asker), stop, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks it for its numbers.
    #[must_use]
    pub fn handle(&self) -> ReferenceHandle {
        self.handle.clone()
    }

    /// Ends it; answers that were given are sent.
    ///
    /// # Errors
    /// What had made it end before.
    pub async fn stop(mut self) -> Result<(), ReferenceError> {
        self.stop.send_replace(true);
        self.ended().await
    }

    /// Waits until it ends by itself, which it does only when its disk fails. Cancel-safe.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&mut self) -> Result<(), ReferenceError> {
        (&mut self.task).await.unwrap_or_else(|error| Err(ReferenceError::Ended(error.to_string())))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut machine: Machine,
    mut file: Option<Ranks>,
    mut router: Router,
    mut asked: Questions<ReferenceStats>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ReferenceError> {
    let clocks = Clocks::start();
    let (mut events, mut effects) = (Vec::new(), Vec::new());
    let mut answers = Answers::default();
    loop {
        tokio::select! {
            alive = router.recv(&mut events) => {
                if !alive {
                    return Err(ReferenceError::Ended("the listener ended".to_owned()));
                }
            }
            Some(answer) = asked.recv() => {
                let (ranked, alive) = (machine.ranked(), machine.alive(clocks.now().mono));
                let stats = ReferenceStats { ranked, alive, answers: answers.clone(), socket: router.stats() };
                let _gone = answer.send(stats).is_err();
            }
            _ = stop.changed() => {
                router.shutdown(Duration::from_secs(1)).await;
                return Ok(());
            }
        }
        for event in events.drain(..) {
            let RouterEvent::Message { peer, message } = event else { continue };
            let Some((envelope, body)) = Envelope::split(&message) else { continue };
            let request = Request::decode(&body, &BodyLimits::default());
            machine.step(clocks.now(), ReferenceInput::Request { from: 0, request }, &mut effects);
            for effect in effects.drain(..) {
                if let ReferenceEffect::Reply { reply, .. } = &effect {
                    answers.count(Mark::of(reply));
                }
                carry_out(effect, file.as_mut(), &router, peer, &envelope)?;
            }
        }
    }
}

fn carry_out(
    effect: ReferenceEffect,
    file: Option<&mut Ranks>,
    router: &Router,
    peer: PeerId,
    envelope: &Envelope,
) -> Result<(), ReferenceError> {
    match effect {
        ReferenceEffect::Save(record) => {
            tracing::info!(server = %record.name, rank = record.rank, "gave a rank");
            // A handful in the life of a cluster: it may block.
            file.map_or(Ok(()), |file| file.save(&record))
        }
        ReferenceEffect::Reply { reply, .. } => {
            let _gone = router.send(peer, &envelope.wrap(&reply.encode())).is_err();
            Ok(())
        }
    }
}

/// The file of ranks.
#[derive(Debug)]
struct Ranks {
    path: PathBuf,
    file: File,
}

impl Ranks {
    fn open(dir: &Path) -> Result<(Vec<RankRecord>, Self), ReferenceError> {
        let path = dir.join(RANKS);
        let failed = |source| ReferenceError::Ranks { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(failed)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        let mut ranks = Vec::new();
        let mut reader = BufReader::new(&mut file);
        let (mut line, mut end) = (String::new(), 0);
        while reader.read_line(&mut line).map_err(failed)? > 0 {
            if !line.ends_with('\n') {
                // A crash tore it: it was not told to anybody.
                break;
            }
            let record = serde_json::from_str(&line);
            ranks.push(record.map_err(|why| ReferenceError::Line {
                path: path.clone(),
                line: ranks.len() + 1,
                why: why.to_string(),
            })?);
            end += line.len() as u64;
            line.clear();
        }
        file.set_len(end).and_then(|()| file.seek(std::io::SeekFrom::End(0))).map_err(failed)?;
        Ok((ranks, Self { path, file }))
    }

    fn save(&mut self, record: &RankRecord) -> Result<(), ReferenceError> {
        let failed = |source| ReferenceError::Ranks { path: self.path.clone(), source };
        let mut line = serde_json::to_string(record).map_err(|why| failed(why.into()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_survive_and_a_torn_line_is_cut() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let record = |name: &str, rank| RankRecord { name: name.parse().expect("a name"), rank };
        let (ranks, mut file) = Ranks::open(dir.path())?;
        assert!(ranks.is_empty());
        file.save(&record("a", 1))?;
        std::fs::OpenOptions::new().append(true).open(dir.path().join(RANKS))?.write_all(b"{\"name\":\"b\",\"ra")?;
        let (ranks, mut file) = Ranks::open(dir.path())?;
        assert_eq!(ranks, [record("a", 1)]);
        file.save(&record("c", 2))?;
        assert_eq!(Ranks::open(dir.path())?.0, [record("a", 1), record("c", 2)]);
        std::fs::write(dir.path().join(RANKS), "nonsense\n")?;
        assert!(matches!(Ranks::open(dir.path()), Err(ReferenceError::Line { line: 1, .. })));
        Ok(())
    }
}
