//! Reads a recipe, builds the parts, runs a command. stdout is data, stderr is log.

mod adapters;
mod checks;
mod cli;
mod commands;
mod consumed;
mod derived;
mod exit;
mod gguf;
mod grow;
mod identity;
mod job;
mod load;
mod locate;
mod memory;
mod objective;
mod owner;
mod preflight;
mod prepare;
mod recipe;
mod reference;
mod replay;
mod report;
mod run_dir;
mod run_log;
mod samples;
mod saves;
mod signals;
mod threads;
mod tokens;

use clap::Parser;
use cli::{Cli, Command, DataCommand};
use std::{
    io::IsTerminal,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    signals::hold();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // a closed terminal has nobody to tell
            return if error.use_stderr() { exit::Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    if !matches!(cli.command, Command::Finetune(_)) {
        signals::release(); // nobody else catches them
    }
    log_to_stderr(cli.verbose);
    threads::settle();
    // Plain tensor operations panic where memory ends; whatever it was, the exit code says that it was not the input.
    let result = catch_unwind(AssertUnwindSafe(|| run(cli.command))).unwrap_or_else(|_| {
        let text = "tunesmith broke off (see above)\nhelp: less memory: a smaller --batch or --seq-len; else please report it";
        Err(exit::Failure(exit::Exit::Internal, text.into()).into())
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            // A reader that went away (`| head`) is no failure of ours.
            let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
                cause
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
            };
            if error.chain().any(broken_pipe) {
                return ExitCode::SUCCESS;
            }
            say_error(&error);
            exit::code_of(&error).into()
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Finetune(args) => commands::finetune::run(&args),
        Command::Check(args) => commands::check::run(&args.finetune, args.deep),
        Command::Replay(args) => replay::run(&args),
        Command::Data(DataCommand::Show(args)) => commands::data::show(&args),
        Command::Data(DataCommand::Check(args)) => commands::data::check(&args),
        Command::Data(DataCommand::Stats(args)) => commands::data::stats(&args),
        Command::Data(DataCommand::Clean(args)) => commands::data::clean(&args),
        Command::Data(DataCommand::Prepare(args)) => commands::data::prepare(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Merge(args) => commands::merge::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Chat(args) => commands::chat::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Doctor => commands::doctor::run(),
    }
}

#[expect(clippy::print_stderr, reason = "the one place where a failed command says why")]
fn say_error(error: &anyhow::Error) {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Many a message tells its cause already.
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{colon}{cause}");
        }
    }
    // a list of errors names the code of each
    if text.starts_with("error[") {
        eprintln!("{text}");
    } else {
        eprintln!("error: {text}");
    }
}

fn log_to_stderr(verbose: u8) {
    let default = ["tunesmith=info,hf_hub=off,warn", "tunesmith=debug,info", "trace"]
        [usize::from(verbose.min(2))];
    let filter =
        EnvFilter::try_from_env("TUNESMITH_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}
