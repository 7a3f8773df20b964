//! Durations and throughput, compared with those of the last runs on the same server.
//!
//! logs/tests/measures_ENVIRONMENT.jsonl has a line a run, the newest last.

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

    /// From which ratio to the middle of the last runs on it is a regression; machines are noisy.
    const fn limit(self) -> f64 {
        match self {
            Self::Seconds | Self::Milliseconds => 1.5,
            Self::MegabytesPerSecond => 2.0,
        }
    }

    /// Whether a figure is so much worse than another, and by more than what a machine does in between.
    fn is_worse(self, value: f64, middle: f64) -> bool {
        match self {
            Self::Seconds => value > middle * self.limit() && value - middle > 0.25,
            Self::Milliseconds => value > middle * self.limit() && value - middle > 20.0,
            Self::MegabytesPerSecond => value * self.limit() < middle,
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
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let of_here = |run: &Value| run["place"] == place;
        let mut runs: Vec<Value> =
            lines.iter().filter_map(|line| serde_json::from_str(line).ok()).filter(of_here).collect();
        runs.drain(..runs.len().saturating_sub(LAST));
        Self { path, place: place.to_owned(), lines, runs }
    }

    /// The record of a measure, and in words how it is worse than before, where it is.
    pub(crate) fn compare(&self, test: &str, measure: &Measure) -> (Value, Option<String>) {
        let before: Vec<(&Value, f64)> = self
            .runs
            .iter()
            .filter_map(|run| Some((&run["time"], run["measures"].get(&measure.name)?.as_f64()?)))
            .collect();
        let (unit, better) = measure.unit.words();
        let median = middle(before.iter().map(|(_, value)| *value).collect());
        let enough = median.filter(|_| before.len() >= ENOUGH);
        let worse = enough.filter(|median| measure.unit.is_worse(measure.value, *median));
        let record = json!({
            "test": test,
            "name": measure.name,
            "unit": unit,
            "value": rounded(measure.value),
            "better": better,
            "before": before.iter().map(|(time, value)| json!({ "time": time, "value": value })).collect::<Vec<_>>(),
            "limit": measure.unit.limit(),
            "regressed": worse.is_some(),
        });
        let words = worse.map(|median| {
            format!(
                "{}: {} {unit}, and the last {} runs had {} {unit} in the middle",
                measure.name,
                rounded(measure.value),
                before.len(),
                rounded(median)
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

    #[test]
    fn a_run_is_compared_with_the_middle_of_the_last_ones_of_its_own_place() {
        let folder = std::env::temp_dir().join(format!("ms5-measures-{}", std::process::id()));
        let read = |place: &str| History::read(&folder, "test", place);
        for value in [1.0, 9.0, 2.0] {
            assert!(read("here").compare("t", &measure(100.0, Unit::Seconds)).1.is_none(), "too few");
            read("here").add("r", "2026-01-01T00:00:00.000Z", &[measure(value, Unit::Seconds)]).unwrap();
        }
        assert!(read("here").compare("t", &measure(2.9, Unit::Seconds)).1.is_none());
        assert!(read("here").compare("t", &measure(19.0, Unit::Milliseconds)).1.is_none(), "a moment");
        let (record, words) = read("here").compare("t", &measure(3.1, Unit::Seconds));
        assert_eq!(record["regressed"], true);
        assert_eq!(record["before"].as_array().unwrap().len(), 3);
        assert!(words.unwrap().contains("had 2.0 s in the middle"));
        assert!(
            read("here").compare("t", &measure(0.9, Unit::MegabytesPerSecond)).1.is_some(),
            "fewer are worse"
        );
        assert!(read("there").compare("t", &measure(100.0, Unit::Seconds)).1.is_none());
        fs::remove_dir_all(folder).unwrap();
    }
}
