//! What it costs to have kept many messages: their place on disk, and the time and memory of the next start.
//!
//! Each system is filled, left alone until it has nothing to do, ended, and started again. Everything that it reads then
//! is still in the operating system's memory: what is measured is its work, not the disk's.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use crate::scenarios::{BYTES, chosen};
use crate::systems::{self, Keeper, Segments, System};
use crate::table::median;
use crate::{Result, loads};

/// Until a system that was started again answers, and how long one attempt may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);
const ATTEMPT: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(2);

/// A system, and how it ends.
#[derive(Clone, Copy, Debug)]
struct Form {
    name: &'static str,
    system: &'static str,
    /// It is asked to end; killed otherwise.
    is_asked: bool,
    /// In its folder, what is removed before it is started again.
    removed: Option<&'static str>,
    how: &'static str,
}

const fn killed(name: &'static str, how: &'static str) -> Form {
    Form { name, system: name, is_asked: false, removed: None, how }
}

const FORMS: [Form; 7] = [
    Form {
        name: "dsv2",
        system: "dsv2",
        is_asked: false,
        removed: Some("data/server1/snapshot.bin"),
        how: "killed, and the snapshot removed: reads its whole log",
    },
    Form {
        name: "dsv2-snapshot",
        system: "dsv2",
        is_asked: true,
        removed: None,
        how: "asked to end: reads the last snapshot it made by itself, and what came after",
    },
    killed("redis", "killed: Streams, reads its append-only file"),
    killed("jetstream", "killed: file storage"),
    killed("rabbitmq-quorum", "killed: quorum queue of one node"),
    killed("rabbitmq-classic", "killed: durable queue"),
    killed("postgresql", "killed: repeats its log from the last checkpoint"),
];

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) rounds: usize,
    pub(crate) messages: usize,
    pub(crate) systems: Option<String>,
    pub(crate) json: Option<PathBuf>,
}

/// One start.
#[derive(Clone, Copy, Debug)]
struct Sample {
    fill_per_second: f64,
    disk_bytes_each: f64,
    /// In the segment that is appended to, and in the others; none where these are not told apart.
    open_bytes_each: f64,
    sealed_bytes_each: f64,
    /// From its start until one message was read, and until one more was acknowledged.
    read_ms: f64,
    write_ms: f64,
    memory_bytes: f64,
}

/// Medians, each by itself.
#[derive(Debug, Serialize)]
struct Medians {
    system: &'static str,
    how: &'static str,
    messages: usize,
    fill_per_second: f64,
    disk_bytes_each: f64,
    open_bytes_each: f64,
    sealed_bytes_each: f64,
    read_ms: f64,
    write_ms: f64,
    memory_bytes: f64,
    rounds: usize,
}

/// Names what there is.
pub(crate) fn list() {
    for form in FORMS {
        println!("{:<18} {}", form.name, form.how);
    }
}

/// Measures the systems that were asked for, all if none was, round by round, and tells medians.
///
/// # Errors
/// A system cannot be started, refused a message, or does not answer again.
pub(crate) async fn measure(request: &Request) -> Result<()> {
    let names = chosen(&request.systems, FORMS.iter().map(|form| form.name))?;
    systems::build()?;
    let forms: Vec<Form> = FORMS.into_iter().filter(|form| names.contains(&form.name)).collect();
    let mut samples = vec![Vec::new(); forms.len()];
    for round in 0..request.rounds {
        for turn in 0..forms.len() {
            // Nobody is always first.
            let at = (round + turn) % forms.len();
            let progress = format!("restart, round {} of {}: {}", round + 1, request.rounds, forms[at].name);
            let sample = restarted(&forms[at], request.messages, &progress).await;
            samples[at].push(sample.map_err(|error| format!("{}: {error}", forms[at].name))?);
        }
        // What is measured is kept, whatever comes next.
        if let Some(path) = &request.json {
            std::fs::write(path, serde_json::to_vec_pretty(&medians(&forms, &samples, request.messages))?)?;
        }
    }
    eprint!("\r\x1b[K");
    tell(&medians(&forms, &samples, request.messages));
    Ok(())
}

async fn restarted(form: &Form, messages: usize, progress: &str) -> Result<Sample> {
    let system = systems::ALL.into_iter().find(|system| system.name() == form.system);
    let system: &dyn System = system.ok_or("there is no such system")?;
    let mut keeper: Box<dyn Keeper> = system.keep().await?;
    eprint!("\r\x1b[K{progress}, is filled");
    let empty_bytes = keeper.server().disk_bytes()?;
    let begun = Instant::now();
    let (connections, in_flight) = keeper.fill_by();
    loads::fill(&*keeper, connections, in_flight, messages, BYTES).await?;
    let fill_per_second = messages as f64 / begun.elapsed().as_secs_f64();
    loads::settle(&*keeper).await;
    let disk_bytes = keeper.server().disk_bytes()?.saturating_sub(empty_bytes);
    let segments = keeper.segments()?;
    eprint!("\r\x1b[K{progress}, is ended");
    keeper.server().stop(form.is_asked).await?;
    if let Some(removed) = form.removed {
        remove(&keeper.server().dir().join(removed))?;
    }
    eprint!("\r\x1b[K{progress}, is started");
    let (read_ms, write_ms) = started(&mut *keeper).await?;
    loads::settle(&*keeper).await;
    let (open_bytes_each, sealed_bytes_each) = each(segments, messages);
    Ok(Sample {
        fill_per_second,
        disk_bytes_each: disk_bytes as f64 / messages as f64,
        open_bytes_each,
        sealed_bytes_each,
        read_ms,
        write_ms,
        memory_bytes: keeper.server().family_memory_bytes(),
    })
}

/// Starts it again: milliseconds until it has answered a read, and a write after that.
async fn started(keeper: &mut dyn Keeper) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let since = || begun.elapsed().as_secs_f64() * 1_000.0;
    keeper.server().start_again().await?;
    let keeper: &dyn Keeper = keeper;
    answered(begun, || keeper.read()).await?;
    let read_ms = since();
    answered(begun, || async {
        let publisher = keeper.publisher().await?;
        publisher.publish(Bytes::from_static(&[b'x'; BYTES])).await
    })
    .await?;
    Ok((read_ms, since()))
}

/// Asks until there is an answer.
async fn answered<F: Future<Output = Result<()>>>(begun: Instant, ask: impl Fn() -> F) -> Result<()> {
    loop {
        let answer = tokio::time::timeout(ATTEMPT, ask()).await.unwrap_or_else(|late| Err(late.into()));
        match answer {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > ANSWERS_WITHIN => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn remove(path: &std::path::Path) -> Result<()> {
    match std::fs::remove_file(path) {
        // There are none of small logs.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => Ok(removed?),
    }
}

/// What a message takes in the open segment, and in sealed ones.
fn each(segments: Option<Segments>, messages: usize) -> (f64, f64) {
    let Some(segments) = segments else { return (f64::NAN, f64::NAN) };
    let sealed_messages = (messages as u64).saturating_sub(segments.open_messages);
    let of = |bytes: u64, messages: u64| if messages == 0 { f64::NAN } else { bytes as f64 / messages as f64 };
    (of(segments.open_bytes, segments.open_messages), of(segments.sealed_bytes, sealed_messages))
}

fn medians(forms: &[Form], samples: &[Vec<Sample>], messages: usize) -> Vec<Medians> {
    let of_one = |(form, samples): (&Form, &Vec<Sample>)| {
        let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value).collect());
        Medians {
            system: form.name,
            how: form.how,
            messages,
            fill_per_second: of(|sample| sample.fill_per_second),
            disk_bytes_each: of(|sample| sample.disk_bytes_each),
            open_bytes_each: of(|sample| sample.open_bytes_each),
            sealed_bytes_each: of(|sample| sample.sealed_bytes_each),
            read_ms: of(|sample| sample.read_ms),
            write_ms: of(|sample| sample.write_ms),
            memory_bytes: of(|sample| sample.memory_bytes),
            rounds: samples.len(),
        }
    };
    forms.iter().zip(samples).map(of_one).collect()
}

fn tell(systems: &[Medians]) {
    let messages = systems.first().map_or(0, |row| row.messages);
    println!("restart: {messages} messages of {BYTES} bytes; on disk, bytes a message that came with them");
    println!(
        "  {:<18} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11}  ended",
        "system", "filled /s", "disk", "open", "sealed", "read ms", "write ms", "memory MiB"
    );
    let bytes = |bytes: f64| if bytes.is_nan() { "–".to_owned() } else { format!("{bytes:.0}") };
    for row in systems {
        println!(
            "  {:<18} {:>10.0} {:>9} {:>9} {:>9} {:>9.0} {:>9.0} {:>11.1}  {}",
            row.system,
            row.fill_per_second,
            bytes(row.disk_bytes_each),
            bytes(row.open_bytes_each),
            bytes(row.sealed_bytes_each),
            row.read_ms,
            row.write_ms,
            row.memory_bytes / f64::from(1 << 20),
            row.how
        );
    }
}
