//! What can go wrong between a name and its files, one variant per way out.
//!
//! Texts that a server wrote go through [`crate::remote::Remote::quote`] first: no control characters, one
//! line, and never the token.

use std::path::PathBuf;

/// Why a model or data set could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// No usable answer came from the Hub in time: DNS, refused connection, TLS, or silence.
    #[error(
        "cannot reach the Hub at {endpoint}: {reason}\nhelp: check the network and HF_ENDPOINT; HF_HUB_OFFLINE=1 uses only what is already in the cache"
    )]
    Unreachable {
        /// Where the Hub was expected, without credentials.
        endpoint: String,
        /// The innermost cause.
        reason: String,
    },
    /// `HF_HUB_OFFLINE` forbids the network and the cache does not hold the answer.
    #[error(
        "{repo} at revision {revision} is not in the cache {}: {missing}, and HF_HUB_OFFLINE is set\nhelp: unset HF_HUB_OFFLINE once to download it", cache.display()
    )]
    Offline {
        /// The repository.
        repo: String,
        /// The revision asked for.
        revision: String,
        /// What was looked for.
        missing: String,
        /// The cache that was searched.
        cache: PathBuf,
    },
    /// The repository asks its users to accept terms first.
    #[error(
        "access to {repo} is gated: {message}\nhelp: accept its terms on {page} with your account, then set HF_TOKEN to a token of that account{}", if *token_sent { " (the present token has no access yet)" } else { "" }
    )]
    Gated {
        /// The repository.
        repo: String,
        /// Its page, where the terms are accepted.
        page: String,
        /// The Hub's words.
        message: String,
        /// Whether a token was sent: then it lacks access, otherwise it is missing.
        token_sent: bool,
    },
    /// The token was rejected.
    #[error(
        "the Hub rejects the token while asking for {repo}: {message}\nhelp: renew HF_TOKEN (or the token file in HF_HOME), or unset it for public repositories"
    )]
    Unauthorized {
        /// The repository.
        repo: String,
        /// The Hub's words.
        message: String,
    },
    /// No such repository, or a private one that this token may not see.
    #[error(
        "no {kind} named {repo} on {endpoint}{}\nhelp: {help}", if *token_sent { ", or the token may not see it" } else { ", or it is private and no token is set" }
    )]
    RepoNotFound {
        /// `model` or `data set`.
        kind: &'static str,
        /// The repository.
        repo: String,
        /// Where it was looked for.
        endpoint: String,
        /// Whether a token was sent.
        token_sent: bool,
        /// The way out.
        help: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error(
        "{repo} has no revision {revision}\nhelp: the default branch is `main`; tags and commits are listed on {page}"
    )]
    RevisionNotFound {
        /// The repository.
        repo: String,
        /// The revision asked for.
        revision: String,
        /// Where its revisions are listed.
        page: String,
    },
    /// The repository holds no such file.
    #[error(
        "{repo} at {revision} has no file {wanted} among its {total} files\nhelp: {}",
        nearest(near)
    )]
    FileNotFound {
        /// The repository.
        repo: String,
        /// The revision looked at.
        revision: String,
        /// A name or a pattern.
        wanted: String,
        /// How many files the repository holds.
        total: usize,
        /// Names that are there, nearest first.
        near: Vec<String>,
    },
    /// The weights exist only as Python pickles, which can run code when they are opened.
    #[error(
        "{repo} has its weights only as Python pickles ({}), which tunesmith does not open\nhelp: choose a repository with *.safetensors, or convert once with Python: AutoModelForCausalLM.from_pretrained(\"{repo}\").save_pretrained(\"DIR\", safe_serialization=True), and give DIR as the model", files.join(", ")
    )]
    OnlyPickles {
        /// The repository.
        repo: String,
        /// The pickles, at most five.
        files: Vec<String>,
    },
    /// A download broke off and several attempts to continue it got nothing more.
    #[error(
        "the download of {file} from {repo} broke off at {received} of {size} bytes: {reason}\nhelp: run the same command again; it continues where this one stopped"
    )]
    Interrupted {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// Bytes on disk.
        received: u64,
        /// Bytes expected.
        size: u64,
        /// The innermost cause.
        reason: String,
    },
    /// What arrived is not what the repository lists.
    #[error(
        "{file} of {repo} arrived damaged: expected {expected}, found {found}\nhelp: nothing of it was kept; a proxy or mirror between here and the Hub may rewrite files"
    )]
    Damaged {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// Size or hash from the Hub's listing.
        expected: String,
        /// Size or hash of what arrived.
        found: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot {action} {}: {source}\nhelp: {}", path.display(), disk_help(source))]
    Disk {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A name from the user or from a server that must not become part of a path or an address.
    #[error("invalid {what} {name:?}: {reason}\nhelp: {help}")]
    InvalidName {
        /// What the name was meant for.
        what: &'static str,
        /// The name, shortened.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
        /// What a valid one looks like.
        help: &'static str,
    },
    /// The server answered, but neither with the thing nor with a refusal that has its own variant.
    #[error("{endpoint} answered {answer} while asking for {repo}\nhelp: {}", answer_help(answer))]
    Answer {
        /// Where the answer came from.
        endpoint: String,
        /// The repository.
        repo: String,
        /// Status and words, or what is wrong with the answer.
        answer: String,
    },
    /// A setting of the environment cannot be used.
    #[error("cannot use {name}: {reason}\nhelp: {help}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What is wrong with it; never its value where that is a secret.
        reason: String,
        /// The way out.
        help: &'static str,
    },
}

impl HubError {
    /// Whether the Hub could not be asked at all and the cache could not stand in: the moment to fall back to
    /// something local. False once the Hub has answered, whatever it said.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, HubError::Unreachable { .. } | HubError::Offline { .. })
    }

    /// A failed operation on the cache.
    pub(crate) fn disk(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> HubError {
        move |source| HubError::Disk { action, path: path.to_path_buf(), source }
    }
}

fn nearest(near: &[String]) -> String {
    match near {
        [] => "the repository is empty at this revision".to_string(),
        names => format!("it has {}", names.join(", ")),
    }
}

fn disk_help(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "free space there, or set HF_HOME to a larger disk; the download continues where it stopped"
        }
        _ => "set HF_HOME to a folder that can be written",
    }
}

fn answer_help(answer: &str) -> &'static str {
    match answer.starts_with("429") {
        true => "too many requests: wait a few minutes, or set HF_TOKEN for a higher limit",
        false => "try again later; if HF_ENDPOINT is set, check that it speaks the Hub's protocol",
    }
}
