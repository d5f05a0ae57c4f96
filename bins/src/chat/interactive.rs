//! The chat: lines in, messages out, until the input ends.

use std::collections::HashMap;
use std::sync::PoisonError;

use dsv2_core::{ChannelName, UserName};
use dsv2_net::client::{Client, Delivery, Subscription};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::line::{Line, Target, help};
use super::oneshot::{newest, subject};
use super::terminal::Terminal;
use super::view::View;
use crate::error::Error;
use crate::shutdown::Shutdown;

/// How many deliveries may wait to be shown; beyond, the subscription waits.
const WAITING: usize = 256;

/// A chat's state.
struct Chat<'a> {
    client: &'a Client,
    user: &'a UserName,
    view: View,
    terminal: Terminal,
    target: Option<Target>,
    joined: HashMap<ChannelName, AbortHandle>,
    followers: JoinSet<()>,
    arrived: mpsc::Sender<Delivery>,
}

/// Whether the chat goes on.
#[derive(PartialEq)]
enum Next {
    Go,
    End,
}

pub(super) async fn chat(client: &Client, user: &UserName, view: View, shutdown: &mut Shutdown) -> Result<(), Error> {
    let (arrived, mut arrivals) = mpsc::channel(WAITING);
    let terminal = Terminal::open(format!("{user}> "), view.json)?;
    let followers = JoinSet::new();
    let mut chat = Chat { client, user, view, terminal, target: None, joined: HashMap::new(), followers, arrived };
    tokio::select! {
        began = chat.begin() => began.map_err(|error| view.failed(error))?,
        () = shutdown.wait() => return Ok(()),
    }
    loop {
        tokio::select! {
            delivery = arrivals.recv() => match delivery {
                Some(delivery) => chat.arrived(&delivery)?,
                None => return Ok(()),
            },
            heard = chat.terminal.lines.recv() => {
                let Some(heard) = heard else { break };
                let next = tokio::select! {
                    next = chat.obey(&heard.line) => next?,
                    () = shutdown.wait() => Next::End,
                };
                if next == Next::End {
                    break;
                }
                // The reader has ended where nobody awaits it, and the next turn sees that.
                let _ended = heard.answered.send(chat.prompt()).is_err();
            }
            () = shutdown.wait() => break,
        }
    }
    // What had arrived is shown: a pipe's reader expects it.
    while let Ok(delivery) = arrivals.try_recv() {
        chat.arrived(&delivery)?;
    }
    Ok(())
}

impl Chat<'_> {
    async fn begin(&mut self) -> Result<(), Error> {
        let inbox = self.client.inbox().await?;
        self.follow(inbox);
        self.learn_names().await?;
        if self.terminal.is_interactive {
            self.note(&format!("you are {}; /join CHANNEL, /msg USER TEXT, /help", self.user))?;
        }
        Ok(())
    }

    fn prompt(&self) -> String {
        match &self.target {
            Some(target) => format!("{} {target}> ", self.user),
            None => format!("{}> ", self.user),
        }
    }

    fn show(&mut self, text: &str) -> Result<(), Error> {
        self.terminal.printer.show(text)
    }

    fn note(&mut self, text: &str) -> Result<(), Error> {
        let text = self.view.note(text)?;
        self.show(&text)
    }

    fn arrived(&mut self, delivery: &Delivery) -> Result<(), Error> {
        if let Delivery::Message(message) = delivery {
            self.meet(message.author());
        }
        let text = self.view.delivery(delivery)?;
        self.show(&text)
    }

    /// Hands on what a subscription yields, in a task of its own.
    fn follow(&mut self, mut subscription: Subscription) -> AbortHandle {
        let arrived = self.arrived.clone();
        self.followers.spawn(async move {
            while let Some(delivery) = subscription.next().await {
                if arrived.send(delivery).await.is_err() {
                    return;
                }
            }
        })
    }

    /// Carries a line out. What fails is told, and the chat goes on.
    async fn obey(&mut self, line: &str) -> Result<Next, Error> {
        let line = match Line::parse(line) {
            Ok(Line::Quit) => return Ok(Next::End),
            Ok(line) => line,
            Err(why) => {
                let told = self.view.failure(&Error::Usage(why))?;
                return self.show(&told).map(|()| Next::Go);
            }
        };
        match self.carry_out(line).await {
            Ok(()) => Ok(Next::Go),
            Err(Error::OutputClosed) => Err(Error::OutputClosed),
            Err(error) => {
                let told = self.view.failure(&error)?;
                self.show(&told).map(|()| Next::Go)
            }
        }
    }

    async fn carry_out(&mut self, line: Line) -> Result<(), Error> {
        match line {
            Line::Nothing | Line::Quit => Ok(()),
            Line::Text(text) => self.say(&text).await,
            Line::Join(channel) => self.join(channel).await,
            Line::Leave(channel) => self.leave(channel),
            Line::To(target) => {
                self.target = Some(target);
                Ok(())
            }
            Line::Private(user, text) => self.whisper(&user, &text).await,
            Line::Create(channel) => {
                let written = self.client.channel(&channel).create().await?;
                let told = self.view.written("create", &format!("there is a channel {channel}"), Some(&written))?;
                self.show(&told)?;
                self.learn_names().await
            }
            Line::History(topic, limit) => self.show_history(topic, limit).await,
            Line::Users => {
                self.learn_names().await?;
                let users = self.names(|names| names.users.clone());
                let text = self.view.names("users", &users)?;
                self.show(&text)
            }
            Line::Channels => {
                self.learn_names().await?;
                let channels = self.names(|names| names.channels.clone());
                let text = self.view.names("channels", &channels)?;
                self.show(&text)
            }
            Line::Status => {
                let report = self.client.status().await?;
                let leader = report.coordinator.as_ref().map_or("nobody", |name| name.as_str());
                let text = format!(
                    "{} answers; {leader} coordinates; {} users, {} channels",
                    report.name, report.users, report.channels
                );
                self.note(&text)
            }
            Line::Help => self.note(&help()),
        }
    }

    async fn say(&mut self, text: &str) -> Result<(), Error> {
        match self.target.clone() {
            None => Err(Error::Usage("where to? /join CHANNEL, or /to @USER".to_owned())),
            Some(Target::User(user)) => self.whisper(&user, text).await,
            Some(Target::Channel(channel)) => {
                let written = self.client.channel(&channel).publish(text).await?;
                // A person sees the message itself, where the channel is followed.
                if self.view.json || !self.joined.contains_key(&channel) {
                    let told = self.view.written("publish", &format!("published in {channel}"), Some(&written))?;
                    self.show(&told)?;
                }
                Ok(())
            }
        }
    }

    async fn whisper(&mut self, user: &UserName, text: &str) -> Result<(), Error> {
        let written = self.client.message(user, text).await?;
        let told = self.view.written("message", &format!("sent to {user}"), Some(&written))?;
        self.show(&told)
    }

    async fn join(&mut self, channel: ChannelName) -> Result<(), Error> {
        self.target = Some(Target::Channel(channel.clone()));
        if self.joined.contains_key(&channel) {
            return Ok(());
        }
        self.client.channel(&channel).create().await?;
        let subscription = self.client.subscribe([&channel]).await?;
        let follower = self.follow(subscription);
        self.joined.insert(channel.clone(), follower);
        self.note(&format!("you follow {channel}"))?;
        self.learn_names().await
    }

    fn leave(&mut self, channel: Option<ChannelName>) -> Result<(), Error> {
        let current = || match &self.target {
            Some(Target::Channel(channel)) => Some(channel.clone()),
            _ => None,
        };
        let channel = channel.or_else(current).ok_or_else(|| Error::Usage("which channel?".to_owned()))?;
        let follower = self.joined.remove(&channel);
        follower.ok_or_else(|| Error::Usage(format!("you do not follow {channel}")))?.abort();
        if self.target == Some(Target::Channel(channel.clone())) {
            self.target = None;
        }
        self.note(&format!("you no longer follow {channel}"))
    }

    async fn show_history(&mut self, topic: Option<String>, limit: u64) -> Result<(), Error> {
        let topic = match (topic, &self.target) {
            (Some(topic), _) => topic,
            (None, Some(Target::Channel(channel))) => channel.to_string(),
            (None, Some(Target::User(user))) => format!("@{user}"),
            (None, None) => return Err(Error::Usage("of what? /history CHANNEL, or /history @USER".to_owned())),
        };
        for message in newest(|| subject(self.client, &topic), limit).await? {
            let text = self.view.message(&message)?;
            self.show(&text)?;
        }
        Ok(())
    }

    async fn learn_names(&mut self) -> Result<(), Error> {
        let (users, channels) = (self.client.users().await?, self.client.channels().await?);
        let mut names = self.terminal.names.write().unwrap_or_else(PoisonError::into_inner);
        (names.users, names.channels) = (users, channels);
        Ok(())
    }

    /// Who writes can be completed from then on.
    fn meet(&self, author: &str) {
        if !self.names(|names| names.users.iter().any(|user| user == author)) {
            let mut names = self.terminal.names.write().unwrap_or_else(PoisonError::into_inner);
            names.users.push(author.to_owned());
        }
    }

    fn names<T>(&self, of: impl FnOnce(&super::line::Names) -> T) -> T {
        of(&self.terminal.names.read().unwrap_or_else(PoisonError::into_inner))
    }
}
