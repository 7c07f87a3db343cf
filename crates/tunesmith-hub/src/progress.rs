//! One line per download on stderr; nothing where stderr is no terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The lines of all downloads under way. indicatif itself stays silent where stderr is no terminal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bars(MultiProgress);

impl Bars {
    /// A line for one file.
    pub(crate) fn add(&self, file: &str, size: u64, received: u64) -> Bar {
        let short: String = match file.chars().count() {
            n if n > 40 => std::iter::once('…').chain(file.chars().skip(n - 39)).collect(),
            _ => file.to_string(),
        };
        let template =
            "{msg:40!} {bar:24} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {eta:>4}";
        // The template is a constant; a plain bar stands in should indicatif ever reject it.
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.0.add(ProgressBar::new(size).with_style(style).with_message(short));
        bar.set_position(received);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(500));
        Bar(bar)
    }
}

/// One line; it goes away with the download, however that ends.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// Shows how much has come.
    pub(crate) fn at(&self, received: u64) {
        self.0.set_position(received);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
