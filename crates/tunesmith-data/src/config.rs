//! A data set's TOML file: where its rows come from and how to read them.
//!
//! ```toml
//! shape = "messages"          # else found from the columns
//! split = "train_sft"         # what a run trains on
//! eval_split = "test_sft"     # what a run may be evaluated on
//! template = "chat"           # for models that carry no template of their own: chat (the default) or alpaca
//! sample = "../../data/ultrachat_sample.jsonl"  # what stands in when the Hub cannot be reached
//! eval_sample = "../../data/ultrachat_sample_test.jsonl"  # the same for the evaluation split
//! sample_prompts = "../../data/prompts.jsonl"  # what to ask before and after training on the sample
//!
//! format = "csv"              # parquet, arrow, json, csv or text, where the files do not say it themselves
//! labels = ["no", "yes"]      # the names of classes, in the order of their indices
//! delimiter = ";"             # of CSV, where the header does not show it
//! text_rows = "line"          # what is a row of plain text: line (the default), paragraph or document
//!
//! [hub]                       # without it the splits are files, folders or patterns on this disk
//! repo = "HuggingFaceH4/ultrachat_200k"
//! revision = "main"
//! subset = "main"             # stands for {subset} in the splits
//!
//! [splits]
//! train_sft = "data/train_sft-*.parquet"
//! test_sft = ["data/test_sft-*.parquet"]
//!
//! [columns]                   # the shape's name = the file's name
//! messages = "conversations"
//!
//! [roles]                     # the file's role = the template's role
//! human = "user"
//!
//! [keys]                      # what messages call their role and their content
//! role = "speaker"
//! content = "utterance"
//!
//! [clean]                     # what is left out before training; nothing unless it is said here
//! duplicates = true           # rows that repeat an earlier one word for word
//! near_duplicates = 0.8       # or share so much of their five-word runs with it
//! min_chars = 20              # max_chars, min_letters (0.5), max_repetition (0.3)
//! drop_secrets = true         # rows with keys, cards, addresses; else they are counted only
//! against = ["test.jsonl"]    # rows that hold a text of these, beside the evaluation split
//!
//! [[mix]]                     # instead of [hub] and [splits]: several data sets in one
//! dataset = "ultrachat"       # another TOML beside this one, or a data file, folder or pattern
//! split = "train_sft"         # else the data set's own choice
//! weight = 0.5                # how often an epoch takes each row (1 unless it is said)
//! ```
//!
//! Paths on this disk are relative to the TOML file. A data set of the Hub without `[splits]` is taken to lie as the
//! Hub lays them out: `data/<split>-*` or `<subset>/<split>-*`, in parquet.

mod parse;

pub(crate) use parse::unknown;

use crate::{CleanKnobs, DataError, FileKnobs, Format, Shape, TextRows, suggest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A data set as its TOML file describes it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// The row shape; without it, the columns decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// The split that a run trains on; without it the only one, or `train`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// The split that a run may be evaluated on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_split: Option<String>,
    /// `chat` or `alpaca`: the template for a model that carries none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// A file that stands in where the Hub cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<PathBuf>,
    /// A file that stands in for the evaluation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_sample: Option<PathBuf>,
    /// Conversations to be answered before and after training on the sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_prompts: Option<PathBuf>,
    /// The repository on the Hub; without it the splits name files on this disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubRepo>,
    /// Each split's files: patterns inside the repository, or paths and patterns on this disk.
    #[serde(default)]
    pub splits: BTreeMap<String, Patterns>,
    /// The format of the files; else they say it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// What separates the cells of CSV files; else their headers show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// What is a row of a plain text file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_rows: Option<TextRows>,
    /// Several data sets in one, instead of files of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mix: Vec<MixEntry>,
    /// The shape's name of a column → the file's name of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// The file's name of a role → the template's name of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<String, String>,
    /// `role` and `content` → the keys that messages have for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, String>,
    /// The names of the classes, in the order of their indices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// What is left out before training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean: Option<CleanKnobs>,
    /// Whether `splits` were written down, and are not where the Hub usually has them.
    #[serde(skip)]
    pub(crate) has_own_splits: bool,
}

/// A data set repository on the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubRepo {
    /// `owner/name`.
    pub repo: String,
    /// A branch, a tag or a commit.
    #[serde(default = "main_branch")]
    pub revision: String,
    /// One of several configurations: what stands for `{subset}` in the patterns of the splits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
}

/// One of several data sets in one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixEntry {
    /// The name of a TOML file beside this one, or a data file, folder or pattern.
    pub dataset: String,
    /// The split to train on; else that data set's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// How often an epoch takes each row.
    #[serde(default = "once")]
    pub weight: f64,
}

fn once() -> f64 {
    1.0
}

fn main_branch() -> String {
    "main".into()
}

/// One pattern or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Patterns {
    /// `"data/*.parquet"`
    One(String),
    /// `["a.jsonl", "b.jsonl"]`
    Many(Vec<String>),
}

impl Patterns {
    /// All patterns, in the order given.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(pattern) => std::slice::from_ref(pattern),
            Self::Many(patterns) => patterns,
        }
    }
}

impl DatasetConfig {
    /// Reads a TOML file; paths in it become relative to its folder.
    ///
    /// # Errors
    /// A file that is not there, is no TOML, or has an unknown key or value.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let text = std::fs::read_to_string(path).map_err(|error| DataError::io(path, error))?;
        let mut config = Self::parse(&text, &path.display().to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for path in [&mut config.sample, &mut config.eval_sample, &mut config.sample_prompts]
            .into_iter()
            .flatten()
        {
            *path = folder.join(&*path);
        }
        for path in config.clean.iter_mut().flat_map(|clean| &mut clean.against) {
            *path = folder.join(&*path);
        }
        for entry in &mut config.mix {
            let beside = folder.join(format!("{}.toml", entry.dataset));
            // a bare name that stands for no file here may be that of a data set elsewhere
            let is_path =
                folder.join(&entry.dataset).exists() || entry.dataset.contains(['/', '*', '.']);
            if beside.is_file() {
                entry.dataset = beside.to_string_lossy().into_owned();
            } else if is_path {
                entry.dataset = folder.join(&entry.dataset).to_string_lossy().into_owned();
            }
        }
        if config.hub.is_none() {
            for patterns in config.splits.values_mut() {
                let local = |pattern: &String| folder.join(pattern).to_string_lossy().into_owned();
                *patterns = Patterns::Many(patterns.as_slice().iter().map(local).collect());
            }
        }
        Ok(config)
    }

    /// Reads a data set by name: `<folder>/<name>.toml`, or an entry of `<folder>/dataset_info.json`.
    ///
    /// # Errors
    /// As [`load`](Self::load); an unknown name comes with the nearest known one.
    pub fn find(name: &str, folder: &Path) -> Result<Self, DataError> {
        let path = folder.join(format!("{name}.toml"));
        if path.is_file() {
            return Self::load(&path);
        }
        let info = folder.join("dataset_info.json");
        if info.is_file() {
            return Self::from_dataset_info(&info, name);
        }
        let names = Self::names(folder);
        let known = suggest::list(&names);
        let help = match suggest::nearest(name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "a data set is a name above, a TOML file, or a data file or folder".into(),
        };
        let problem = format!("no data set of this name in {}, found {known}", folder.display());
        Err(DataError::Config { place: format!("`{name}`"), problem, help: Some(help) })
    }

    /// The names that [`find`](Self::find) knows, sorted.
    pub fn names(folder: &Path) -> Vec<String> {
        let entries =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let toml =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
        let mut names: Vec<_> = toml
            .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    /// The data set of a file, a folder or a pattern, which has one split, `train`.
    pub fn of_path(path: &str) -> Self {
        let splits = BTreeMap::from([("train".to_owned(), Patterns::One(path.to_owned()))]);
        Self { splits, ..Self::default() }
    }

    /// A data set of the Hub by its id, with its splits where the Hub usually has them.
    pub fn of_hub(repo: &str, subset: Option<&str>) -> Self {
        let hub = HubRepo {
            repo: repo.to_owned(),
            revision: main_branch(),
            subset: subset.map(str::to_owned),
        };
        let mut config = Self { hub: Some(hub), ..Self::default() };
        config.lay_out();
        config
    }

    /// How its files are read.
    pub fn file_knobs(&self) -> FileKnobs {
        let text_rows = self.text_rows.unwrap_or_default();
        FileKnobs { format: self.format, delimiter: self.delimiter, text_rows, cache: None }
    }

    /// The patterns of the split to train on, or of the split named.
    ///
    /// # Errors
    /// No such split, or several and none chosen.
    pub fn split(&self, name: Option<&str>) -> Result<(&str, &[String]), DataError> {
        let names: Vec<_> = self.splits.keys().map(String::as_str).collect();
        let chosen = name.or(self.split.as_deref()).or(match names.as_slice() {
            [only] => Some(*only),
            names => names.iter().find(|&&name| name == "train").copied(),
        });
        let Some(chosen) = chosen else {
            let problem = format!("several splits and none chosen: {}", suggest::list(&names));
            let help = Some("choose one with `split = \"…\"`".into());
            return Err(DataError::Config { place: "split".into(), problem, help });
        };
        match self.splits.get_key_value(chosen) {
            Some((name, patterns)) => Ok((name, patterns.as_slice())),
            None => Err(unknown(chosen, &names, "split", "the data set")),
        }
    }
}
