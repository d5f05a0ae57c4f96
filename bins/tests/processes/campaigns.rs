//! Kill campaigns: pipelined clients write while processes are ended by SIGKILL at random and started again, and nothing
//! acknowledged is lost or doubled, on any server and for any subscriber.
//!
//! `DSV2_KILL_MESSAGES` sets how many messages a campaign writes (20,000 if not told), with one kill for every thousand,
//! and at least 20; `DSV2_KILL_SEED` repeats the random choices of a run, which prints its own. The one over any process
//! with two brokers and two proxies makes `DSV2_DIE_KILLS` kills (10), and goes on for `DSV2_DIE_MINUTES` (none). Ten of
//! these:
//!
//! ```sh
//! DSV2_DIE_MINUTES=10 cargo test --release -p dsv2-bins --test processes -- --nocapture any_one_process_may_die
//! ```

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dsv2_core::Level;
use dsv2_net::client::Cursor;
use dsv2_sync::random::SplitMix;

use crate::harness::{Place, eventually};
use crate::load::{Load, Plan, Subscriber, WITHOUT_END};
use crate::parts::{Part, Parts};
use crate::verdict;

const SERVERS: [Part; 3] = [Part::Server(0), Part::Server(1), Part::Server(2)];
static CHANNELS: [&str; 3] = ["dev", "ops", "geral"];
/// A campaign that stands still for so long has failed.
const STANDSTILL: Duration = Duration::from_secs(60);
/// The longest time that a killed part stays away, in milliseconds.
const AWAY_MS: u64 = 1_200;

#[test]
fn servers_are_killed_at_random_under_load_and_nothing_acknowledged_is_lost() {
    campaign("servers", &SERVERS, Level::Quorum, setting("DSV2_KILL_MESSAGES", 20_000));
}

/// `local` is safe from a kill, since the disk stays; `all` waits for whoever is away.
#[test]
fn the_same_holds_at_the_other_levels() {
    let messages = setting("DSV2_KILL_MESSAGES", 20_000) / 5;
    campaign("servers, at local", &SERVERS, Level::Local, messages);
    campaign("servers, at all", &SERVERS, Level::All, messages);
}

#[test]
fn every_part_is_killed_at_random_under_load_and_nothing_acknowledged_is_lost() {
    let middle = [Part::Broker, Part::Proxy, Part::Reference];
    // Those in the middle as often as all servers together twice.
    let victims: Vec<Part> = middle.iter().cycle().take(6).chain(&SERVERS).copied().collect();
    campaign("all parts", &victims, Level::Quorum, setting("DSV2_KILL_MESSAGES", 20_000));
}

/// With two brokers and two proxies nothing is there only once: whichever process is ended, clients go on within three
/// seconds, and subscribers miss nothing and see nothing twice.
#[test]
fn any_one_process_may_die_and_clients_go_on() {
    const GO_ON_WITHIN: Duration = Duration::from_secs(3);
    /// How long before a client stands still its reason may be.
    const AROUND: Duration = Duration::from_millis(500);
    let minutes = setting("DSV2_DIE_MINUTES", 0);
    let least = usize::try_from(setting("DSV2_DIE_KILLS", 10)).expect("a count");
    // What is written in so many minutes must fit into the memory of whoever judges it.
    let in_flight = if minutes > 0 { 4 } else { 40 };
    let mut random = SplitMix::new(seed("DSV2_KILL_SEED"));
    let place = Place::new();
    let mut parts = Parts::start_twice(&place);
    let both = |one, other| format!("{},{}", parts.endpoint(one), parts.endpoint(other));
    let brokers = both(Part::Broker, Part::SecondBroker);
    let proxies = both(Part::Proxy, Part::SecondProxy);
    // Half of the clients begin at the other ones.
    let turned = (both(Part::SecondBroker, Part::Broker), both(Part::SecondProxy, Part::Proxy));
    let mut load = Load::new();
    let guest = load.client(&brokers, &proxies, Some("guest"));
    for channel in CHANNELS {
        load.block_on(async { guest.channel(channel).create().await }).expect("a channel");
    }
    let subscribers = [
        load.subscribe("from the beginning", &brokers, &proxies, &CHANNELS, Cursor::Beginning),
        load.subscribe("live", &turned.0, &turned.1, &CHANNELS, Cursor::Last),
    ];
    let plan = Plan { writers: 2, in_flight, messages: WITHOUT_END, level: Level::Quorum, channels: &CHANNELS };
    load.write("w", &brokers, &proxies, plan);
    load.write("x", &turned.0, &turned.1, plan);
    let mut kills: Vec<(Instant, Part)> = Vec::new();
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    while kills.len() < least || Instant::now() < until {
        let running = parts.running();
        let victim = running[random.below(running.len() as u64) as usize];
        parts.kill(victim);
        kills.push((Instant::now(), victim));
        std::thread::sleep(Duration::from_millis(random.below(800)));
        parts.start_part(victim);
        // One at a time: the others must be whole again, and servers have come back to both brokers.
        parts.wait_until_ready(3);
        parts.wait_until_served(&brokers);
        std::thread::sleep(Duration::from_millis(random.below(500)));
    }
    load.stop();
    parts.wait_until(3);
    for subscriber in &subscribers {
        eventually(&format!("{} has all", subscriber.name), || verdict::has_all(subscriber, &load.ledger));
    }
    let dirs = parts.data();
    parts.stop();
    let folded = verdict::fold_equal(&dirs);
    verdict::check_history("the folded logs", &load.ledger, &folded.channels);
    subscribers.iter().for_each(|subscriber| verdict::check_subscriber(subscriber, &load.ledger, &folded));
    let (pause, over) = load.ledger.longest_pause().expect("they wrote");
    let around: Vec<Part> =
        kills.iter().filter(|(at, _)| *at <= over && over - *at <= pause + AROUND).map(|(_, part)| *part).collect();
    println!(
        "{} kills; {:?}; no client stood still for more than {:.2} s, around the death of {around:?}",
        kills.len(),
        load.ledger.tally(),
        pause.as_secs_f32()
    );
    assert!(pause < GO_ON_WITHIN, "a client stood still for {pause:?}, around the death of {around:?}");
}

/// One server is ended by SIGKILL at any moment, and started again at once, over and over: it always starts, and has all
/// that it acknowledged. `DSV2_KILL_CYCLES` sets how often; 500 if not told.
#[test]
fn a_server_is_killed_five_hundred_times() {
    /// At most so many answers are waited for between two kills; what is in flight at a kill is answered after it.
    const BETWEEN: u64 = 40;
    const IN_FLIGHT: u64 = 40;
    let cycles = setting("DSV2_KILL_CYCLES", 500);
    let random = &mut SplitMix::new(seed("DSV2_KILL_SEED"));
    let place = Place::new();
    let mut parts = Parts::start_with(&place, 1, &[]);
    let (broker, proxy) = (parts.endpoint(Part::Broker), parts.endpoint(Part::Proxy));
    let mut load = Load::new();
    let messages = usize::try_from(cycles * (BETWEEN + IN_FLIGHT)).expect("a count");
    let plan = Plan { writers: 2, in_flight: IN_FLIGHT as usize, messages, level: Level::Local, channels: &CHANNELS };
    load.write("w", &broker, &proxy, plan);
    let (mut slowest, began) = (Duration::ZERO, Instant::now());
    for _ in 0..cycles {
        let due = load.ledger.answered() + usize::try_from(1 + random.below(BETWEEN)).expect("a count");
        let since = Instant::now();
        while load.ledger.answered() < due.min(messages) {
            assert!(since.elapsed() < STANDSTILL, "nothing was answered for {STANDSTILL:?}");
            std::thread::sleep(Duration::from_micros(100));
        }
        parts.kill(Part::Server(0));
        let restarted = Instant::now();
        parts.start_part(Part::Server(0));
        slowest = slowest.max(restarted.elapsed());
    }
    load.finish();
    parts.wait_until(1);
    let dirs = parts.data();
    parts.stop();
    let folded = verdict::fold_equal(&dirs);
    verdict::check_history("the log", &load.ledger, &folded.channels);
    let (tally, lives) = (load.ledger.tally(), folded.position.len());
    println!(
        "{cycles} kills in {:.1} s, {lives} lives that wrote, {tally:?}, the slowest start {:.2} s, {} twins",
        began.elapsed().as_secs_f32(),
        slowest.as_secs_f32(),
        folded.twins
    );
    assert!(tally.acknowledged * 20 > messages * 19, "{tally:?}");
    assert!(lives as u64 * 10 > cycles * 9, "{lives} lives wrote: the load was over too early");
}

/// A number from the environment, or another one.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The seed of a run, printed, so that its choices can be made again.
pub(crate) fn seed(name: &str) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seed = setting(name, u64::from(now.subsec_nanos()) ^ now.as_secs());
    println!("{name}={seed}");
    seed
}

fn campaign(what: &str, victims: &[Part], level: Level, messages: u64) {
    let messages = usize::try_from(messages).expect("a count");
    let random = SplitMix::new(seed("DSV2_KILL_SEED"));
    let began = Instant::now();
    let place = Place::new();
    let parts = Parts::start(&place);
    let (broker, proxy) = (parts.endpoint(Part::Broker), parts.endpoint(Part::Proxy));
    let mut load = Load::new();
    let guest = load.client(&broker, &proxy, Some("guest"));
    for channel in CHANNELS {
        load.block_on(async { guest.channel(channel).create().await }).expect("a channel");
    }
    let mut subscribers = Vec::new();
    let first = [("from the beginning", Cursor::Beginning), ("live", Cursor::Last), ("live too", Cursor::Last)];
    for (name, from) in first {
        subscribers.push(load.subscribe(name, &broker, &proxy, &CHANNELS, from));
    }
    let plan = Plan { writers: 4, in_flight: 1_000, messages, level, channels: &CHANNELS };
    load.write("w", &broker, &proxy, plan);
    let loaded = Instant::now();
    let mut killer = Killer { parts, random, away: Vec::new(), kills: 0, restarts: 0, slowest: Duration::ZERO };
    let kills = (messages / 1_000).max(20);
    killer.kill_until(&load, victims, messages, kills / 2);
    // These join while servers may be away.
    for (name, from) in [("live, late", Cursor::Last), ("from the beginning, late", Cursor::Beginning)] {
        subscribers.push(load.join(name, &broker, &proxy, &CHANNELS, from));
    }
    killer.kill_until(&load, victims, messages, kills);
    killer.restart_all();
    load.finish();
    let under_load = loaded.elapsed();
    settle(&killer.parts, &load, &subscribers);
    report(what, &load, &subscribers, &killer, under_load, began.elapsed());
    judge(killer.parts, &mut load, &subscribers);
}

/// Ends parts and starts them again.
struct Killer<'a> {
    parts: Parts<'a>,
    random: SplitMix,
    /// Who is down, and when to start it again.
    away: Vec<(Instant, Part)>,
    kills: usize,
    restarts: usize,
    slowest: Duration,
}

impl Killer<'_> {
    /// Kills as the load goes on, evenly over it but for some jitter, until so many kills were made in all.
    fn kill_until(&mut self, load: &Load, victims: &[Part], messages: usize, kills: usize) {
        let total = (messages / 1_000).max(20);
        let step = messages / (total + 1);
        let mut moved = (load.ledger.answered(), Instant::now());
        while self.kills < kills {
            let jitter = usize::try_from(self.random.below(step.max(1) as u64 / 2 + 1)).expect("a count");
            let due = (self.kills * step + jitter).min(messages * 9 / 10);
            while load.ledger.answered() < due {
                self.restart_due();
                let answered = load.ledger.answered();
                if answered != moved.0 {
                    moved = (answered, Instant::now());
                }
                assert!(moved.1.elapsed() < STANDSTILL, "nothing was answered for {STANDSTILL:?}: {answered} so far");
                std::thread::sleep(Duration::from_millis(1));
            }
            self.kill_one(victims);
        }
    }

    fn kill_one(&mut self, victims: &[Part]) {
        let running: Vec<Part> = self.parts.running().into_iter().filter(|part| victims.contains(part)).collect();
        let weighted: Vec<Part> = victims.iter().filter(|part| running.contains(part)).copied().collect();
        if weighted.is_empty() {
            let (_, next) = self.away.remove(0);
            return self.restart(next);
        }
        let victim = weighted[self.random.below(weighted.len() as u64) as usize];
        self.parts.kill(victim);
        self.kills += 1;
        if self.random.chance(1, 5) {
            // Once more while it starts, wherever it has come by then.
            self.parts.begin_part(victim);
            std::thread::sleep(Duration::from_millis(self.random.below(60)));
            self.parts.kill(victim);
            self.kills += 1;
        }
        let back = Instant::now() + Duration::from_millis(self.random.below(AWAY_MS));
        self.away.push((back, victim));
        self.away.sort();
    }

    fn restart_due(&mut self) {
        while self.away.first().is_some_and(|(at, _)| *at <= Instant::now()) {
            let (_, part) = self.away.remove(0);
            self.restart(part);
        }
    }

    fn restart_all(&mut self) {
        for (_, part) in std::mem::take(&mut self.away) {
            self.restart(part);
        }
    }

    /// It must start: there is no second try.
    fn restart(&mut self, part: Part) {
        let began = Instant::now();
        self.parts.start_part(part);
        self.restarts += 1;
        self.slowest = self.slowest.max(began.elapsed());
    }
}

/// Waits until the servers hold the same, and the subscribers all that they must see.
fn settle(parts: &Parts<'_>, load: &Load, subscribers: &[Subscriber]) {
    parts.wait_until(3);
    for subscriber in subscribers {
        eventually(&format!("{} has all", subscriber.name), || verdict::has_all(subscriber, &load.ledger));
    }
}

fn report(
    what: &str,
    load: &Load,
    subscribers: &[Subscriber],
    killer: &Killer<'_>,
    under_load: Duration,
    in_all: Duration,
) {
    let tally = load.ledger.tally();
    println!(
        "campaign over {what}: {} acknowledged, {} unknown, {} rejected; {} kills, {} restarts, the slowest {:.2} s; \
        {:.1} s under load, {:.1} s in all",
        tally.acknowledged,
        tally.unknown,
        tally.rejected,
        killer.kills,
        killer.restarts,
        killer.slowest.as_secs_f32(),
        under_load.as_secs_f32(),
        in_all.as_secs_f32()
    );
    for subscriber in subscribers {
        let seen = subscriber.seen();
        println!(
            "  subscriber {}: {} messages, {} of them recovered, {} reconnections",
            subscriber.name,
            seen.messages.len(),
            seen.recovered,
            seen.reconnected
        );
    }
}

fn judge(parts: Parts<'_>, load: &mut Load, subscribers: &[Subscriber]) {
    let tally = load.ledger.tally();
    assert!(tally.acknowledged * 20 > (tally.acknowledged + tally.unknown + tally.rejected) * 19, "{tally:?}");
    // Every server answers clients at its link, for itself.
    let proxy = parts.endpoint(Part::Proxy);
    let mut histories = Vec::new();
    for index in 0..3 {
        let client = load.client(&parts.link(index), &proxy, None);
        let read = CHANNELS.map(|channel| (channel, load.block_on(verdict::history(&client, channel))));
        histories.push(read);
    }
    let dirs = parts.data();
    parts.stop();
    let folded = verdict::fold_equal(&dirs);
    verdict::check_history("the folded logs", &load.ledger, &folded.channels);
    for (index, channels) in histories.into_iter().enumerate() {
        for (channel, messages) in channels {
            assert!(folded.channels[channel] == messages, "s{}: the history of {channel} is no fold", index + 1);
        }
    }
    for subscriber in subscribers {
        verdict::check_subscriber(subscriber, &load.ledger, &folded);
    }
    println!("  {} events of {} lives, {} twins", folded.position.events(), folded.position.len(), folded.twins);
}
