//! One plot as inline SVG. Positions are in per cent and lines keep their width, so that a plot fills whatever width
//! the page gives it while its letters stay the size of the page's letters.

use serde_json::{Value, json};

use super::series::{Point, smooth, thin};
use super::ticks::Axis;
use super::{Html, esc, markup};
use crate::format;

/// How a plot's values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// As decimals: losses, norms, accuracies.
    Plain,
    /// Scientifically: learning rates.
    Rate,
    /// With k and M: tokens per second.
    Si,
}

/// A measured quantity over steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// Its title.
    pub title: String,
    /// How values are written.
    pub unit: Unit,
    /// Whether the axis begins at zero.
    pub from_zero: bool,
    /// Whether a smoothed line is drawn over the raw one.
    pub smoothed: bool,
    /// Whether it is the page's main plot.
    pub large: bool,
    /// Step and value of every training step; not-finite values break the line and are marked.
    pub train: Vec<(f64, f64)>,
    /// The same for evaluations; may be empty.
    pub eval: Vec<(f64, f64)>,
}

/// Stretches a line is cut into when it is thinned: about one per pixel of a wide page.
const BUCKETS: usize = 600;
/// Fewer points than this are drawn as dots too, and not smoothed.
const FEW: usize = 24;
/// Not-finite points that get a mark; the caption counts them all.
const MAX_MARKS: usize = 40;

impl Plot {
    /// The plot as a `<figure>`.
    pub fn to_html(&self) -> Html {
        let (x, y, above) = self.axes();
        let smoothed = match self.smoothed && self.train.len() >= FEW {
            true => {
                let inside: Vec<Point> =
                    self.train.iter().copied().filter(|p| p.1 <= y.hi).collect();
                smooth(&inside)
            }
            false => Vec::new(),
        };
        let raw = thin(&self.train, BUCKETS);
        let smoothed = thin(&smoothed, BUCKETS / 2);
        let eval = thin(&self.eval, BUCKETS / 2);
        let odd: Vec<Point> =
            self.train.iter().chain(&self.eval).copied().filter(|p| !p.1.is_finite()).collect();

        let mut svg = self.grid(&x, &y);
        let raw_class = if smoothed.is_empty() { "raw alone" } else { "raw" };
        svg += "<svg class=\"lines\" viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" width=\"100%\" height=\"100%\">";
        for (class, points) in [(raw_class, &raw), ("smooth", &smoothed), ("eval", &eval)] {
            let d = path(points, &x, &y);
            if !d.is_empty() {
                svg += &format!("<path class=\"{class}\" d=\"{d}\"/>");
            }
        }
        svg += "</svg>";
        let few = if raw.len() < FEW { &raw[..] } else { &[] };
        for (class, points, r) in [("dot", few, 2.5), ("dot eval", &eval[..], 3.5)] {
            if points.len() <= 80 {
                svg += &dots(class, points, r, &x, &y);
            }
        }
        for p in odd.iter().take(MAX_MARKS) {
            let left = x.at(p.0) * 100.0;
            svg += &format!(
                "<text class=\"odd\" x=\"{left:.2}%\" y=\"0\" dy=\"12\">×<title>step {}: {}</title></text>",
                p.0,
                format::loss(p.1)
            );
        }

        let data = json!({
            "x": [x.lo, x.hi], "y": [y.lo, y.hi], "unit": self.unit_name(),
            "series": self.tooltip_series(&raw, &smoothed, &eval),
        });
        Html::markup(format!(
            "<figure class=\"plot{}\">\n<figcaption><h3>{}</h3>{}{}</figcaption>\n\
             <div class=\"canvas\" tabindex=\"0\"><svg role=\"img\" aria-label=\"{}\">{svg}</svg></div>\n\
             <script type=\"application/json\">{}</script>\n</figure>\n",
            if self.large { " large" } else { "" },
            esc(&self.title),
            self.legend(!smoothed.is_empty()),
            self.remarks(&odd, above),
            esc(&self.summary()),
            markup::json(&data),
        ))
    }

    /// The axes, and how many points lie above the plot: one spike of a thousand must not flatten all the rest.
    fn axes(&self) -> (Axis, Axis, usize) {
        let all = || self.train.iter().chain(&self.eval);
        let (x_lo, x_hi) = range(all().map(|p| p.0)).unwrap_or((0.0, 1.0));
        let mut values: Vec<f64> = all().map(|p| p.1).filter(|v| v.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (mut lo, mut hi) = range(values.iter().copied()).unwrap_or((0.0, 1.0));
        if values.len() >= FEW {
            let usual = values[(values.len() - 1) * 98 / 100] - lo;
            if hi - lo > 20.0 * usual && usual > 0.0 {
                let inside = values.iter().copied().filter(|v| v - lo <= 10.0 * usual);
                hi = inside.fold(lo, f64::max);
            }
        }
        if self.from_zero || (lo > 0.0 && lo < 0.25 * hi) {
            lo = lo.min(0.0);
        }
        let y = Axis::snapped(lo, hi, if self.large { 5 } else { 3 });
        let above = values.iter().filter(|&&v| v > y.hi).count();
        (Axis::exact(x_lo, x_hi, if self.large { 6 } else { 4 }), y, above)
    }

    fn grid(&self, x: &Axis, y: &Axis) -> String {
        let mut out = String::from("<g class=\"grid\">");
        for &tick in &y.ticks {
            let top = (1.0 - y.at(tick)) * 100.0;
            out += &format!(
                "<line x1=\"0\" x2=\"100%\" y1=\"{top:.2}%\" y2=\"{top:.2}%\"/>\
                 <text class=\"y\" x=\"0\" y=\"{top:.2}%\" dx=\"-10\" dy=\"4\">{}</text>",
                self.tick(tick, y.step)
            );
        }
        for &tick in &x.ticks {
            let left = x.at(tick) * 100.0;
            out += &format!(
                "<line class=\"x\" x1=\"{left:.2}%\" x2=\"{left:.2}%\" y1=\"100%\" y2=\"100%\"/>\
                 <text class=\"x\" x=\"{left:.2}%\" y=\"100%\" dy=\"20\">{}</text>",
                if x.hi >= 10_000.0 { trim(&format::si(tick)) } else { tick.to_string() }
            );
        }
        out + "</g>"
    }

    fn tick(&self, tick: f64, step: f64) -> String {
        match self.unit {
            Unit::Rate => format::rate(tick),
            Unit::Si => trim(&format::si(tick)),
            Unit::Plain if tick == 0.0 => "0".to_owned(),
            Unit::Plain if !(1e-4..1e5).contains(&tick.abs()) => format!("{tick:.1e}"),
            Unit::Plain => {
                let digits = (-(step * 1.000_001).log10().floor()).max(0.0) as usize;
                format!("{tick:.digits$}").replace('-', "−")
            }
        }
    }

    fn unit_name(&self) -> &'static str {
        match self.unit {
            Unit::Plain => "plain",
            Unit::Rate => "rate",
            Unit::Si => "si",
        }
    }

    fn tooltip_series(&self, raw: &[Point], smoothed: &[Point], eval: &[Point]) -> Value {
        let mut out = Vec::new();
        let lone = self.eval.is_empty() && smoothed.is_empty();
        for (class, name, points) in [
            ("raw", if lone { self.title.as_str() } else { "this step" }, raw),
            ("smooth", "smoothed", smoothed),
            ("eval", "evaluation", eval),
        ] {
            let points: Vec<Value> = points
                .iter()
                .filter(|p| p.1.is_finite())
                .map(|p| json!([p.0, short(p.1)]))
                .collect();
            if !points.is_empty() {
                out.push(json!({ "class": class, "name": name, "points": points }));
            }
        }
        out.into()
    }

    fn legend(&self, smoothed: bool) -> String {
        let mut out = String::new();
        if !self.train.is_empty() && (smoothed || !self.eval.is_empty()) {
            out += match smoothed {
                true => {
                    "<span class=\"key raw\">each step</span><span class=\"key smooth\">smoothed</span>"
                }
                false => "<span class=\"key smooth\">training</span>",
            };
        }
        if !self.eval.is_empty() {
            out += "<span class=\"key eval\">evaluation</span>";
        }
        format!("<span class=\"legend\">{out}</span>")
    }

    /// What the line cannot show.
    fn remarks(&self, odd: &[Point], above: usize) -> String {
        let mut out = String::new();
        if let Some(first) = odd.first() {
            let text = match odd.len() {
                1 => format!("× step {} was {}", first.0, format::loss(first.1)),
                n => format!("× {n} values were not finite, the first at step {}", first.0),
            };
            out += &format!("<span class=\"remark bad\">{}</span>", esc(&text));
        }
        if above > 0 {
            let highest = self.train.iter().chain(&self.eval).map(|p| p.1);
            let highest = highest.filter(|v| v.is_finite()).fold(f64::MIN, f64::max);
            let text = format!(
                "{above} {} above this plot, up to {}",
                if above == 1 { "point lies" } else { "points lie" },
                format::si(highest)
            );
            out += &format!("<span class=\"remark\">{}</span>", esc(&text));
        }
        out
    }

    /// The plot in words, for those who hear the page.
    fn summary(&self) -> String {
        let ends = |points: &[Point]| {
            let mut finite = points.iter().filter(|p| p.1.is_finite());
            let first = finite.next().copied()?;
            Some((first, finite.next_back().copied().unwrap_or(first)))
        };
        match ends(&self.train).or_else(|| ends(&self.eval)) {
            Some((a, b)) => format!(
                "{}: {} at step {}, {} at step {}",
                self.title,
                short(a.1),
                a.0,
                short(b.1),
                b.0
            ),
            None => format!("{}: no finite value", self.title),
        }
    }
}

/// Six significant digits: what a tooltip can show.
fn short(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

/// `10.0k` → `10k`: axis ticks are round.
fn trim(text: &str) -> String {
    let end = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    match number.contains('.') {
        true => format!("{}{suffix}", number.trim_end_matches('0').trim_end_matches('.')),
        false => text.to_owned(),
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |r, v| Some(r.map_or((v, v), |(lo, hi): (f64, f64)| (lo.min(v), hi.max(v)))))
}

/// The points as path data in a box of 1000 × 1000; a point without neighbours becomes a line of no length, which its
/// round caps make visible.
fn path(points: &[Point], x: &Axis, y: &Axis) -> String {
    let mut d = String::new();
    for part in points.split(|p| !p.1.is_finite()).filter(|part| !part.is_empty()) {
        for (i, p) in part.iter().enumerate() {
            // A spike far above must not become a number that a renderer rounds badly.
            let (px, py) = (x.at(p.0) * 1000.0, (1.0 - y.at(p.1)).clamp(-1.0, 2.0) * 1000.0);
            d += &format!("{}{px:.1} {py:.1}", if i == 0 { "M" } else { "L" });
        }
        if part.len() == 1 {
            d += "h0";
        }
    }
    d
}

fn dots(class: &str, points: &[Point], r: f64, x: &Axis, y: &Axis) -> String {
    let inside = |p: &&Point| p.1.is_finite() && p.1 <= y.hi;
    let dot = |p: &Point| {
        let (left, top) = (x.at(p.0) * 100.0, (1.0 - y.at(p.1)) * 100.0);
        format!("<circle class=\"{class}\" cx=\"{left:.2}%\" cy=\"{top:.2}%\" r=\"{r}\"/>")
    };
    points.iter().filter(inside).map(dot).collect()
}
