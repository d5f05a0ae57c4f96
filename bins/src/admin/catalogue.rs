//! Every metric: its name, its kind, its labels, its meaning. `docs/metrics.md` shows the same table.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows, from the start of the process.
    Counter,
    /// As of now.
    Gauge,
    /// Values by the buckets with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// Its name in the text format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name; units last, and `_total` for counters.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels, separated by commas. `server` is there for servers only.
    pub labels: &'static str,
    /// Its meaning, without a full stop.
    pub help: &'static str,
}

/// From what memory takes to a disk that hangs.
const SECONDS: [f64; 16] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// From one event to all that a busy server has under way.
const EVENTS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 4_096.0];

const fn metric(name: &'static str, kind: Kind, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

/// All of them.
pub const CATALOGUE: &[Metric] = &[
    metric("dsv2_build_info", Kind::Gauge, "version", "Always 1; the version is in the label"),
    metric("dsv2_alive", Kind::Gauge, "role,server", "1 if the part answers, as /healthz has it"),
    metric("dsv2_ready", Kind::Gauge, "role,server", "1 if the part can do its work, as /readyz has it"),
    metric(
        "dsv2_requests_total",
        Kind::Counter,
        "role,server,service,outcome",
        "Requests answered: ok, rejected (nothing changed), unknown (only a retry tells)",
    ),
    metric(
        "dsv2_failures_total",
        Kind::Counter,
        "role,server,code",
        "Requests answered with a failure, by its code on the wire",
    ),
    metric("dsv2_broker_clients", Kind::Gauge, "role", "Clients connected"),
    metric("dsv2_broker_servers", Kind::Gauge, "role", "Servers connected"),
    metric("dsv2_broker_available_servers", Kind::Gauge, "role", "Servers that take requests"),
    metric("dsv2_broker_waiting_requests", Kind::Gauge, "role", "Requests that wait at the broker for a server"),
    metric("dsv2_broker_waiting_bytes", Kind::Gauge, "role", "Bytes of the requests that wait at the broker"),
    metric("dsv2_broker_handed_requests", Kind::Gauge, "role", "Requests that servers have and did not answer yet"),
    metric("dsv2_broker_requests_total", Kind::Counter, "role", "Requests accepted from clients"),
    metric("dsv2_broker_forwarded_requests_total", Kind::Counter, "role", "Requests handed to servers"),
    metric("dsv2_broker_replies_total", Kind::Counter, "role", "Replies passed on to clients"),
    metric(
        "dsv2_broker_malformed_messages_total",
        Kind::Counter,
        "role",
        "Messages of clients that were no requests: dropped",
    ),
    metric(
        "dsv2_broker_answers_total",
        Kind::Counter,
        "role,outcome",
        "Requests that the broker answered itself, because no server did",
    ),
    metric(
        "dsv2_broker_dropped_replies_total",
        Kind::Counter,
        "role,reason",
        "Replies for clients that had left (departed), and those that belong to no request (stray)",
    ),
    metric(
        "dsv2_broker_pauses_total",
        Kind::Counter,
        "role,reason",
        "Times that a client was not read for a while: it reached a bound, or did not read its replies",
    ),
    metric(
        "dsv2_broker_disconnected_total",
        Kind::Counter,
        "role,peer",
        "Clients and servers disconnected because they did not read",
    ),
    metric("dsv2_proxy_publishers", Kind::Gauge, "role", "Publishers connected"),
    metric("dsv2_proxy_subscribers", Kind::Gauge, "role", "Subscribers connected"),
    metric("dsv2_proxy_topics", Kind::Gauge, "role", "Distinct topics subscribed to"),
    metric("dsv2_proxy_subscriptions", Kind::Gauge, "role", "Subscriptions: pairs of a subscriber and a topic"),
    metric("dsv2_proxy_publications_total", Kind::Counter, "role", "Messages received from publishers"),
    metric(
        "dsv2_proxy_deliveries_total",
        Kind::Counter,
        "role",
        "Messages queued for subscribers, each subscriber counted",
    ),
    metric("dsv2_proxy_unmatched_publications_total", Kind::Counter, "role", "Messages that nobody had subscribed to"),
    metric(
        "dsv2_proxy_dropped_deliveries_total",
        Kind::Counter,
        "role",
        "Messages not queued because a subscriber was slow, each subscriber counted",
    ),
    metric(
        "dsv2_proxy_refused_subscriptions_total",
        Kind::Counter,
        "role",
        "Subscriptions refused at a bound of the table",
    ),
    metric(
        "dsv2_proxy_ignored_messages_total",
        Kind::Counter,
        "role",
        "Messages of subscribers that were no subscriptions",
    ),
    metric(
        "dsv2_proxy_disconnected_total",
        Kind::Counter,
        "role,reason",
        "Peers disconnected: slow or largest subscribers, and publishers that took no subscriptions",
    ),
    metric("dsv2_reference_ranked_servers", Kind::Gauge, "role", "Servers that have a rank"),
    metric("dsv2_reference_live_servers", Kind::Gauge, "role", "Servers with a rank that were heard of lately"),
    metric(
        "dsv2_socket_connections",
        Kind::Gauge,
        "role,server,socket",
        "Connections established at a listening socket",
    ),
    metric(
        "dsv2_socket_queued_bytes",
        Kind::Gauge,
        "role,server,socket",
        "Bytes queued for all peers of a listening socket",
    ),
    metric(
        "dsv2_socket_accepted_connections_total",
        Kind::Counter,
        "role,server,socket",
        "Connections accepted, those included whose handshake failed",
    ),
    metric("dsv2_socket_handshakes_total", Kind::Counter, "role,server,socket", "Handshakes that succeeded"),
    metric(
        "dsv2_socket_closed_connections_total",
        Kind::Counter,
        "role,server,socket",
        "Established connections that ended",
    ),
    metric(
        "dsv2_socket_refused_connections_total",
        Kind::Counter,
        "role,server,socket,reason",
        "Connections refused before they were established: capacity, pending, timeout, protocol, incompatible, io, system",
    ),
    metric(
        "dsv2_socket_cut_connections_total",
        Kind::Counter,
        "role,server,socket,reason",
        "Established connections closed by this side: protocol, heartbeat, stall, memory",
    ),
    metric("dsv2_socket_received_messages_total", Kind::Counter, "role,server,socket", "Messages received"),
    metric(
        "dsv2_socket_received_bytes_total",
        Kind::Counter,
        "role,server,socket",
        "Bytes received, with headers and commands",
    ),
    metric("dsv2_socket_sent_messages_total", Kind::Counter, "role,server,socket", "Messages written to the system"),
    metric("dsv2_socket_sent_bytes_total", Kind::Counter, "role,server,socket", "Bytes written to the system"),
    metric("dsv2_socket_reads_total", Kind::Counter, "role,server,socket", "Read calls that brought something"),
    metric("dsv2_socket_writes_total", Kind::Counter, "role,server,socket", "Write calls"),
    metric(
        "dsv2_socket_dropped_messages_total",
        Kind::Counter,
        "role,server,socket,reason",
        "Messages refused by a full queue (full), lost with their connection (unsent), answers to pings left out (pong)",
    ),
    metric(
        "dsv2_server_takes_requests",
        Kind::Gauge,
        "role,server",
        "1 if the broker was told that requests are welcome",
    ),
    metric("dsv2_server_leads", Kind::Gauge, "role,server", "1 if this server is coordinator"),
    metric("dsv2_server_follows", Kind::Gauge, "role,server", "1 if this server knows a coordinator, itself perhaps"),
    metric("dsv2_server_rank", Kind::Gauge, "role,server", "The rank that the reference gave; 0 before it did"),
    metric(
        "dsv2_server_epoch",
        Kind::Gauge,
        "role,server",
        "The number of the election's epoch: each election makes it grow",
    ),
    metric(
        "dsv2_server_lease_seconds",
        Kind::Gauge,
        "role,server",
        "What is left of the lease of a coordinator that leads with one; else 0",
    ),
    metric(
        "dsv2_server_coordinator_changes_total",
        Kind::Counter,
        "role,server",
        "Times that the coordinator became another one, or none",
    ),
    metric("dsv2_server_logical_clock", Kind::Gauge, "role,server", "The Lamport clock"),
    metric("dsv2_server_users", Kind::Gauge, "role,server", "Users known"),
    metric("dsv2_server_channels", Kind::Gauge, "role,server", "Channels known"),
    metric("dsv2_server_events", Kind::Gauge, "role,server", "Events held, durable"),
    metric(
        "dsv2_server_waiting_writes",
        Kind::Gauge,
        "role,server",
        "Writes that wait for other servers before they are acknowledged",
    ),
    metric(
        "dsv2_server_parked_requests",
        Kind::Gauge,
        "role,server",
        "Requests that wait for events which their client has seen elsewhere",
    ),
    metric(
        "dsv2_server_stored_events_total",
        Kind::Counter,
        "role,server,by",
        "Events made durable: own ones, replicated ones, and those adopted from servers of the family",
    ),
    metric(
        "dsv2_server_unreadable_messages_total",
        Kind::Counter,
        "role,server",
        "Messages on links, and control publications, that could not be read",
    ),
    metric(
        "dsv2_server_unpublished_messages_total",
        Kind::Counter,
        "role,server",
        "Publications that did not leave because a proxy was away; subscribers repair that",
    ),
    metric("dsv2_clock_offset_seconds", Kind::Gauge, "role,server", "What the agreed wall clock adds to the system's"),
    metric(
        "dsv2_clock_error_bound_seconds",
        Kind::Gauge,
        "role,server",
        "How far the agreed wall clock may be off the others'; NaN before the first round",
    ),
    metric("dsv2_clock_slewing", Kind::Gauge, "role,server", "1 while a correction is being slewed in"),
    metric("dsv2_peer_connected", Kind::Gauge, "role,server,peer", "1 if the links to another server are up"),
    metric(
        "dsv2_peer_lag_events",
        Kind::Gauge,
        "role,server,peer",
        "Own events that another server has not acknowledged as durable",
    ),
    metric(
        "dsv2_link_changes_total",
        Kind::Counter,
        "role,server,change",
        "Links established (up), lost (down), and refused by this side or the other",
    ),
    metric(
        "dsv2_link_dropped_messages_total",
        Kind::Counter,
        "role,server,reason",
        "Messages for links that found no room or no connection; their streams repair that",
    ),
    metric(
        "dsv2_port_endpoints",
        Kind::Gauge,
        "role,server,port",
        "Endpoints to connect to: brokers, and both sides of proxies",
    ),
    metric("dsv2_port_connected", Kind::Gauge, "role,server,port", "Those of them that are connected"),
    metric("dsv2_port_queued_bytes", Kind::Gauge, "role,server,port", "Bytes queued for them"),
    metric("dsv2_port_reconnects_total", Kind::Counter, "role,server,port", "Connections after the first of each"),
    metric("dsv2_port_failed_attempts_total", Kind::Counter, "role,server,port", "Attempts to connect that failed"),
    metric("dsv2_port_sent_messages_total", Kind::Counter, "role,server,port", "Messages queued for them"),
    metric("dsv2_port_received_messages_total", Kind::Counter, "role,server,port", "Messages received from them"),
    metric(
        "dsv2_port_unwanted_messages_total",
        Kind::Counter,
        "role,server,port",
        "Publications left out because nobody behind the proxy wants them",
    ),
    metric(
        "dsv2_port_dropped_messages_total",
        Kind::Counter,
        "role,server,port,reason",
        "Messages dropped because a queue was full (full), or lost with a connection (lost)",
    ),
    metric("dsv2_store_full", Kind::Gauge, "role,server", "1 while the disk has no room"),
    metric("dsv2_store_failed", Kind::Gauge, "role,server", "1 once the disk failed: this process writes nothing more"),
    metric(
        "dsv2_store_waiting_effects",
        Kind::Gauge,
        "role,server",
        "Answers, publications and link messages that wait for the disk",
    ),
    metric(
        "dsv2_store_append_seconds",
        Kind::Histogram(&SECONDS),
        "server",
        "How long writing a group to the log took, before it was synced",
    ),
    metric("dsv2_store_sync_seconds", Kind::Histogram(&SECONDS), "server", "How long the sync of a group took"),
    metric(
        "dsv2_store_group_events",
        Kind::Histogram(&EVENTS),
        "server",
        "Changes of the log that were made durable together",
    ),
];

/// Gives the recorder in charge the meanings of metrics of these kinds.
pub(super) fn describe(wanted: impl Fn(Kind) -> bool) {
    for metric in CATALOGUE.iter().filter(|metric| wanted(metric.kind)) {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => describe_histogram!(metric.name, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_customs() {
        for Metric { name, kind, labels, help } in CATALOGUE {
            assert!(name.starts_with("dsv2_") && !help.ends_with('.') && !labels.is_empty(), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(CATALOGUE.iter().filter(|other| other.name == *name).count(), 1, "{name}");
        }
    }

    /// The page shows this table, row by row.
    #[test]
    fn the_page_shows_what_is_served() {
        let page = include_str!("../../../docs/metrics.md");
        let shown: Vec<&str> = page.lines().filter(|line| line.starts_with("| `dsv2_")).collect();
        let row = |metric: &Metric| {
            let labels = metric.labels.replace(',', "`, `");
            format!("| `{}` | {} | `{labels}` | {} |", metric.name, metric.kind.as_str(), metric.help)
        };
        let due: Vec<String> = CATALOGUE.iter().map(row).collect();
        assert_eq!(shown, due, "the rows of docs/metrics.md should be:\n{}", due.join("\n"));
    }
}
