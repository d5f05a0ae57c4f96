//! Foreign programs as child processes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::PATIENCE;

/// The interpreters, after `setup.sh` has put in place what they need.
fn interpreters() -> &'static (PathBuf, PathBuf) {
    static FOUND: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    FOUND.get_or_init(|| {
        let output = Command::new(peers().join("setup.sh")).output().expect("setup.sh runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "setup.sh: {}", String::from_utf8_lossy(&output.stderr));
        let find = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(PathBuf::from);
        (find("python=").expect("a Python"), find("node=").expect("a Node"))
    })
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

/// A foreign program and what it has printed; killed when dropped.
pub(crate) struct Peer {
    program: String,
    child: Child,
    events: mpsc::Receiver<Value>,
    seen: Vec<Value>,
    pub(crate) complaint: &'static Mutex<String>,
}

impl Peer {
    pub(crate) fn start(program: &str, serde: &str, flags: &[&str]) -> Self {
        let (python, node) = interpreters();
        let (runner, folder) = if program.ends_with(".py") { (python, "python") } else { (node, "node") };
        let mut child = Command::new(runner)
            .arg(peers().join(folder).join(program))
            .args(["--timeout", "100"])
            .args(flags)
            .env("SERDE", serde)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|why| panic!("{program} does not start: {why}"));
        let (sender, events) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    drop(sender.send(event));
                }
            }
        });
        let complaint: &'static Mutex<String> = Box::leak(Box::default());
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                complaint.lock().expect("not poisoned").push_str(&(line + "\n"));
            }
        });
        Self { program: program.to_owned(), child, events, seen: Vec::new(), complaint }
    }

    pub(crate) fn wait(&mut self, name: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.seen.iter().find(|event| event["event"] == name) {
                return event.clone();
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.seen.push(event),
                Err(why) => panic!(
                    "{}: no {name} ({why}): {:?} {}",
                    self.program,
                    self.seen,
                    self.complaint.lock().expect("whole")
                ),
            }
        }
    }

    pub(crate) fn ends(mut self) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "{} still runs: {:?}", self.program, self.seen);
            std::thread::sleep(Duration::from_millis(20));
        };
        while let Ok(event) = self.events.recv_timeout(Duration::from_secs(1)) {
            self.seen.push(event);
        }
        let tail = &self.seen[self.seen.len().saturating_sub(4)..];
        assert!(status.success(), "{}: {status}: {} {tail:?}", self.program, self.complaint.lock().expect("whole"));
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill().is_err();
        let _reaped = self.child.wait().is_err();
    }
}
