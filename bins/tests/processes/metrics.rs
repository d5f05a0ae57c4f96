//! What the parts tell those who run them: real processes, each with its admin port, read as Prometheus reads them; and the files
//! for Prometheus and Grafana, compared with what is served.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use dsv2_bins::admin::catalogue::CATALOGUE;

use crate::exposition::{Exposition, parse};
use crate::harness::{PATIENCE, Place, Process, eventually, finish};

/// Asks an admin port; yields the status and the body.
pub(crate) fn get(at: &str, path: &str) -> (u16, String) {
    ask(at, &format!("GET {path} HTTP/1.0\r\nHost: here\r\n\r\n"))
}

fn ask(at: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(at).expect("the admin port");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, and its end");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {head:?}")), body.to_owned())
}

/// A part and its admin port.
pub(crate) struct Told {
    process: Process,
    pub(crate) at: String,
}

impl Told {
    /// A part at any port that is free.
    pub(crate) fn start(place: &Place, program: &str, args: &[&str]) -> Self {
        Self::begin(place, program, &[args, &["--admin", "0"]].concat())
    }

    pub(crate) fn begin(place: &Place, program: &str, args: &[&str]) -> Self {
        let process = place.start(program, args);
        let said = process.expect("ready ");
        let at = said.split(' ').find_map(|word| word.strip_prefix("admin=")).expect("the admin port").to_owned();
        Self { process, at }
    }

    /// Ends it at once.
    pub(crate) fn kill(self) {
        self.process.kill();
    }

    fn server(place: &Place, name: &str, link: u16) -> Self {
        let link = format!("tcp://127.0.0.1:{}", place.base() + link);
        Self::start(place, "dsv2-server", &["--name", name, "--data", name, "--link", &link, "--voters", "s1,s2"])
    }

    fn metrics(&self) -> Exposition {
        let (status, text) = get(&self.at, "/metrics");
        assert_eq!(status, 200, "{text}");
        parse(&text)
    }

    /// Whether it is ready; else why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match get(&self.at, "/readyz") {
            (200, _) => Ok(()),
            (503, why) => Err(why),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_cluster_serves_what_is_documented_and_what_the_dashboard_shows() {
    let place = Place::new();
    let first = Told::server(&place, "s1", 5);
    let why = first.ready().expect_err("nobody ranked it");
    assert!(why.contains("s1: the reference has given it no rank yet") && why.contains("no broker"), "{why}");
    assert_eq!(get(&first.at, "/healthz"), (200, "ok\n".to_owned()), "it lives nevertheless");

    let others = ["dsv2-reference", "dsv2-broker", "dsv2-proxy"];
    let mut all: Vec<Told> = others.iter().map(|program| Told::start(&place, program, &[])).collect();
    let second = Told::server(&place, "s2", 6);
    eventually("both servers are ready", || first.ready().and(second.ready()).is_ok());
    assert!(all.iter().all(|part| part.ready().is_ok()));
    let follows = |server: &Told| server.metrics().sum("dsv2_server_follows", &[]) == 1.0;
    eventually("both servers follow a coordinator", || follows(&first) && follows(&second));

    let load = ["bench", "publish", "--level", "quorum", "--seconds", "1", "--warm-up", "0", "--json"];
    let done = place.json("dsv2", &load)[0]["turns"].as_u64().expect("a number");
    all.extend([first, second]);
    let told: Vec<Exposition> = all.iter().map(Told::metrics).collect();
    what_is_served_is_documented(&told);
    what_the_files_name_is_served(&told);
    the_load_is_in_it(&told, done);
    promtool(&all);

    let second = all.pop().expect("two servers");
    second.kill();
    let first = all.last().expect("a server");
    eventually("one of two voters is not enough", || first.ready().is_err_and(|why| why.contains("too few voters")));
    assert_eq!(get(&first.at, "/healthz").0, 200);
    let told = first.metrics();
    assert_eq!(told.sum("dsv2_ready", &[]), 0.0);
    assert_eq!(told.sum("dsv2_peer_connected", &[("peer", "s2")]), 0.0);
    let _again = Told::server(&place, "s2", 6);
    eventually("it is ready again", || first.ready().is_ok());
    assert_eq!(first.metrics().sum("dsv2_peer_connected", &[("peer", "s2")]), 1.0);
}

fn what_is_served_is_documented(told: &[Exposition]) {
    let served: BTreeSet<&str> = told.iter().flat_map(Exposition::names).collect();
    let documented: BTreeSet<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
    assert_eq!(served, documented);
    for metric in CATALOGUE {
        let family = told.iter().find_map(|told| told.family(metric.name)).expect("it is served");
        assert_eq!(
            (family.kind.as_str(), family.help.as_str()),
            (metric.kind.as_str(), metric.help),
            "{}",
            metric.name
        );
        let seen = told.iter().filter_map(|told| told.family(metric.name)).flat_map(|family| &family.samples);
        let seen: BTreeSet<&str> = seen.flat_map(|sample| sample.labels.keys()).map(String::as_str).collect();
        let documented: BTreeSet<&str> = metric.labels.split(',').collect();
        assert_eq!(
            seen.into_iter().filter(|label| *label != "le").collect::<BTreeSet<_>>(),
            documented,
            "{}",
            metric.name
        );
    }
}

pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/operations").join(name)
}

/// The expressions of the dashboard.
pub(crate) fn dashboard() -> Vec<String> {
    let dashboard = std::fs::read_to_string(file("grafana.json")).expect("a dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()).collect()
}

/// Every name and every label value that the dashboard's and the alerts' expressions ask for.
fn what_the_files_name_is_served(told: &[Exposition]) {
    let served: BTreeSet<String> = told.iter().flat_map(Exposition::series_names).collect();
    let mut asked = dashboard();
    let alerts = std::fs::read_to_string(file("alerts.yml")).expect("alerts");
    asked.extend(alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned));
    assert!(asked.len() > 50, "{asked:#?}");
    for expression in &asked {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<&str> = words.filter(|word| word.starts_with("dsv2_")).collect();
        assert!(!names.is_empty() || expression.starts_with("up{"), "{expression}");
        for name in names {
            assert!(served.contains(name), "{name} of {expression:?} is not served");
        }
        for (label, value) in matchers(expression) {
            let exists = told.iter().any(|told| told.has(&label, &value)) || label == "job";
            assert!(exists, "{label}={value:?} of {expression:?} is not served");
        }
    }
}

/// What stands as `label="value"` in an expression.
fn matchers(expression: &str) -> BTreeMap<String, String> {
    let parts = expression.split(['{', '}', ',']);
    let pairs = parts.filter_map(|part| part.trim().strip_suffix('"')?.split_once("=\""));
    pairs.map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
}

fn the_load_is_in_it(told: &[Exposition], done: u64) {
    let sum = |name: &str, labels: &[(&str, &str)]| told.iter().map(|told| told.sum(name, labels)).sum::<f64>();
    let done = done as f64;
    assert!(done > 0.0 && sum("dsv2_requests_total", &[("service", "publish"), ("outcome", "ok")]) >= done);
    assert!(sum("dsv2_server_stored_events_total", &[("by", "own")]) >= done);
    assert!(sum("dsv2_server_stored_events_total", &[("by", "replication")]) >= done);
    assert!(sum("dsv2_store_group_events_sum", &[]) >= 2.0 * done, "both servers wrote all of it");
    assert!(sum("dsv2_store_sync_seconds_count", &[]) > 0.0 && sum("dsv2_store_append_seconds_sum", &[]) > 0.0);
    assert!(sum("dsv2_broker_replies_total", &[]) >= done && sum("dsv2_proxy_publications_total", &[]) >= done);
    assert_eq!((sum("dsv2_broker_available_servers", &[]), sum("dsv2_reference_live_servers", &[])), (2.0, 2.0));
    assert_eq!((sum("dsv2_alive", &[]), sum("dsv2_ready", &[])), (5.0, 5.0));
    assert_eq!(sum("dsv2_port_connected", &[]), sum("dsv2_port_endpoints", &[]));
    assert!(sum("dsv2_server_epoch", &[]) > 0.0 && sum("dsv2_server_coordinator_changes_total", &[]) >= 2.0);
}

/// What Prometheus' own tool says of all of it; it comes with the package `prometheus` of Debian.
fn promtool(all: &[Told]) {
    if Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("left out: there is no promtool to check metrics and rules with");
        return;
    }
    for part in all {
        let mut check = Command::new("promtool");
        check.args(["check", "metrics"]);
        let checked = finish(check, &get(&part.at, "/metrics").1);
        assert!(checked.status.success() && checked.err.is_empty(), "{checked:?}");
    }
    let uses =
        [["check", "rules", "alerts.yml"], ["test", "rules", "alerts-test.yml"], ["check", "config", "prometheus.yml"]];
    for [verb, what, name] in uses {
        let mut check = Command::new("promtool");
        check.args([verb, what]).arg(file(name));
        let checked = finish(check, "");
        assert!(checked.status.success(), "{checked:?}");
    }
}

#[test]
fn one_endpoint_tells_of_a_whole_cluster() {
    let place = Place::new();
    let mut up = Told::start(&place, "dsv2", &["up", "--in-memory", "--servers", "2"]);
    let told = up.metrics();
    assert_eq!((told.sum("dsv2_alive", &[]), told.sum("dsv2_ready", &[])), (5.0, 5.0));
    for server in ["server1", "server2"] {
        assert_eq!(told.sum("dsv2_ready", &[("server", server)]), 1.0);
        assert!(told.sum("dsv2_socket_accepted_connections_total", &[("server", server)]) > 0.0, "links");
    }
    assert_eq!(told.names().count(), CATALOGUE.len());
    assert_eq!(up.ready(), Ok(()));

    assert_eq!(get(&up.at, "/").0, 404);
    assert_eq!(ask(&up.at, "POST /metrics HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n").0, 405);
    assert_eq!(ask(&up.at, "HEAD /healthz HTTP/1.1\r\nHost: here\r\n\r\n"), (200, String::new()));
    assert_eq!(ask(&up.at, "nonsense\r\n\r\n").0, 400);
    let long = format!("GET /{} HTTP/1.1\r\nHost: here\r\n\r\n", "x".repeat(64 << 10));
    assert!((400..=431).contains(&refused(&up.at, &long)), "a head beyond the bound");

    let taken = place.run("dsv2-broker", &["--admin", &up.at]);
    assert!(
        !taken.status.success() && taken.err.contains("the port is taken") && taken.err.contains("hint: give --admin")
    );
    assert!(up.process.interrupt().success());
}

/// The status of a request that is too long to be read to its end: the answer may be cut by the reset that follows.
fn refused(at: &str, request: &str) -> u16 {
    let mut stream = TcpStream::connect(at).expect("the admin port");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let _cut = stream.write_all(request.as_bytes()).is_err();
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer).is_err();
    let answer = String::from_utf8_lossy(&answer);
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(400)
}

#[test]
fn who_says_nothing_keeps_nobody_out() {
    let place = Place::new();
    let broker = Told::start(&place, "dsv2-broker", &[]);
    // More than are served at a time; each is given up after a few seconds.
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&broker.at).expect("it listens")).collect();
    assert_eq!(get(&broker.at, "/healthz"), (200, "ok\n".to_owned()));
    drop(silent);
}

#[test]
fn the_address_comes_from_the_environment_or_the_file_too() {
    let place = Place::new();
    let mut command = place.command("dsv2-reference", &[]);
    command.env("DSV2_REFERENCE_ADMIN", "0");
    let reference = Process::start(command, &place.path("reference.log"));
    assert!(reference.expect("ready ").contains("admin=127.0.0.1:"));
    std::fs::write(place.path("flags.toml"), "[proxy]\nadmin = \":0\"\n").expect("a file");
    let proxy = place.start("dsv2-proxy", &["--config", "flags.toml"]);
    assert!(proxy.expect("ready ").contains("admin=127.0.0.1:"));
}
