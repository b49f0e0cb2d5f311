//! The line editor: reads queries with completion, a history, and marks at errors.

pub mod completion;
pub mod helper;

use std::{fs, io, path::Path};

use netconn_query::diagnostic::Diagnostic;
use rustyline::{
    Cmd, CompletionType, Config, Editor, KeyEvent,
    config::{BellStyle, ColorMode},
    error::ReadlineError,
    history::FileHistory,
};
use thiserror::Error;

use crate::editor::helper::EditorKnowledge;

/// Most queries that the history keeps.
const HISTORY_MAX: usize = 10_000;

/// Most candidates that are listed without asking first.
const LISTED_MAX: usize = 200;

/// The outcome of a submitted line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitOutcome {
    /// The line was run, or its error has been reported.
    Done,
    /// The query has errors: it is offered again with these places underlined.
    Refused(Vec<Diagnostic>),
    /// The user wants to leave.
    Quit,
}

/// Why the line editor cannot run.
#[derive(Debug, Error)]
pub enum EditorError {
    /// The terminal cannot be used.
    #[error("the terminal cannot be used: {0}")]
    Terminal(ReadlineError),
}

/// Reads lines and passes each to `submit`, until that returns [`SubmitOutcome::Quit`] or the user presses Ctrl-D.
///
/// # Errors
///
/// The terminal cannot be used.
pub fn run(
    knowledge: EditorKnowledge<'_>,
    history: Option<&Path>,
    are_colours_wanted: bool,
    mut submit: impl FnMut(&EditorKnowledge<'_>, &str) -> SubmitOutcome,
) -> Result<(), EditorError> {
    let mut editor = editor(knowledge, are_colours_wanted).map_err(EditorError::Terminal)?;
    if let Some(history) = history {
        // The file does not exist the first time.
        let _ = editor.load_history(history);
    }
    // The text that the next line begins with: a query with errors, to be corrected.
    let mut again = String::new();
    loop {
        let line = match editor.readline_with_initial("netconn> ", (&again, "")) {
            Ok(line) => line,
            // Ctrl-C discards the line, as in a shell.
            Err(ReadlineError::Interrupted) => {
                again.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(EditorError::Terminal(error)),
        };
        again.clear();
        let text = line.trim_end();
        if text.is_empty() {
            continue;
        }
        // Saved at once rather than at the end, so that a killed session loses nothing.
        let is_new = editor.add_history_entry(text).unwrap_or(false);
        if let Some(history) = history.filter(|_| is_new)
            && let Err(error) = remember(&mut editor, history)
        {
            netconn_model::tell!("netconn: cannot write {}: {error}", history.display());
        }
        // `editor` has set one, so this cannot happen.
        let Some(knowledge) = editor.helper() else { break };
        match submit(knowledge, text) {
            SubmitOutcome::Done => {}
            SubmitOutcome::Refused(diagnostics) => {
                knowledge.refuse(text, &diagnostics);
                text.clone_into(&mut again);
            }
            SubmitOutcome::Quit => break,
        }
    }
    Ok(())
}

fn editor<'a>(
    knowledge: EditorKnowledge<'a>,
    are_colours_wanted: bool,
) -> rustyline::Result<Editor<EditorKnowledge<'a>, FileHistory>> {
    let config = Config::builder()
        .max_history_size(HISTORY_MAX)?
        .history_ignore_dups(true)?
        // A query that begins with a space is kept out of the history, as in shells.
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .completion_prompt_limit(LISTED_MAX)
        .bell_style(BellStyle::None)
        .color_mode(if are_colours_wanted { ColorMode::Enabled } else { ColorMode::Disabled })
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(knowledge));
    // Alt-Enter inserts a new line without submitting, as in shells.
    editor.bind_sequence(KeyEvent::alt('\r'), Cmd::Newline);
    Ok(editor)
}

/// Appends new lines to the history. Queries may contain confidential names; rustyline creates the file readable by its
/// owner only.
fn remember(editor: &mut Editor<EditorKnowledge<'_>, FileHistory>, history: &Path) -> io::Result<()> {
    if let Some(folder) = history.parent() {
        fs::create_dir_all(folder)?;
    }
    editor.append_history(history).map_err(io::Error::other)
}
