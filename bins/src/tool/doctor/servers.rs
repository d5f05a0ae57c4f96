//! The servers of a cluster: who answers, and what they tell. What follows from it is decided in [`judge`].

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dsv2_core::{ServerName, StatusReport};
use dsv2_net::Endpoint;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::finding::{Finding, Found};
use super::{Places, probe};
use crate::error::Error;
use crate::tool::status;

/// Between two looks at servers that hold different events: links carry new ones in far less.
const SETTLES_WITHIN: Duration = Duration::from_millis(300);

/// A server that answered.
#[derive(Clone, Debug)]
struct Server {
    at: Endpoint,
    report: StatusReport,
    /// How far its clock is ahead of this machine's, in microseconds: at least, at most. The answer came somewhere between
    /// question and arrival.
    ahead_us: Option<(i64, i64)>,
}

/// What was seen of the servers.
#[derive(Default)]
pub(super) struct Seen {
    servers: Vec<Server>,
    /// Those that others know of and that do not answer from here, with the reason.
    silent: BTreeMap<ServerName, String>,
    /// What the servers told the second time, where the first time they held different events.
    again: Vec<StatusReport>,
    /// Where they answered, the broker included.
    answered: Vec<String>,
    /// What is to be said in place of everything else.
    late: Option<Finding>,
}

/// Asks by way of the broker and at the links of the place, and then those that they know of.
pub(super) async fn look(places: &Places, wanted: Option<u16>, within: Duration) -> Seen {
    // Two steps, from a server to those that it knows, and a second look.
    let each = within / 3;
    let mut seen = Seen::default();
    let mut asked = BTreeSet::new();
    let mut asking = JoinSet::new();
    for at in std::iter::once(&places.clients).chain(&places.links) {
        asked.insert(at.to_string());
        asking.spawn(ask(None, at.clone(), each));
    }
    while let Some(Ok((name, at, answer))) = asking.join_next().await {
        match (name, answer) {
            (_, Ok(server)) => {
                for peer in &server.report.peers {
                    let Some(address) = peer.address.as_ref().filter(|address| !asked.contains(*address)) else {
                        continue;
                    };
                    let Ok(endpoint) = address.parse() else { continue };
                    asked.insert(address.clone());
                    asking.spawn(ask(Some(peer.name.clone()), endpoint, each));
                }
                seen.add(server);
            }
            (Some(name), Err(error)) => drop(seen.silent.insert(name, format!("{at}: {error}"))),
            // Nobody need be there: broker and ports are looked at elsewhere.
            (None, Err(_)) => {}
        }
    }
    seen.silent.retain(|name, _| !seen.servers.iter().any(|server| server.report.name == *name));
    let enough = wanted.is_none_or(|wanted| seen.servers.len() >= usize::from(wanted));
    if enough && seen.differ() {
        sleep(SETTLES_WITHIN.min(each / 2)).await;
        seen.again = again(&seen.servers, each / 2).await;
    }
    seen
}

async fn again(servers: &[Server], each: Duration) -> Vec<StatusReport> {
    let mut asking = JoinSet::new();
    for server in servers {
        asking.spawn(ask(None, server.at.clone(), each));
    }
    asking.join_all().await.into_iter().filter_map(|(_, _, answer)| answer.ok().map(|server| server.report)).collect()
}

async fn ask(
    name: Option<ServerName>,
    at: Endpoint,
    within: Duration,
) -> (Option<ServerName>, Endpoint, Result<Server, Error>) {
    // A client would try again and again where nobody listens.
    if probe::is_refused(&at, within).await {
        return (name, at, Err(Error::NoAnswer("nobody listens".to_owned())));
    }
    let before = now_us();
    let answer = status::ask(at.clone(), within).await;
    let after = now_us();
    let answer = answer.map(|report| {
        let ahead_us = report.wall.system_us.map(|us| (us.saturating_sub(after), us.saturating_sub(before)));
        Server { at: at.clone(), report, ahead_us }
    });
    (name, at, answer)
}

/// This machine's time of day, in microseconds since 1970.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Seen {
    /// Nothing, because it took too long.
    pub(super) fn unfinished(late: Finding) -> Self {
        Self { late: Some(late), ..Self::default() }
    }

    /// A server is met by several ways, and is the same if its data directory is. Its own link is better than the broker,
    /// which may lead elsewhere the next time.
    fn add(&mut self, server: Server) {
        self.answered.push(server.at.to_string());
        let same = |known: &&mut Server| {
            (&known.report.name, &known.report.node) == (&server.report.name, &server.report.node)
        };
        match self.servers.iter_mut().find(same) {
            Some(known) => *known = server,
            None => self.servers.push(server),
        }
        self.servers.sort_by(|a, b| (&a.report.name, &a.report.node).cmp(&(&b.report.name, &b.report.node)));
    }

    fn differ(&self) -> bool {
        self.servers.windows(2).any(|pair| pair[0].report.position != pair[1].report.position)
    }

    /// Where servers answered.
    pub(super) fn answering(&self) -> &[String] {
        &self.answered
    }

    /// Whether a server of this name answers.
    pub(super) fn answers(&self, name: &str) -> bool {
        self.servers.iter().any(|server| server.report.name.as_str() == name)
    }

    /// What is to be said. `is_there`: parts of DS-v2 listen at the place.
    pub(super) fn judged(&self, places: &Places, wanted: Option<u16>, is_there: bool) -> Vec<Finding> {
        if let Some(late) = &self.late {
            return vec![late.clone()];
        }
        if self.servers.is_empty() {
            return vec![nobody(places, is_there || wanted.is_some())];
        }
        judge::judge(self, wanted)
    }
}

fn nobody(places: &Places, expected: bool) -> Finding {
    let what = "no server answers";
    let base = places.base_port;
    let found = if expected {
        let remedy = format!(
            "start servers for this place: dsv2-server --name server1 --data ./server1 --base-port {base}; the log of one \
             that runs says `takes requests` once a broker knows it"
        );
        Found::problem(what, remedy)
    } else {
        Found::warning(what, format!("if a cluster should run here, start one: dsv2 up --base-port {base}"))
    };
    Finding::new("servers", &places.clients, found)
}
