//! The forwarders under test, each in a child process.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use dsv2_net::Endpoint;
use dsv2_net::engine::{Broker, BrokerConfig, DispatchConfig, EmptyRefuser, Limits, MatchMode, Proxy, ProxyConfig};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Libzmq,
    Dsv2,
    Dsv2OneThread,
    /// A REP server is given sixteen requests at a time, and not one.
    Dsv2RepWindow,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Libzmq, Self::Dsv2, Self::Dsv2OneThread, Self::Dsv2RepWindow];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Libzmq => "libzmq",
            Self::Dsv2 => "dsv2",
            Self::Dsv2OneThread => "dsv2-one-thread",
            Self::Dsv2RepWindow => "dsv2-rep-window",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A running forwarder; ended on drop.
pub(crate) struct Child {
    process: std::process::Child,
    /// Where publishers or servers connect.
    pub(crate) input: String,
    /// Where subscribers or clients connect.
    pub(crate) output: String,
    cpu_before: Cell<f64>,
    cpu_after: Cell<f64>,
}

impl Child {
    pub(crate) fn start(kind: Kind, proxy: bool) -> Self {
        let role = if proxy { "proxy" } else { "broker" };
        let mut process = Command::new(std::env::current_exe().expect("own path"))
            .args(["--forward", &format!("{}:{role}", kind.name())])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start forwarder");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let mut next = || lines.next().expect("endpoint line").expect("readable");
        let (input, output) = (next(), next());
        Self { process, input, output, cpu_before: Cell::new(0.0), cpu_after: Cell::new(0.0) }
    }

    pub(crate) fn mark_start(&self) {
        self.cpu_before.set(self.cpu_now());
    }

    pub(crate) fn mark_end(&self) {
        self.cpu_after.set(self.cpu_now());
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.cpu_after.get() - self.cpu_before.get()
    }

    /// Time on a processor of all threads together, as the scheduler counts it.
    fn cpu_now(&self) -> f64 {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.process.id())) else { return f64::NAN };
        let stats =
            threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok());
        let nanos = stats.filter_map(|stat| stat.split_whitespace().next()?.parse::<f64>().ok());
        nanos.sum::<f64>() / 1e9
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs in the child: prints both endpoints, then forwards until it is killed.
pub(crate) fn serve(what: &str) {
    let (kind, role) = what.split_once(':').expect("kind:role");
    let kind = Kind::parse(kind).expect("known forwarder");
    if kind == Kind::Libzmq {
        serve_libzmq(role == "proxy");
        return;
    }
    let mut builder = match kind {
        Kind::Dsv2OneThread => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build().expect("runtime");
    runtime.block_on(async { if role == "proxy" { serve_proxy().await } else { serve_broker(kind).await } });
}

async fn serve_proxy() {
    let config = ProxyConfig {
        publishers: vec![Endpoint::loopback()],
        subscribers: vec![Endpoint::loopback()],
        match_mode: MatchMode::Prefix,
        subscriber_limits: Limits { outbox_cap_bytes: 256 << 20, outbox_total_cap_bytes: 2 << 30, ..Limits::default() },
        ..ProxyConfig::default()
    };
    let proxy = Proxy::bind(config).await.expect("bind");
    let input = proxy.publisher_endpoints().next().expect("bound").to_string();
    let output = proxy.subscriber_endpoints().next().expect("bound").to_string();
    announce(&input, &output);
    proxy.run(std::future::pending::<()>()).await;
}

async fn serve_broker(kind: Kind) {
    let lock_step_window = if kind == Kind::Dsv2RepWindow { 16 } else { 1 };
    let config = BrokerConfig {
        clients: vec![Endpoint::loopback()],
        servers: vec![Endpoint::loopback()],
        dispatch: DispatchConfig { lock_step_window, ..DispatchConfig::default() },
        ..BrokerConfig::default()
    };
    let broker = Broker::bind(config, Arc::new(EmptyRefuser)).await.expect("bind");
    let input = broker.server_endpoints().next().expect("bound").to_string();
    let output = broker.client_endpoints().next().expect("bound").to_string();
    announce(&input, &output);
    broker.run(std::future::pending::<()>()).await;
}

fn serve_libzmq(proxy: bool) {
    let context = zmq::Context::new();
    let (input_type, output_type) = if proxy { (zmq::XSUB, zmq::XPUB) } else { (zmq::DEALER, zmq::ROUTER) };
    let bound = |kind| {
        let socket = context.socket(kind).expect("socket");
        socket.set_sndhwm(1_000_000).expect("hwm");
        socket.set_rcvhwm(1_000_000).expect("hwm");
        socket.bind("tcp://127.0.0.1:*").expect("bind");
        let endpoint = socket.get_last_endpoint().expect("endpoint").expect("utf-8");
        (socket, endpoint)
    };
    let (input, input_endpoint) = bound(input_type);
    let (output, output_endpoint) = bound(output_type);
    announce(&input_endpoint, &output_endpoint);
    let _ = zmq::proxy(&output, &input);
}

fn announce(input: &str, output: &str) {
    println!("{input}\n{output}");
    std::io::stdout().flush().expect("stdout");
}
