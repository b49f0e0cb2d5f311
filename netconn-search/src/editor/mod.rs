//! The line editor: queries are typed, completed, corrected and found again.

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

/// Queries that are remembered.
const HISTORY_MAX: usize = 10_000;

/// Candidates that are listed without a question.
const LISTED_MAX: usize = 200;

/// What became of a text that was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitOutcome {
    /// It was done, or what went wrong was said.
    Done,
    /// It was not understood: it is offered again, with the places underlined.
    Refused(Vec<Diagnostic>),
    /// That was the last one.
    Quit,
}

/// Why nothing can be typed.
#[derive(Debug, Error)]
pub enum EditorError {
    /// The terminal.
    #[error("the terminal cannot be used: {0}")]
    Terminal(ReadlineError),
}

/// Reads queries until the end: `quit`, or Ctrl-D. `prompt` says what stands before a line, `submit` does what was typed.
///
/// # Errors
///
/// When the terminal cannot be used.
pub fn run(
    knowledge: EditorKnowledge<'_>,
    history: Option<&Path>,
    are_colours_wanted: bool,
    mut submit: impl FnMut(&EditorKnowledge<'_>, &str) -> SubmitOutcome,
) -> Result<(), EditorError> {
    let mut editor = editor(knowledge, are_colours_wanted).map_err(EditorError::Terminal)?;
    if let Some(history) = history {
        // There is none the first time.
        let _ = editor.load_history(history);
    }
    let mut again = String::new();
    loop {
        let line = match editor.readline_with_initial("netconn> ", (&again, "")) {
            Ok(line) => line,
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
        let is_new = editor.add_history_entry(text).unwrap_or(false);
        if let Some(history) = history.filter(|_| is_new)
            && let Err(error) = remember(&mut editor, history)
        {
            anstream::eprintln!("netconn: cannot write {}: {error}", history.display());
        }
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
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .completion_prompt_limit(LISTED_MAX)
        .bell_style(BellStyle::None)
        .color_mode(if are_colours_wanted { ColorMode::Enabled } else { ColorMode::Disabled })
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(knowledge));
    // As in shells: another line without sending this one.
    editor.bind_sequence(KeyEvent::alt('\r'), Cmd::Newline);
    Ok(editor)
}

/// Queries may hold names that are nobody else's business: the file is for its owner only (rustyline makes it so).
fn remember(editor: &mut Editor<EditorKnowledge<'_>, FileHistory>, history: &Path) -> io::Result<()> {
    if let Some(folder) = history.parent() {
        fs::create_dir_all(folder)?;
    }
    editor.append_history(history).map_err(io::Error::other)
}
