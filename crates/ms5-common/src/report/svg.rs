//! Charts as SVG. Places across are per cent and places down are pixels, so that a drawing fills whatever width there is while its
//! letters keep their size. What a chart shows stands in a table beside it, exactly.

use super::html::{Attributes, Markup, el, opened};
use super::words::float;

/// A bar of [`bars`], with its words above it.
pub(super) struct Bar {
    /// On the left above it.
    pub(super) label: String,
    /// On the right above it.
    pub(super) figure: String,
    /// From where, in the chart's unit.
    pub(super) begin: f64,
    /// Until where.
    pub(super) end: f64,
    /// Its colour's class.
    pub(super) class: &'static str,
}

/// A bar without words of its own, in a lane or over time.
pub(super) struct Block {
    /// Shown when pointed at.
    pub(super) label: String,
    pub(super) begin: f64,
    pub(super) end: f64,
    /// Between 0 and 1, of the height there is.
    pub(super) height: f64,
    pub(super) class: &'static str,
}

const ROW: f64 = 34.0;
const LANE: f64 = 48.0;
const AXIS: f64 = 26.0;
/// The most letters of a label, and of a label and a figure in one line; a phone has room for no more.
const LETTERS: usize = 38;
const LINE: usize = 40;

/// A chart with a name and a description, for those who do not see it too.
fn drawing(
    id: &str,
    title: &str,
    about: &str,
    height: f64,
    legend: &[(&str, &str)],
    content: Markup,
) -> Markup {
    let (name, text) = (format!("{id}-title"), format!("{id}-about"));
    let svg = el(
        "svg",
        &[
            ("role", "img"),
            ("aria-labelledby", &name),
            ("aria-describedby", &text),
            ("width", "100%"),
            ("height", &format!("{height:.0}")),
        ],
        [el("title", &[("id", &name)], title), el("desc", &[("id", &text)], about), content],
    );
    let keys: Markup = legend
        .iter()
        .map(|(class, word)| {
            let swatch = el("span", &[("class", &format!("swatch {class}")), ("aria-hidden", "true")], "");
            el("span", &[("class", "key")], [swatch, (*word).into()])
        })
        .collect();
    el("figure", &[("class", "chart")], [el("figcaption", &[], [title.into(), keys]), svg])
}

/// A row of bars for each item, all on one scale from zero to `most`.
pub(super) fn bars(id: &str, title: &str, about: &str, items: &[Bar], axis: &[(f64, String)]) -> Markup {
    let most = items.iter().map(|bar| bar.end).fold(0.0, f64::max);
    if items.is_empty() || most <= 0.0 {
        return Markup::default();
    }
    let height = float(items.len()) * ROW;
    let mut content = grid(axis, most, height);
    for (place, bar) in items.iter().enumerate() {
        let top = float(place) * ROW;
        let figure = format!("{}{}", sign(bar.class), bar.figure);
        let room = LINE.saturating_sub(figure.chars().count()).min(LETTERS);
        content.push(words("0", "start", top + 13.0, &shortened(&bar.label, room), "label"));
        content.push(words("100%", "end", top + 13.0, &figure, "value"));
        content.push(rect(
            bar.begin / most,
            bar.end / most,
            top + 19.0,
            8.0,
            bar.class,
            &format!("{}: {}", bar.label, bar.figure),
        ));
    }
    drawing(id, title, about, height + if axis.is_empty() { 0.0 } else { AXIS }, &[], content.into())
}

/// What a colour says, as a sign before the words.
fn sign(class: &str) -> &'static str {
    match class {
        "bad" => "✗ ",
        "warn" => "! ",
        _ => "",
    }
}

/// A lane for each worker, with what it did and when.
pub(super) fn lanes(
    id: &str,
    title: &str,
    about: &str,
    lanes: &[(String, Vec<Block>)],
    axis: &[(f64, String)],
    legend: &[(&str, &str)],
) -> Markup {
    let most = lanes.iter().flat_map(|(_, blocks)| blocks).map(|block| block.end).fold(0.0, f64::max);
    if most <= 0.0 {
        return Markup::default();
    }
    let height = float(lanes.len()) * LANE;
    let mut content = grid(axis, most, height);
    for (place, (label, blocks)) in lanes.iter().enumerate() {
        let top = float(place) * LANE;
        content.push(words("0", "start", top + 13.0, &shortened(label, LETTERS), "label"));
        let mut signed = f64::NEG_INFINITY;
        for block in blocks {
            // Below the block, as what stands in a thin one could not be read; one for neighbours.
            let at = (block.begin / most).min(0.96);
            if !sign(block.class).is_empty() && at - signed >= 0.05 {
                signed = at;
                content.push(words(&per_cent(at), "start", top + 45.0, sign(block.class), "label"));
            }
            content.push(rect(
                block.begin / most,
                block.end / most,
                top + 19.0,
                14.0,
                block.class,
                &block.label,
            ));
        }
    }
    drawing(id, title, about, height + AXIS, legend, content.into())
}

/// Blocks side by side along one axis, as high as they are large.
pub(super) fn blocks(
    id: &str,
    title: &str,
    about: &str,
    items: &[Block],
    ends: (&str, &str),
    legend: &[(&str, &str)],
) -> Markup {
    let height = 64.0;
    let first = items.iter().map(|block| block.begin).fold(f64::INFINITY, f64::min);
    let last = items.iter().map(|block| block.end).fold(f64::NEG_INFINITY, f64::max);
    if items.is_empty() || last <= first {
        return Markup::default();
    }
    let place = |at: f64| (at - first) / (last - first);
    let mut content: Vec<Markup> = items
        .iter()
        .map(|block| {
            let tall = (block.height * height).max(2.0);
            rect(place(block.begin), place(block.end), height - tall, tall, block.class, &block.label)
        })
        .collect();
    content.push(line(0.0, height + 0.5, 1.0, height + 0.5, "axis"));
    content.push(words("0", "start", height + 17.0, ends.0, "tick"));
    content.push(words("100%", "end", height + 17.0, ends.1, "tick"));
    drawing(id, title, about, height + AXIS, legend, content.into())
}

/// Values in their order, each with its class, the last one marked; and the limit beyond which it would count as a regression.
pub(super) fn trend(
    id: &str,
    title: &str,
    about: &str,
    points: &[(f64, &str)],
    limit: Option<f64>,
) -> Markup {
    let (top, height) = (8.0, 72.0);
    let most = points.iter().map(|(value, _)| *value).chain(limit).fold(0.0, f64::max);
    if points.is_empty() || most <= 0.0 {
        return Markup::default();
    }
    let across = |place: usize| 0.03 + 0.94 * float(place) / float(points.len().saturating_sub(1).max(1));
    let down = |value: f64| height - value / most * (height - top);
    let mut content = vec![line(0.0, height + 0.5, 1.0, height + 0.5, "axis")];
    if let Some(limit) = limit {
        content.push(line(0.0, down(limit), 1.0, down(limit), "limit"));
    }
    for (place, pair) in points.windows(2).enumerate() {
        content.push(line(across(place), down(pair[0].0), across(place + 1), down(pair[1].0), "path"));
    }
    for (place, (value, class)) in points.iter().enumerate() {
        let class = format!("point {class}");
        let radius = if place + 1 == points.len() { "5.5" } else { "3" };
        let at: Attributes<'_> = &[
            ("class", &class),
            ("cx", &per_cent(across(place))),
            ("cy", &format!("{:.1}", down(*value))),
            ("r", radius),
        ];
        content.push(el("circle", at, ""));
    }
    drawing(id, title, about, height + 8.0, &[], content.into())
}

/// Lines down from where the words of the axis stand.
fn grid(axis: &[(f64, String)], most: f64, height: f64) -> Vec<Markup> {
    let mut content = Vec::new();
    for (at, label) in axis.iter().filter(|(at, _)| *at <= most) {
        let place = at / most;
        content.push(line(place, 0.0, place, height + 4.0, "grid"));
        let anchor = if place < 0.05 {
            "start"
        } else if place > 0.93 {
            "end"
        } else {
            "middle"
        };
        content.push(words(&per_cent(place), anchor, height + 19.0, label, "tick"));
    }
    content
}

/// Round places on an axis of seconds, at most five.
pub(super) fn ticks(most: f64) -> Vec<(f64, String)> {
    let steps = [
        0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
        3600.0, 7200.0, 21600.0,
    ];
    const DAY: f64 = 86_400.0;
    // Nothing that ran has run for centuries.
    if most > 1e10 {
        return Vec::new();
    }
    let step = steps.into_iter().find(|step| most / step <= 5.0);
    let step = step.unwrap_or_else(|| (most / DAY / 5.0).ceil() * DAY);
    let mut ticks = Vec::new();
    while ticks.len() < 40 && float(ticks.len()) * step <= most {
        let at = float(ticks.len()) * step;
        ticks.push((at, if at == 0.0 { "0".to_owned() } else { tick(at) }));
    }
    ticks
}

/// A round time: `200 ms`, `5 s`, `2 min`, `3 h`.
fn tick(seconds: f64) -> String {
    match seconds {
        small if small < 0.9995 => format!("{:.0} ms", small * 1000.0),
        small if small < 120.0 => format!("{small} s"),
        large if large < 7200.0 => format!("{} min", large / 60.0),
        large if large < 172_800.0 => format!("{} h", large / 3600.0),
        large => format!("{} d", large / 86_400.0),
    }
}

fn per_cent(place: f64) -> String {
    format!("{:.3}%", (place * 100.0).clamp(0.0, 100.0))
}

/// Never so thin that it cannot be seen.
fn rect(begin: f64, end: f64, top: f64, height: f64, class: &str, title: &str) -> Markup {
    let begin = begin.clamp(0.0, 0.997);
    let width = (end - begin).max(0.003);
    let class = format!("bar {class}");
    let at: Attributes<'_> = &[
        ("class", &class),
        ("x", &per_cent(begin)),
        ("y", &format!("{top:.1}")),
        ("width", &per_cent(width)),
        ("height", &format!("{height:.1}")),
    ];
    el("rect", at, el("title", &[], title))
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, class: &str) -> Markup {
    let at: Attributes<'_> = &[
        ("class", class),
        ("x1", &per_cent(x1)),
        ("y1", &format!("{y1:.1}")),
        ("x2", &per_cent(x2)),
        ("y2", &format!("{y2:.1}")),
    ];
    [opened("line", at), Markup::ours("</line>")].into()
}

fn words(x: &str, anchor: &str, y: f64, text: &str, class: &str) -> Markup {
    el("text", &[("class", class), ("x", x), ("y", &format!("{y:.1}")), ("text-anchor", anchor)], text)
}

/// A label in so many letters.
fn shortened(label: &str, letters: usize) -> String {
    if label.chars().count() <= letters {
        return label.to_owned();
    }
    let kept: String = label.chars().take(letters.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let labels =
            |most: f64| ticks(most).into_iter().map(|(_, label)| label).collect::<Vec<_>>().join(" ");
        assert_eq!(labels(0.9), "0 200 ms 400 ms 600 ms 800 ms");
        assert_eq!(labels(14.0), "0 5 s 10 s");
        assert_eq!(
            labels(400.0),
            "0 120 s 240 s 360 s"
                .replace("120 s", "2 min")
                .replace("240 s", "4 min")
                .replace("360 s", "6 min")
        );
        assert_eq!(labels(1e7), "0 24 d 48 d 72 d 96 d");
        assert!(ticks(1e9).len() <= 6 && ticks(1e308).is_empty());
    }

    #[test]
    fn nothing_to_draw_draws_nothing() {
        assert!(bars("a", "t", "d", &[], &[]).is_empty());
        assert!(blocks("a", "t", "d", &[], ("", ""), &[]).is_empty());
        assert!(trend("a", "t", "d", &[], None).is_empty());
    }
}
