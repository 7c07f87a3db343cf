//! The whole data path at full speed: rows → template → tokens → masks → packs, and what came of it. Needs no libtorch.
//!
//! ```text
//! cargo run --release -p tunesmith-data --example data_path -- FILE MODEL [tokens of a pack] [threads] [seeks]
//! ```
//!
//! The last line is one JSON object. `hashes` are of the ids and marks of each row, so that another program's tokens can
//! be compared with ours; they are made after the time is taken. With a number of seeks it goes to as many places of the
//! stream instead, spread over it, and says how long the slowest took until its first batch was there.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tunesmith_data::tokens::{
    BatchSource, Cursor, EncodeKnobs, Encoder, Example, Template, Tokenizer,
};
use tunesmith_data::{Dataset, RowKnobs, Stream, StreamKnobs};

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = measure(&args) {
        eprintln!("error: {error}");
        std::process::exit(65);
    }
}

fn measure(args: &[String]) -> Result<(), Failed> {
    let [file, model, numbers @ ..] = args else {
        return Err("no data and model\nhelp: data_path FILE MODEL [SEQ_LEN] [THREADS]".into());
    };
    let number = |index: usize, default: u64| -> Result<u64, Failed> {
        Ok(numbers.get(index).map_or(Ok(default), |text| text.parse())?)
    };
    let (seq_len, threads, seeks) = (number(0, 2048)? as usize, number(1, 0)?, number(2, 0)?);
    let tokenizer = Arc::new(Tokenizer::from_dir(model)?);
    let template = Template::from_dir(Path::new(model))?;
    let knobs = EncodeKnobs { max_len: Some(seq_len), ..EncodeKnobs::default() };
    let encoder = Arc::new(Encoder::new(tokenizer, template, knobs));

    let (began, cpu_before) = (Instant::now(), cpu_seconds());
    let dataset = Arc::new(Dataset::open(&[file], &RowKnobs::default())?);
    let open_seconds = began.elapsed().as_secs_f64();
    let threads = (threads > 0).then_some(threads as usize);
    let stream_knobs = StreamKnobs { threads, ..StreamKnobs::new(seq_len, 1) };
    let mut stream = Stream::new(dataset.clone(), encoder.clone(), stream_knobs)?;
    if seeks > 0 {
        let seconds = seek(&mut stream, dataset.len(), seeks)?;
        let peak = peak_memory();
        let said = serde_json::json!({"open_seconds": open_seconds, "seek_seconds": seconds, "peak_memory": peak});
        println!("{said}");
        return Ok(());
    }
    let mut packs = 0_u64;
    while stream.next()?.is_some() {
        packs += 1;
    }
    let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);

    let (ledger, peak_memory) = (stream.ledger(), peak_memory());
    let examples = dataset.examples(&encoder, 0..dataset.len());
    let hashes = examples.map(|example| example.map(|example| hash(&example)));
    let hashes: Vec<String> = hashes.collect::<Result<_, _>>()?;
    println!(
        "{}",
        serde_json::json!({
            "seconds": seconds,
            "open_seconds": open_seconds,
            "peak_memory": peak_memory,
            "cpu_seconds": cpu_seconds,
            "bytes": std::fs::metadata(file)?.len(),
            "rows": ledger.trained + ledger.truncated,
            "tokens": ledger.tokens,
            "trained": ledger.trained_tokens,
            "packs": packs,
            "hashes": hashes,
        })
    );
    Ok(())
}

/// The time of the slowest of `seeks` jumps, each to the middle of a window: from the cursor to the first batch.
fn seek(stream: &mut Stream, rows: u64, seeks: u64) -> Result<f64, Failed> {
    let windows = rows.div_ceil(1024);
    let mut slowest = 0.0_f64;
    for place in 0..seeks {
        // far from the place before, so that nothing is at hand
        let window = (place * 7919 + 1) * windows / seeks % windows;
        let began = Instant::now();
        stream.seek(Cursor { epoch: 0, window, pack: 100.min(rows / 4) })?;
        stream.next()?.ok_or("no batch")?;
        slowest = slowest.max(began.elapsed().as_secs_f64());
    }
    Ok(slowest)
}

/// The most memory that this process has held so far, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

/// What all threads have computed so far: on a machine that others use, this is steadier than the time that passes.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // utime and stime, in hundredths of a second
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// 64-bit FNV-1a over `2 · id + trained`.
fn hash(examples: &[Example]) -> String {
    let words = examples.iter().flat_map(|example| example.ids.iter().zip(&example.trained));
    let hash = words.fold(0xcbf2_9ce4_8422_2325_u64, |hash, (&id, &trained)| {
        (hash ^ (2 * u64::from(id) + u64::from(trained))).wrapping_mul(0x100_0000_01b3)
    });
    format!("{hash:016x}")
}
