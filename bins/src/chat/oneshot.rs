//! One command, and then the end.

use dsv2_core::{Feed, HistoryQuery, HistorySpan, Publication, Subject, UserName};
use dsv2_sync::session::{Cursor, Delivery};

use super::view::View;
use super::{ClientArgs, Command, From};
use crate::error::Error;
use crate::output;
use crate::sdk::Sdk;

/// The most that a server gives at once.
const PAGE: u64 = 1_000;

pub(super) async fn run(sdk: &Sdk, args: &ClientArgs, command: &Command, view: View) -> Result<(), Error> {
    match command {
        Command::Login => {
            let user = args.user()?;
            output::line(&view.written("login", &format!("{user} is logged in"), &sdk.login(user).await?)?)
        }
        Command::Users => names(view, "users", &sdk.users().await?),
        Command::Channels => names(view, "channels", &sdk.channels().await?),
        Command::Create { channel } => {
            output::line(&view.written("create", &format!("there is a channel {channel}"), &sdk.create(channel).await?)?)
        }
        Command::Publish { channel, text } => {
            let written = sdk.publish(channel, &text.join(" ")).await?;
            output::line(&view.written("publish", &format!("published in {channel}"), &written)?)
        }
        Command::Message { user, text } => {
            let written = sdk.message(user, &text.join(" ")).await?;
            output::line(&view.written("message", &format!("sent to {user}"), &written)?)
        }
        Command::Tail { channels, from, count } => {
            let feeds = if channels.is_empty() {
                everything(sdk, args.user.as_ref()).await?
            } else {
                channels.iter().cloned().map(Feed::Channel).collect()
            };
            tail(sdk, feeds, *from, *count, view).await
        }
        Command::History { topic, limit } => {
            let messages = history(sdk, subject(topic, args.user.as_ref())?, *limit).await?;
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

/// Every channel that there is, and the user's own inbox.
async fn everything(sdk: &Sdk, user: Option<&UserName>) -> Result<Vec<Feed>, Error> {
    let channels = sdk.channels().await?;
    // A server of the family may have names that are none here; they cannot be followed.
    let channels = channels.iter().filter_map(|name| name.parse().ok()).map(Feed::Channel);
    let feeds: Vec<Feed> = channels.chain(user.cloned().map(Feed::Inbox)).collect();
    if feeds.is_empty() {
        return Err(Error::Usage("there is nothing to follow: no channel exists, and no --user is given".to_owned()));
    }
    Ok(feeds)
}

async fn tail(sdk: &Sdk, feeds: Vec<Feed>, from: From, count: Option<u64>, view: View) -> Result<(), Error> {
    let cursor = match from {
        From::Beginning => Cursor::Beginning,
        From::Last => Cursor::Last,
    };
    let mut left = count;
    if left == Some(0) {
        return Ok(());
    }
    let mut subscription = sdk.subscribe(feeds, cursor).await?;
    while let Some(delivery) = subscription.next().await? {
        output::line(&view.delivery(&delivery)?)?;
        if matches!(delivery, Delivery::Message { .. }) {
            left = left.map(|left| left - 1);
            if left == Some(0) {
                break;
            }
        }
    }
    Ok(())
}

/// What a topic on the command line means.
pub(super) fn subject(topic: &str, user: Option<&UserName>) -> Result<Subject, Error> {
    match topic.strip_prefix('@') {
        Some(with) => {
            let user = user.ok_or_else(|| Error::Usage("a conversation is between two: say who you are with --user NAME".to_owned()))?;
            Ok(Subject::Conversation { user: user.clone(), with: with.parse()? })
        }
        None => {
            let topic: UserName = topic.strip_prefix('#').unwrap_or(topic).parse()?;
            Ok(Subject::Topic(topic.as_str().to_owned()))
        }
    }
}

/// The newest so many messages of a feed, oldest first. Reads page by page, backwards.
pub(super) async fn history(sdk: &Sdk, subject: Subject, limit: u64) -> Result<Vec<Publication>, Error> {
    let mut pages: Vec<Vec<Publication>> = Vec::new();
    let (mut left, mut before) = (limit, None);
    while left > 0 {
        let span = HistorySpan::Before(before.take());
        let page = sdk.history(HistoryQuery { subject: subject.clone(), span, limit: left.min(PAGE) }).await?;
        let got = page.events.len() as u64;
        before = page.events.first().and_then(Publication::key);
        pages.push(page.events);
        left = left.saturating_sub(got);
        if got == 0 || !page.more || before.is_none() {
            break;
        }
    }
    Ok(pages.into_iter().rev().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_a_channel_an_inbox_or_a_conversation() {
        let ana: UserName = "ana".parse().expect("a name");
        assert!(matches!(subject("dev", None), Ok(Subject::Topic(topic)) if topic == "dev"));
        assert!(matches!(subject("#dev", None), Ok(Subject::Topic(topic)) if topic == "dev"));
        assert!(matches!(subject("@bob", Some(&ana)), Ok(Subject::Conversation { with, .. }) if with.as_str() == "bob"));
        assert!(subject("@bob", None).is_err());
        assert!(subject("../x", None).is_err());
    }
}
