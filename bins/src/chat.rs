//! `dsv2-client`: a chat for people, and single commands for scripts.

mod interactive;
mod line;
mod oneshot;
mod terminal;
mod view;

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use dsv2_core::{ChannelName, Format, Level, UserName};
use dsv2_net::Endpoint;

use crate::args::{self, Common, Part, Place};
use crate::cli::HasCommon;
use crate::error::Error;
use crate::sdk::{self, Options};
use crate::shutdown::Shutdown;

/// How long what was begun may take to finish at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// A client: chats, or does one thing and ends.
///
/// Without a command it is a chat: lines are published in the channel that was joined last, lines that start with a
/// slash are commands, /help lists them. Lines may also come from a pipe.
#[derive(Debug, Parser)]
#[command(name = "dsv2-client", version)]
pub struct ClientArgs {
    /// Who you are; registered at the first login.
    #[arg(long, short, global = true, value_name = "NAME")]
    user: Option<UserName>,
    /// Says everything as JSON, one object a line, and nothing else on stdout.
    #[arg(long, global = true)]
    json: bool,
    /// The serialization of requests: json or msgpack.
    #[arg(long, global = true, value_name = "FORM", value_parser = args::serde, default_value = "json")]
    serde: Format,
    /// How safe a write must be before it is acknowledged: local, quorum or all [default: as the server has it]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = args::level)]
    level: Option<Level>,
    /// How many seconds a command may take.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
    /// The broker's side for clients; several, separated by commas, are tried in turn [default: tcp://127.0.0.1:5555]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',', help_heading = "Place")]
    broker: Vec<Endpoint>,
    /// The proxy's side for subscribers; several likewise [default: tcp://127.0.0.1:5558]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',', help_heading = "Place")]
    proxy: Vec<Endpoint>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What a client does without a person.
#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Registers the user.
    Login,
    /// Lists the users.
    Users,
    /// Lists the channels.
    Channels,
    /// Creates a channel; an existing one is as good.
    Create {
        /// Which.
        channel: ChannelName,
    },
    /// Publishes a text in a channel.
    Publish {
        /// Where.
        channel: ChannelName,
        /// The text; several words need no quotes.
        #[arg(required = true, allow_hyphen_values = true)]
        text: Vec<String>,
    },
    /// Sends a private message.
    Message {
        /// To whom. Not called `user`: that flag is known to every command.
        #[arg(value_name = "USER")]
        to: UserName,
        /// The text; several words need no quotes.
        #[arg(required = true, allow_hyphen_values = true)]
        text: Vec<String>,
    },
    /// Prints what is published, as it comes.
    Tail {
        /// Where; without, in every channel that there is now, and private messages to --user.
        channels: Vec<ChannelName>,
        /// From where on.
        #[arg(long, value_enum, default_value_t)]
        from: From,
        /// Ends after so many messages.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Prints what was published in a channel; as @NAME, your conversation with NAME; as your own name, your inbox.
    History {
        /// Of what.
        topic: String,
        /// The newest so many messages.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u64,
    },
}

/// Where a tail begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum From {
    /// With the first message ever.
    Beginning,
    /// With what comes now.
    #[default]
    Last,
}

impl HasCommon for ClientArgs {
    fn common(&self) -> &Common {
        &self.common
    }
}

impl ClientArgs {
    fn options(&self) -> Result<Options, Error> {
        Ok(Options {
            brokers: self.place.peers(&self.broker, Part::Clients)?,
            proxies: self.place.peers(&self.proxy, Part::Subscribers)?,
            user: self.user.clone(),
            format: self.serde,
            level: self.level,
            timeout: Duration::from_secs(self.timeout),
            in_flight: None,
        })
    }

    fn user(&self) -> Result<&UserName, Error> {
        self.user.as_ref().ok_or_else(|| Error::Usage("who are you? Say it with --user NAME".to_owned()))
    }
}

/// Runs the client.
///
/// # Errors
/// [`Error`], as the command has it; a chat ends with an error only where it cannot begin.
pub async fn client(args: ClientArgs) -> Result<(), Error> {
    let mut shutdown = Shutdown::install()?;
    let view = view::View { json: args.json };
    let writes =
        matches!(args.command, None | Some(Command::Login | Command::Publish { .. } | Command::Message { .. }));
    if writes {
        args.user()?;
    }
    let options = args.options()?;
    let client = tokio::select! {
        client = sdk::connect(&options) => client.map_err(|error| view.failed(error))?,
        () = shutdown.wait() => return Ok(()),
    };
    let result = match &args.command {
        None => interactive::chat(&client, args.user()?, view, &mut shutdown).await,
        Some(command) => tokio::select! {
            result = oneshot::run(&client, &args, command, view) => result.map_err(|error| view.failed(error)),
            () = shutdown.wait() => Ok(()),
        },
    };
    let report = client.drain(DRAIN).await;
    if report.unknown > 0 {
        tracing::warn!(
            unknown = report.unknown,
            "the end came before some answers: those writes may or may not have happened"
        );
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_not_taken_for_the_sender() -> Result<(), clap::Error> {
        let args = ClientArgs::try_parse_from(["x", "--user", "ana", "message", "bob", "oi", "-x"])?;
        assert_eq!(args.user.as_ref().map(UserName::as_str), Some("ana"));
        assert!(
            matches!(args.command, Some(Command::Message { to, text }) if to.as_str() == "bob" && text == ["oi", "-x"])
        );
        Ok(())
    }
}
