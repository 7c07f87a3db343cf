//! Everything that is to be known of one GPU, in one run of less than 8 minutes: `cargo xtask bench gpu` builds, packs
//! and starts it.
//!
//! `gpu [--cpu-dry-run] [--seconds N]`. Every kernel against its twin in fp64, the floors (matrix products, copies),
//! attention by FlashAttention-2 beside cuDNN's, training at three shapes, decoding. Each part has a share of the time and
//! may fail without ending the others; what is most wanted comes first. A table, then one JSON object as the last line;
//! exit code 1 if anything failed.
//!
//! Without a GPU, or with `--cpu-dry-run`, the same code runs on tiny shapes on the CPU: its figures mean nothing.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "stdout and stderr are the result")]

mod attention;
mod check;
mod decode;
mod floors;
mod nodes;
mod report;
mod shapes;
mod training;

use anyhow::{Context, bail};
use report::Report;
use std::{process::ExitCode, time::Instant};
use tch::Device;
use tunesmith_kernels as kernels;

/// What every part knows.
struct Bench {
    device: Device,
    /// Tiny shapes.
    dry: bool,
    begun: Instant,
    /// All parts together.
    seconds: f64,
    report: Report,
}

impl Bench {
    /// Runs a part if at least `least` seconds are left, gives it at most `most`, and notes how it failed.
    fn part(
        &mut self,
        name: &str,
        [least, most]: [f64; 2],
        run: impl FnOnce(&mut Self, Deadline) -> anyhow::Result<()>,
    ) {
        let left = self.seconds - self.begun.elapsed().as_secs_f64();
        if left < least {
            self.report
                .fail(name, &format!("left out: {left:.0} s are left, {least:.0} s are wanted"));
            return;
        }
        eprintln!("{:>6.1} s  {name}", self.begun.elapsed().as_secs_f64());
        let deadline = Deadline { begun: Instant::now(), seconds: left.min(most) };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(self, deadline)));
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.report.fail(name, &format!("{error:#}")),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                self.report.fail(name, text);
            }
        }
        if let Device::Cuda(index) = self.device
            && let Err(error) = kernels::cuda::reset_memory(index)
        {
            self.report.fail(name, &format!("freeing memory: {error}"));
        }
    }

    /// Waits until the device has done all that it was given.
    fn wait(&self) {
        wait(self.device);
    }

    /// Seconds of one call: `n` of them in a row, three times, the median, after one that does not count.
    fn seconds_of(&self, n: u32, mut call: impl FnMut()) -> f64 {
        seconds_of(self.device, n, &mut call)
    }
}

fn wait(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// As [`Bench::seconds_of`].
fn seconds_of(device: Device, n: u32, call: &mut dyn FnMut()) -> f64 {
    call();
    let mut times: Vec<f64> = (0..3)
        .map(|_| {
            wait(device);
            let begun = Instant::now();
            (0..n).for_each(|_| call());
            wait(device);
            begun.elapsed().as_secs_f64() / f64::from(n)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[1]
}

/// The time that a part may take.
#[derive(Clone, Copy)]
struct Deadline {
    begun: Instant,
    seconds: f64,
}

impl Deadline {
    fn over(&self) -> bool {
        self.begun.elapsed().as_secs_f64() > self.seconds
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every part went well.
fn run() -> anyhow::Result<bool> {
    let (mut dry, mut seconds) = (false, 440.0);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--cpu-dry-run" => dry = true,
            "--seconds" => {
                let text = words.next().context("--seconds wants a number")?;
                seconds = text.parse().with_context(|| format!("--seconds: found `{text}`"))?;
            }
            other => bail!("unexpected argument `{other}`: expected --cpu-dry-run, --seconds N"),
        }
    }
    let device = if !dry && kernels::cuda::load()? { Device::Cuda(0) } else { Device::Cpu };
    if !device.is_cuda() {
        dry = true;
        eprintln!("a dry run on the CPU, with tiny shapes: its figures mean nothing");
    }
    kernels::use_fast_fp32_matmul()?; // on the CPU alone; products of a GPU stay as they are
    tch::manual_seed(1);
    let mut bench =
        Bench { device, dry, begun: Instant::now(), seconds, report: Report::new(device)? };
    shapes::check()?;

    bench.part("kernels", [20.0, 90.0], check::run);
    bench.part("nodes", [5.0, 40.0], nodes::run);
    bench.part("floors", [10.0, 30.0], floors::run);
    for job in &training::JOBS[..3] {
        bench
            .part(&job.name(), [15.0, 60.0], |bench, deadline| training::run(bench, job, deadline));
    }
    bench.part("decode", [10.0, 45.0], decode::run);
    bench.part("attention", [10.0, 30.0], attention::run);
    for job in &training::JOBS[3..] {
        bench
            .part(&job.name(), [15.0, 40.0], |bench, deadline| training::run(bench, job, deadline));
    }
    Ok(bench.report.print(bench.begun.elapsed().as_secs_f64()))
}
