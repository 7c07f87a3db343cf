//! What can be wrong with a model directory, each case naming the thing, the expected and the found.

use std::path::PathBuf;

/// A model that cannot be read, built or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that must be there is not.
    #[error("{path}: no such file\nhelp: a model directory holds config.json and *.safetensors")]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// Shards that the index names and the directory lacks, all of them.
    #[error("{dir}: {} of {total} weight shards are missing: {}\nhelp: download the model again", missing.len(), missing.join(", "))]
    MissingShards {
        /// The model directory.
        dir: PathBuf,
        /// File names.
        missing: Vec<String>,
        /// How many the index names.
        total: usize,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A value of config.json that is missing or not what it should be.
    #[error("{path}: `{key}`: expected {expected}, found {found}")]
    BadConfig {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What would do.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// An architecture or an option that tunesmith does not have.
    #[error("{path}: {what} is not supported\nhelp: supported: {supported}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key and its value.
        what: String,
        /// What there is instead.
        supported: String,
    },
    /// A weights file that is not a sound safetensors file.
    #[error("{path}: {reason}")]
    BadWeights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Tensors that the architecture needs and no file has.
    #[error("{dir}: {} missing from the weights: {}\nhelp: config.json and the weights do not belong together, or the download is not complete", tensors(names.len()), list(names))]
    MissingTensors {
        /// The model directory.
        dir: PathBuf,
        /// Checkpoint names.
        names: Vec<String>,
    },
    /// Tensors that the architecture has no place for.
    #[error("{dir}: {} that this architecture has no place for: {}\nhelp: config.json and the weights do not belong together", tensors(names.len()), list(names))]
    ExtraTensors {
        /// The model directory.
        dir: PathBuf,
        /// Checkpoint names.
        names: Vec<String>,
    },
    /// Tensors of another shape than config.json says.
    #[error("{dir}: {} of another shape than config.json says:\n{}", tensors(mismatches.len()), shapes(mismatches))]
    Misshapen {
        /// The model directory.
        dir: PathBuf,
        /// Name, expected shape, found shape.
        mismatches: Vec<(String, Vec<i64>, Vec<i64>)>,
    },
    /// An adapter that cannot be: its settings, its files, or the base it meets.
    #[error("{place}: {reason}")]
    BadAdapter {
        /// The setting, the file or the folder.
        place: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// An adapter that the model does not carry.
    #[error("adapter {number}: the model carries {n_adapters}, numbered from 0")]
    NoSuchAdapter {
        /// Which was asked for.
        number: usize,
        /// How many there are.
        n_adapters: usize,
    },
    /// A token id that the embedding has no row for.
    #[error(
        "token id {id} is outside the vocabulary of {vocab_size}\nhelp: the tokenizer and the model do not belong together"
    )]
    TokenOutOfRange {
        /// The id.
        id: i64,
        /// Rows of the embedding.
        vocab_size: i64,
    },
    /// A position that the model has no embedding for.
    #[error(
        "position {position} is beyond the model's {max} positions\nhelp: shorten the sequence (`--seq-len`)"
    )]
    PositionOutOfRange {
        /// The position.
        position: i64,
        /// `max_position_embeddings`.
        max: i64,
    },
    /// A kernel, or the GPU.
    #[error("{0}")]
    Kernel(String),
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Tch(#[from] tch::TchError),
}

impl ModelError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            std::io::ErrorKind::NotFound => Self::MissingFile { path },
            _ => Self::Io { path, source },
        }
    }
}

fn tensors(n: usize) -> String {
    if n == 1 { "1 tensor".into() } else { format!("{n} tensors") }
}

/// The first five names and how many more.
fn list(names: &[String]) -> String {
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown} and {} more", names.len() - 5) } else { shown }
}

fn shapes(mismatches: &[(String, Vec<i64>, Vec<i64>)]) -> String {
    let line = |(name, want, got): &(String, Vec<i64>, Vec<i64>)| {
        format!("  {name}: expected {want:?}, found {got:?}")
    };
    let mut lines: Vec<String> = mismatches.iter().take(5).map(line).collect();
    if mismatches.len() > 5 {
        lines.push(format!("  and {} more", mismatches.len() - 5));
    }
    lines.join("\n")
}
