//! Processes that end with their test, at ports that are theirs alone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::campaigns::setting;

/// How long anything may take. Generous: machines are busy, and nothing waits for it where all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Ports that one test uses.
const PORTS: u16 = 16;

/// A directory, and a base port with some ports behind it, for one test.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    base: u16,
    /// Keeps other tests, in other processes too, off the ports.
    _lock: File,
}

impl Place {
    pub(crate) fn new() -> Self {
        let locks = std::env::temp_dir().join("dsv2-test-ports");
        std::fs::create_dir_all(&locks).expect("a directory for locks");
        let start = std::process::id() as u16 % 500;
        for step in 0..500 {
            // Below what systems give to outgoing connections.
            let base = 16_000 + (start + step) % 500 * PORTS;
            let lock = File::create(locks.join(base.to_string())).expect("a lock file");
            let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if lock.try_lock().is_ok() && (base..base + PORTS).all(is_free) {
                return Self { dir: tempfile::tempdir().expect("a directory"), base, _lock: lock };
            }
        }
        panic!("no free ports");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn base(&self) -> u16 {
        self.base
    }

    /// A program at these ports, which knows nothing of the environment that the tests run in.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = bare(program, self.dir.path());
        command.args(args).env("DSV2_BASE_PORT", self.base.to_string());
        command
    }

    /// Starts a program that goes on.
    pub(crate) fn start(&self, program: &str, args: &[&str]) -> Process {
        Process::start(self.command(program, args), &self.log(program, args))
    }

    /// Where a program logs.
    pub(crate) fn log(&self, program: &str, args: &[&str]) -> PathBuf {
        self.path(&format!("{program}-{}.log", args.join("-").replace('/', "_")))
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Finished {
        finish(self.command(program, args), "")
    }

    /// Runs a program to its end, which must be a success; what it says is JSON, an object a line.
    pub(crate) fn json(&self, program: &str, args: &[&str]) -> Vec<Value> {
        let finished = self.run(program, args);
        assert!(finished.status.success(), "{program} {args:?}: {finished:?}");
        finished.objects()
    }
}

/// A program in an empty environment and a directory.
pub(crate) fn bare(program: &str, dir: &Path) -> Command {
    let path = match program {
        "dsv2" => env!("CARGO_BIN_EXE_dsv2"),
        "dsv2-broker" => env!("CARGO_BIN_EXE_dsv2-broker"),
        "dsv2-proxy" => env!("CARGO_BIN_EXE_dsv2-proxy"),
        "dsv2-server" => env!("CARGO_BIN_EXE_dsv2-server"),
        "dsv2-reference" => env!("CARGO_BIN_EXE_dsv2-reference"),
        "dsv2-client" => env!("CARGO_BIN_EXE_dsv2-client"),
        "dsv2-bot" => env!("CARGO_BIN_EXE_dsv2-bot"),
        other => panic!("there is no program {other}"),
    };
    let mut command = Command::new(path);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", dir).current_dir(dir);
    command
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Finished {
    pub(crate) fn objects(&self) -> Vec<Value> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"));
        self.out.lines().map(parse).collect()
    }
}

/// Runs a command to its end, with a text as its input.
pub(crate) fn finish(mut command: Command, input: &str) -> Finished {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may end before it has read everything.
    let _closed = stdin.write_all(input.as_bytes()).is_err();
    drop(stdin);
    let out = read_all(child.stdout.take().expect("a pipe"));
    let err = read_all(child.stderr.take().expect("a pipe"));
    let status = wait(&mut child);
    Finished { status, out: out.recv().expect("its output"), err: err.recv().expect("its errors") }
}

fn read_all(mut from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).expect("text");
        sender.send(text)
    });
    receiver
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().expect("a child");
            panic!("process {} did not end in time", child.id());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program at work. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log file");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, log: log.to_owned() }
    }

    /// The next line that it says which holds `needle`.
    pub(crate) fn expect(&self, needle: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(needle) => return line,
                Ok(line) => said.push(line),
                Err(why @ (RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) => {
                    panic!("{why}: it never said {needle:?}, but {said:#?}; its log:\n{}", self.log())
                }
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Types a line.
    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdin.flush()).expect("it listens");
    }

    /// Asks it to end, by `INT` or `TERM`, and waits until it has.
    pub(crate) fn stop(mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        wait(&mut self.child)
    }

    /// As [`Process::stop`], for whoever wants to know what it says at its end.
    pub(crate) fn interrupt(&mut self) -> ExitStatus {
        self.signal("INT");
        wait(&mut self.child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let killed = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(killed.expect("kill runs").success());
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a child");
        wait(&mut self.child);
    }

    /// Everything that it still says until it ends.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _gone = self.child.kill().is_err();
            let _reaped = self.child.wait().is_err();
        }
    }
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a test must be left out because it needs root; it says so. `DSV2_NETNS=1` insists on it.
pub(crate) fn without_root(what: &str) -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.starts_with(b"0\n"));
    let left_out = !root && setting("DSV2_NETNS", 0) != 1;
    if left_out {
        println!("left out: {what} need root");
    }
    left_out
}
