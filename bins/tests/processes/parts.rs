//! A cluster of single processes, each of which can be killed and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Finished, Place, Process, eventually, finish};
use crate::netns::Network;

/// How far the ports of the second broker and proxy are from those of the first.
const SECOND: u16 = 10;

/// One process of a cluster; servers count from 0, and are called `s1` and so on. A second broker and a second proxy are
/// there where a cluster is started with [`Parts::start_twice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Broker,
    SecondBroker,
    Proxy,
    SecondProxy,
    Reference,
    Server(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker | Self::SecondBroker => f.write_str("broker"),
            Self::Proxy | Self::SecondProxy => f.write_str("proxy"),
            Self::Reference => f.write_str("reference"),
            Self::Server(index) => write!(f, "s{}", index + 1),
        }
    }
}

/// A cluster of single processes.
pub(crate) struct Parts<'a> {
    place: &'a Place,
    servers: usize,
    /// Where each server has a host of its own; broker, proxy, reference and the tools are on host 0 then.
    net: Option<&'a Network>,
    /// What every server is told besides its name, its data and its link.
    flags: Vec<String>,
    variables: Vec<(&'static str, &'static str)>,
    /// What every server loads before its libc.
    shim: Option<std::path::PathBuf>,
    running: BTreeMap<Part, Process>,
}

impl<'a> Parts<'a> {
    /// Three servers, each other's voters.
    pub(crate) fn start(place: &'a Place) -> Self {
        Self::start_with(place, 3, &["--voters", "s1,s2,s3"])
    }

    /// So many servers, with flags of their own.
    pub(crate) fn start_with(place: &'a Place, servers: usize, flags: &[&str]) -> Self {
        Self::start_on(place, None, servers, flags)
    }

    /// The same, on hosts of a network of their own.
    pub(crate) fn start_on(place: &'a Place, net: Option<&'a Network>, servers: usize, flags: &[&str]) -> Self {
        Self::start_in(place, net, servers, flags, &[])
    }

    /// The same, with variables in the environment of every program.
    pub(crate) fn start_in(
        place: &'a Place,
        net: Option<&'a Network>,
        servers: usize,
        flags: &[&str],
        variables: &[(&'static str, &'static str)],
    ) -> Self {
        let (flags, variables) = (flags.iter().map(ToString::to_string).collect(), variables.to_vec());
        let parts = Self { place, servers, net, flags, variables, shim: None, running: BTreeMap::new() };
        parts.start_all()
    }

    /// So many servers, whose disks and clocks a test bends by [`Parts::bend`].
    #[cfg(target_os = "linux")]
    pub(crate) fn start_bent(place: &'a Place, servers: usize, flags: &[&str], bends: &[(usize, &str, i64)]) -> Self {
        let (source, shim) = (place.path("shim.c"), place.path("shim.so"));
        std::fs::write(&source, include_str!("shim.c")).expect("a file");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).args([&shim, &source]).arg("-ldl");
        let compiled = finish(compile, "");
        assert!(compiled.status.success(), "{compiled:?}; this test needs a C compiler");
        let flags = flags.iter().map(ToString::to_string).collect();
        let (shim, running) = (Some(shim), BTreeMap::new());
        let parts = Self { place, servers, net: None, flags, variables: Vec::new(), shim, running };
        bends.iter().for_each(|(server, what, by)| parts.bend(*server, what, *by));
        parts.start_all()
    }

    /// From now on each sync of a server takes so much longer (`sync_ms`), or its time of day is off (`clock_s`).
    #[cfg(target_os = "linux")]
    pub(crate) fn bend(&self, server: usize, what: &str, by: i64) {
        let (file, new) = (format!("{}.{what}", Part::Server(server)), format!("{}.new", Part::Server(server)));
        std::fs::write(self.place.path(&new), by.to_string()).expect("a file");
        // Read at any moment, it is the old one or the new one.
        std::fs::rename(self.place.path(&new), self.place.path(&file)).expect("a file");
    }

    /// Three servers, each other's voters, with two brokers and two proxies, all of which they are connected to.
    pub(crate) fn start_twice(place: &'a Place) -> Self {
        let at = |offset: u16| format!("tcp://127.0.0.1:{}", place.base() + offset);
        let flags = [
            ("--voters", "s1,s2,s3".to_owned()),
            ("--broker", format!("{},{}", at(1), at(SECOND + 1))),
            ("--publish", format!("{},{}", at(2), at(SECOND + 2))),
            ("--subscribe", format!("{},{}", at(3), at(SECOND + 3))),
        ];
        let flags: Vec<&str> = flags.iter().flat_map(|(flag, value)| [*flag, value.as_str()]).collect();
        let flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
        let (variables, shim, running) = (Vec::new(), None, BTreeMap::new());
        let mut parts = Self { place, servers: 3, net: None, flags, variables, shim, running };
        parts.start_part(Part::SecondBroker);
        parts.start_part(Part::SecondProxy);
        parts.start_all()
    }

    fn start_all(mut self) -> Self {
        let servers = self.servers;
        let parts = &mut self;
        for part in [Part::Broker, Part::Proxy, Part::Reference] {
            parts.start_part(part);
        }
        for server in (0..servers).map(Part::Server) {
            parts.start_part(server);
            // Ranks are given in the order in which servers ask: whoever starts last is the best.
            eventually("the reference ranks it", || parts.log(server).contains("the reference gave a rank"));
        }
        parts.wait_until(servers);
        self
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
            Part::Broker => self.begin(0, "dsv2-broker", &[]),
            Part::Proxy => self.begin(0, "dsv2-proxy", &[]),
            Part::SecondBroker => self.begin(0, "dsv2-broker", &["--base-port", &self.second().to_string()]),
            Part::SecondProxy => self.begin(0, "dsv2-proxy", &["--base-port", &self.second().to_string()]),
            Part::Reference => self.begin(0, "dsv2-reference", &["--data", "reference"]),
            Part::Server(index) => {
                let (name, link) = (part.to_string(), self.link(index));
                let mut args = vec!["--name", &name, "--data", &name, "--link", &link];
                args.extend(self.flags.iter().map(String::as_str));
                let mut command = self.command(index + 1, "dsv2-server", &args);
                if let Some(shim) = &self.shim {
                    command.env("LD_PRELOAD", shim).env("SHIM", self.place.path(&name));
                }
                Process::start(command, &self.place.log("dsv2-server", &args))
            }
        };
        let before = self.running.insert(part, process);
        assert!(before.is_none(), "{part} runs already");
    }

    /// The base port of the second broker and proxy.
    fn second(&self) -> u16 {
        self.place.base() + SECOND
    }

    /// A program on a host, which finds the cluster without being told.
    fn command(&self, host: usize, program: &str, args: &[&str]) -> Command {
        let mut command = self.place.command(program, args);
        command.envs(self.variables.iter().copied());
        let Some(net) = self.net else { return command };
        command.env("DSV2_HOST", Network::address(0));
        net.on(host, &command)
    }

    /// Starts a program that goes on, on a host.
    pub(crate) fn begin(&self, host: usize, program: &str, args: &[&str]) -> Process {
        Process::start(self.command(host, program, args), &self.place.log(program, args))
    }

    /// Runs a program to its end, on a host.
    pub(crate) fn run(&self, host: usize, program: &str, args: &[&str]) -> Finished {
        finish(self.command(host, program, args), "")
    }

    /// The same, which must be a success; what it says is JSON, an object a line.
    pub(crate) fn json(&self, host: usize, program: &str, args: &[&str]) -> Vec<Value> {
        let finished = self.run(host, program, args);
        assert!(finished.status.success(), "{program} {args:?}: {finished:?}");
        finished.objects()
    }

    /// Ends a part at once, as `kill -9` does.
    pub(crate) fn kill(&mut self, part: Part) {
        self.take(part).kill();
    }

    /// Stops a part (`STOP`), or lets it go on (`CONT`).
    pub(crate) fn signal(&self, part: Part, signal: &str) {
        self.running[&part].signal(signal);
    }

    /// Whether a stopped part has come to rest, in all of its threads.
    #[cfg(target_os = "linux")]
    pub(crate) fn stands_still(&self, part: Part) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.running[&part].id())).expect("its threads");
        // The state stands behind the name, which is in brackets.
        let stopped = |stat: &str| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'));
        threads
            .flatten()
            .all(|thread| std::fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| stopped(&stat)))
    }

    /// The namespace that a server is in, where it has a host of its own.
    #[cfg(target_os = "linux")]
    pub(crate) fn namespace(&self, server: usize) -> Option<std::path::PathBuf> {
        self.net.map(|_| Network::file(server + 1))
    }

    /// The process of a part.
    pub(crate) fn id(&self, part: Part) -> u32 {
        self.running[&part].id()
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
        let host = self.net.map_or_else(|| "127.0.0.1".to_owned(), |_| Network::address(index + 1));
        format!("tcp://{host}:{}", usize::from(self.place.base()) + 5 + index)
    }

    /// Where a part listens that there is once, for clients: the broker, or the proxy.
    pub(crate) fn endpoint(&self, part: Part) -> String {
        let offset = match part {
            Part::Proxy => 3,
            Part::SecondBroker => SECOND,
            Part::SecondProxy => SECOND + 3,
            _ => 0,
        };
        format!("tcp://127.0.0.1:{}", self.place.base() + offset)
    }

    /// What the servers say of themselves that can be reached.
    pub(crate) fn status(&self) -> Vec<Value> {
        let finished = self.run(0, "dsv2", &["status", "--json", "--timeout", "2"]);
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

    /// Waits until so many servers are ready and follow one coordinator, while they are written to.
    pub(crate) fn wait_until_ready(&self, servers: usize) {
        eventually("the servers are ready", || {
            let status = self.status();
            let ready = |server: &Value| server["ready"] == true && server["coordinator"].is_string();
            status.len() == servers && status.iter().all(ready)
        });
    }

    /// Waits until each of several brokers, separated by commas, finds a server for whoever asks there.
    pub(crate) fn wait_until_served(&self, brokers: &str) {
        for broker in brokers.split(',') {
            let args = ["status", "--json", "--timeout", "2", "--broker", broker];
            eventually("a broker has servers", || self.run(0, "dsv2", &args).status.success());
        }
    }

    /// The best rank, once all running servers follow it. Whoever was chosen before all had started hands over to it, so
    /// only then the lead is settled.
    pub(crate) fn settled_coordinator(&self) -> String {
        let mut coordinator = String::new();
        eventually("the best rank leads", || {
            let status = self.status();
            let best = status.iter().max_by_key(|server| server["rank"].as_u64());
            coordinator = best.and_then(|server| server["name"].as_str()).unwrap_or_default().to_owned();
            !status.is_empty() && status.iter().all(|server| server["coordinator"] == coordinator.as_str())
        });
        coordinator
    }

    /// Publishes a text through the broker, at quorum.
    pub(crate) fn publish(&self, text: &str) {
        let said = self.json(0, "dsv2-client", &["--user", "ana", "--json", "--timeout", "30", "publish", "dev", text]);
        assert_eq!(said[0]["level"], "quorum", "{said:?}");
    }

    /// The texts in `dev`, as some server has them.
    pub(crate) fn history(&self) -> Vec<String> {
        let history = self.json(0, "dsv2-client", &["--json", "--timeout", "30", "history", "dev"]);
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
