//! A real Prometheus watches a cluster while a server is killed and comes back; it needs the program `prometheus`.

use std::fmt::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Place, Process, eventually};
use crate::metrics::{Told, dashboard, file, get};

const VOTERS: &str = "s1,s2,s3";

/// A server whose admin port stays its own.
fn server(place: &Place, number: u16) -> Told {
    let name = format!("s{number}");
    let (link, admin) = (place.base() + 4 + number, (place.base() + 8 + number).to_string());
    let link = format!("tcp://127.0.0.1:{link}");
    let args = ["--name", &name, "--data", &name, "--link", &link, "--voters", VOTERS, "--admin", &admin];
    Told::begin(place, "dsv2-server", &args)
}

/// A Prometheus with our files, in a hurry.
struct Prometheus {
    at: String,
    _process: Process,
}

impl Prometheus {
    fn start(place: &Place, targets: &[&str]) -> Self {
        let config = std::fs::read_to_string(file("prometheus.yml")).expect("a configuration");
        let (head, _) = config.split_once("      - targets:").expect("targets");
        let mut config = head.replace("15s", "200ms");
        writeln!(config, "      - targets: [{}]", targets.join(", ")).expect("text");
        std::fs::write(place.path("prometheus.yml"), config).expect("a file");
        let alerts = std::fs::read_to_string(file("alerts.yml")).expect("alerts");
        let hurried = |line: &str| match line.split_once("for: ") {
            Some((indent, _)) => format!("{indent}for: 1s\n"),
            None => format!("{line}\n"),
        };
        std::fs::write(place.path("alerts.yml"), alerts.lines().map(hurried).collect::<String>()).expect("a file");
        let at = format!("127.0.0.1:{}", place.base() + 15);
        let mut command = Command::new("prometheus");
        command.arg(format!("--web.listen-address={at}"));
        command.arg(format!("--config.file={}", place.path("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", place.path("tsdb").display()));
        let process = Process::start(command, &place.path("prometheus.log"));
        eventually("it listens", || std::net::TcpStream::connect(&at).is_ok());
        eventually("it is ready", || get(&at, "/-/ready").0 == 200);
        Self { at, _process: process }
    }

    fn ask(&self, path: &str) -> Value {
        let (status, body) = get(&self.at, path);
        assert_eq!(status, 200, "{path}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"));
        answer["data"].clone()
    }

    /// How many series an expression has now.
    fn series(&self, expression: &str) -> usize {
        let mut query = String::new();
        expression.bytes().for_each(|byte| write!(query, "%{byte:02X}").expect("text"));
        self.ask(&format!("/api/v1/query?query={query}"))["result"].as_array().expect("series").len()
    }

    /// Whether an alert fires, with that value of a label.
    fn fires(&self, alert: &str, (label, value): (&str, &str)) -> bool {
        let alerts = self.ask("/api/v1/alerts");
        let mut alerts = alerts["alerts"].as_array().expect("alerts").iter();
        alerts.any(|told| {
            told["labels"]["alertname"] == alert && told["labels"][label] == value && told["state"] == "firing"
        })
    }

    fn any_fires(&self) -> bool {
        let alerts = self.ask("/api/v1/alerts");
        alerts["alerts"].as_array().expect("alerts").iter().any(|told| told["state"] == "firing")
    }
}

#[test]
fn an_alert_fires_when_a_server_dies_and_clears_when_it_is_back() {
    if Command::new("prometheus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("left out: there is no prometheus to watch a cluster with");
        return;
    }
    let place = Place::new();
    let parts = ["dsv2-reference", "dsv2-broker", "dsv2-proxy"].map(|program| Told::start(&place, program, &[]));
    let mut servers: Vec<Told> = (1..=3).map(|number| server(&place, number)).collect();
    eventually("all are ready", || servers.iter().all(|server| server.ready().is_ok()));
    let ports: Vec<&str> = parts.iter().chain(&servers).map(|told| told.at.as_str()).collect();
    let prometheus = Prometheus::start(&place, &ports);
    place.json("dsv2", &["bench", "publish", "--seconds", "2", "--warm-up", "0", "--json"]);
    for expression in dashboard() {
        // What is shown only where it is more than 0 must exist all the same.
        let asked = expression.replace("$__rate_interval", "5s");
        let asked = asked.strip_suffix(" > 0").unwrap_or(&asked);
        eventually(&format!("data for {expression}"), || prometheus.series(asked) > 0);
    }
    eventually("all is well", || !prometheus.any_fires());

    let dead = servers.remove(1);
    let instance = dead.at.clone();
    dead.kill();
    eventually("its absence is told", || prometheus.fires("Dsv2PartDown", ("instance", &instance)));
    eventually("others miss it", || prometheus.fires("Dsv2PeerLost", ("peer", "s2")));
    assert!(!prometheus.fires("Dsv2NotReady", ("server", "s1")), "two of three go on");
    servers.push(server(&place, 2));
    eventually("all is well again", || !prometheus.any_fires());
}
