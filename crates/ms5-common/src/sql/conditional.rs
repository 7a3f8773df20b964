//! The stack of `\if` blocks, and what each saves of the statement it may stand in the middle of.
//!
//! Sources: `src/fe_utils/conditional.c`, `exec_command_if` and its neighbours in `command.c`.

use super::error::{ErrorKind, Problem};
use super::lexer::Nesting;
use super::position::Pos;

/// `ifState`, with both branches of `\else` told apart by [`Block::seen_else`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Branch {
    /// `IFSTATE_TRUE`: this branch is carried out.
    Taken,
    /// `IFSTATE_FALSE`: none was, so far.
    NotYet,
    /// `IFSTATE_IGNORED`: an earlier one was, or the whole block is skipped.
    Never,
}

/// What the statement was when the current branch began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Saved {
    pub(super) text: usize,
    pub(super) nesting: Nesting,
}

#[derive(Debug, Clone)]
struct Block {
    branch: Branch,
    seen_else: bool,
    saved: Saved,
    at: Pos,
}

/// The blocks that are open in one file.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditionals {
    blocks: Vec<Block>,
}

impl Conditionals {
    /// Are statements and commands carried out here (`conditional_active`)?
    pub(super) fn active(&self) -> bool {
        self.blocks.last().is_none_or(|block| block.branch == Branch::Taken)
    }

    /// Where the innermost block that is still open began.
    pub(super) fn open(&self) -> Option<Pos> {
        self.blocks.last().map(|block| block.at)
    }

    /// The state to return to while the current branch is skipped.
    pub(super) fn skipping_from(&self) -> Option<Saved> {
        self.blocks.last().filter(|block| block.branch != Branch::Taken).map(|block| block.saved)
    }

    /// `\if`, with its value where that was evaluated.
    pub(super) fn begin(&mut self, value: Option<bool>, saved: Saved, at: Pos) {
        let branch = match value {
            Some(true) => Branch::Taken,
            Some(false) => Branch::NotYet,
            None => Branch::Never,
        };
        self.blocks.push(Block { branch, seen_else: false, saved, at });
    }

    /// Is the value of an `\elif` that comes now asked for?
    pub(super) fn evaluates_elif(&self) -> bool {
        self.blocks.last().is_some_and(|block| block.branch == Branch::NotYet && !block.seen_else)
    }

    /// `\elif`: the state to return to, if the branch that ends here was skipped.
    pub(super) fn elif(&mut self, value: Option<bool>, now: Saved) -> Result<Option<Saved>, Problem> {
        self.next_branch("elif", value.unwrap_or_default(), now)
    }

    /// `\else`: the same.
    pub(super) fn otherwise(&mut self, now: Saved) -> Result<Option<Saved>, Problem> {
        let back = self.next_branch("else", true, now)?;
        if let Some(block) = self.blocks.last_mut() {
            block.seen_else = true;
        }
        Ok(back)
    }

    /// `\endif`: the same.
    pub(super) fn end(&mut self) -> Result<Option<Saved>, Problem> {
        let block = self.blocks.pop().ok_or_else(|| no_if("endif"))?;
        Ok((block.branch != Branch::Taken).then_some(block.saved))
    }

    fn next_branch(&mut self, command: &str, value: bool, now: Saved) -> Result<Option<Saved>, Problem> {
        let block = self.blocks.last_mut().ok_or_else(|| no_if(command))?;
        if block.seen_else {
            return Err(Problem::new(
                ErrorKind::Conditional,
                format!("\\{command}: cannot occur after \\else"),
            ));
        }
        match block.branch {
            Branch::Taken => {
                block.branch = Branch::Never;
                block.saved = now;
                return Ok(None);
            }
            Branch::NotYet if value => block.branch = Branch::Taken,
            Branch::NotYet | Branch::Never => {}
        }
        Ok(Some(block.saved))
    }
}

fn no_if(command: &str) -> Problem {
    Problem::new(ErrorKind::Conditional, format!("\\{command}: no matching \\if"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: usize) -> Saved {
        Saved { text, nesting: Nesting::default() }
    }

    #[test]
    fn one_branch_is_taken() {
        let mut conditionals = Conditionals::default();
        conditionals.begin(Some(false), at(0), Pos::START);
        assert!(!conditionals.active());
        assert!(conditionals.evaluates_elif());
        assert!(conditionals.elif(Some(true), at(1)).unwrap().is_some());
        assert!(conditionals.active());
        assert!(!conditionals.evaluates_elif());
        assert!(conditionals.elif(None, at(2)).unwrap().is_none());
        assert!(!conditionals.active());
        assert!(conditionals.otherwise(at(3)).unwrap().is_some());
        assert!(!conditionals.active());
        assert!(conditionals.otherwise(at(3)).is_err());
        assert!(conditionals.elif(None, at(3)).is_err());
        assert_eq!(conditionals.end().unwrap().map(|saved| saved.text), Some(2));
        assert!(conditionals.active());
        assert!(conditionals.end().is_err());
    }

    #[test]
    fn a_block_in_a_skipped_branch_is_skipped() {
        let mut conditionals = Conditionals::default();
        conditionals.begin(Some(false), at(0), Pos::START);
        conditionals.begin(None, at(0), Pos::START);
        conditionals.otherwise(at(0)).unwrap();
        assert!(!conditionals.active());
        conditionals.end().unwrap();
        conditionals.otherwise(at(0)).unwrap();
        assert!(conditionals.active());
        conditionals.end().unwrap();
    }
}
