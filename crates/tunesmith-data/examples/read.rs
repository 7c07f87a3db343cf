//! How fast rows of a file become samples, on one core and without a tokenizer.
//!
//! ```text
//! cargo run --release -p tunesmith-data --example read -- FILE [passes]
//! ```
//!
//! The figure is bytes of the file per second of wall time, the median of the passes.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints")]

use std::time::Instant;
use tunesmith_data::{Dataset, RowKnobs};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = read(&args) {
        eprintln!("error: {error}");
        std::process::exit(65);
    }
}

fn read(args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let path = args.first().ok_or(
        "no data file\nhelp: cargo run --release -p tunesmith-data --example read -- FILE [PASSES]",
    )?;
    let passes: usize = args.get(1).map_or(Ok(5), |passes| passes.parse())?;
    let size = std::fs::metadata(path)?.len();
    let start = Instant::now();
    let dataset = Dataset::open(&[path], &RowKnobs::default())?;
    println!(
        "{} rows of shape {}, opened in {:.3} s",
        dataset.len(),
        dataset.shape().name(),
        start.elapsed().as_secs_f64()
    );
    let mut seconds = Vec::new();
    for _ in 0..passes.max(1) {
        let start = Instant::now();
        for row in 0..dataset.len() {
            std::hint::black_box(dataset.sample(row)?);
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!(
        "{:.0} MB/s ({:.3} s for {:.1} MB)",
        size as f64 / median / 1e6,
        median,
        size as f64 / 1e6
    );
    Ok(())
}
