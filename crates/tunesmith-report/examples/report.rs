//! Writes a report of made-up numbers with every usual section, to see the page without a run:
//!
//! ```text
//! cargo run -p tunesmith-report --example report -- report.html          a run of 2000 steps
//! cargo run -p tunesmith-report --example report -- report.html 100000   a longer one
//! cargo run -p tunesmith-report --example report -- report.html 1        the shortest
//! ```

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use tunesmith_report::html::{
    Answer, Document, Exchange, Piece, Rows, Turn, answers, curves, facts, first_batch, recipe,
    rows, timing,
};
use tunesmith_report::{Machine, Record, Report, format};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().unwrap_or_else(|| "report.html".to_owned()));
    let n_steps: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(2000);

    let records = made_up_run(n_steps);
    let first = records.first().and_then(|r| r.get("loss")).unwrap_or(f64::NAN);
    let last = records.iter().rev().find_map(|r| r.get("loss")).unwrap_or(f64::NAN);

    let mut report = Report::new("ultrachat");
    report.subtitle = "SmolLM2-135M-Instruct, all weights, on 4 812 conversations.".to_owned();
    report.date = format::utc(UNIX_EPOCH + Duration::from_secs(1_772_373_900));
    report.command = Some(format!(
        "cargo xtask finetune --dataset ultrachat --model HuggingFaceTB/SmolLM2-135M-Instruct --max-steps {n_steps} --lr 2e-5"
    ));
    report.warnings.push(
        "The Hugging Face Hub could not be reached: this run used the model and the sample that ship in data/. It \
         shows the machinery, not a useful model."
            .to_owned(),
    );
    report.figure("final loss", format::loss(last), format!("from {}", format::loss(first)));
    report.figure("tokens", format::si(n_steps as f64 * 4096.0), "38.2 % of them trained");
    report.figure("speed", "41.2k", "tokens per second");
    report.figure("time", "3 min 22 s", "2.1 s to the first step");
    report.figure("peak memory", "3.1 GiB", "resident");

    report.push(curves(&records));
    report.push(answers(&exchanges()).note(
        "The same prompts, greedy, at most 64 new tokens. None of them is in the training data.",
    ));
    report.push(first_batch(&documents()));
    report.push(rows(&Rows {
        trained: 4641,
        truncated: 160,
        truncated_tokens: 31_208,
        dropped: vec![
            ("messages is empty".to_owned(), 7),
            ("no assistant turn, nothing to train".to_owned(), 4),
        ],
    }));
    report.push(timing(&[
        ("start", Duration::from_millis(2100)),
        ("steps", Duration::from_secs_f64(178.4)),
        ("evaluation", Duration::from_secs_f64(11.9)),
        ("samples", Duration::from_secs_f64(6.3)),
        ("saving", Duration::from_secs_f64(3.2)),
    ]));
    report.push(facts("Machine and versions", &machine()));
    report.push(recipe(RECIPE));
    report.write(&path)
}

/// A loss that falls as losses do: quickly, then slowly, with noise, one bad batch and one value that is no number.
fn made_up_run(n_steps: u64) -> Vec<Record> {
    let mut noise = Noise(7);
    (1..=n_steps)
        .map(|step| {
            let t = (step - 1) as f64 / n_steps as f64;
            let loss = 1.21 + 0.55 * (-3.0 * t).exp() + 1.1 * (-60.0 * t).exp();
            let spike = if step == n_steps * 3 / 5 { 0.9 } else { 0.0 };
            let mut record = Record::new(step)
                .with("epoch", t * 2.0)
                .with("loss", loss + 0.07 * noise.next() + spike)
                .with(
                    "grad_norm",
                    0.8 + 2.5 * (-25.0 * t).exp() + 0.14 * noise.next().abs() + 3.0 * spike,
                )
                .with("learning_rate", 2e-5 * (1.0 - t) * (t * 20.0).min(1.0))
                .with("num_tokens", step * 4096)
                .with("mean_token_accuracy", 0.70 - 0.12 * (loss - 1.2) + 0.008 * noise.next())
                .with("tokens_per_second", 41_200.0 + 900.0 * noise.next());
            if step == n_steps * 3 / 4 && n_steps > 1000 {
                record.set("loss", f64::NAN);
            }
            if step.is_multiple_of((n_steps / 10).max(1)) && n_steps > 10 {
                record.set("eval_loss", loss + 0.035 + 0.004 * noise.next());
                record.set("eval_mean_token_accuracy", 0.69 - 0.12 * (loss - 1.2));
            }
            record
        })
        .collect()
}

/// About normal, reproducible.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        let mut sum = 0.0;
        for _ in 0..12 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            sum += (self.0 >> 11) as f64 / (1u64 << 53) as f64;
        }
        sum - 6.0
    }
}

fn exchanges() -> Vec<Exchange> {
    let user = |content: &str| Turn { role: "user".to_owned(), content: content.to_owned() };
    let answer =
        |text: &str, n_tokens, stopped| Answer { text: text.to_owned(), n_tokens, stopped };
    vec![
        Exchange {
            prompt: vec![user("Which season comes after winter?")],
            before: Some(answer(
                "season season the of winter, and the the of a and to the winter is in the season. The the of of \
                 and a to winter the after of season the of the",
                64,
                false,
            )),
            after: answer("Spring comes after winter.", 7, true),
        },
        Exchange {
            prompt: vec![
                Turn {
                    role: "system".into(),
                    content: "You answer in one short paragraph.".into(),
                },
                user("How can I keep basil alive on a windowsill?"),
                Turn {
                    role: "assistant".into(),
                    content: "How much sun does the window get?".into(),
                },
                user("About four hours, in the morning."),
            ],
            before: Some(answer(
                "Sure! Here are 10 tips to keep basil alive:\n\n1. Sunlight: Basil needs sunlight.\n2. Water: Basil \
                 needs water.\n3. Sunlight: Basil needs sunlight.\n4. Water: Basil needs water.\n5. Sunlight: Basil \
                 needs",
                64,
                false,
            )),
            after: answer(
                "Four hours of morning sun is enough. Water when the top of the soil is dry, let the pot drain, and \
                 pinch the tips every week so that it grows wide instead of tall.",
                38,
                true,
            ),
        },
        Exchange {
            prompt: vec![user("Write <b>hello</b> in HTML & close the script: </script>")],
            before: None,
            after: answer("", 1, true),
        },
    ]
}

fn documents() -> Vec<Document> {
    let turns = [
        ("user", "What is the difference between a violin and a viola?"),
        (
            "assistant",
            "A viola is a little larger than a violin and sounds a fifth lower. Its music is mostly written in the \
             alto clef, and its tone is darker.\n\nBoth have four strings and are played with a bow.",
        ),
        ("user", "Which one is easier to begin with?"),
        (
            "assistant",
            "Most people begin with the violin: there are more teachers, more music for beginners, and it comes in \
             small sizes for children.",
        ),
    ];
    let mut id = 300;
    let mut document = |row: u64, turns: &[(&str, &str)]| {
        let mut pieces = Vec::new();
        let mut push = |text: &str, trained: bool| {
            id = (id * 31 + text.len() as u32) % 49_152;
            pieces.push(Piece { text: text.to_owned(), trained, id });
        };
        for (role, content) in turns {
            let trained = *role == "assistant";
            ["<|im_start|>", role, "\n"].iter().for_each(|t| push(t, false));
            content.split_inclusive(['\n']).for_each(|line| {
                let mut start = 0;
                for (i, c) in line.char_indices() {
                    if i > start && (c == ' ' || c == '\n' || c == '.') {
                        push(&line[start..i], trained);
                        start = i;
                    }
                }
                push(&line[start..], trained);
            });
            push("<|im_end|>", trained);
            push("\n", false);
        }
        Document { row, pieces }
    };
    vec![document(3107, &turns), document(12, &turns[2..]), document(904, &turns[..2])]
}

fn machine() -> Vec<(&'static str, String)> {
    let machine = Machine::read();
    let or_unknown = |fact: Option<String>| fact.unwrap_or_else(|| "unknown".to_owned());
    vec![
        ("host", "workbench".to_owned()),
        ("processor", or_unknown(machine.cpu)),
        ("threads", machine.n_threads.to_string()),
        ("memory", or_unknown(machine.memory.map(format::bytes))),
        ("system", or_unknown(machine.os)),
        ("kernel", or_unknown(machine.kernel)),
        ("tunesmith", env!("CARGO_PKG_VERSION").to_owned()),
        ("libtorch", "2.11.0 (CPU)".to_owned()),
        ("dtype", "fp32".to_owned()),
        ("seed", "0".to_owned()),
    ]
}

const RECIPE: &str = r#"# Written by the run: every value with where it came from.
name = "ultrachat"            # dataset
objective = "sft"             # default

[model]
id = "HuggingFaceTB/SmolLM2-135M-Instruct" # flag
dtype = "fp32"                # default

[data]
dataset = "configs/datasets/ultrachat.toml" # flag
seq_len = 512                 # recipe
packing = "best-fit"          # default

[optimizer]
lr = 2e-5                     # flag
weight_decay = 0.0            # default
clip = 1.0                    # default
schedule = "linear"           # default
"#;
