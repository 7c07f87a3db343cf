//! One external command: shown, then run; or only shown.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// A program with its arguments and the environment it needs.
#[derive(Clone, Debug)]
pub(crate) struct Cmd {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
}

impl Cmd {
    /// A program without arguments.
    pub(crate) fn new(program: impl Into<OsString>) -> Self {
        Cmd { program: program.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// The cargo that runs this xtask, at work on this workspace.
    pub(crate) fn cargo(words: &str) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Cmd::new(cargo).args(words.split_whitespace())
    }

    /// Adds arguments.
    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// What a person would type for it.
    pub(crate) fn display(&self) -> String {
        let is_cargo = Path::new(&self.program).file_stem() == Some(OsStr::new("cargo"));
        let program = if is_cargo { OsStr::new("cargo") } else { &self.program };
        let variables =
            self.environment.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        let words = std::iter::once(program)
            .chain(self.arguments.iter().map(OsString::as_os_str))
            .map(quoted);
        variables.chain(words).collect::<Vec<_>>().join(" ")
    }

    /// The standard library's command for it.
    pub(crate) fn to_std(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env_remove("LIBTORCH_USE_PYTORCH"); // it would override LIBTORCH inside torch-sys
        command
    }

    /// Runs it; whether it ended well.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(crate) fn succeeds(&self) -> Result<bool> {
        let status =
            self.to_std().status().with_context(|| format!("cannot start `{}`", self.display()))?;
        Ok(status.success())
    }
}

/// A word as a POSIX shell wants it.
pub(crate) fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The root of the workspace: the folder above this package.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// `path` below the workspace's root.
pub(crate) fn in_root(path: &str) -> PathBuf {
    root().join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let command =
            Cmd::cargo("build --release").args(["it's", "a=b", ""]).env("LIBTORCH", "/a b");
        assert_eq!(command.display(), r"LIBTORCH='/a b' cargo build --release 'it'\''s' a=b ''");
    }
}
