//! Durations and throughput, compared with those of the last runs on the same server.
//!
//! logs/tests/measures_ENVIRONMENT.jsonl has a line a run, the newest last. What is usual is the middle of the last runs, those left out
//! that had regressed: else what became slow would be usual soon. Only where it stays slow run after run it is taken for what is wanted,
//! such as a larger file or a smaller machine, and is usual from then on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// How many runs are looked at.
const LAST: usize = 10;
/// How many lines the file keeps.
const KEPT: usize = 200;
/// With fewer runs there is nothing to compare with.
const ENOUGH: usize = 3;
/// So many runs in a row that are worse are no accident: the next ones are compared with them.
const ACCEPTED: usize = 5;
/// How far from the middle, in spreads (the middle of the distances from it), is more than noise: some 3.4 standard deviations.
const SPREADS: f64 = 5.0;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Seconds: less is better.
    Seconds,
    /// Milliseconds, likewise.
    Milliseconds,
    /// Megabytes (10^6) a second: more is better.
    MegabytesPerSecond,
}

impl Unit {
    /// As it is written, and which figures are better.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Seconds => ("s", "lower"),
            Self::Milliseconds => ("ms", "lower"),
            Self::MegabytesPerSecond => ("MB/s", "higher"),
        }
    }

    /// From which ratio to what is usual on it is a regression; machines are noisy.
    const fn limit(self) -> f64 {
        match self {
            Self::Seconds | Self::Milliseconds => 1.5,
            Self::MegabytesPerSecond => 2.0,
        }
    }

    /// What starting a process, or a round trip, costs more now and then.
    const fn moment(self) -> f64 {
        match self {
            Self::Seconds => 0.05,
            Self::Milliseconds => 0.5,
            Self::MegabytesPerSecond => 0.0,
        }
    }

    fn is_worse(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::Seconds | Self::Milliseconds => value > threshold,
            Self::MegabytesPerSecond => value < threshold,
        }
    }
}

/// A figure that a test has measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measure {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
}

/// What is usual, and what is worse than that.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Usual {
    middle: f64,
    /// Beyond it begins a regression.
    threshold: f64,
    /// Of how many runs it is the middle.
    compared: usize,
}

impl Usual {
    /// Of the last of these figures; None where they are too few.
    fn of(figures: &[f64], unit: Unit) -> Option<Self> {
        let last = &figures[figures.len().saturating_sub(LAST)..];
        if last.len() < ENOUGH {
            return None;
        }
        let middle = middle(last.to_vec())?;
        let noise = SPREADS * self::middle(last.iter().map(|figure| (figure - middle).abs()).collect())?;
        let threshold = match unit {
            Unit::Seconds | Unit::Milliseconds => {
                (middle * unit.limit()).max(middle + noise.max(unit.moment()))
            }
            // However noisy a machine is, a quarter of what is usual is worse.
            Unit::MegabytesPerSecond => (middle / unit.limit()).min(middle - noise).max(middle / 4.0),
        };
        Some(Self { middle, threshold, compared: last.len() })
    }
}

/// The runs before, as far as they say what is usual, and how the last of them were worse.
#[derive(Debug, Default)]
struct Past {
    figures: Vec<f64>,
    /// One after the other, and all of them worse.
    worse: Vec<f64>,
}

impl Past {
    /// Takes the next run; gives whether it was worse.
    fn take(&mut self, figure: f64, unit: Unit) -> bool {
        let worse =
            Usual::of(&self.figures, unit).is_some_and(|usual| unit.is_worse(figure, usual.threshold));
        if !worse {
            self.worse.clear();
            self.figures.push(figure);
            return false;
        }
        self.worse.push(figure);
        if self.worse.len() >= ACCEPTED {
            self.figures = std::mem::take(&mut self.worse);
        }
        true
    }
}

/// The last runs.
#[derive(Debug, Default)]
pub(crate) struct History {
    path: PathBuf,
    /// What tells a server from others: figures of another one say nothing of this.
    place: String,
    lines: Vec<String>,
    runs: Vec<Value>,
}

impl History {
    /// Reads it; none is there before the first run.
    pub(crate) fn read(folder: &Path, environment: &str, place: &str) -> Self {
        let path = folder.join(format!("measures_{environment}.jsonl"));
        // A byte that is no text costs the run of its line.
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let of_here = |run: &Value| run["place"] == place;
        let runs = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).filter(of_here).collect();
        Self { path, place: place.to_owned(), lines, runs }
    }

    /// The record of a measure, and in words how it is worse than before, where it is.
    pub(crate) fn compare(&self, test: &str, measure: &Measure) -> (Value, Option<String>) {
        let Measure { name, unit, value } = measure;
        let mut past = Past::default();
        let mut before: Vec<Value> = Vec::new();
        for run in &self.runs {
            if let Some(figure) = run["measures"].get(name).and_then(Value::as_f64) {
                let regressed = past.take(figure, *unit);
                before.push(json!({ "time": run["time"], "value": figure, "regressed": regressed }));
            }
        }
        before.drain(..before.len().saturating_sub(LAST));
        let usual = Usual::of(&past.figures, *unit);
        let worse = usual.filter(|usual| unit.is_worse(*value, usual.threshold));
        let (unit_word, better) = unit.words();
        let record = json!({
            "test": test,
            "name": name,
            "unit": unit_word,
            "value": rounded(*value),
            "better": better,
            "before": before,
            "limit": unit.limit(),
            "compared": usual.map_or(0, |usual| usual.compared),
            "usual": usual.map(|usual| rounded(usual.middle)),
            "threshold": usual.map(|usual| rounded(usual.threshold)),
            "regressed": worse.is_some(),
        });
        let words = worse.map(|usual| {
            let beyond = if better == "lower" { "above" } else { "below" };
            let again = match past.worse.len() + 1 {
                1 => String::new(),
                ACCEPTED => format!("; so it was {ACCEPTED} times in a row, and counts as usual from now on"),
                times => format!("; so it was {times} times in a row, and after {ACCEPTED} it counts as usual"),
            };
            format!(
                "{name}: {} {unit_word}, and the middle of {} runs is {} {unit_word}: a regression begins {beyond} {} {unit_word}{again}",
                rounded(*value),
                usual.compared,
                rounded(usual.middle),
                rounded(usual.threshold),
            )
        });
        (record, words)
    }

    /// Adds this run, and forgets those of long ago.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn add(mut self, run_id: &str, time: &str, measures: &[Measure]) -> io::Result<()> {
        if measures.is_empty() {
            return Ok(());
        }
        let all: Map<String, Value> =
            measures.iter().map(|measure| (measure.name.clone(), rounded(measure.value))).collect();
        let run = json!({ "run_id": run_id, "time": time, "place": self.place, "measures": all });
        self.lines.push(run.to_string());
        self.lines.drain(..self.lines.len().saturating_sub(KEPT));
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let beside = self.path.with_extension(format!("{}.part", std::process::id()));
        fs::write(&beside, self.lines.join("\n") + "\n")?;
        fs::rename(beside, self.path)
    }
}

/// Three digits behind the point are more than a machine repeats.
fn rounded(value: f64) -> Value {
    format!("{value:.3}").parse::<f64>().map_or(Value::Null, |value| json!(value))
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some((upper + lower) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(value: f64, unit: Unit) -> Measure {
        Measure { name: "x".into(), unit, value }
    }

    /// The runs so far, kept in memory.
    fn after(values: &[f64]) -> History {
        let run = |value: &f64| json!({ "time": "2026-01-01T00:00:00.000Z", "measures": { "x": value } });
        History { runs: values.iter().map(run).collect(), ..History::default() }
    }

    fn regressed(before: &[f64], value: f64, unit: Unit) -> bool {
        let (record, words) = after(before).compare("t", &measure(value, unit));
        assert_eq!(record["regressed"], words.is_some());
        words.is_some()
    }

    #[test]
    fn a_run_is_compared_with_the_middle_of_the_last_ones_of_its_own_place() {
        let folder = std::env::temp_dir().join(format!("ms5-measures-{}", std::process::id()));
        let read = |place: &str| History::read(&folder, "test", place);
        for value in [1.9, 2.2, 2.0] {
            let (record, words) = read("here").compare("t", &measure(100.0, Unit::Seconds));
            assert!(words.is_none() && record["compared"] == 0 && record["threshold"].is_null(), "too few");
            read("here").add("r", "2026-01-01T00:00:00.000Z", &[measure(value, Unit::Seconds)]).unwrap();
        }
        assert!(read("here").compare("t", &measure(2.9, Unit::Seconds)).1.is_none());
        let (record, words) = read("here").compare("t", &measure(3.1, Unit::Seconds));
        assert_eq!((&record["regressed"], &record["compared"]), (&json!(true), &json!(3)));
        assert_eq!((&record["usual"], &record["threshold"]), (&json!(2.0), &json!(3.0)));
        assert_eq!(record["before"].as_array().unwrap().len(), 3);
        assert!(words.unwrap().contains("the middle of 3 runs is 2.0 s: a regression begins above 3.0 s"));
        assert!(
            read("here").compare("t", &measure(0.9, Unit::MegabytesPerSecond)).1.is_some(),
            "fewer are worse"
        );
        assert!(read("there").compare("t", &measure(100.0, Unit::Seconds)).1.is_none());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_byte_that_is_no_text_costs_one_run_and_not_all() {
        let folder = std::env::temp_dir().join(format!("ms5-measures-bytes-{}", std::process::id()));
        let read = || History::read(&folder, "test", "here");
        for value in [1.0, 2.0] {
            read().add("r", "2026-01-01T00:00:00.000Z", &[measure(value, Unit::Seconds)]).unwrap();
        }
        let path = folder.join("measures_test.jsonl");
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] = 0xff;
        fs::write(&path, bytes).unwrap();
        assert_eq!(read().runs.len(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_small_figure_is_watched_as_closely_as_a_large_one_and_noise_is_no_regression() {
        let steady = [1.0, 1.1, 0.9, 1.0];
        assert!(regressed(&steady, 20.0, Unit::Milliseconds) && regressed(&steady, 1.7, Unit::Milliseconds));
        assert!(!regressed(&steady, 1.4, Unit::Milliseconds));
        assert!(!regressed(&[0.1, 0.1, 0.1], 0.5, Unit::Milliseconds), "less than a round trip now and then");
        // What goes up and down by itself goes up a little more.
        let noisy = [10.0, 14.0, 8.0, 12.0, 10.0, 15.0, 9.0];
        assert!(!regressed(&noisy, 19.0, Unit::Milliseconds) && regressed(&noisy, 30.0, Unit::Milliseconds));
        assert!(!regressed(&[0.03, 0.03, 0.03], 0.07, Unit::Seconds), "a process that started late");
        // Never so noisy that nothing is worse.
        assert!(regressed(&[100.0, 10.0, 190.0, 100.0, 20.0], 20.0, Unit::MegabytesPerSecond));
    }

    #[test]
    fn what_was_worse_does_not_become_usual_but_what_stays_so_does() {
        let mut runs = vec![2.0; 4];
        for time in 1..=4 {
            assert!(regressed(&runs, 5.0, Unit::Seconds), "{time}");
            runs.push(5.0);
        }
        assert!(!regressed(&runs, 2.1, Unit::Seconds));
        let mut mended = runs.clone();
        mended.push(2.1);
        assert!(regressed(&mended, 5.0, Unit::Seconds), "it was mended in between");
        let (_, words) = after(&runs).compare("t", &measure(5.0, Unit::Seconds));
        assert!(words.unwrap().contains("5 times in a row, and counts as usual from now on"));
        runs.push(5.0);
        for value in [5.1, 5.0, 4.9] {
            assert!(!regressed(&runs, value, Unit::Seconds), "what is accepted stays so");
            runs.push(value);
        }
        assert!(regressed(&runs, 8.0, Unit::Seconds));
    }
}
