//! Bar charts as SVG, drawn by hand: horizontal bars in panels, readable on light and dark pages.

use std::fmt::Write as _;

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bar {
    /// Who.
    pub(crate) label: String,
    /// How much; none where a run failed.
    pub(crate) value: Option<f64>,
    /// Drawn in the accent colour.
    pub(crate) ours: bool,
}

/// Bars that share a scale.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// Above the bars.
    pub(crate) title: String,
    /// From top to bottom.
    pub(crate) bars: Vec<Bar>,
}

const WIDTH: f64 = 720.0;
const LABEL_WIDTH: f64 = 260.0;
const VALUE_WIDTH: f64 = 60.0;
const BAR_STEP: f64 = 24.0;
const BAR_HEIGHT: f64 = 16.0;
const TITLE_HEIGHT: f64 = 30.0;
const MARGIN: f64 = 12.0;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; }
.bar { fill: #8c959f; }
.ours { fill: #0969da; }
.line { stroke: #24292f; stroke-dasharray: 3 3; opacity: 0.6; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .bar { fill: #6e7681; }
  .ours { fill: #4493f8; }
  .line { stroke: #e6edf3; }
}";

/// Draws panels one below the other. `line` is a value that every panel marks, such as native's.
pub(crate) fn draw(heading: &str, panels: &[Panel], line: Option<f64>, unit: &str) -> String {
    let height = panels
        .iter()
        .map(|panel| TITLE_HEIGHT + BAR_STEP * count(panel.bars.len()) + MARGIN)
        .sum::<f64>()
        + MARGIN;
    let mut svg = String::new();
    let mut put = |text: std::fmt::Arguments<'_>| {
        svg.write_fmt(text).expect("a string takes all");
    };
    put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\">\n<title>{}</title>\n\
         <style>{STYLE}</style>\n",
        escaped(heading)
    ));
    let mut top = MARGIN;
    for panel in panels {
        put(format_args!(
            "<text class=\"title\" x=\"{MARGIN}\" y=\"{:.1}\">{}</text>\n",
            top + 15.0,
            escaped(&panel.title)
        ));
        top += TITLE_HEIGHT;
        let values = panel.bars.iter().filter_map(|bar| bar.value).chain(line);
        let scale =
            (WIDTH - LABEL_WIDTH - VALUE_WIDTH - 2.0 * MARGIN) / values.fold(0.001, f64::max);
        let left = MARGIN + LABEL_WIDTH;
        let bottom = top + BAR_STEP * count(panel.bars.len());
        for bar in &panel.bars {
            let middle = top + BAR_HEIGHT / 2.0 + 4.5;
            put(format_args!(
                "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>\n",
                left - 8.0,
                escaped(&bar.label)
            ));
            let width = bar.value.unwrap_or_default() * scale;
            let class = if bar.ours { "bar ours" } else { "bar" };
            let shown = bar.value.map_or_else(|| "none".to_owned(), |value| number(value) + unit);
            put(format_args!(
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
                 height=\"{BAR_HEIGHT}\" rx=\"2\"/>\n<text x=\"{:.1}\" y=\"{middle:.1}\">{shown}\
                 </text>\n",
                left + width + 6.0
            ));
            top += BAR_STEP;
        }
        if let Some(line) = line {
            let x = left + line * scale;
            put(format_args!(
                "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\n",
                bottom - BAR_STEP * count(panel.bars.len()) - 4.0,
                bottom
            ));
        }
        top += MARGIN;
    }
    svg.push_str("</svg>\n");
    svg
}

/// Two or three figures that mean something.
pub(crate) fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[expect(clippy::cast_precision_loss, reason = "a handful of bars")]
fn count(bars: usize) -> f64 {
    bars as f64
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: Option<f64>) -> Bar {
        Bar { label: label.to_owned(), value, ours: label.starts_with("Sway") }
    }

    #[test]
    fn the_longest_bar_fills_its_panel() {
        let bars = vec![bar("Sway", Some(1.0)), bar("a<b", Some(4.0))];
        let svg = draw("h", &[Panel { title: "t".to_owned(), bars }], Some(1.0), "");
        assert!(svg.contains("width=\"376.0\""), "{svg}");
        assert!(svg.contains("width=\"94.0\""), "{svg}");
        assert!(svg.contains("a&lt;b"), "{svg}");
        assert_eq!(svg.matches("class=\"bar ours\"").count(), 1);
        assert!(svg.contains("class=\"line\""));
    }

    #[test]
    fn a_failed_run_is_no_bar() {
        let panel = Panel { title: "t".to_owned(), bars: vec![bar("x", None)] };
        let svg = draw("h", &[panel], None, "");
        assert!(svg.contains(">none<") && svg.contains("width=\"0.0\""), "{svg}");
    }

    #[test]
    fn numbers_have_three_figures_at_most() {
        assert_eq!([0.955, 2.4, 21.72, 150.3].map(number), ["0.95", "2.40", "21.7", "150"]);
    }
}
