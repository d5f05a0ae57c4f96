//! `dsv2 import`: what another program of the family stored, as the log of a new server.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use clap::Args;
use dsv2_core::{
    Clock, Event, EventBody, EventId, IdempotencyKey, MessageId, Name, Origin, ServerName, Timestamp, Topic,
};
use dsv2_store::{EventStore, FsDisk, Imported, JsonlConfig, JsonlStore, Meta, import_family};

use crate::error::Error;
use crate::{output, random};

/// How many events are appended before they are made durable.
const BATCH: usize = 4_096;

/// Clocks of other programs above this are none that a count of messages reaches, and are not taken over.
const HONEST_CLOCK: u64 = 1 << 40;

/// Reads users.json, channels.json and the messages that another program of the family stored, and writes them as the
/// data directory of a new server.
///
/// The directory must hold no events yet: what a cluster has in common cannot be changed from outside. Start the cluster
/// with the server of that name among the others, and they take over what it holds.
#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// Where the other program kept its data.
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// The data directory to make.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The name of the server that it is for.
    #[arg(long, value_name = "NAME")]
    name: ServerName,
    /// Says the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn import(args: &ImportArgs) -> Result<(), Error> {
    let unusable = |error| Error::Store(format!("{} cannot be read: {error}", args.from.display()));
    let disk = FsDisk::existing(&args.from).map_err(unusable)?;
    let config = JsonlConfig { node: random::wide_bits()?, ..JsonlConfig::default() };
    let mut store = JsonlStore::open_dir(&args.data, config)?;
    if store.stats().events > 0 {
        return Err(Error::Store(format!("{} holds events already: import into a new directory", args.data.display())));
    }
    let mut writer = Writer::new(&mut store, Origin { server: args.name.clone(), incarnation: random::bits()? });
    let mut problems = 0_u64;
    for found in import_family(&disk) {
        match found {
            Ok(found) => writer.take(found)?,
            Err(problem) => {
                problems += 1;
                tracing::warn!(%problem, "passed over");
            }
        }
    }
    let (counts, last) = writer.finish()?;
    let meta = Meta { name: Some(args.name.clone()), clock_limit: last, ..store.meta().clone() };
    store.save_meta(&meta)?;
    store.close()?;
    report(args, &counts, problems)
}

fn report(args: &ImportArgs, counts: &Counts, problems: u64) -> Result<(), Error> {
    let Counts { users, channels, publishes, messages, added, repeated } = counts;
    if args.json {
        return output::object(&serde_json::json!({
            "users": users, "channels": channels, "publishes": publishes, "messages": messages, "added": added,
            "repeated": repeated, "passed_over": problems,
        }));
    }
    output::line(&format!(
        "{}: {users} users, {channels} channels, {publishes} publications, {messages} private messages for server {}\n\
         {added} users and channels were only mentioned, and are added; {repeated} were registered twice; {problems} entries \
         could not be understood, and are passed over",
        args.data.display(),
        args.name
    ))
}

#[derive(Debug, Default)]
struct Counts {
    users: u64,
    channels: u64,
    publishes: u64,
    messages: u64,
    /// Users and channels that no entry registered.
    added: u64,
    repeated: u64,
}

/// Makes events of what is found, in its order.
struct Writer<'a> {
    store: &'a mut JsonlStore,
    origin: Origin,
    seq: u64,
    clock: Clock,
    last_on: HashMap<Topic, EventId>,
    /// Users and channels share one namespace.
    names: HashSet<(bool, String)>,
    batch: Vec<Event>,
    counts: Counts,
}

impl<'a> Writer<'a> {
    fn new(store: &'a mut JsonlStore, origin: Origin) -> Self {
        Self {
            store,
            origin,
            seq: 0,
            clock: Clock::ZERO,
            last_on: HashMap::new(),
            names: HashSet::new(),
            batch: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn take(&mut self, found: Imported) -> Result<(), Error> {
        let timestamp = found.timestamp.unwrap_or_default();
        let counts = &mut self.counts;
        match &found.body {
            EventBody::UserLogin { user } => {
                if !self.names.insert((true, user.as_str().to_owned())) {
                    counts.repeated += 1;
                    return Ok(());
                }
                counts.users += 1;
            }
            EventBody::ChannelCreate { channel } => {
                if !self.names.insert((false, channel.as_str().to_owned())) {
                    counts.repeated += 1;
                    return Ok(());
                }
                counts.channels += 1;
            }
            EventBody::Publish { user, channel, .. } => {
                counts.publishes += 1;
                let (user, channel) = (user.clone(), channel.clone());
                self.mention(true, &user, || EventBody::UserLogin { user: user.clone() }, timestamp)?;
                self.mention(false, &channel, || EventBody::ChannelCreate { channel: channel.clone() }, timestamp)?;
            }
            EventBody::Message { src, dst, .. } => {
                counts.messages += 1;
                for user in [src.clone(), dst.clone()] {
                    self.mention(true, &user, || EventBody::UserLogin { user: user.clone() }, timestamp)?;
                }
            }
        }
        self.write(found.body, timestamp, found.clock)
    }

    /// A message's users and channel must exist before it.
    fn mention<K>(
        &mut self,
        is_user: bool,
        name: &Name<K>,
        body: impl Fn() -> EventBody,
        timestamp: Timestamp,
    ) -> Result<(), Error> {
        if !self.names.insert((is_user, name.as_str().to_owned())) {
            return Ok(());
        }
        self.counts.added += 1;
        self.write(body(), timestamp, None)
    }

    fn write(&mut self, body: EventBody, timestamp: Timestamp, clock: Option<Clock>) -> Result<(), Error> {
        self.seq += 1;
        let honest = clock.filter(|clock| clock.get() <= HONEST_CLOCK).unwrap_or(Clock::ZERO);
        self.clock = honest.max(self.clock.plus(1));
        let id = EventId { origin: self.origin.clone(), seq: self.seq };
        let key = IdempotencyKey::new(&format!("import/{id}"));
        let key =
            key.or_else(|_| IdempotencyKey::new(&format!("import/{:016x}#{}", self.origin.incarnation, self.seq)));
        let message_id = MessageId::Key(key.map_err(|why| Error::Failed(why.to_string()))?);
        let prev = body.topic().and_then(|topic| self.last_on.insert(topic, id.clone()));
        self.batch.push(Event { id, clock: self.clock, prev, message_id, timestamp, body });
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.store.append(&self.batch)?;
        self.store.sync()?;
        self.batch.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(Counts, Clock), Error> {
        if !self.batch.is_empty() {
            self.flush()?;
        }
        Ok((self.counts, self.clock))
    }
}
