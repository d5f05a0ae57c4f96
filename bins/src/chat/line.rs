//! What a line of a chat means, and what may complete it.

use dsv2_core::{ChannelName, UserName};

/// A chat's commands, each with its arguments and what it does.
pub(super) const COMMANDS: [(&str, &str, &str); 11] = [
    ("/join", "CHANNEL", "follow a channel, made if need be, and write there from now on"),
    ("/leave", "[CHANNEL]", "follow it no longer"),
    ("/to", "CHANNEL | @USER", "write there from now on"),
    ("/msg", "USER TEXT", "send a private message"),
    ("/create", "CHANNEL", "create a channel"),
    ("/history", "[CHANNEL | @USER] [N]", "show the newest N messages, 20 without N"),
    ("/users", "", "list the users"),
    ("/channels", "", "list the channels"),
    ("/status", "", "tell about the server that answers"),
    ("/help", "", "show this"),
    ("/quit", "", "end, as Ctrl-D does"),
];

/// What a line wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Nothing,
    Text(String),
    Join(ChannelName),
    Leave(Option<ChannelName>),
    To(Target),
    Private(UserName, String),
    Create(ChannelName),
    History(Option<String>, u64),
    Users,
    Channels,
    Status,
    Help,
    Quit,
}

/// Where lines of text go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Channel(ChannelName),
    User(UserName),
}

impl Target {
    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some(user) => name(user).map(Self::User),
            None => name(text).map(Self::Channel),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Channel(channel) => write!(f, "#{channel}"),
            Self::User(user) => write!(f, "@{user}"),
        }
    }
}

impl Line {
    /// Reads a line. A text that shall start with a slash starts with two.
    ///
    /// # Errors
    /// What is wrong with it, for the person who wrote it.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(Self::Nothing);
        }
        if !line.starts_with('/') || line.starts_with("//") {
            return Ok(Self::Text(line.strip_prefix('/').unwrap_or(line).to_owned()));
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let needed = || if rest.is_empty() { Err(usage(command)) } else { Ok(rest) };
        match command {
            "/join" | "/j" => name(needed()?).map(Self::Join),
            "/leave" => Ok(Self::Leave(if rest.is_empty() { None } else { Some(name(rest)?) })),
            "/to" => Target::parse(needed()?).map(Self::To),
            "/msg" | "/m" => {
                let (user, text) = needed()?.split_once(char::is_whitespace).ok_or_else(|| usage(command))?;
                Ok(Self::Private(name(user.trim_start_matches('@'))?, text.trim().to_owned()))
            }
            "/create" => name(needed()?).map(Self::Create),
            "/history" => history(rest),
            "/users" => Ok(Self::Users),
            "/channels" => Ok(Self::Channels),
            "/status" => Ok(Self::Status),
            "/help" | "/h" | "/?" => Ok(Self::Help),
            "/quit" | "/q" | "/exit" => Ok(Self::Quit),
            other => Err(format!("there is no command {other}: /help lists them")),
        }
    }
}

/// The commands, for people.
pub(super) fn help() -> String {
    let width = COMMANDS.iter().map(|(command, arguments, _)| command.len() + 1 + arguments.len()).max().unwrap_or(0);
    let lines = COMMANDS
        .iter()
        .map(|(command, arguments, what)| format!("{:<width$}  {what}", format!("{command} {arguments}")));
    let mut text: Vec<String> = lines.collect();
    text.push(
        "Any other line is written where you are; a text that starts with a slash is written with two.".to_owned(),
    );
    text.join("\n")
}

fn usage(command: &str) -> String {
    let full = COMMANDS.iter().find(|(name, ..)| name.starts_with(command));
    full.map_or_else(|| "this needs more".to_owned(), |(name, arguments, _)| format!("usage: {name} {arguments}"))
}

fn name<K>(text: &str) -> Result<dsv2_core::Name<K>, String> {
    let text = text.strip_prefix('#').unwrap_or(text);
    dsv2_core::Name::new(text).map_err(|why| format!("the name {text:?} {why}"))
}

fn history(rest: &str) -> Result<Line, String> {
    const NEWEST: u64 = 20;
    let mut words = rest.split_whitespace();
    Ok(match (words.next(), words.next(), words.next()) {
        (None, ..) => Line::History(None, NEWEST),
        (Some(word), None, _) => match word.parse() {
            Ok(limit) => Line::History(None, limit),
            Err(_) => Line::History(Some(word.to_owned()), NEWEST),
        },
        (Some(topic), Some(limit), None) => {
            let limit = limit.parse().map_err(|_| format!("{limit:?} is no number"))?;
            Line::History(Some(topic.to_owned()), limit)
        }
        _ => return Err(usage("/history")),
    })
}

/// Names that a line may mention.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) users: Vec<String>,
    pub(super) channels: Vec<String>,
}

/// What the word that ends at `position` may become: where it starts, and its completions.
pub(super) fn complete(line: &str, position: usize, names: &Names) -> (usize, Vec<String>) {
    let before = line.get(..position).unwrap_or(line);
    let start = before
        .rfind(char::is_whitespace)
        .map_or(0, |space| space + before[space..].chars().next().map_or(1, char::len_utf8));
    let word = &before[start..];
    if start == 0 && word.starts_with('/') {
        let commands = COMMANDS.iter().map(|(command, ..)| format!("{command} "));
        return (start, commands.filter(|command| command.starts_with(word)).collect());
    }
    let command = before.split_whitespace().next().unwrap_or_default();
    let sign = word.chars().next().filter(|sign| matches!(sign, '@' | '#'));
    let bare = word.trim_start_matches(['@', '#']);
    let (users, channels) = match (sign, command) {
        (Some('@'), _) | (None, "/msg" | "/m") => (true, false),
        (Some(_), _) | (None, "/join" | "/j" | "/leave") => (false, true),
        _ => (true, true),
    };
    let of = |wanted: bool, all: &'_ [String]| if wanted { all.to_vec() } else { Vec::new() };
    let mut found: Vec<String> = of(users, &names.users).into_iter().chain(of(channels, &names.channels)).collect();
    found.retain(|name| name.starts_with(bare));
    found.sort_unstable();
    found.dedup();
    let sign = sign.map(String::from).unwrap_or_default();
    (start, found.into_iter().map(|name| format!("{sign}{name} ")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_texts_or_commands() {
        let parse = |line: &str| Line::parse(line);
        assert_eq!(parse("  "), Ok(Line::Nothing));
        assert_eq!(parse("oi gente"), Ok(Line::Text("oi gente".into())));
        assert_eq!(parse("//etc"), Ok(Line::Text("/etc".into())));
        assert_eq!(parse("/join #dev"), Ok(Line::Join("dev".parse().expect("a name"))));
        assert_eq!(parse("/msg @bob  psst ok"), Ok(Line::Private("bob".parse().expect("a name"), "psst ok".into())));
        assert_eq!(parse("/history 5"), Ok(Line::History(None, 5)));
        assert_eq!(parse("/history @bob 7"), Ok(Line::History(Some("@bob".into()), 7)));
        for wrong in ["/join", "/msg bob", "/nonsense", "/join a/b", "/history a b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_listed_command_is_understood() {
        for (command, ..) in COMMANDS {
            let known = |line: String| !Line::parse(&line).is_err_and(|why| why.starts_with("there is no"));
            assert!(known(format!("{command} a b")), "{command}");
            assert!(help().contains(command));
        }
    }

    #[test]
    fn words_are_completed_by_what_may_stand_there() {
        let names = Names { users: vec!["ana".into(), "bob".into()], channels: vec!["art".into(), "dev".into()] };
        let complete = |line: &str| complete(line, line.len(), &names);
        assert_eq!(complete("/j"), (0, vec!["/join ".into()]));
        assert_eq!(complete("/msg a"), (5, vec!["ana ".into()]));
        assert_eq!(complete("/join a"), (6, vec!["art ".into()]));
        assert_eq!(complete("olá @b"), (5, vec!["@bob ".into()]));
        assert_eq!(complete("a"), (0, vec!["ana ".into(), "art ".into()]));
    }
}
