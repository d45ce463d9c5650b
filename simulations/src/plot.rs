//! A plot of a run as SVG, written by hand: who was done when, and how far all were over time. Its colours follow
//! the reader's light or dark scheme.

use std::fmt::Write as _;

use crate::report::{Outcome, Progress, Report};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 380.0;
/// Space for the title above and the labels below and beside a panel.
const TOP: f64 = 64.0;
const BOTTOM: f64 = 330.0;
const PANEL_WIDTH: f64 = 350.0;
const PANELS: [f64; 2] = [60.0, 480.0];
/// Points of a line; more are thinned out.
const MAX_POINTS: usize = 300;

/// What a line shows of the progress.
type Series = fn(&Progress) -> f64;

const STYLE: &str = "\
svg { color-scheme: light dark; background: #ffffff; }
text { font: 12px system-ui, sans-serif; fill: #24292f; } .title { font-size: 15px; font-weight: 600; }
.axis { stroke: #8c959f; fill: none; } .grid { stroke: #d0d7de; fill: none; }
.line { fill: none; stroke-width: 2; stroke: #0969da; } .thin { fill: none; stroke: #0969da; stroke-opacity: .45; }
.ideal { stroke: #bc4c00; stroke-dasharray: 5 4; fill: none; } .note { fill: #57606a; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; } text { fill: #e6edf3; } .axis { stroke: #6e7681; } .grid { stroke: #30363d; }
  .line, .thin { stroke: #58a6ff; } .ideal { stroke: #f0883e; } .note { fill: #8d96a0; }
}";

/// The plot of a report.
pub fn svg(report: &Report) -> String {
    let fetchers: Vec<_> = report.fetchers().filter(|node| node.survives).collect();
    let mut done: Vec<f64> = fetchers
        .iter()
        .filter(|node| node.outcome == Some(Outcome::Complete))
        .map(|node| node.seconds)
        .collect();
    done.sort_by(f64::total_cmp);
    let ideal = fetchers.iter().map(|node| node.ideal_seconds).fold(0.0, f64::max);
    let end = report.seconds.max(ideal).max(1e-3) * 1.05;
    let mut text = String::new();
    let head = format!("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{head}\n<style>{STYLE}</style>");
    let _ = writeln!(
        text,
        "<text class='title' x='20' y='26'>{}, seed {}: {} nodes, {:.0} MiB</text>",
        escaped(&report.scenario),
        report.seed,
        report.fetchers().count(),
        report.size_bytes as f64 / (1024.0 * 1024.0)
    );
    frame(&mut text, PANELS[0], end, "nodes that are done, %");
    frame(&mut text, PANELS[1], end, "of the blob at hand, % (least, mean, most)");
    let total = fetchers.len().max(1) as f64;
    let steps = done
        .iter()
        .enumerate()
        .flat_map(|(index, at)| [(*at, index as f64 / total), (*at, (index + 1) as f64 / total)]);
    let after = [(end, done.len() as f64 / total)];
    line(&mut text, PANELS[0], end, "line", [(0.0, 0.0)].into_iter().chain(steps).chain(after));
    for x in PANELS {
        let at = x + PANEL_WIDTH * ideal / end;
        let _ = writeln!(text, "<path class='ideal' d='M{at:.1} {TOP}V{BOTTOM}'/>");
    }
    let step = report.progress.len().div_ceil(MAX_POINTS).max(1);
    let lines: [(&str, Series); 3] = [("thin", |p| p.least), ("line", |p| p.mean), ("thin", |p| p.most)];
    for (class, value) in lines {
        let last = report.progress.last().into_iter();
        let points = report.progress.iter().step_by(step).chain(last).map(|p| (p.seconds, value(p)));
        line(&mut text, PANELS[1], end, class, points);
    }
    let _ = writeln!(
        text,
        "<text class='note' x='20' y='{}'>dashed: ideal of the slowest, {ideal:.2} s · slowest {:.2} s · origin {:.2} \
         copies · in vain {:.2} %</text>\n</svg>",
        HEIGHT - 10.0,
        report.completion_seconds.max,
        report.origin_copies,
        100.0 * report.wasted_share
    );
    text
}

fn frame(text: &mut String, x: f64, end: f64, title: &str) {
    let _ = writeln!(text, "<text x='{x}' y='{}'>{title}</text>", TOP - 12.0);
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let y = BOTTOM - (BOTTOM - TOP) * share;
        let _ = writeln!(text, "<path class='grid' d='M{x} {y:.1}h{PANEL_WIDTH}'/>");
        let (left, percent) = (x - 8.0, 100.0 * share);
        let _ = writeln!(
            text,
            "<text class='note' x='{left}' y='{:.1}' text-anchor='end'>{percent}</text>",
            y + 4.0
        );
        let at = x + PANEL_WIDTH * share;
        let _ = writeln!(
            text,
            "<text class='note' x='{at:.1}' y='{}' text-anchor='middle'>{:.2} s</text>",
            BOTTOM + 18.0,
            end * share
        );
    }
    let _ = writeln!(text, "<path class='axis' d='M{x} {TOP}V{BOTTOM}h{PANEL_WIDTH}'/>");
}

fn line(text: &mut String, x: f64, end: f64, class: &str, points: impl Iterator<Item = (f64, f64)>) {
    let mut path = String::new();
    for (index, (at, share)) in points.enumerate() {
        let (px, py) = (x + PANEL_WIDTH * at / end, BOTTOM - (BOTTOM - TOP) * share);
        let _ = write!(path, "{}{px:.1} {py:.1}", if index == 0 { 'M' } else { 'L' });
    }
    let _ = writeln!(text, "<path class='{class}' d='{path}'/>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Params, Scenario};

    #[test]
    fn a_plot_has_a_line_per_series_within_its_frame() {
        let params = Params { nodes: Some(3), size_mib: Some(2), ..Params::default() };
        let report = crate::world::run(Scenario::find("calibration").unwrap(), 1, &params);
        let text = svg(&report);
        assert_eq!(text.matches("<path class='line'").count(), 2);
        assert_eq!(text.matches("<path class='thin'").count(), 2);
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }
}
