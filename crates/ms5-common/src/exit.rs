//! The one list of exit codes, the same for all five tools.

/// How a tool ended, as its caller sees it. The numbers are fixed by the contract; runbooks test for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do. The database is as asked.
    Done = 0,
    /// A check or a migration failed. The database is unchanged, or rolled back to the last good migration.
    Failed = 1,
    /// Wrong usage. Nothing was touched.
    Usage = 2,
    /// Wrong configuration or input: a file is missing or not SQL, the server refused the credentials.
    Config = 3,
    /// The database cannot be reached, or another run holds the lock: worth another try. Nothing was touched.
    Unreachable = 4,
    /// Partly applied; the output says what is and what is not.
    Partial = 5,
    /// A bug in the tool.
    Bug = 70,
    /// Stopped by SIGHUP, after a clean unwind.
    HangUp = 129,
    /// Stopped by SIGINT, after a clean unwind.
    Interrupt = 130,
    /// Stopped by SIGTERM, after a clean unwind.
    Terminate = 143,
}

impl Exit {
    /// The number given to the operating system.
    ///
    /// ```
    /// assert_eq!(ms5_common::exit::Exit::Unreachable.code(), 4);
    /// ```
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The exit that a number stands for, where it is one of ours.
    ///
    /// ```
    /// assert_eq!(ms5_common::exit::Exit::of_code(4), Some(ms5_common::exit::Exit::Unreachable));
    /// ```
    #[must_use]
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| exit.code() == code)
    }

    const ALL: [Self; 10] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Config,
        Self::Unreachable,
        Self::Partial,
        Self::Bug,
        Self::HangUp,
        Self::Interrupt,
        Self::Terminate,
    ];

    /// The number under `MS5_EXIT=classic`: the old scripts knew 0 and 1 only.
    #[must_use]
    pub const fn classic(self) -> u8 {
        match self {
            Self::Done => 0,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn classic_keeps_success_and_folds_every_failure_to_one() {
        assert_eq!(Exit::Done.classic(), 0);
        for exit in [Exit::Failed, Exit::Usage, Exit::Config, Exit::Partial, Exit::Bug, Exit::Interrupt] {
            assert_eq!(exit.classic(), 1, "{exit:?}");
        }
    }
}
