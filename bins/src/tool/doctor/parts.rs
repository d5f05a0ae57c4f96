//! Ports, and the parts that listen at them.

use std::time::Duration;

use dsv2_net::Endpoint;
use dsv2_net::port::SocketKind;
use tokio::task::JoinSet;

use super::finding::{Finding, Found};
use super::probe::{self, Answer, Question};
use super::{Places, system};
use crate::args::Part;

/// What listens there, as people call it.
const fn name(part: Part) -> &'static str {
    match part {
        Part::Clients => "the broker's side for clients",
        Part::Servers => "the broker's side for servers",
        Part::Publishers => "the proxy's side for publishers",
        Part::Subscribers => "the proxy's side for subscribers",
        Part::Reference => "the reference",
        Part::Link => "a server's link",
    }
}

const fn question(part: Part) -> Question {
    let (kind, sockets, lists): (_, &[&str], _) = match part {
        Part::Clients | Part::Link => (SocketKind::Dealer, &["ROUTER"], false),
        Part::Servers => (SocketKind::Dealer, &["DEALER"], false),
        Part::Publishers => (SocketKind::Pub, &["SUB", "XSUB"], false),
        Part::Subscribers => (SocketKind::Sub, &["PUB", "XPUB"], false),
        Part::Reference => (SocketKind::Dealer, &["ROUTER", "REP"], true),
    };
    Question { kind, sockets, lists }
}

/// What was found at the ports.
pub(super) struct Parts {
    base_port: u16,
    seen: Vec<(Part, Endpoint, Answer)>,
}

/// Asks at every port, all at the same time.
pub(super) async fn look(places: &Places, within: Duration) -> Parts {
    let one = [
        (Part::Clients, &places.clients),
        (Part::Servers, &places.servers),
        (Part::Publishers, &places.publishers),
        (Part::Subscribers, &places.subscribers),
        (Part::Reference, &places.reference),
    ];
    let mut asking = JoinSet::new();
    for (role, endpoint) in one.into_iter().chain(places.links.iter().map(|link| (Part::Link, link))) {
        let endpoint = endpoint.clone();
        asking.spawn(async move {
            let answer = probe::ask(&endpoint, question(role), within).await;
            (role, endpoint, answer)
        });
    }
    let mut seen = asking.join_all().await;
    seen.sort_by(|(a, at, _), (b, bt, _)| (a, at).cmp(&(b, bt)));
    Parts { base_port: places.base_port, seen }
}

impl Parts {
    /// Whether any part of DS-v2 is there: then the others should be, too.
    pub(super) fn is_there(&self) -> bool {
        self.seen.iter().any(|(_, _, answer)| matches!(answer, Answer::Part))
    }

    /// What is to be said. `answering` are the links at which servers gave a status.
    pub(super) fn findings(&self, answering: &[String]) -> Vec<Finding> {
        let ports = self.seen.iter().map(|(role, endpoint, answer)| {
            let found = match answer {
                Answer::Nobody => Found::ok(format!("free: nobody listens, where {} may", name(*role))),
                Answer::Part if *role == Part::Link && !answering.contains(&endpoint.to_string()) => {
                    taken(*role, endpoint, "it is no server that tells how it is")
                }
                Answer::Part => Found::ok(format!("{} answers", name(*role))),
                Answer::NoWay(why) => Found::problem(
                    format!("cannot be reached: {why}"),
                    "check the host's name, the route and the firewall, and what --host says",
                ),
                Answer::Other(why) => taken(*role, endpoint, why),
            };
            Finding::new("ports", endpoint, found)
        });
        ports.chain(self.reachability()).collect()
    }

    /// Broker, proxy and reference, each as a whole.
    fn reachability(&self) -> [Finding; 3] {
        [
            self.part("broker", "dsv2-broker", &[Part::Clients, Part::Servers]),
            self.part("proxy", "dsv2-proxy", &[Part::Publishers, Part::Subscribers]),
            self.part("reference", "dsv2-reference", &[Part::Reference]),
        ]
    }

    fn part(&self, check: &'static str, program: &str, roles: &[Part]) -> Finding {
        let own: Vec<_> = self.seen.iter().filter(|(role, _, _)| roles.contains(role)).collect();
        let missing = own.iter().find(|(_, _, answer)| !matches!(answer, Answer::Part));
        let Some((_, endpoint, answer)) = missing else {
            let at: Vec<String> = own.iter().map(|(_, endpoint, _)| endpoint.to_string()).collect();
            return Finding::new(check, &at.join(", "), Found::ok("answers"));
        };
        let what = match answer {
            Answer::Nobody => "nobody answers".to_owned(),
            _ => format!("who listens there is no {check} that answers"),
        };
        let start = format!("start it: {program} --base-port {}", self.base_port);
        let found = match answer {
            // Nothing waits for the reference, and where nothing runs nothing is missing.
            Answer::Nobody if check == "reference" || !self.is_there() => Found::warning(what, start),
            Answer::Nobody => Found::problem(what, start),
            _ => Found::problem(what, format!("see the check of ports above; then {start}")),
        };
        Finding::new(check, endpoint, found)
    }
}

fn taken(role: Part, endpoint: &Endpoint, why: &str) -> Found {
    let by = system::listener(endpoint);
    let who = by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
    let what = format!("taken{who}, which does not answer as {} does: {why}", name(role));
    let ours = by.as_ref().is_some_and(|by| by.name.starts_with("dsv2"));
    let remedy = if ours {
        "if that process is stuck or stopped, restart it, and look at its log; if it is another part, give each its own \
         port with --base-port"
    } else {
        "stop that program, or choose other ports for all parts with --base-port"
    };
    Found::problem(what, remedy)
}
