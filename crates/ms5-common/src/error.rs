//! The error all tools share: what was tried, on what, why it failed, what to do next.

use std::fmt;

use crate::exit::Exit;

/// A failure with everything an operator needs to go on.
///
/// `Display` prints the first line only; [`Error::lines`] is the one printer that also walks the reasons and
/// adds the next steps.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    message: String,
    reasons: Vec<String>,
    hints: Vec<String>,
    sqlstate: Option<String>,
}

/// The result of anything that can fail with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that ends the tool with `exit`. `message` says what was tried and on what.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), reasons: Vec::new(), hints: Vec::new(), sqlstate: None }
    }

    /// Adds why it failed: the operating system's words, the server's, a position.
    #[must_use]
    pub fn because(mut self, reason: impl fmt::Display) -> Self {
        self.reasons.push(reason.to_string());
        self
    }

    /// Adds several reasons in order.
    #[must_use]
    pub fn because_all(mut self, reasons: impl IntoIterator<Item = String>) -> Self {
        self.reasons.extend(reasons);
        self
    }

    /// Adds why it failed to an error that is in other hands already.
    pub fn add_reason(&mut self, reason: impl fmt::Display) {
        self.reasons.push(reason.to_string());
    }

    /// The same error, ending the tool in another way.
    #[must_use]
    pub fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// A failure to connect, as it is told in the middle of the work: no start any more, at which nothing is touched yet. What a
    /// signal has ended stays that.
    #[must_use]
    pub fn amid(mut self) -> Self {
        self.reasons.retain(|reason| reason != "nothing was touched");
        if !matches!(self.exit, Exit::HangUp | Exit::Interrupt | Exit::Terminate) {
            self.exit = Exit::Failed;
        }
        self
    }

    /// Adds a next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Notes the SQLSTATE that the server gave.
    #[must_use]
    pub fn with_sqlstate(mut self, sqlstate: Option<String>) -> Self {
        self.sqlstate = sqlstate;
        self
    }

    /// How the tool should end.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What was tried, on what.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Why it failed, outermost first.
    #[must_use]
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// What to do next.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The server's SQLSTATE, when a server's error is the cause.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// All of it as lines, in the order an operator reads them.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.message.clone()];
        lines.extend(self.reasons.iter().cloned());
        lines.extend(self.hints.iter().map(|hint| format!("Next: {hint}")));
        lines
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::Error;
    use crate::exit::Exit;

    #[test]
    fn in_the_middle_of_the_work_it_is_no_failure_to_reach() {
        let start = || {
            Error::new(Exit::Unreachable, "cannot connect").because("refused").because("nothing was touched")
        };
        let amid = start().hint("look").with_sqlstate(Some("57P01".into())).amid();
        assert_eq!(amid.exit(), Exit::Failed);
        assert_eq!(amid.lines(), ["cannot connect", "refused", "Next: look"]);
        assert_eq!(amid.sqlstate(), Some("57P01"));
        assert_eq!(start().with_exit(Exit::Terminate).amid().exit(), Exit::Terminate);
    }

    #[test]
    fn lines_give_what_why_and_next_in_that_order() {
        let error =
            Error::new(Exit::Config, "cannot read x.sql").because("permission denied").hint("chmod +r x.sql");
        assert_eq!(error.lines(), ["cannot read x.sql", "permission denied", "Next: chmod +r x.sql"]);
        assert_eq!(error.to_string(), "cannot read x.sql");
    }
}
