//! A bar chart as inline SVG: how often each of a few ranges occurs.

use super::{Html, esc};

/// Counts of consecutive ranges.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bars {
    /// Its title.
    pub title: String,
    /// What the counts are of: `rows`.
    pub unit: String,
    /// The name of each range and its count; the names of some stand below the chart.
    pub bars: Vec<(String, u64)>,
}

/// Names below a chart at most.
const NAMES: usize = 8;

impl Bars {
    /// The chart as a `<figure>`. Each bar tells its range and count to whoever points at it.
    pub fn to_html(&self) -> Html {
        let most = self.bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
        let n = self.bars.len().max(1);
        let width = 100.0 / n as f64;
        let every = n.div_ceil(NAMES);
        let mut svg = String::from(
            "<g class=\"grid\"><line x1=\"0\" x2=\"100%\" y1=\"100%\" y2=\"100%\"/></g>",
        );
        for (i, (name, count)) in self.bars.iter().enumerate() {
            let height = *count as f64 / most as f64 * 100.0;
            let left = i as f64 * width;
            svg += &format!(
                "<rect x=\"{:.2}%\" y=\"{:.2}%\" width=\"{:.2}%\" height=\"{height:.2}%\" fill=\"var(--teal)\" rx=\"1\">\
                 <title>{}: {count} {}</title></rect>",
                left + width * 0.08,
                100.0 - height,
                width * 0.84,
                esc(name),
                esc(&self.unit)
            );
            if i.is_multiple_of(every) {
                svg += &format!(
                    "<text class=\"x\" x=\"{left:.2}%\" y=\"100%\" dy=\"20\" fill=\"var(--soft)\">{}</text>",
                    esc(name)
                );
            }
        }
        Html::markup(format!(
            "<figure class=\"plot\">\n<figcaption><h3>{}</h3><span class=\"key\">{} at most</span></figcaption>\n\
             <div class=\"canvas\" style=\"margin-left:10px\"><svg role=\"img\" aria-label=\"{}\">{svg}</svg></div>\n</figure>\n",
            esc(&self.title),
            esc(&format!("{most} {}", self.unit)),
            esc(&self.title),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_has_a_bar_and_its_text_is_escaped() {
        let bars = Bars {
            title: "a < b".into(),
            unit: "rows".into(),
            bars: vec![("0".into(), 3), ("<1>".into(), 6), ("2".into(), 0)],
        };
        let html = bars.to_html().to_string();
        assert_eq!(html.matches("<rect").count(), 3);
        assert!(html.contains("a &lt; b") && html.contains("&lt;1&gt;: 6 rows"));
        assert!(html.contains("height=\"50.00%\"") && html.contains("height=\"100.00%\""));
        assert!(!Bars::default().to_html().to_string().contains("NaN"));
    }
}
