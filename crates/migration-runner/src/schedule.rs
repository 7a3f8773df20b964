//! Which file may begin next: in the order of the numbers, side by side only where the files say so. Pure.

use crate::plan::Known;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Ended,
}

/// The files of a run that are still to be done.
#[derive(Debug)]
pub(crate) struct Schedule<'a> {
    files: &'a [Known<'a>],
    states: Vec<State>,
}

impl<'a> Schedule<'a> {
    /// A schedule of the files for which `runs` is true; the others count as done.
    pub(crate) fn new(files: &'a [Known<'a>], runs: impl Fn(usize) -> bool) -> Self {
        let state = |index| if runs(index) { State::Waiting } else { State::Ended };
        Self { files, states: (0..files.len()).map(state).collect() }
    }

    /// The next file that may begin; it counts as running then.
    ///
    /// A file waits for every one before it that has not ended and that it does not declare itself independent of.
    pub(crate) fn next(&mut self) -> Option<usize> {
        let next = (0..self.files.len()).find(|&index| {
            self.states[index] == State::Waiting
                && (0..index).all(|before| {
                    self.states[before] == State::Ended
                        || self.files[index].is_independent_of(&self.files[before])
                })
        })?;
        self.states[next] = State::Running;
        Some(next)
    }

    /// The file that is next once all that run have ended.
    pub(crate) fn following(&self) -> Option<usize> {
        self.states.iter().position(|state| *state == State::Waiting)
    }

    /// A file has ended, well or not.
    pub(crate) fn ended(&mut self, index: usize) {
        self.states[index] = State::Ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(independent: &[&'static [u64]]) -> Vec<Known<'static>> {
        (1..)
            .zip(independent)
            .map(|(number, independent_of)| Known {
                number,
                name: "",
                file: "",
                checksum: "",
                idempotent: false,
                independent_of,
            })
            .collect()
    }

    #[test]
    fn undeclared_files_never_overlap() {
        let files = files(&[&[], &[], &[]]);
        let mut schedule = Schedule::new(&files, |_| true);
        assert_eq!((schedule.next(), schedule.next()), (Some(0), None));
        schedule.ended(0);
        assert_eq!((schedule.next(), schedule.next()), (Some(1), None));
    }

    #[test]
    fn a_file_waits_for_all_but_those_it_is_independent_of() {
        // 3 may run beside 2, 4 beside 2 and 3 but not beside 1.
        let files = files(&[&[], &[], &[2], &[2, 3]]);
        let mut schedule = Schedule::new(&files, |_| true);
        assert_eq!((schedule.next(), schedule.next()), (Some(0), None));
        schedule.ended(0);
        assert_eq!((schedule.next(), schedule.next(), schedule.next()), (Some(1), Some(2), Some(3)));
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn what_is_skipped_holds_nobody_up() {
        let files = files(&[&[], &[], &[]]);
        let mut schedule = Schedule::new(&files, |index| index == 2);
        assert_eq!(schedule.next(), Some(2));
    }
}
