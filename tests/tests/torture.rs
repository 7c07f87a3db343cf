//! Runs that are killed, stopped and started at random moments end as if nothing had happened.
//!
//! The numbers of moments come from the environment: `cargo xtask torture` asks for a thousand, a plain test run for the
//! sixty that fit into half a minute. `TUNESMITH_SEED` repeats a sequence of moments.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::Read,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};
use tunesmith_tests::*;

/// What is trained, and the steps that make about a second of it.
struct Task {
    name: &'static str,
    flags: &'static str,
    steps: u64,
}

const SFT: Task = Task { name: "sft", flags: "--dataset chats.toml", steps: 100 };
const LORA: Task = Task {
    name: "lora",
    flags: "--dataset chats.toml --set adapter.method=lora --set adapter.r=4 --set adapter.dropout=0.1",
    steps: 60,
};
/// All weights, against a frozen copy.
const DPO: Task =
    Task { name: "dpo", flags: "--dataset pairs.toml --set objective.kind=preference", steps: 60 };
/// The moments are divided among these.
const N_TASKS: usize = 3;
/// What never comes: longer than any load of the machine, or a pause of all of this, makes a phase.
const NEVER: Duration = Duration::from_secs(900);

/// A count from the environment.
fn count(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Moments of chance (SplitMix64).
struct Chance(u64);

impl Chance {
    #[expect(clippy::print_stderr, reason = "a sequence of moments that fails can be repeated")]
    fn new(what: &str) -> Self {
        let clock = || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.map_or(1, |now| now.as_nanos() as usize)
        };
        let seed = match count("TUNESMITH_SEED", 0) {
            0 => clock() % 1_000_000_007,
            seed => seed,
        };
        eprintln!("{what}: TUNESMITH_SEED={seed}");
        Self(seed as u64)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n
    }

    fn moment(&mut self, at_most: Duration) -> Duration {
        Duration::from_micros(self.below(at_most.as_micros() as u64 + 1))
    }
}

/// A small model with a tokenizer, conversations and preferences, and rows held out: every phase of a run occurs.
fn place() -> Place {
    let place = Place::new();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"] {
        place.write(&format!("mini/{name}"), place.bytes(&format!("tiny/{name}")));
    }
    let mut config = place.json("mini/config.json");
    for (key, value) in [
        ("hidden_size", 16),
        ("intermediate_size", 16),
        ("num_hidden_layers", 1),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("head_dim", 8),
    ] {
        config[key] = value.into();
    }
    place.write("mini/config.json", config.to_string());
    let row = |i: u64, pair: bool| {
        let said =
            |role: &str, content: String| serde_json::json!([{"role": role, "content": content}]);
        let question = said("user", format!("What is {i} plus {i}?"));
        let answer = said("assistant", format!("It is {}. ", 2 * i).repeat(1 + i as usize % 4));
        match pair {
            true => {
                serde_json::json!({"prompt": question, "chosen": answer, "rejected": said("assistant", "No. ".repeat(1 + i as usize % 3))})
            }
            false => serde_json::json!({"messages": [question[0], answer[0]]}),
        }
    };
    for (name, pair) in [("chats", false), ("pairs", true)] {
        let rows = |range: std::ops::Range<u64>| {
            range.map(|i| row(i, pair).to_string() + "\n").collect::<String>()
        };
        place.write(&format!("{name}.jsonl"), rows(0..40));
        place.write(&format!("{name}-held.jsonl"), rows(40..48));
        place.write(
            &format!("{name}.toml"),
            format!(
                "split = \"train\"\neval_split = \"held\"\n[splits]\ntrain = \"{name}.jsonl\"\nheld = \"{name}-held.jsonl\"\n"
            ),
        );
    }
    // Adapters and references need a model with weights.
    place.ok("finetune --model mini --from-scratch --dataset chats.toml --seq-len 64 --max-steps 2 --save-every 0 --set samples.count=0 --out begun");
    place
}

/// The command of a task.
fn line(task: &Task, save_every: u64, out: &str) -> String {
    format!(
        "finetune --model begun/final {} --seq-len 64 --batch 1 --accumulate 3 --lr 1e-3 --max-steps {} \
         --save-every {save_every} --eval-every 7 --set samples.count=2 --set samples.max_new_tokens=16 --out {out}",
        task.flags, task.steps
    )
}

fn start(place: &Place, line: &str) -> Child {
    let mut command: Command = place.command(line);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("tunesmith starts")
}

/// Starts it with its signals held back from the first instruction on, as job scripts do; where this system's `env`
/// cannot, they are held back from `main` on.
fn start_held(place: &Place, line: &str) -> Child {
    let hold = "--block-signal=TERM,INT,USR1,USR2";
    let can = Command::new("env").args([hold, "true"]).stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        return start(place, line);
    }
    let plain = place.command(line);
    let mut held = Command::new("env");
    held.arg(hold).arg(plain.get_program()).args(plain.get_args());
    held.current_dir(place.path(""));
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => held.env(name, value),
            None => held.env_remove(name),
        };
    }
    held.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    held.spawn().expect("env starts")
}

/// Waits until a process holds its signals back or catches them; before that, a signal meets no program of ours.
fn wait_until_held(child: &mut Child) {
    let status = format!("/proc/{}/status", child.id());
    let held = |text: &str| {
        let masks = text.lines().filter_map(|line| {
            let mask = line.strip_prefix("SigBlk:").or_else(|| line.strip_prefix("SigCgt:"));
            u64::from_str_radix(mask?.trim(), 16).ok()
        });
        masks.fold(0, |all, mask| all | mask) >> (Signal::TERM.as_raw() - 1) & 1 == 1
    };
    let began = Instant::now();
    while !fs::read_to_string(&status).is_ok_and(|text| held(&text)) {
        assert!(began.elapsed() < NEVER, "no signal is held");
        if child.try_wait().expect("a child").is_some() {
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Waits until a process has begun to save, or has ended.
fn wait_for_a_save(place: &Place, run: &str, child: &mut Child) {
    let (before, began) = (saved(place, run), Instant::now());
    let mut stale = in_a_write(place, run); // left by a process before it, until this one sweeps
    while child.try_wait().expect("a child").is_none() {
        let writing = in_a_write(place, run);
        stale &= writing;
        if (writing && !stale) || saved(place, run) != before {
            return;
        }
        assert!(began.elapsed() < NEVER, "no save");
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// How a process ended, and what it said.
fn end(mut child: Child) -> (Option<i32>, String) {
    let mut text = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut text).expect("UTF-8");
    (child.wait().expect("a child").code(), text)
}

/// Everything but clocks: metrics, rows, ledger, the final model, and the newest checkpoint with the optimizer's state.
fn assert_same(place: &Place, whole: &str, run: &str) {
    let metrics = [whole, run].map(|run| place.untimed(run));
    let differing = metrics[0].iter().zip(&metrics[1]).position(|(a, b)| a != b);
    let at = differing.map(|i| (&metrics[0][i], &metrics[1][i]));
    assert!(
        metrics[0] == metrics[1],
        "metrics of {run}, {:?} records: {at:?}",
        metrics.each_ref().map(Vec::len)
    );
    let checkpoints = [whole, run].map(|run| place.names(&format!("{run}/checkpoints")));
    // The ones before it may differ: a signal saves where it comes.
    let [newest, of_run] = checkpoints.each_ref().map(|names| names.last().expect("a checkpoint"));
    assert_eq!(newest, of_run);
    let newest = format!("checkpoints/{newest}");
    let mut files = vec!["rows.jsonl".to_owned(), "ledger.json".to_owned()];
    for folder in [newest.as_str(), "final"] {
        files.extend(
            place.names(&format!("{whole}/{folder}")).iter().map(|n| format!("{folder}/{n}")),
        );
    }
    for file in files {
        let bytes = |run: &str| place.bytes(&format!("{run}/{file}"));
        assert!(bytes(whole) == bytes(run), "{file} of {run} differs from that of {whole}");
    }
}

/// The steps of the checkpoints of a run.
fn saved(place: &Place, run: &str) -> Vec<u64> {
    let folder = format!("{run}/checkpoints");
    if !place.path(&folder).exists() {
        return Vec::new();
    }
    let names = place.names(&folder);
    names.iter().filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect()
}

/// Whether a killed process was about to write, move or remove a checkpoint.
fn in_a_write(place: &Place, run: &str) -> bool {
    let folder = format!("{run}/checkpoints");
    let unfinished = |name: &String| name.contains(".tmp-") || name.starts_with(".trash-");
    place.path(&folder).exists() && place.names(&folder).iter().any(unfinished)
}

#[test]
fn sft_killed_anywhere_any_number_of_times() {
    killed(&SFT);
}

#[test]
fn lora_killed_anywhere_any_number_of_times() {
    killed(&LORA);
}

#[test]
fn dpo_killed_anywhere_any_number_of_times() {
    killed(&DPO);
}

#[expect(
    clippy::print_stderr,
    reason = "the share of kills inside a write is a figure to be shown"
)]
fn killed(task: &Task) {
    let n_kills = count("TUNESMITH_KILLS", 60).div_ceil(N_TASKS);
    let (place, mut chance) = (place(), Chance::new(&format!("kills, {}", task.name)));
    place.ok(&line(task, 1, "whole"));
    let (mut kills, mut in_writes, mut round) = (0, 0, 0);
    while kills < n_kills {
        round += 1;
        let run = format!("killed-{round}");
        let train = format!("{} --resume", line(task, 1, &run));
        loop {
            let mut child = start(&place, &train);
            // One in five dies while it is loaded or loads, the others while they train and save.
            if chance.below(5) > 0 {
                wait_for_a_save(&place, &run, &mut child);
                std::thread::sleep(chance.moment(Duration::from_millis(60)));
            } else {
                std::thread::sleep(chance.moment(Duration::from_millis(400)));
            }
            child.kill().expect("a child");
            let (code, said) = end(child);
            match code {
                None => {
                    kills += 1;
                    in_writes += usize::from(in_a_write(&place, &run));
                }
                Some(0) => break,
                Some(code) => panic!("{train} ended with {code}: {said}"),
            }
            if kills >= n_kills {
                place.ok(&train);
                break;
            }
        }
        assert_same(&place, "whole", &run);
        let left = [place.names(&run), place.names(&format!("{run}/checkpoints"))].concat();
        assert!(
            !left.iter().any(|name| name.contains("tmp") || name.contains("trash")),
            "{left:?}"
        );
        fs::remove_dir_all(place.path(&run)).expect("a run");
    }
    eprintln!("{}: {kills} kills in {round} runs, {in_writes} of them inside a write", task.name);
    // Half of many; of a few, chance may leave less.
    let least = if kills < 100 { kills / 10 } else { kills * 3 / 10 };
    assert!(in_writes >= least, "only {in_writes} of {kills} inside a write");
}

#[test]
fn sft_stopped_anywhere_by_any_signal() {
    stopped(&SFT);
}

#[test]
fn lora_stopped_anywhere_by_any_signal() {
    stopped(&LORA);
}

#[test]
fn dpo_stopped_anywhere_by_any_signal() {
    stopped(&DPO);
}

#[expect(
    clippy::print_stderr,
    reason = "the number of signals before main is a figure to be shown"
)]
fn stopped(task: &Task) {
    let n_signals = count("TUNESMITH_SIGNALS", 60).div_ceil(N_TASKS);
    let signals = [Signal::TERM, Signal::INT, Signal::USR1, Signal::USR2];
    let (place, mut chance) = (place(), Chance::new(&format!("signals, {}", task.name)));
    place.ok(&line(task, 20, "whole"));
    let (mut n, mut n_before_main, mut round) = (0, 0, 0);
    while n < n_signals {
        round += 1;
        let run = format!("stopped-{round}");
        let train = format!("{} --resume", line(task, 20, &run));
        loop {
            let whence = chance.below(8);
            let mut child = match whence {
                0..4 => start_held(&place, &train),
                _ => start(&place, &train),
            };
            let before = place.path(&run).exists().then(|| saved(&place, &run));
            // One in eight comes at once, perhaps before `main`; half of them while it loads.
            if whence < 7 {
                wait_until_held(&mut child);
            }
            let at_most = if whence % 2 == 0 { 400 } else { 1500 };
            std::thread::sleep(chance.moment(Duration::from_millis(at_most)));
            let signal = signals[chance.below(4) as usize];
            let sent = kill_process(Pid::from_child(&child), signal).is_ok();
            let twice = sent && chance.below(6) == 0;
            if twice {
                std::thread::sleep(chance.moment(Duration::from_millis(5)));
                let _ = kill_process(Pid::from_child(&child), signal); // it may have left already
            }
            let (code, said) = end(child);
            if code == Some(0) {
                break; // it was through before the signal came
            }
            if code.is_none() && whence == 7 {
                // The system ended it while it loaded libtorch. Nothing had begun.
                n_before_main += 1;
                let now = place.path(&run).exists().then(|| saved(&place, &run));
                assert!(now == before && said.is_empty(), "{now:?}, {before:?}: {said}");
                continue;
            }
            assert_eq!(code, Some(75), "{signal:?}, twice: {twice}: {said}");
            n += 1;
            let saved = saved(&place, &run);
            if !twice {
                assert!(!saved.is_empty(), "no checkpoint: {said}");
            }
            if said.contains("stopped after step") {
                // Not one step that was made and logged is lost.
                let log = fs::read_to_string(place.path(&format!("{run}/rows.jsonl")));
                let made = log.unwrap_or_default().lines().count() as u64;
                assert_eq!(saved.last(), Some(&made), "{said}");
            }
            if n >= n_signals {
                place.ok(&train);
                break;
            }
        }
        assert_same(&place, "whole", &run);
        fs::remove_dir_all(place.path(&run)).expect("a run");
    }
    eprintln!(
        "{}: {n} signals in {round} runs ended in a checkpoint and 75; {n_before_main} more came before main",
        task.name
    );
}

#[test]
fn of_eight_that_start_at_once_one_owns_the_run() {
    let place = place();
    for round in 0..count("TUNESMITH_OWNERS", 3) {
        let run = format!("owned-{round}");
        let mut children: Vec<Child> = (0..8)
            .map(|_| start(&place, &line(&Task { steps: 1_000_000, ..SFT }, 0, &run)))
            .collect();
        let began = Instant::now();
        let mut refused = Vec::new();
        while refused.len() < 7 {
            assert!(began.elapsed() < NEVER, "{} of 7 were refused", refused.len());
            if let Some(i) =
                children.iter_mut().position(|c| c.try_wait().expect("a child").is_some())
            {
                refused.push(end(children.swap_remove(i)));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let owner = children.pop().expect("one is left");
        for (code, said) in refused {
            assert_eq!(code, Some(73), "{said}");
            for words in [format!("pid {}, since ", owner.id()), "host ".to_owned()] {
                assert!(said.contains(&words), "{words:?} is missing in: {said}");
            }
        }
        kill_process(Pid::from_child(&owner), Signal::TERM).expect("it runs");
        assert_eq!(end(owner).0, Some(75));
    }
}
