//! Server processes: started in a folder of their own, measured, and ended whatever happens.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::Result;

/// Until a server takes connections.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Until a server that is asked to end has ended.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Of the times in /proc/PID/stat, which Linux fixes for programs.
const TICKS_A_SECOND: f64 = 100.0;

/// A process, its children, and its folder.
pub(crate) struct Server {
    child: Child,
    /// What it needs beside it.
    helper: Option<Child>,
    /// By which it ends cleanly, where SIGKILL would leave something behind.
    end_by: Option<&'static str>,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts a program; what it says goes to `log` in its folder.
    pub(crate) fn start(mut command: Command, dir: tempfile::TempDir) -> Result<Self> {
        let log = fs::File::create(dir.path().join("log"))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|why| format!("{program} cannot be started: {why}; is it installed?"))?;
        Ok(Self { child, helper: None, end_by: None, dir })
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
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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

    fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("it ended with {status}: {}", self.log()).into()),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Of the process and its descendants.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        family(self.child.id()).iter().map(|(_, ticks)| ticks / TICKS_A_SECOND).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(signal) = self.end_by {
            let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
            let begun = Instant::now();
            while begun.elapsed() < END_WITHIN && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let family: Vec<String> = family(self.child.id()).iter().map(|(id, _)| id.to_string()).collect();
        let _ = Command::new("kill").arg("-KILL").args(&family).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(helper) = &mut self.helper {
            let _ = helper.kill();
            let _ = helper.wait();
        }
    }
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
