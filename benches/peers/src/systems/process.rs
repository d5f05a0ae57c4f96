//! Server processes: started in a folder of their own, measured, and ended whatever happens.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::Result;

/// Until a server takes connections.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Until a server that is asked to end has ended.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Until one that is asked to end, or its descendants, are gone, where that is waited for.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Of the times in /proc/PID/stat, which Linux fixes for programs.
const TICKS_A_SECOND: f64 = 100.0;
/// In which the system counts what a file takes, whatever the file system's own.
const BLOCK_BYTES: u64 = 512;
/// In the folder of a server: what it says.
const LOG: &str = "log";

/// A process, its children, and its folder.
pub(crate) struct Server {
    command: Command,
    child: Child,
    /// Where it was seen to listen.
    port: Option<u16>,
    /// What it needs beside it.
    helper: Option<Child>,
    /// By which it ends cleanly, where SIGKILL would leave something behind.
    end_by: Option<&'static str>,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts a program; what it says goes to a log in its folder.
    pub(crate) fn start(mut command: Command, dir: tempfile::TempDir) -> Result<Self> {
        let child = spawn(&mut command, &dir.path().join(LOG))?;
        Ok(Self { command, child, port: None, helper: None, end_by: None, dir })
    }

    /// Ends it: as a crash of the program would, or by asking it and waiting until it has ended.
    pub(crate) async fn stop(&mut self, is_asked: bool) -> Result<()> {
        let family: Vec<u32> = family(self.child.id()).into_iter().map(|(id, _)| id).collect();
        if is_asked {
            Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        } else {
            self.kill();
        }
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() || family.iter().any(|&id| is_alive(id)) {
            if begun.elapsed() > GONE_WITHIN {
                return Err(format!("it did not end within {GONE_WITHIN:?}: {}", self.log()).into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Starts it again, as it was started, with what its folder holds, and waits until it listens where it did.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&mut self.command, &self.dir.path().join(LOG))?;
        match self.port {
            Some(port) => self.listens(port).await,
            None => Ok(()),
        }
    }

    /// Ends a helper with it.
    pub(crate) fn with_helper(mut self, helper: Child) -> Self {
        self.helper = Some(helper);
        self
    }

    /// Ends it by that signal first.
    pub(crate) fn ended_by(mut self, signal: &'static str) -> Self {
        self.end_by = Some(signal);
        self
    }

    /// Waits until something listens at the port.
    pub(crate) async fn listens(&mut self, port: u16) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            self.still_runs()?;
            if begun.elapsed() > READY_WITHIN {
                return Err(format!("nothing listens at port {port}: {}", self.log()).into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.port = Some(port);
        Ok(())
    }

    /// Waits until the program has said a line that begins so.
    pub(crate) async fn says(&mut self, begin: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.log().lines().any(|line| line.starts_with(begin)) {
            self.still_runs()?;
            if begun.elapsed() > READY_WITHIN {
                return Err(format!("it never said {begin:?}: {}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What of the process's memory is in use, without its descendants.
    pub(crate) fn memory_bytes(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(0.0) * 1_024.0
    }

    /// What of the memory of the process and its descendants is in use; what they share counts once.
    pub(crate) fn family_memory_bytes(&self) -> f64 {
        let of = |id: u32| {
            let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1_024.0
        };
        family(self.child.id()).into_iter().map(|(id, _)| of(id)).sum()
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What its folder takes on disk, without what it said.
    pub(crate) fn disk_bytes(&self) -> Result<u64> {
        Ok(disk_bytes(self.dir.path())? - disk_bytes(&self.dir.path().join(LOG))?)
    }

    fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("it ended with {status}: {}", self.log()).into()),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join(LOG)).unwrap_or_default()
    }

    /// With its descendants. One that has ended is left alone: its id may be another's by now.
    fn kill(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let family: Vec<String> = family(self.child.id()).iter().map(|(id, _)| id.to_string()).collect();
        let _ = Command::new("kill").arg("-KILL").args(&family).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Of the process and its descendants.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        family(self.child.id()).iter().map(|(_, ticks)| ticks / TICKS_A_SECOND).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(signal) = self.end_by
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
            let begun = Instant::now();
            while begun.elapsed() < END_WITHIN && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.kill();
        if let Some(helper) = &mut self.helper {
            let _ = helper.kill();
            let _ = helper.wait();
        }
    }
}

/// Starts it; what it says goes to the log, from the beginning.
fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let log = fs::File::create(log)?;
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().map_err(|why| format!("{program} cannot be started: {why}; is it installed?").into())
}

/// Whether a process is there, and not only waits for its parent to learn of its end.
fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| !after.trim_start().starts_with('Z'))
}

/// What a file, or a folder with all that is in it, takes on disk. What vanishes meanwhile takes nothing.
pub(crate) fn disk_bytes(path: &Path) -> Result<u64> {
    let about = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        about => about?,
    };
    let mut bytes = about.blocks() * BLOCK_BYTES;
    if about.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += disk_bytes(&entry?.path())?;
        }
    }
    Ok(bytes)
}

/// A process and its descendants, each with the time it took.
fn family(root: u32) -> Vec<(u32, f64)> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut ticks = BTreeMap::new();
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for id in ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        // The name may hold anything; what follows its closing bracket: state, parent, … user and system time.
        let Some((_, after)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = after.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        children.entry(number(1) as u32).or_default().push(id);
        // Its own, and those of children that have ended.
        ticks.insert(id, (11..=14).map(number).sum());
    }
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(id) = next.pop() {
        found.push((id, ticks.get(&id).copied().unwrap_or(0.0)));
        next.extend(children.get(&id).into_iter().flatten());
    }
    found
}

/// A new folder for one server.
pub(crate) fn folder() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("dsv2-peer-").tempdir()?)
}

/// So many ports in a row that nobody listens at, below those that the system gives to outgoing connections: of these
/// thousands may be in use, or have been a moment ago.
pub(crate) fn free_ports(count: u16) -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    for _ in 0..1_000 {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let first =
            20_000 + u16::try_from((std::process::id().wrapping_mul(31).wrapping_add(turn.wrapping_mul(16))) % 10_000)?;
        if (first..first + count).all(is_free) {
            return Ok(first);
        }
    }
    Err("there are no free ports".into())
}

/// Gives a folder to another user, for servers that refuse to run as root.
pub(crate) fn give(dir: &Path, user: &str) -> Result<()> {
    let given = Command::new("chown").arg("-R").arg(user).arg(dir).status()?;
    if given.success() { Ok(()) } else { Err(format!("{} cannot be given to {user}", dir.display()).into()) }
}
