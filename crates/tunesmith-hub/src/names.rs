//! The one door through which a name becomes part of a path or an address.
//!
//! Repository names and revisions come from users, file names and hashes from a server. Each has a type here
//! whose only constructor checks it, and `crate::layout` builds paths from these types alone: no other code
//! can join a foreign string to the cache folder.

use std::fmt;

use crate::HubError;

/// Longest name of a file in a repository, in bytes.
const MAX_PATH: usize = 1024;
/// Longest part of a path between two slashes, in bytes: what file systems hold.
const MAX_PART: usize = 255;

/// Which kind of repository a name belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl Kind {
    /// The part of an API address, and the prefix of the cache folder.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }

    /// For people.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Dataset => "data set",
        }
    }
}

/// A repository: `owner/name`, or `name` alone for the Hub's oldest ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repo {
    kind: Kind,
    id: String,
}

impl Repo {
    /// Checks `id` by the Hub's own rules: one or two parts of ASCII letters, digits, `-`, `_`, `.`, at most
    /// 96 bytes each, `-` and `.` neither doubled nor at an end.
    pub(crate) fn parse(kind: Kind, id: &str) -> Result<Repo, HubError> {
        let fail = |reason| {
            invalid(
                "repository name",
                id,
                reason,
                "write `owner/name`, as in the address of its page",
            )
        };
        if id.contains("://") {
            return Err(fail("it is an address"));
        }
        let parts: Vec<&str> = id.split('/').collect();
        if parts.len() > 2 {
            return Err(fail("it has more than one slash"));
        }
        for part in parts {
            let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let edge = |c: char| matches!(c, '-' | '.');
            let reason = match part {
                "" => "a part is empty",
                p if p.len() > 96 => "a part is longer than 96 bytes",
                p if !p.chars().all(inner) => {
                    "only ASCII letters, digits, `-`, `_` and `.` are allowed"
                }
                p if p.contains("..") || p.contains("--") => "`..` and `--` are not allowed",
                p if p.starts_with(edge) || p.ends_with(edge) => {
                    "a part begins or ends with `-` or `.`"
                }
                p if p.ends_with(".git") => "it ends with `.git`",
                _ => continue,
            };
            return Err(fail(reason));
        }
        Ok(Repo { kind, id: id.to_string() })
    }

    /// Model or data set.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// `owner/name`.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// `models--owner--name`; unique, since no part holds `--`.
    pub(crate) fn folder(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.id.replace('/', "--"))
    }
}

/// A branch, tag, pull request (`refs/pr/1`) or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Revision {
    /// Something that can move.
    Name(String),
    /// Something that cannot.
    Commit(Commit),
}

impl Revision {
    /// Checks `text` by git's rules for names of references.
    pub(crate) fn parse(text: &str) -> Result<Revision, HubError> {
        if let Some(commit) = Commit::read(text) {
            return Ok(Revision::Commit(commit));
        }
        let help = "write a branch (`main`), a tag, or a commit of 40 hexadecimal digits";
        let fail = |reason| invalid("revision", text, reason, help);
        check_path(text).map_err(fail)?;
        if text.chars().any(|c| matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '['))
            || text.contains("@{")
        {
            return Err(fail("git allows none of ` ~^:?*[@{` in it"));
        }
        if text.starts_with('-') || text.contains("..") || text.ends_with(".lock") {
            return Err(fail("git allows no leading `-`, no `..` and no final `.lock`"));
        }
        Ok(Revision::Name(text.to_string()))
    }

    /// As written by the user.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Revision::Name(name) => name,
            Revision::Commit(commit) => commit.as_str(),
        }
    }
}

/// A commit: 40 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit(String);

impl Commit {
    /// Checks a commit that a server or a file in the cache states.
    pub(crate) fn parse(text: &str) -> Result<Commit, HubError> {
        let help =
            "a commit has 40 hexadecimal digits; the server does not speak the Hub's protocol";
        Commit::read(text)
            .ok_or_else(|| invalid("commit", text, "it is no SHA-1 in hexadecimal", help))
    }

    fn read(text: &str) -> Option<Commit> {
        is_hex(text, 40).then(|| Commit(text.to_ascii_lowercase()))
    }

    /// The 40 digits.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The hash by which the Hub names a file's content; also the file's name under `blobs/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Digest {
    /// SHA-1 of git's blob object: files that git stores itself.
    Git(String),
    /// SHA-256 of the content: files in LFS or Xet.
    Sha256(String),
}

impl Digest {
    /// Checks the hash of a file kept by git.
    pub(crate) fn git(text: &str) -> Result<Digest, HubError> {
        if is_hex(text, 40) {
            Ok(Digest::Git(text.to_ascii_lowercase()))
        } else {
            Err(bad_digest(text))
        }
    }

    /// Checks the hash of a file kept in LFS.
    pub(crate) fn sha256(text: &str) -> Result<Digest, HubError> {
        if is_hex(text, 64) {
            Ok(Digest::Sha256(text.to_ascii_lowercase()))
        } else {
            Err(bad_digest(text))
        }
    }

    /// The digits.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Digest::Git(digits) | Digest::Sha256(digits) => digits,
        }
    }
}

/// The name of a file in a repository, with `/` between folders.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileName(String);

impl FileName {
    /// Checks that `name` stays below the folder it is joined to, on any system.
    pub(crate) fn parse(name: &str) -> Result<FileName, HubError> {
        let help = "nothing was written; the repository or the server is hostile or broken";
        let fail = |reason| invalid("file name", name, reason, help);
        check_path(name).map_err(fail)?;
        let first = name.as_bytes();
        if first.len() >= 2 && first[0].is_ascii_alphabetic() && first[1] == b':' {
            return Err(fail("it begins with a drive letter"));
        }
        Ok(FileName(name.to_string()))
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, if it lies at the top of the repository.
    pub(crate) fn at_top(&self) -> Option<&str> {
        (!self.0.contains('/')).then_some(self.0.as_str())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The rules for anything that is joined to a folder; names the one that is broken.
fn check_path(name: &str) -> Result<(), &'static str> {
    let broken = match name {
        "" => "it is empty",
        n if n.len() > MAX_PATH => "it is longer than 1024 bytes",
        n if n.chars().any(char::is_control) => "it holds a control character",
        n if n.contains('\\') => "it holds a backslash",
        n if n.starts_with('/') => "it is an absolute path",
        n if n.split('/').any(|part| part == "..") => "it climbs out of its folder with `..`",
        n if n.split('/').any(|part| part.is_empty() || part == ".") => {
            "a part of it is empty or `.`"
        }
        n if n.split('/').any(|part| part.len() > MAX_PART) => {
            "a part of it is longer than 255 bytes"
        }
        _ => return Ok(()),
    };
    Err(broken)
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn bad_digest(text: &str) -> HubError {
    invalid(
        "content hash",
        text,
        "it is no hash in hexadecimal",
        "the server does not speak the Hub's protocol",
    )
}

/// `name` is shortened: it may be a megabyte long, and it goes into a message.
pub(crate) fn invalid(
    what: &'static str,
    name: &str,
    reason: &'static str,
    help: &'static str,
) -> HubError {
    HubError::InvalidName { what, name: name.chars().take(120).collect(), reason, help }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        for good in ["gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct", "a/b.c_d-e", "_x/y"] {
            let repo = Repo::parse(Kind::Model, good).unwrap();
            assert_eq!(repo.id(), good);
        }
        assert_eq!(Repo::parse(Kind::Dataset, "a/b").unwrap().folder(), "datasets--a--b");
        let long = "x".repeat(97);
        let bad = [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "..",
            "a/..",
            "../a",
            "a--b/c",
            "a/b..c",
            "-a/b",
            "a/.b",
            "a/b.git",
            "a\\b",
            "a b",
            "a/b\0",
            "https://huggingface.co/a/b",
            "ä/b",
            "a/b?x",
            "a/b#x",
            "a/%2e%2e",
            &long,
            ".",
            "a/b\n",
        ];
        for name in bad {
            assert!(
                matches!(Repo::parse(Kind::Model, name), Err(HubError::InvalidName { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    fn file_names() {
        for good in
            ["config.json", "data/train-00000-of-00001.parquet", "a b/ü.json", "..a/b..", "ab:c"]
        {
            assert_eq!(FileName::parse(good).unwrap().as_str(), good);
        }
        let (long, part) = ("a/".repeat(600) + "a", "x".repeat(256));
        let bad = [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            "./x",
            "a/./x",
            "a//x",
            "a/",
            "a\\x",
            "..\\x",
            "C:x",
            "c:/x",
            "x\0y",
            "x\ny",
            "\u{7f}",
            "\u{85}x",
            &long,
            &part,
        ];
        for name in bad {
            assert!(matches!(FileName::parse(name), Err(HubError::InvalidName { .. })), "{name:?}");
        }
    }

    #[test]
    fn revisions() {
        let commit = "0123456789abcdef0123456789ABCDEF01234567";
        let parsed = Revision::parse(commit).unwrap();
        assert_eq!(parsed, Revision::Commit(Commit(commit.to_lowercase())));
        for good in ["main", "refs/pr/1", "v1.0-rc.2", "feature/x", "abc1234"] {
            assert_eq!(Revision::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "..", "a/../b", "/main", "main/", "a..b", "-x", "a b", "a^", "x.lock", "a\\b",
            "a\0", "a@{1}",
        ] {
            assert!(Revision::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hashes() {
        assert!(Digest::git(&"a".repeat(40)).is_ok() && Digest::sha256(&"0".repeat(64)).is_ok());
        for bad in
            ["", "../../x", &"a".repeat(41), &"g".repeat(40), &format!("{}/", "a".repeat(39))]
        {
            assert!(
                Digest::git(bad).is_err()
                    && Digest::sha256(bad).is_err()
                    && Commit::parse(bad).is_err(),
                "{bad:?}"
            );
        }
    }
}
