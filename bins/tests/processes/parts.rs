//! A cluster of single processes, each of which can be killed and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::harness::{Place, Process, eventually};

/// One process of a cluster; servers count from 0, and are called `s1` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Broker,
    Proxy,
    Reference,
    Server(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker => f.write_str("broker"),
            Self::Proxy => f.write_str("proxy"),
            Self::Reference => f.write_str("reference"),
            Self::Server(index) => write!(f, "s{}", index + 1),
        }
    }
}

/// A cluster of single processes.
pub(crate) struct Parts<'a> {
    place: &'a Place,
    servers: usize,
    /// What every server is told besides its name, its data and its link.
    flags: Vec<String>,
    running: BTreeMap<Part, Process>,
}

impl<'a> Parts<'a> {
    /// Three servers, each other's voters.
    pub(crate) fn start(place: &'a Place) -> Self {
        Self::start_with(place, 3, &["--voters", "s1,s2,s3"])
    }

    /// So many servers, with flags of their own.
    pub(crate) fn start_with(place: &'a Place, servers: usize, flags: &[&str]) -> Self {
        let flags = flags.iter().map(ToString::to_string).collect();
        let mut parts = Self { place, servers, flags, running: BTreeMap::new() };
        for part in [Part::Broker, Part::Proxy, Part::Reference] {
            parts.start_part(part);
        }
        (0..servers).for_each(|index| parts.start_part(Part::Server(index)));
        parts.wait_until(servers);
        parts
    }

    /// Starts a part, and waits until it says that it is ready.
    pub(crate) fn start_part(&mut self, part: Part) {
        self.begin_part(part);
        let said = match part {
            Part::Server(_) => "ready server".to_owned(),
            part => format!("ready {part}"),
        };
        self.running[&part].expect(&said);
    }

    /// Starts a part, and does not wait for it.
    pub(crate) fn begin_part(&mut self, part: Part) {
        let process = match part {
            Part::Broker => self.place.start("dsv2-broker", &[]),
            Part::Proxy => self.place.start("dsv2-proxy", &[]),
            Part::Reference => self.place.start("dsv2-reference", &["--data", "reference"]),
            Part::Server(index) => {
                let (name, link) = (part.to_string(), self.link(index));
                let mut args = vec!["--name", &name, "--data", &name, "--link", &link];
                args.extend(self.flags.iter().map(String::as_str));
                self.place.start("dsv2-server", &args)
            }
        };
        let before = self.running.insert(part, process);
        assert!(before.is_none(), "{part} runs already");
    }

    /// Ends a part at once, as `kill -9` does.
    pub(crate) fn kill(&mut self, part: Part) {
        self.take(part).kill();
    }

    /// Takes a part out of the cluster, as it runs.
    pub(crate) fn take(&mut self, part: Part) -> Process {
        self.running.remove(&part).unwrap_or_else(|| panic!("{part} does not run"))
    }

    /// The parts that run.
    pub(crate) fn running(&self) -> Vec<Part> {
        self.running.keys().copied().collect()
    }

    /// What a part logged, in all of its lives.
    pub(crate) fn log(&self, part: Part) -> String {
        self.running[&part].log()
    }

    /// Where a server's link listens; it answers clients there too.
    pub(crate) fn link(&self, index: usize) -> String {
        format!("tcp://127.0.0.1:{}", usize::from(self.place.base()) + 5 + index)
    }

    /// Where a part listens that there is once, for clients: the broker, or the proxy.
    pub(crate) fn endpoint(&self, part: Part) -> String {
        let offset = if part == Part::Proxy { 3 } else { 0 };
        format!("tcp://127.0.0.1:{}", self.place.base() + offset)
    }

    /// What the servers say of themselves that can be reached.
    pub(crate) fn status(&self) -> Vec<Value> {
        let finished = self.place.run("dsv2", &["status", "--json", "--timeout", "2"]);
        let Some(Value::Object(mut status)) = finished.objects().pop() else { return Vec::new() };
        status.remove("servers").and_then(|servers| servers.as_array().cloned()).unwrap_or_default()
    }

    /// Waits until so many servers are ready, follow one coordinator, and hold the same.
    pub(crate) fn wait_until(&self, servers: usize) {
        eventually("the servers are ready and equal", || {
            let status = self.status();
            let distinct = |field: &str| status.iter().map(|server| server[field].to_string()).collect::<BTreeSet<_>>();
            status.len() == servers
                && status.iter().all(|server| server["ready"] == true && server["coordinator"].is_string())
                && distinct("coordinator").len() == 1
                && distinct("position").len() == 1
        });
    }

    /// Publishes a text through the broker, at quorum.
    pub(crate) fn publish(&self, text: &str) {
        let said =
            self.place.json("dsv2-client", &["--user", "ana", "--json", "--timeout", "30", "publish", "dev", text]);
        assert_eq!(said[0]["level"], "quorum", "{said:?}");
    }

    /// The texts in `dev`, as some server has them.
    pub(crate) fn history(&self) -> Vec<String> {
        let history = self.place.json("dsv2-client", &["--json", "--timeout", "30", "history", "dev"]);
        history.iter().map(|message| message["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The data directories of all servers.
    pub(crate) fn data(&self) -> Vec<std::path::PathBuf> {
        (0..self.servers).map(|index| self.place.path(&Part::Server(index).to_string())).collect()
    }

    /// Asks all parts to end, the servers first, and each must end cleanly.
    pub(crate) fn stop(self) {
        // The order of parts puts servers last.
        for (part, process) in self.running.into_iter().rev() {
            assert!(process.stop("TERM").success(), "{part} did not end cleanly");
        }
    }
}
