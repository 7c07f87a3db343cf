//! Sets up libtorch, builds, forwards to the binary, tests: `cargo xtask <task>`.
//!
//! One file per task. Nothing here depends on tch, so this program compiles in seconds on any machine.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task talks to the person at the terminal"
)]

mod bench;
mod build;
mod command;
mod doctor;
mod fetch;
mod forward;
mod layering;
mod setup;
mod submit;
mod test;
mod torture;
mod wheels;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};

/// Bad command line, as in sysexits.
const EX_USAGE: u8 = 64;

/// What xtask does itself.
const TASKS: [(&str, &str); 8] = [
    (
        "setup [--cuda]",
        "fetch libtorch once; --cuda, or an NVIDIA driver here, brings the CUDA side",
    ),
    ("build [--cuda]", "setup, then target/release/tunesmith, which runs directly"),
    (
        "test [--quick] [--keep-going]",
        "everything, cheapest first; --quick: what needs no libtorch",
    ),
    (
        "bench <what> [--rounds N]",
        "data, train or generate beside the usual Python stack, by turns; gpu: a GPU; the last line is JSON",
    ),
    (
        "torture [--kills N] …",
        "runs killed, stopped and started at random moments: a thousand times each",
    ),
    ("submit … -- <flags>", "finetune as a Slurm job: the same binary, the same resolved recipe"),
    ("layering", "which crate may depend on which; `test` includes it"),
    ("doctor", "what this machine has of what tunesmith needs"),
];

/// What the binary does: each is set up, built and run with the same arguments.
const FORWARDED: [(&str, &str); 10] = [
    ("finetune", "train a model on a data set"),
    ("check", "everything up to the first batch, before any weight is touched"),
    ("data", "rows as text and tokens, checks, statistics, prepared tokens"),
    ("score", "log-probabilities and perplexity of a text"),
    ("generate", "text from a prompt"),
    ("chat", "talk to a model"),
    ("merge", "a model and its adapter as one model"),
    ("export", "a model as one GGUF file"),
    ("replay", "a step that was not finite, once more"),
    ("help", "the binary's own help"),
];

fn usage() -> String {
    let table = |rows: &[(&str, &str)]| {
        rows.iter().map(|(name, what)| format!("  {name:<30} {what}\n")).collect::<String>()
    };
    format!(
        "usage: cargo xtask <task> [arguments]\n\n\
         tasks:\n{}\n\
         commands of tunesmith (set up and built if needed, then run with the same arguments):\n{}\n\
         --dry-run prints the exact commands instead of running them.\n\
         LIBTORCH, where set, is used instead of fetching one.\n",
        table(&TASKS),
        table(&FORWARDED)
    )
}

fn names() -> impl Iterator<Item = &'static str> {
    TASKS.iter().chain(&FORWARDED).filter_map(|(name, _)| name.split(' ').next())
}

/// The message for a task that does not exist.
fn unknown(task: &str) -> String {
    let nearest = names().map(|name| (strsim::damerau_levenshtein(name, task), name)).min();
    let guess = nearest
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, name)| format!("did you mean `{name}`? "));
    format!(
        "no task is named `{task}`: expected one of {}\nhelp: {}`cargo xtask --help` says what each does",
        names().collect::<Vec<_>>().join(", "),
        guess.unwrap_or_default()
    )
}

/// The flags of xtask's own tasks, each either given or not.
struct Flags(Vec<String>);

impl Flags {
    fn parse(arguments: &[OsString], known: &[&str]) -> Result<Self> {
        let words: Vec<String> =
            arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        match words.iter().find(|word| !known.contains(&word.as_str())) {
            Some(word) if known.is_empty() => bail!("unexpected argument `{word}`: expected none"),
            Some(word) => bail!("unexpected argument `{word}`: expected {}", known.join(", ")),
            None => Ok(Flags(words)),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }
}

fn run(task: &str, mut arguments: Vec<OsString>) -> Result<()> {
    match task {
        "setup" => {
            let flags = Flags::parse(&arguments, &["--cuda", "--dry-run"])?;
            setup::run(flags.has("--cuda"), flags.has("--dry-run"))
        }
        "build" => {
            let flags = Flags::parse(&arguments, &["--cuda", "--dry-run"])?;
            build::build(flags.has("--cuda"), flags.has("--dry-run")).map(|_| ())
        }
        "test" => {
            let flags = Flags::parse(&arguments, &["--quick", "--keep-going", "--dry-run"])?;
            test::run(flags.has("--quick"), flags.has("--keep-going"), flags.has("--dry-run"))
        }
        "bench" => bench::run(&arguments),
        "torture" => torture::run(&arguments),
        "submit" => submit::run(&arguments),
        "layering" => Flags::parse(&arguments, &[]).and_then(|_| layering::run()),
        "doctor" => {
            arguments.insert(0, task.into());
            doctor::doctor(arguments)
        }
        _ => {
            arguments.insert(0, task.into());
            forward::forward(arguments)
        }
    }
}

/// An error with its causes on one line, and after them what helps.
fn message(error: &anyhow::Error) -> String {
    let (mut what, mut help) = (Vec::new(), String::new());
    for cause in error.chain() {
        let text = cause.to_string();
        let (head, tail) = text.split_at(text.find("\nhelp: ").unwrap_or(text.len()));
        what.push(head.to_owned());
        help.push_str(tail);
    }
    what.join(": ") + &help
}

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.is_empty() || arguments[0] == "--help" || arguments[0] == "-h" {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let task = arguments.remove(0).to_string_lossy().into_owned();
    if !names().any(|name| name == task) {
        eprintln!("error: {}", unknown(&task));
        return ExitCode::from(EX_USAGE);
    }
    match run(&task, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn help() {
        expect![[r#"
            usage: cargo xtask <task> [arguments]

            tasks:
              setup [--cuda]                 fetch libtorch once; --cuda, or an NVIDIA driver here, brings the CUDA side
              build [--cuda]                 setup, then target/release/tunesmith, which runs directly
              test [--quick] [--keep-going]  everything, cheapest first; --quick: what needs no libtorch
              bench <what> [--rounds N]      data, train or generate beside the usual Python stack, by turns; gpu: a GPU; the last line is JSON
              torture [--kills N] …          runs killed, stopped and started at random moments: a thousand times each
              submit … -- <flags>            finetune as a Slurm job: the same binary, the same resolved recipe
              layering                       which crate may depend on which; `test` includes it
              doctor                         what this machine has of what tunesmith needs

            commands of tunesmith (set up and built if needed, then run with the same arguments):
              finetune                       train a model on a data set
              check                          everything up to the first batch, before any weight is touched
              data                           rows as text and tokens, checks, statistics, prepared tokens
              score                          log-probabilities and perplexity of a text
              generate                       text from a prompt
              chat                           talk to a model
              merge                          a model and its adapter as one model
              export                         a model as one GGUF file
              replay                         a step that was not finite, once more
              help                           the binary's own help

            --dry-run prints the exact commands instead of running them.
            LIBTORCH, where set, is used instead of fetching one.
        "#]].assert_eq(&usage());
    }

    #[test]
    fn an_unknown_task_names_the_nearest() {
        expect![[r#"
            no task is named `finetun`: expected one of setup, build, test, bench, torture, submit, layering, doctor, finetune, check, data, score, generate, chat, merge, export, replay, help
            help: did you mean `finetune`? `cargo xtask --help` says what each does"#]].assert_eq(&unknown("finetun"));
        assert!(!unknown("xyzzyxyzzy").contains("did you mean"));
    }

    #[test]
    fn help_lines_end_a_message() {
        let error = anyhow::anyhow!("no room").context("cannot write to x\nhelp: choose y");
        assert_eq!(message(&error), "cannot write to x: no room\nhelp: choose y");
    }

    #[test]
    fn flags_are_the_known_ones() {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        assert!(Flags::parse(&words("--cuda"), &["--cuda"]).unwrap().has("--cuda"));
        let message =
            Flags::parse(&words("--cude"), &["--cuda", "--dry-run"]).err().unwrap().to_string();
        assert_eq!(message, "unexpected argument `--cude`: expected --cuda, --dry-run");
    }
}
