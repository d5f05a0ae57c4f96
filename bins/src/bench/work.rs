//! The kinds of work that a load can be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dsv2_core::{ChannelName, Position};
use dsv2_net::client::{Channel, Client};
use tokio::task::JoinSet;

use super::delivery::{Subscribers, text};
use super::report::Report;
use super::{FanoutArgs, PublishArgs, ReplayArgs, RequestArgs, load};
use crate::bot::random_name;
use crate::error::Error;
use crate::random;
use crate::sdk::{self, Options};
use crate::shutdown::Shutdown;

/// So many connections are made at a time.
const CONNECTING: usize = 64;
/// How long nothing may come before deliveries count as missing.
const QUIET: Duration = Duration::from_secs(10);
/// Publications under way while a channel is filled.
const FILLING: u32 = 4_096;
/// How long clients may take to end.
const DRAIN: Duration = Duration::from_secs(1);

pub(super) async fn publish(args: &PublishArgs, mut shutdown: Shutdown) -> Result<Report, Error> {
    let in_flight = args.load.in_flight(args.in_flight, 1);
    let plan = args.load.plan(in_flight)?;
    let (options, writing) = (args.load.options(Some(&args.writing), in_flight)?, &args.writing);
    let clients = unless(&mut shutdown, connect(&options, args.load.clients)).await?;
    create(&clients, &writing.channel).await?;
    let (run, base, size) = (random::bits()?, Instant::now(), writing.size);
    let work = |client: &Client| {
        let channel = client.channel(&writing.channel);
        move |due| published(channel.clone(), text(run, base, due, size))
    };
    let measured = load::run(&plan, clients.iter().map(work).collect(), &mut shutdown).await?;
    drain(clients).await;
    Ok(Report::new("publish", &args.load, in_flight, &measured).of_texts(writing))
}

pub(super) async fn fanout(args: &FanoutArgs, mut shutdown: Shutdown) -> Result<Report, Error> {
    let in_flight = args.load.in_flight(args.in_flight, 100);
    let plan = args.load.plan(in_flight)?;
    let (options, writing) = (args.load.options(Some(&args.writing), in_flight)?, &args.writing);
    let clients = unless(&mut shutdown, connect(&options, args.load.clients)).await?;
    create(&clients, &writing.channel).await?;
    let listening = unless(&mut shutdown, connect(&options, args.subscribers)).await?;
    let (run, size) = (random::bits()?, writing.size);
    let subscribers = Subscribers::start(&listening, &writing.channel, run, &plan).await?;
    let base = subscribers.base;
    let work = |client: &Client| {
        let channel = client.channel(&writing.channel);
        move |due| published(channel.clone(), text(run, base, due, size))
    };
    let measured = load::run(&plan, clients.iter().map(work).collect(), &mut shutdown).await?;
    let quiet = if shutdown.is_asked() { DRAIN } else { QUIET };
    let deliveries = subscribers.end(measured.amount_in_all, quiet).await?;
    drain(clients.into_iter().chain(listening)).await;
    let mut report = Report::new("fanout", &args.load, in_flight, &measured).of_texts(writing);
    report.deliveries = Some(deliveries);
    Ok(report)
}

pub(super) async fn request(args: &RequestArgs, mut shutdown: Shutdown) -> Result<Report, Error> {
    let in_flight = args.load.in_flight(args.in_flight, 1);
    let plan = args.load.plan(in_flight)?;
    let options = args.load.options(None, in_flight)?;
    let clients = unless(&mut shutdown, connect(&options, args.load.clients)).await?;
    let work = |client: &Client| {
        let client = client.clone();
        move |_due| {
            let client = client.clone();
            async move { Ok(client.users().await.map(|_| 1)?) }
        }
    };
    let measured = load::run(&plan, clients.iter().map(work).collect(), &mut shutdown).await?;
    drain(clients).await;
    Ok(Report::new("request", &args.load, in_flight, &measured))
}

pub(super) async fn replay(args: &ReplayArgs, mut shutdown: Shutdown) -> Result<Report, Error> {
    let plan = args.load.plan(1)?;
    let (options, writing) = (args.load.options(Some(&args.writing), FILLING)?, &args.writing);
    let clients = unless(&mut shutdown, connect(&options, args.load.clients)).await?;
    create(&clients, &writing.channel).await?;
    if let Some(client) = clients.first() {
        unless(&mut shutdown, fill(client, args)).await?;
    }
    let work = |client: &Client| {
        let channel = client.channel(&writing.channel);
        let (at, page) = (Arc::new(tokio::sync::Mutex::new(Position::default())), args.page);
        move |_due| {
            let (channel, at) = (channel.clone(), Arc::clone(&at));
            async move {
                let mut at = at.lock().await;
                let page = channel.history().after(at.clone()).limit(page).await?;
                // At the end it begins again.
                *at = if page.more { page.next } else { Position::default() };
                Ok(page.messages.len() as u64)
            }
        }
    };
    let measured = load::run(&plan, clients.iter().map(work).collect(), &mut shutdown).await?;
    drain(clients).await;
    Ok(Report::new("replay", &args.load, 1, &measured).of_texts(writing))
}

/// Does it, unless the process is asked to end.
async fn unless<T>(shutdown: &mut Shutdown, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        done = work => done,
        () = shutdown.wait() => Err(Error::Failed("interrupted before anything was measured".to_owned())),
    }
}

/// One publication, up to its acknowledgement.
async fn published(channel: Channel, text: String) -> Result<u64, Error> {
    Ok(channel.publish(text).await.map(|_| 1)?)
}

/// Connects and logs in so many users of random names.
async fn connect(options: &Options, count: u32) -> Result<Vec<Client>, Error> {
    let (mut connecting, mut clients) = (JoinSet::new(), Vec::new());
    let name = random_name("bench")?;
    for number in 0..count {
        if connecting.len() >= CONNECTING {
            clients.push(joined(connecting.join_next().await)?);
        }
        let mut options = options.clone();
        options.user = Some(format!("{name}-{number}").parse()?);
        connecting.spawn(async move { sdk::connect(&options).await });
    }
    while !connecting.is_empty() {
        clients.push(joined(connecting.join_next().await)?);
    }
    Ok(clients)
}

type Joined = Option<Result<Result<Client, Error>, tokio::task::JoinError>>;

fn joined(joined: Joined) -> Result<Client, Error> {
    match joined {
        Some(Ok(connected)) => connected,
        Some(Err(error)) => Err(Error::Failed(error.to_string())),
        None => Err(Error::Failed("no client was connecting".to_owned())),
    }
}

async fn create(clients: &[Client], channel: &ChannelName) -> Result<(), Error> {
    if let Some(client) = clients.first() {
        client.channel(channel).create().await?;
    }
    Ok(())
}

/// Publishes until the channel has as many messages as are to be read.
async fn fill(client: &Client, args: &ReplayArgs) -> Result<(), Error> {
    let channel = client.channel(&args.writing.channel);
    let (mut at, mut present) = (Position::default(), 0);
    while present < args.messages {
        let page = channel.history().after(at).limit(1_000).await?;
        present += page.messages.len() as u64;
        at = page.next;
        if !page.more {
            break;
        }
    }
    let mut publisher = channel.publisher()?;
    let (run, base) = (random::bits()?, Instant::now());
    for _ in present..args.messages {
        publisher.send(text(run, base, Instant::now(), args.writing.size)).await?;
    }
    publisher.flush().await.map_err(|error| Error::Failed(error.to_string()))?;
    Ok(())
}

async fn drain(clients: impl IntoIterator<Item = Client>) {
    let mut draining = JoinSet::new();
    for client in clients {
        draining.spawn(async move { client.drain(DRAIN).await });
    }
    while draining.join_next().await.is_some() {}
}
