//! The one progress line of a run, on stderr:
//! ```text
//! step 120/2000  loss 1.4312  lr 9.8e-5  41.2k tok/s  eta 12:04  3.1 GiB
//! ```
//! A terminal sees it change in place; a file or a pipe gets a plain line at the first step, at the last, and at most
//! every ten seconds between.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Stderr, Write};
use std::time::{Duration, Instant};

use crate::format;

/// What one step has to say.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Update {
    /// The optimizer step just done, counted from 1.
    pub step: u64,
    /// How many steps the run has, where that is known.
    pub n_steps: Option<u64>,
    /// How much of the run is done: step / n_steps, or the fraction of rows consumed.
    pub progress: f64,
    /// The step's loss.
    pub loss: f64,
    /// The step's learning rate.
    pub lr: f64,
    /// Tokens of this step, trained or not.
    pub n_tokens: u64,
    /// Memory in use, in bytes, where known: resident on the CPU, allocated on a GPU.
    pub memory: Option<u64>,
}

/// Plain lines come at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// A terminal is redrawn at most this often: 20 times a second.
const REDRAW_EVERY: Duration = Duration::from_millis(50);
/// Speed and ETA are means over the newest steps, this many at most.
const WINDOW: usize = 64;

/// Shows updates on `W`. Errors of writing are ignored: a closed terminal must not stop a run.
#[derive(Debug)]
pub struct Progress<W: Write = Stderr> {
    out: W,
    in_place: bool,
    /// When each of the newest steps ended, its tokens, and the progress it reached. Before the first step it holds
    /// the start, so that one step is enough for a speed.
    window: VecDeque<(Instant, u64, f64)>,
    drawn: Option<Instant>,
    /// The newest update's line, whether drawn or not.
    line: String,
    pending: bool,
}

impl Progress<Stderr> {
    /// The line on stderr, in place where that is a terminal. `progress` is where the run starts: 0, or where it
    /// resumes.
    pub fn stderr(progress: f64) -> Self {
        let out = io::stderr();
        let in_place = out.is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        Self::new(out, in_place, progress, Instant::now())
    }
}

impl<W: Write> Progress<W> {
    /// The line on `out`; `start` is when the first step begins.
    pub fn new(out: W, in_place: bool, progress: f64, start: Instant) -> Self {
        let window = VecDeque::from([(start, 0, progress)]);
        Self { out, in_place, window, drawn: None, line: String::new(), pending: false }
    }

    /// Takes in a step that ended now.
    pub fn update(&mut self, update: &Update) {
        self.update_at(update, Instant::now());
    }

    /// Takes in a step that ended at `now`.
    pub fn update_at(&mut self, update: &Update, now: Instant) {
        self.window.push_back((now, update.n_tokens, update.progress));
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        let (tokens_per_s, eta) = self.speed();
        self.line = line(update, tokens_per_s, eta);
        self.pending = true;
        let every = if self.in_place { REDRAW_EVERY } else { PLAIN_EVERY };
        if self.drawn.is_none_or(|t| now.duration_since(t) >= every) {
            self.draw();
            self.drawn = Some(now);
        }
    }

    /// Prints a line of text above the progress line: an evaluation, a checkpoint, a warning.
    pub fn note(&mut self, text: &str) {
        if self.in_place {
            let _ = write!(self.out, "\r\x1b[K{text}\n");
            self.draw();
        } else {
            let _ = writeln!(self.out, "{text}");
        }
    }

    /// Shows the last step, and leaves its line where it is. Call it when the loop ends, however it ends.
    pub fn finish(&mut self) {
        if self.pending {
            self.draw();
        }
        if self.in_place && !self.line.is_empty() {
            let _ = writeln!(self.out);
        }
        self.line.clear();
        let _ = self.out.flush();
    }

    fn draw(&mut self) {
        if self.line.is_empty() {
            return;
        }
        // ?7 switches the terminal's line wrap: a line that is too long is cut, and stays one line.
        let _ = match self.in_place {
            true => write!(self.out, "\r\x1b[K\x1b[?7l{}\x1b[?7h", self.line),
            false => writeln!(self.out, "{}", self.line),
        };
        let _ = self.out.flush();
        self.pending = false;
    }

    /// Tokens per second, and the time left where the run moves at all.
    fn speed(&self) -> (f64, Option<Duration>) {
        let (Some(first), Some(last)) = (self.window.front(), self.window.back()) else {
            return (0.0, None);
        };
        let seconds = last.0.duration_since(first.0).as_secs_f64().max(1e-9);
        let tokens: u64 = self.window.iter().skip(1).map(|&(_, n, _)| n).sum();
        let done = last.2 - first.2;
        let left = seconds * (1.0 - last.2).max(0.0) / done;
        let eta = (done > 0.0).then(|| Duration::try_from_secs_f64(left).ok()).flatten();
        (tokens as f64 / seconds, eta)
    }
}

/// The line's text.
pub fn line(update: &Update, tokens_per_s: f64, eta: Option<Duration>) -> String {
    let Update { step, n_steps, progress, loss, lr, memory, .. } = *update;
    let mut line = match n_steps {
        Some(n) => format!("step {step}/{n}"),
        None => format!("step {step} ({:.0} %)", progress * 100.0),
    };
    line += &format!("  loss {}  lr {}", format::loss(loss), format::rate(lr));
    line += &format!("  {} tok/s", format::si(tokens_per_s));
    if let Some(eta) = eta {
        line += &format!("  eta {}", format::clock(eta));
    }
    if let Some(memory) = memory {
        line += &format!("  {}", format::bytes(memory));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(step: u64) -> Update {
        Update {
            step,
            n_steps: Some(2000),
            progress: step as f64 / 2000.0,
            loss: 1.43123,
            lr: 9.8e-5,
            n_tokens: 4096,
            memory: Some(3_328_599_655),
        }
    }

    #[test]
    fn the_line() {
        let eta = Some(Duration::from_secs(724));
        assert_eq!(
            line(&update(120), 41_180.0, eta),
            "step 120/2000  loss 1.4312  lr 9.8e-5  41.2k tok/s  eta 12:04  3.1 GiB"
        );
        let bare = Update { n_steps: None, memory: None, loss: f64::NAN, ..update(740) };
        assert_eq!(
            line(&bare, 999_600.0, None),
            "step 740 (37 %)  loss NaN  lr 9.8e-5  1.00M tok/s"
        );
    }

    #[test]
    fn plain_lines_come_first_last_and_seldom_between() {
        let (mut out, start) = (Vec::new(), Instant::now());
        let mut progress = Progress::new(&mut out, false, 0.0, start);
        (1..=250).for_each(|s| {
            progress.update_at(&update(s), start + Duration::from_millis(100 * s));
            if s == 150 {
                progress.note("eval_loss 1.2");
            }
        });
        progress.finish();
        let text = String::from_utf8(out).unwrap();
        let heads: Vec<&str> = text.lines().map(|l| l.split("  loss").next().unwrap()).collect();
        assert_eq!(
            heads,
            ["step 1/2000", "step 101/2000", "eval_loss 1.2", "step 201/2000", "step 250/2000"]
        );
        assert!(
            text.contains("41.0k tok/s  eta 3:10  3.1 GiB"),
            "0.1 s and 4096 tokens a step: {text}"
        );
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_run_that_resumes_counts_only_its_own_steps() {
        let start = Instant::now();
        let mut progress = Progress::new(Vec::new(), false, 0.5, start);
        progress.update_at(&update(1001), start + Duration::from_secs(1));
        let eta = progress.speed().1.unwrap();
        assert!((eta.as_secs_f64() - 999.0).abs() < 1e-3, "{eta:?}");
        assert_eq!(progress.speed().0, 4096.0);
    }

    #[test]
    fn a_terminal_is_drawn_in_place() {
        let (mut out, start) = (Vec::new(), Instant::now());
        let mut progress = Progress::new(&mut out, true, 0.0, start);
        (1..=3).for_each(|s| progress.update_at(&update(s), start + Duration::from_millis(s)));
        progress.note("saved");
        progress.finish();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 2, "the note and the end: {text:?}");
        assert_eq!(text.matches("step ").count(), 2, "two of three came too fast, one was redrawn");
        assert!(text.contains("\r\x1b[Ksaved\n\r\x1b[K\x1b[?7lstep 3/2000"), "{text:?}");
    }
}
