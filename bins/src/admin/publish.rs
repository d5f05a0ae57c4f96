//! A part's numbers as metrics, under the names of the [catalogue](super::catalogue).

use dsv2_core::ServerName;
use dsv2_net::engine::{BrokerStats, ProxyStats, SocketStats};
use dsv2_net::port::PortStats;
use dsv2_net::server::{Disk, ServerStats, Tally};
use dsv2_net::stats::Answers;
use metrics::Label;
use metrics_exporter_prometheus::PrometheusBuilder;

use super::catalogue::{self, Kind};
use super::watched::{Seen, State};

/// The text of all counters and gauges, as of now.
pub(super) fn text(states: &[State]) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        catalogue::describe(|kind| !matches!(kind, Kind::Histogram(_)));
        metrics::gauge!("dsv2_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        states.iter().for_each(part);
    });
    recorder.handle().render()
}

/// What all metrics of a part have in common.
struct Labels(Vec<Label>);

impl Labels {
    fn of(role: &'static str, server: Option<&ServerName>) -> Self {
        let server = server.map(|name| Label::new("server", name.to_string()));
        Self([Label::new("role", role)].into_iter().chain(server).collect())
    }

    /// With one more.
    fn and(&self, key: &'static str, value: impl Into<metrics::SharedString>) -> Self {
        Self(self.0.iter().cloned().chain([Label::new(key, value)]).collect())
    }

    fn count(&self, name: &'static str, value: u64) {
        metrics::counter!(name, self.0.clone()).absolute(value);
    }

    /// Numbers beyond 2^53 lose their last digits, as all do in Prometheus.
    fn gauge(&self, name: &'static str, value: f64) {
        metrics::gauge!(name, self.0.clone()).set(value);
    }

    fn flag(&self, name: &'static str, value: bool) {
        self.gauge(name, f64::from(u8::from(value)));
    }
}

fn part(state: &State) {
    let labels = Labels::of(state.role, state.server.as_ref());
    labels.flag("dsv2_alive", state.seen.is_ok());
    labels.flag("dsv2_ready", state.not_ready().is_empty());
    match &state.seen {
        Err(_) => {}
        Ok(Seen::Broker(stats, [clients, servers])) => {
            broker(&labels, stats);
            socket(&labels.and("socket", "clients"), clients);
            socket(&labels.and("socket", "servers"), servers);
        }
        Ok(Seen::Proxy(stats, [publishers, subscribers])) => {
            proxy(&labels, stats);
            socket(&labels.and("socket", "publishers"), publishers);
            socket(&labels.and("socket", "subscribers"), subscribers);
        }
        Ok(Seen::Reference(stats)) => {
            labels.gauge("dsv2_reference_ranked_servers", stats.ranked as f64);
            labels.gauge("dsv2_reference_live_servers", stats.alive as f64);
            answers(&labels, &stats.answers);
            socket(&labels.and("socket", "reference"), &stats.socket);
        }
        Ok(Seen::Server(stats)) => server(&labels, stats),
    }
}

fn answers(labels: &Labels, answers: &Answers) {
    for (service, outcome, count) in answers.by_service() {
        labels.and("service", service).and("outcome", outcome).count("dsv2_requests_total", count);
    }
    for (code, count) in answers.by_code() {
        labels.and("code", code).count("dsv2_failures_total", count);
    }
}

fn broker(labels: &Labels, stats: &BrokerStats) {
    let load = &stats.load;
    labels.gauge("dsv2_broker_clients", load.clients as f64);
    labels.gauge("dsv2_broker_servers", load.servers as f64);
    labels.gauge("dsv2_broker_available_servers", load.available_servers as f64);
    labels.gauge("dsv2_broker_waiting_requests", load.waiting.messages as f64);
    labels.gauge("dsv2_broker_waiting_bytes", load.waiting.bytes as f64);
    labels.gauge("dsv2_broker_handed_requests", load.handed as f64);
    labels.count("dsv2_broker_requests_total", stats.requests);
    labels.count("dsv2_broker_forwarded_requests_total", stats.forwarded);
    labels.count("dsv2_broker_replies_total", stats.replies);
    labels.count("dsv2_broker_malformed_messages_total", stats.malformed);
    labels.and("outcome", "rejected").count("dsv2_broker_answers_total", stats.rejected);
    labels.and("outcome", "unknown").count("dsv2_broker_answers_total", stats.unknown);
    labels.and("reason", "departed").count("dsv2_broker_dropped_replies_total", stats.replies_for_departed);
    labels.and("reason", "stray").count("dsv2_broker_dropped_replies_total", stats.replies_stray);
    labels.and("reason", "bound").count("dsv2_broker_pauses_total", stats.parked);
    labels.and("reason", "replies").count("dsv2_broker_pauses_total", stats.held);
    labels.and("peer", "client").count("dsv2_broker_disconnected_total", stats.disconnected_clients);
    labels.and("peer", "server").count("dsv2_broker_disconnected_total", stats.disconnected_servers);
}

fn proxy(labels: &Labels, stats: &ProxyStats) {
    labels.gauge("dsv2_proxy_publishers", stats.publishers as f64);
    labels.gauge("dsv2_proxy_subscribers", stats.subscribers as f64);
    labels.gauge("dsv2_proxy_topics", stats.topics as f64);
    labels.gauge("dsv2_proxy_subscriptions", stats.subscriptions as f64);
    labels.count("dsv2_proxy_publications_total", stats.messages_in);
    labels.count("dsv2_proxy_deliveries_total", stats.deliveries);
    labels.count("dsv2_proxy_unmatched_publications_total", stats.unmatched);
    labels.count("dsv2_proxy_dropped_deliveries_total", stats.dropped);
    labels.count("dsv2_proxy_refused_subscriptions_total", stats.subscriptions_refused);
    labels.count("dsv2_proxy_ignored_messages_total", stats.ignored);
    for (reason, count) in [
        ("slow", stats.disconnected_slow),
        ("largest", stats.disconnected_largest),
        ("publisher", stats.disconnected_publishers),
    ] {
        labels.and("reason", reason).count("dsv2_proxy_disconnected_total", count);
    }
}

/// The counters of the engine by the names that they have there.
fn socket(labels: &Labels, stats: &SocketStats) {
    let mut opened = 0;
    for (counter, count) in stats.counters {
        let (name, reason) = match counter {
            "connections_opened" => ("dsv2_socket_accepted_connections_total", None),
            "handshakes" => {
                opened += count;
                ("dsv2_socket_handshakes_total", None)
            }
            "connections_closed" => {
                opened = opened.saturating_sub(count);
                ("dsv2_socket_closed_connections_total", None)
            }
            "messages_in" => ("dsv2_socket_received_messages_total", None),
            "bytes_in" => ("dsv2_socket_received_bytes_total", None),
            "messages_out" => ("dsv2_socket_sent_messages_total", None),
            "bytes_out" => ("dsv2_socket_sent_bytes_total", None),
            "writes" => ("dsv2_socket_writes_total", None),
            "reads" => ("dsv2_socket_reads_total", None),
            "messages_refused" => ("dsv2_socket_dropped_messages_total", Some("full")),
            "messages_unsent" => ("dsv2_socket_dropped_messages_total", Some("unsent")),
            "pongs_dropped" => ("dsv2_socket_dropped_messages_total", Some("pong")),
            "protocol_errors" => ("dsv2_socket_cut_connections_total", Some("protocol")),
            "heartbeat_timeouts" => ("dsv2_socket_cut_connections_total", Some("heartbeat")),
            "stalls" => ("dsv2_socket_cut_connections_total", Some("stall")),
            "memory_exhausted" => ("dsv2_socket_cut_connections_total", Some("memory")),
            "accept_errors" => ("dsv2_socket_refused_connections_total", Some("system")),
            other => match other.strip_prefix("refused_") {
                Some(reason) => ("dsv2_socket_refused_connections_total", Some(reason)),
                None => continue,
            },
        };
        match reason {
            Some(reason) => labels.and("reason", reason).count(name, count),
            None => labels.count(name, count),
        }
    }
    labels.gauge("dsv2_socket_connections", opened as f64);
    labels.gauge("dsv2_socket_queued_bytes", stats.queued_bytes as f64);
}

fn server(labels: &Labels, stats: &ServerStats) {
    let vitals = &stats.vitals;
    labels.flag("dsv2_server_takes_requests", vitals.ready);
    labels.flag("dsv2_server_leads", vitals.leads);
    labels.flag("dsv2_server_follows", vitals.coordinator.is_some());
    labels.gauge("dsv2_server_rank", vitals.rank.unwrap_or(0) as f64);
    labels.gauge("dsv2_server_epoch", vitals.epoch as f64);
    labels.gauge("dsv2_server_lease_seconds", vitals.lease_ms.unwrap_or(0) as f64 / 1e3);
    labels.gauge("dsv2_server_logical_clock", vitals.clock.get() as f64);
    labels.gauge("dsv2_server_users", vitals.users as f64);
    labels.gauge("dsv2_server_channels", vitals.channels as f64);
    labels.gauge("dsv2_server_events", vitals.events as f64);
    labels.gauge("dsv2_server_waiting_writes", vitals.waiting_writes as f64);
    labels.gauge("dsv2_server_parked_requests", vitals.parked_requests as f64);
    labels.gauge("dsv2_clock_offset_seconds", vitals.wall.offset_us as f64 / 1e6);
    labels.flag("dsv2_clock_slewing", vitals.wall.slewing);
    labels.gauge("dsv2_clock_error_bound_seconds", vitals.wall.error_bound_us.map_or(f64::NAN, |us| us as f64 / 1e6));
    labels.flag("dsv2_store_full", stats.disk == Disk::Full);
    labels.flag("dsv2_store_failed", stats.disk == Disk::Failed);
    labels.gauge("dsv2_store_waiting_effects", stats.waiting_for_disk as f64);
    for peer in &vitals.peers {
        let labels = labels.and("peer", peer.name.to_string());
        labels.flag("dsv2_peer_connected", peer.connected);
        labels.gauge("dsv2_peer_lag_events", peer.lag as f64);
    }
    tally(labels, &stats.tally);
    labels.and("reason", "queue").count("dsv2_link_dropped_messages_total", stats.link_drops);
    for (of, ports) in [("broker", &stats.brokers), ("publish", &stats.publishers), ("subscribe", &stats.subscribers)] {
        port(&labels.and("port", of), ports);
    }
    socket(&labels.and("socket", "link"), &stats.link);
}

fn tally(labels: &Labels, tally: &Tally) {
    answers(labels, &tally.answers);
    for (by, count) in
        [("own", tally.written_events), ("replication", tally.replicated_events), ("adoption", tally.adopted_events)]
    {
        labels.and("by", by).count("dsv2_server_stored_events_total", count);
    }
    labels.count("dsv2_server_coordinator_changes_total", tally.coordinator_changes);
    for (change, count) in [("up", tally.links_up), ("down", tally.links_down), ("refused", tally.links_refused)] {
        labels.and("change", change).count("dsv2_link_changes_total", count);
    }
    labels.count("dsv2_server_unreadable_messages_total", tally.unreadable);
    labels.count("dsv2_server_unpublished_messages_total", tally.unpublished);
}

/// The connections of one kind, together.
fn port(labels: &Labels, ports: &[PortStats]) {
    let sum = |of: fn(&PortStats) -> u64| ports.iter().map(of).sum();
    labels.gauge("dsv2_port_endpoints", ports.len() as f64);
    labels.gauge("dsv2_port_connected", ports.iter().filter(|port| port.up).count() as f64);
    labels.gauge("dsv2_port_queued_bytes", ports.iter().map(|port| port.queued_bytes).sum::<usize>() as f64);
    labels.count("dsv2_port_reconnects_total", sum(|port| port.connected.saturating_sub(1)));
    labels.count("dsv2_port_failed_attempts_total", sum(|port| port.failed_attempts));
    labels.count("dsv2_port_sent_messages_total", sum(|port| port.sent));
    labels.count("dsv2_port_received_messages_total", sum(|port| port.received));
    labels.count("dsv2_port_unwanted_messages_total", sum(|port| port.unwanted));
    labels.and("reason", "full").count("dsv2_port_dropped_messages_total", sum(|port| port.dropped));
    labels.and("reason", "lost").count("dsv2_port_dropped_messages_total", sum(|port| port.lost));
}
