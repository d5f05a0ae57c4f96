//! What a bot publishes, and at what pace.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use dsv2_core::ChannelName;
use dsv2_net::client::{Changed, Client, WriteError};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::BotPlan;
use crate::error::Error;
use crate::random;
use crate::shutdown::Shutdown;

/// How many facts may wait for the checker.
const FACTS: usize = 1_024;

const PHRASES: [&str; 8] = [
    "bom dia a todos",
    "alguém viu o jogo ontem?",
    "estou testando o canal",
    "que filme vocês recomendam?",
    "o relógio de Lamport nunca volta",
    "mensagem número tal",
    "até logo",
    "quem é o coordenador agora?",
];

/// What became of a publication.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub(super) channel: ChannelName,
    /// Its number in the channel.
    pub(super) number: u64,
    pub(super) fate: Fate,
}

#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// After so long.
    Acknowledged(Duration),
    Unknown,
    Rejected,
}

/// What a bot's text tells: whose it is, and when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The random number of the bot's run: names are used again.
    pub(super) run: u32,
    /// Its number in the channel, from 1.
    pub(super) number: u64,
    /// Microseconds from the run's start.
    pub(super) sent_us: u64,
}

impl Mark {
    /// `#run-number @µs phrase`, at least so many bytes.
    fn text(self, size_bytes: usize) -> String {
        let Self { run, number, sent_us } = self;
        let mut text = format!("#{run:08x}-{number} @{sent_us} {}", PHRASES[(number % PHRASES.len() as u64) as usize]);
        text.extend(std::iter::repeat_n('.', size_bytes.saturating_sub(text.len())));
        text
    }

    /// The mark of a bot's text; other texts have none.
    pub(super) fn of(text: &str) -> Option<Self> {
        let (head, rest) = text.strip_prefix('#')?.split_once(" @")?;
        let (run, number) = head.split_once('-')?;
        let sent = rest.split_once(' ').map_or(rest, |(sent, _)| sent);
        Some(Self {
            run: u32::from_str_radix(run, 16).ok()?,
            number: number.parse().ok()?,
            sent_us: sent.parse().ok()?,
        })
    }
}

/// A bot's run: what its marks are measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) number: u32,
    pub(super) started: Instant,
}

/// Begins to publish. The facts end once every publication has its fate.
pub(super) fn start(
    client: Client,
    run: Run,
    plan: BotPlan,
    shutdown: Shutdown,
) -> (AbortHandle, mpsc::Receiver<Fact>) {
    let (facts, receiver) = mpsc::channel(FACTS);
    let task = tokio::spawn(async move {
        if let Err(error) = publish(client, run, plan, shutdown, facts).await {
            tracing::error!(%error, "the bot publishes no more");
        }
    });
    (task.abort_handle(), receiver)
}

async fn publish(
    client: Client,
    run: Run,
    plan: BotPlan,
    mut shutdown: Shutdown,
    facts: mpsc::Sender<Fact>,
) -> Result<(), Error> {
    let room = Arc::new(Semaphore::new(plan.in_flight.max(1)));
    let period = if plan.rate > 0.0 {
        Duration::try_from_secs_f64(1.0 / plan.rate).unwrap_or(Duration::MAX)
    } else {
        Duration::ZERO
    };
    let mut numbers = vec![0_u64; plan.channels.len()];
    let mut due = Instant::now();
    let mut published = 0;
    while plan.count == 0 || published < plan.count {
        let turn = async {
            tokio::time::sleep_until(due).await;
            Arc::clone(&room).acquire_owned().await
        };
        let permit = tokio::select! {
            permit = turn => permit,
            () = shutdown.wait() => return Ok(()),
        };
        // The room is never closed.
        let Ok(permit) = permit else { return Ok(()) };
        // A bot that was held up catches up.
        due = due.checked_add(period).unwrap_or(due + Duration::from_secs(86_400 * 365));
        published += 1;
        let index = if plan.channels.len() > 1 { (random::bits()? % plan.channels.len() as u64) as usize } else { 0 };
        let (Some(channel), Some(number)) = (plan.channels.get(index), numbers.get_mut(index)) else { return Ok(()) };
        *number += 1;
        let (channel, number) = (channel.clone(), *number);
        let sent_us = u64::try_from(run.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let text = Mark { run: run.number, number, sent_us }.text(plan.size_bytes);
        let write = client.channel(&channel).publish(text).into_future();
        let facts = facts.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            let result = write.await;
            if let Err(error) = &result {
                tracing::warn!(%channel, number, %error, "a publication was not acknowledged");
            }
            let fate = fate(result.map(|_| begun.elapsed()));
            // Nobody counts any more where the bot has ended.
            let _ended = facts.send(Fact { channel, number, fate }).await.is_err();
            drop(permit);
        });
    }
    Ok(())
}

fn fate(result: Result<Duration, WriteError>) -> Fate {
    match result {
        Ok(took) => Fate::Acknowledged(took),
        Err(error) if error.changed() == Changed::Unknown => Fate::Unknown,
        Err(_) => Fate::Rejected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_its_text() {
        let mark = Mark { run: 0xff, number: 17, sent_us: 1_234 };
        assert_eq!(Mark::of(&mark.text(0)), Some(mark));
        let long = mark.text(200);
        assert_eq!((long.len(), Mark::of(&long)), (200, Some(mark)));
        for foreign in ["", "oi", "#x", "# @", "#zz-1 @2 x", "#ff-1 @x"] {
            assert_eq!(Mark::of(foreign), None, "{foreign}");
        }
    }
}
