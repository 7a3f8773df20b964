//! What long work shows on a terminal: one line for each worker, redrawn in place, never in a pipe or a log file.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

static LINES: OnceLock<MultiProgress> = OnceLock::new();

/// Switches the lines on, where stderr is a terminal that can redraw a line (`capable`: not TERM=dumb).
pub fn init(capable: bool) {
    if capable && io::stderr().is_terminal() {
        let _ = LINES.set(MultiProgress::new());
    }
}

/// Whether anybody sees them.
#[must_use]
pub fn shown() -> bool {
    LINES.get().is_some()
}

/// Runs something that writes to the terminal, with the lines out of the way.
pub fn suspend<T>(write: impl FnOnce() -> T) -> T {
    match LINES.get() {
        Some(lines) => lines.suspend(write),
        None => write(),
    }
}

/// One worker's line. It goes when this is dropped.
#[derive(Debug)]
pub struct Line(Option<ProgressBar>);

impl Line {
    /// A line, empty at first.
    #[must_use]
    pub fn new() -> Self {
        Self(LINES.get().map(|lines| {
            let bar = lines.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed:>5}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        }))
    }

    /// Shows something new; the time beside it counts from now.
    pub fn begin(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.reset_elapsed();
            bar.set_message(text.to_owned());
        }
    }

    /// Replaces the text; the time goes on.
    pub fn update(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(text.to_owned());
        }
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
