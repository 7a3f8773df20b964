//! How often, and after which pause, a file is tried again that has met a lock. Pure but for the dice.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// The first pause; each later one is twice as long, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// The SQLSTATEs that are worth another try: lock_not_available and deadlock_detected.
pub(crate) fn is_conflict(sqlstate: Option<&str>) -> bool {
    matches!(sqlstate, Some("55P03" | "40P01"))
}

/// The tries that are left.
#[derive(Debug)]
pub(crate) struct Retries {
    made: u32,
    most: u32,
}

impl Retries {
    pub(crate) fn new(most: u32) -> Self {
        Self { made: 0, most }
    }

    /// The pause before the next try, with its number; None when there is none.
    pub(crate) fn next(&mut self) -> Option<(u32, Duration)> {
        if self.made == self.most {
            return None;
        }
        let pause = FIRST.saturating_mul(1 << self.made.min(10)).min(LONGEST);
        self.made += 1;
        Some((self.made, jittered(pause, RandomState::new().build_hasher().finish())))
    }
}

/// Between half of the pause and the whole: two runners, or a runner and a job, do not meet again in step.
fn jittered(pause: Duration, dice: u64) -> Duration {
    let half = pause / 2;
    let range = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(dice % range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut retries = Retries::new(7);
        let pauses: Vec<Duration> = std::iter::from_fn(|| retries.next()).map(|(_, pause)| pause).collect();
        assert_eq!(pauses.len(), 7);
        for (index, pause) in pauses.iter().enumerate() {
            let whole = FIRST.saturating_mul(1 << index).min(LONGEST);
            assert!(*pause >= whole / 2 && *pause <= whole, "{index}: {pause:?}");
        }
        assert!(Retries::new(0).next().is_none());
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        let second = Duration::from_secs(1);
        assert_eq!(jittered(second, 0), second / 2);
        assert!(jittered(second, u64::MAX) < second);
    }
}
