//! One command, and then the end.

use dsv2_core::{ChannelName, Publication, UserName};
use dsv2_net::client::{Client, Cursor, Delivery, History};

use super::view::View;
use super::{ClientArgs, Command, From};
use crate::error::Error;
use crate::output;

/// The most that a server gives at once.
const PAGE: u64 = 1_000;

pub(super) async fn run(client: &Client, args: &ClientArgs, command: &Command, view: View) -> Result<(), Error> {
    match command {
        // Connecting did it.
        Command::Login => output::line(&view.written("login", &format!("{} is logged in", args.user()?), None)?),
        Command::Users => names(view, "users", &client.users().await?),
        Command::Channels => names(view, "channels", &client.channels().await?),
        Command::Create { channel } => {
            let receipt = client.channel(channel).create().await?;
            output::line(&view.written("create", &format!("there is a channel {channel}"), Some(&receipt))?)
        }
        Command::Publish { channel, text } => {
            let receipt = client.channel(channel).publish(text.join(" ")).await?;
            output::line(&view.written("publish", &format!("published in {channel}"), Some(&receipt))?)
        }
        Command::Message { to, text } => {
            let receipt = client.message(to, text.join(" ")).await?;
            output::line(&view.written("message", &format!("sent to {to}"), Some(&receipt))?)
        }
        Command::Tail { channels, from, count } => tail(client, channels, *from, *count, view).await,
        Command::History { topic, limit } => {
            let messages = newest(|| subject(client, topic), *limit).await?;
            messages.iter().try_for_each(|message| output::line(&view.message(message)?))
        }
    }
}

fn names(view: View, kind: &str, names: &[String]) -> Result<(), Error> {
    if names.is_empty() && !view.json {
        return Ok(());
    }
    output::line(&view.names(kind, names)?)
}

async fn tail(
    client: &Client,
    channels: &[ChannelName],
    from: From,
    count: Option<u64>,
    view: View,
) -> Result<(), Error> {
    let mut left = count;
    if left == Some(0) {
        return Ok(());
    }
    let mut subscribe = if channels.is_empty() {
        // A server of the family may have names that are none here; they cannot be followed.
        let all: Vec<ChannelName> = client.channels().await?.iter().filter_map(|name| name.parse().ok()).collect();
        if all.is_empty() && client.user().is_none() {
            return Err(Error::Usage(
                "there is nothing to follow: no channel exists, and no --user is given".to_owned(),
            ));
        }
        let subscribe = client.subscribe(all);
        if client.user().is_some() { subscribe.and_inbox() } else { subscribe }
    } else {
        client.subscribe(channels)
    };
    if from == From::Beginning {
        subscribe = subscribe.from(Cursor::Beginning);
    }
    let mut subscription = subscribe.await?;
    tracing::info!(gapless = subscription.is_gapless(), "following");
    while let Some(delivery) = subscription.next().await {
        output::line(&view.delivery(&delivery)?)?;
        if matches!(delivery, Delivery::Message(_)) {
            left = left.map(|left| left - 1);
            if left == Some(0) {
                break;
            }
        }
    }
    Ok(())
}

/// The history that a topic means: of a channel, of the own inbox, or, as `@NAME`, of a conversation.
pub(super) fn subject(client: &Client, topic: &str) -> Result<History, Error> {
    Ok(match topic.strip_prefix('@') {
        Some(with) => {
            let with: UserName = with.parse()?;
            client.history_with(with)
        }
        None if client.user().is_some_and(|user| user.as_str() == topic) => client.inbox_history(),
        None => {
            let channel: ChannelName = topic.strip_prefix('#').unwrap_or(topic).parse()?;
            client.channel(channel).history()
        }
    })
}

/// The newest so many messages, oldest first. Reads page by page, backwards.
pub(super) async fn newest(
    history: impl Fn() -> Result<History, Error>,
    limit: u64,
) -> Result<Vec<Publication>, Error> {
    let mut pages: Vec<Vec<Publication>> = Vec::new();
    let (mut left, mut before) = (limit, None);
    while left > 0 {
        let mut ask = history()?.limit(left.min(PAGE));
        if let Some(key) = before.take() {
            ask = ask.before(key);
        }
        let page = ask.await?;
        let got = page.messages.len() as u64;
        before = page.oldest();
        pages.push(page.messages);
        left = left.saturating_sub(got);
        if got == 0 || !page.more || before.is_none() {
            break;
        }
    }
    Ok(pages.into_iter().rev().flatten().collect())
}
