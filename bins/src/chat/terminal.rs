//! Where a chat's lines come from, and where what it shows goes: a terminal with line editing, or a pipe.

use std::borrow::Cow;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, ExternalPrinter, Helper};
use tokio::sync::{mpsc, oneshot};

use super::line::{Names, complete};
use crate::error::Error;
use crate::output;

/// How many lines the history keeps.
const HISTORY_LINES: usize = 1_000;

/// A line, and where the next prompt is awaited: the next line is read only once this one is answered.
pub(super) struct Heard {
    pub(super) line: String,
    pub(super) answered: oneshot::Sender<String>,
}

/// The two directions.
pub(super) struct Terminal {
    /// Ends where the input does.
    pub(super) lines: mpsc::Receiver<Heard>,
    pub(super) printer: Printer,
    /// What completes words.
    pub(super) names: Arc<RwLock<Names>>,
    /// Whether a person types.
    pub(super) is_interactive: bool,
}

/// Shows things without tearing the line that is being typed.
pub(super) enum Printer {
    Above(Box<dyn ExternalPrinter + Send>),
    Plain,
}

impl Printer {
    pub(super) fn show(&mut self, text: &str) -> Result<(), Error> {
        match self {
            Self::Above(printer) => printer
                .print(format!("{text}\n"))
                .map_err(|error| Error::Failed(format!("the terminal cannot be written to: {error}"))),
            Self::Plain => output::line(text),
        }
    }
}

impl Terminal {
    /// Begins to read. Lines are edited where stdin and stdout are terminals and the output is for people.
    pub(super) fn open(prompt: String, json: bool) -> Result<Self, Error> {
        let names = Arc::new(RwLock::new(Names::default()));
        let (sender, lines) = mpsc::channel(1);
        let is_interactive = !json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        if !is_interactive {
            std::thread::Builder::new().name("lines".to_owned()).spawn(move || read_plain(&sender))?;
            return Ok(Self { lines, printer: Printer::Plain, names, is_interactive });
        }
        let broken = |error: ReadlineError| Error::Failed(format!("the terminal cannot be used: {error}"));
        let config = Config::builder().auto_add_history(true).max_history_size(HISTORY_LINES).map_err(broken)?;
        let mut editor: Editor<Words, FileHistory> = Editor::with_config(config.build()).map_err(broken)?;
        editor.set_helper(Some(Words(Arc::clone(&names))));
        let printer = Printer::Above(Box::new(editor.create_external_printer().map_err(broken)?));
        std::thread::Builder::new().name("lines".to_owned()).spawn(move || read_edited(editor, prompt, &sender))?;
        Ok(Self { lines, printer, names, is_interactive })
    }
}

fn read_plain(sender: &mpsc::Sender<Heard>) {
    for line in std::io::stdin().lock().lines() {
        // Bytes that are no text end the input, as its end does.
        let Ok(line) = line else { return };
        let (answered, answer) = oneshot::channel();
        if sender.blocking_send(Heard { line, answered }).is_err() || answer.blocking_recv().is_err() {
            return;
        }
    }
}

fn read_edited(mut editor: Editor<Words, FileHistory>, mut prompt: String, sender: &mpsc::Sender<Heard>) {
    let file = history_file();
    if let Some(file) = &file {
        // The first time there is none.
        let _none = editor.load_history(file).is_err();
    }
    while let Ok(line) = editor.readline(&prompt) {
        let (answered, answer) = oneshot::channel();
        if sender.blocking_send(Heard { line, answered }).is_err() {
            break;
        }
        match answer.blocking_recv() {
            Ok(next) => prompt = next,
            Err(_) => break,
        }
        if let Some(file) = &file
            && let Err(error) = editor.append_history(file)
        {
            tracing::debug!(%error, file = %file.display(), "the history of lines is not kept");
        }
    }
}

/// `$XDG_STATE_HOME/dsv2/history`, by default in `~/.local/state`; none where there is no home.
fn history_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?.join("dsv2");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("history"))
}

/// Completes names and commands.
struct Words(Arc<RwLock<Names>>);

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(complete(line, position, &names))
    }
}

impl Highlighter for Words {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Borrowed(prompt)
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Validator for Words {}
impl Helper for Words {}
