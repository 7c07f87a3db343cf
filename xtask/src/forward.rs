//! Every command of the binary, reachable as `cargo xtask <command>`: set up, build, become the binary.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::build;
use crate::command::Cmd;

/// What xtask itself reads from a forwarded command line; the rest goes to the binary untouched.
#[derive(Debug, Default, PartialEq)]
struct Request {
    dry_run: bool,
    cuda: bool,
    arguments: Vec<OsString>,
}

impl Request {
    /// Takes out `--dry-run` and `--cuda`, up to a `--`; `--device cuda` stays and asks for the CUDA side, too.
    fn parse(arguments: Vec<OsString>) -> Self {
        let mut request = Request::default();
        let mut ended = false;
        for argument in arguments {
            let after_device = request.arguments.last().is_some_and(|last| last == "--device");
            match argument.to_str() {
                Some("--") => ended = true,
                Some("--dry-run") if !ended => {
                    request.dry_run = true;
                    continue;
                }
                Some("--cuda") if !ended => {
                    request.cuda = true;
                    continue;
                }
                Some("--device=cuda") if !ended => request.cuda = true,
                Some("cuda") if !ended && after_device => request.cuda = true,
                _ => {}
            }
            request.arguments.push(argument);
        }
        request
    }
}

/// Builds the binary and replaces this process by it: signals and the exit code are the binary's own.
///
/// # Errors
/// Setup or build failed, or the binary does not start.
pub(crate) fn forward(arguments: Vec<OsString>) -> Result<()> {
    let request = Request::parse(arguments);
    let binary = build::build(request.cuda, request.dry_run)?;
    let command = Cmd::new(&binary).args(request.arguments);
    if request.dry_run {
        println!("{}", command.display());
        return Ok(());
    }
    Err(command.to_std().exec()).with_context(|| format!("cannot start {}", binary.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_flags_of_xtask_are_taken_out() {
        for (line, dry_run, cuda, rest) in [
            ("finetune --dataset x", false, false, "finetune --dataset x"),
            ("finetune --dry-run --lr 1", true, false, "finetune --lr 1"),
            ("finetune --cuda", false, true, "finetune"),
            ("finetune --device cuda", false, true, "finetune --device cuda"),
            ("finetune --device=cuda", false, true, "finetune --device=cuda"),
            ("generate --prompt cuda", false, false, "generate --prompt cuda"),
            ("generate -- --dry-run --cuda", false, false, "generate -- --dry-run --cuda"),
        ] {
            let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
            let expected = Request { dry_run, cuda, arguments: words(rest) };
            assert_eq!(Request::parse(words(line)), expected, "{line}");
        }
    }
}
