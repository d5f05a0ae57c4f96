//! How our own costs grow with the amount of work: one dimension at a time, everything else as it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dsv2_net::client::Channel;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::Result;
use crate::loads;
use crate::systems::{self, CHANNEL, Cluster, Publisher, Running};

const BYTES: usize = 128;
/// Publications under way, between all clients.
const IN_FLIGHT: usize = 1_000;
/// Of large messages so many bytes are under way, where that is less.
const IN_FLIGHT_BYTES: usize = 16 << 20;
/// Channels that are created at a time.
const CREATING: usize = 256;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dimension {
    Stored,
    Clients,
    Subscribers,
    Topics,
    Servers,
    Bytes,
}

const DIMENSIONS: [(Dimension, &str, &str, &[usize]); 6] = [
    (Dimension::Stored, "stored", "publications with so many events stored", &[1_000, 10_000, 100_000, 1_000_000]),
    (Dimension::Clients, "clients", "publications of so many clients", &[1, 10, 100, 1_000, 2_000]),
    (Dimension::Subscribers, "subscribers", "deliveries to so many subscribers of one channel", &[1, 10, 100, 1_000]),
    (Dimension::Topics, "topics", "publications in so many channels", &[1, 100, 10_000, 100_000]),
    (Dimension::Servers, "servers", "publications with so many servers in one process", &[1, 3, 5, 7]),
    (Dimension::Bytes, "bytes", "publications of so many bytes", &[64, 1 << 10, 16 << 10, 256 << 10]),
];

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) only: Option<String>,
    pub(crate) json: Option<PathBuf>,
}

/// One point of a curve: medians.
#[derive(Clone, Debug, Serialize)]
struct Point {
    amount: usize,
    per_second: f64,
    p50_us: f64,
    cpu_us_each: f64,
    memory_bytes: f64,
    /// Of the memory, what came with the amount, for each of it.
    memory_bytes_each: f64,
}

#[derive(Debug, Serialize)]
struct Curve {
    name: &'static str,
    what: &'static str,
    points: Vec<Point>,
    /// Processor time for each piece of work grows as the amount to the power of this.
    cpu_exponent: f64,
}

/// Measures the dimensions that were asked for, all if none was.
///
/// # Errors
/// As the other measurements.
pub(crate) async fn measure(request: &Request) -> Result<()> {
    systems::build()?;
    let only: Option<Vec<&str>> = request.only.as_deref().map(|only| only.split(',').collect());
    if let Some(unknown) = only.iter().flatten().find(|name| !DIMENSIONS.iter().any(|(_, known, ..)| known == *name)) {
        return Err(format!("{unknown:?} is no dimension").into());
    }
    let mut curves = Vec::new();
    for (dimension, name, what, amounts) in DIMENSIONS {
        if only.as_ref().is_some_and(|only| !only.contains(&name)) {
            continue;
        }
        let mut points = vec![Vec::new(); amounts.len()];
        for round in 0..request.rounds {
            for (at, &amount) in amounts.iter().enumerate() {
                eprint!("\r\x1b[K{name}, round {} of {}: {amount}", round + 1, request.rounds);
                points[at].push(point(dimension, amount, Duration::from_secs_f64(request.seconds)).await?);
            }
        }
        eprint!("\r\x1b[K");
        let points: Vec<Point> = points.into_iter().map(median).collect();
        let curve = Curve { name, what, cpu_exponent: exponent(&points), points };
        tell(&curve);
        curves.push(curve);
        if let Some(path) = &request.json {
            std::fs::write(path, serde_json::to_vec_pretty(&curves)?)?;
        }
    }
    Ok(())
}

fn tell(curve: &Curve) {
    println!("{}: {}; processor time each ~ amount^{:.2}", curve.name, curve.what, curve.cpu_exponent);
    println!(
        "  {:>9} {:>10} {:>10} {:>10} {:>11} {:>12}",
        "amount", "a second", "p50 us", "cpu us", "memory MiB", "bytes each"
    );
    for point in &curve.points {
        println!(
            "  {:>9} {:>10.0} {:>10.0} {:>10.2} {:>11.1} {:>12.0}",
            point.amount,
            point.per_second,
            point.p50_us,
            point.cpu_us_each,
            point.memory_bytes / f64::from(1 << 20),
            point.memory_bytes_each
        );
    }
    println!();
}

async fn point(dimension: Dimension, amount: usize, measure: Duration) -> Result<Point> {
    let servers = if dimension == Dimension::Servers { u8::try_from(amount)? } else { 1 };
    let cluster = Cluster::start(servers).await?;
    let before = cluster.memory_bytes();
    let held = |cluster: &Cluster| (cluster.memory_bytes() - before) / amount as f64;
    let (sample, memory_bytes_each) = match dimension {
        Dimension::Stored => {
            loads::fill(&cluster, 1, IN_FLIGHT, amount, BYTES).await?;
            loads::settle(&cluster).await;
            let each = held(&cluster);
            (loads::publish(&cluster, 1, IN_FLIGHT, BYTES, measure).await?, each)
        }
        Dimension::Clients => {
            let clients = connect(&cluster, amount).await?;
            let each = held(&cluster);
            drop(clients);
            loads::settle(&cluster).await;
            let sample = loads::publish(&cluster, amount, (IN_FLIGHT / amount).max(1), BYTES, measure).await?;
            (sample, each)
        }
        Dimension::Subscribers => (loads::fan_out(&cluster, amount, None, BYTES, measure).await?, 0.0),
        Dimension::Topics => {
            let many = Many::new(&cluster, amount).await?;
            loads::settle(&cluster).await;
            let each = held(&cluster);
            (loads::publish(&many, 1, IN_FLIGHT, BYTES, measure).await?, each)
        }
        Dimension::Servers => (loads::publish(&cluster, 1, IN_FLIGHT, BYTES, measure).await?, 0.0),
        Dimension::Bytes => {
            let in_flight = IN_FLIGHT.min(IN_FLIGHT_BYTES / amount);
            (loads::publish(&cluster, 1, in_flight, amount, measure).await?, 0.0)
        }
    };
    Ok(Point {
        amount,
        per_second: sample.per_second,
        p50_us: sample.p50_us,
        cpu_us_each: sample.cpu_seconds_per_million,
        memory_bytes: cluster.memory_bytes(),
        memory_bytes_each,
    })
}

/// So many clients that do nothing.
async fn connect(cluster: &Cluster, clients: usize) -> Result<Vec<Arc<dyn Publisher>>> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(cluster.publisher().await?);
    }
    Ok(connected)
}

/// A cluster whose publishers go from channel to channel.
struct Many<'a> {
    cluster: &'a Cluster,
    channels: Arc<[Channel]>,
}

impl<'a> Many<'a> {
    async fn new(cluster: &'a Cluster, topics: usize) -> Result<Self> {
        let client = cluster.client("publisher").await?;
        let channels: Arc<[Channel]> = (0..topics).map(|n| client.channel(format!("{CHANNEL}-{n}"))).collect();
        let mut creating = JoinSet::new();
        for channel in channels.iter() {
            if creating.len() >= CREATING {
                creating.join_next().await.ok_or("nothing is under way")???;
            }
            creating.spawn(channel.create().into_future());
        }
        while let Some(created) = creating.join_next().await {
            created??;
        }
        Ok(Self { cluster, channels })
    }
}

#[async_trait]
impl Running for Many<'_> {
    fn cpu_seconds(&self) -> f64 {
        self.cluster.cpu_seconds()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        Ok(Arc::new(Roaming { channels: Arc::clone(&self.channels), next: AtomicUsize::new(0) }))
    }
}

struct Roaming {
    channels: Arc<[Channel]>,
    next: AtomicUsize,
}

#[async_trait]
impl Publisher for Roaming {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        self.channels[at].publish(String::from_utf8(payload.into())?).await?;
        Ok(())
    }
}

fn median(points: Vec<Point>) -> Point {
    let of = |value: fn(&Point) -> f64| {
        let mut values: Vec<f64> = points.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Point {
        amount: points[0].amount,
        per_second: of(|point| point.per_second),
        p50_us: of(|point| point.p50_us),
        cpu_us_each: of(|point| point.cpu_us_each),
        memory_bytes: of(|point| point.memory_bytes),
        memory_bytes_each: of(|point| point.memory_bytes_each),
    }
}

/// The slope of a line through the points, by least squares, where both axes are logarithmic.
fn exponent(points: &[Point]) -> f64 {
    let logs: Vec<(f64, f64)> =
        points.iter().map(|point| ((point.amount as f64).ln(), point.cpu_us_each.max(1e-6).ln())).collect();
    let count = logs.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| logs.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|log| log.0), mean(|log| log.1));
    let covariance: f64 = logs.iter().map(|log| (log.0 - x) * (log.1 - y)).sum();
    let variance: f64 = logs.iter().map(|log| (log.0 - x).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}
