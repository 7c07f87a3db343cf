//! A data set's README.md: which subsets and splits it has, and in which files they lie.
//!
//! ```text
//! ---
//! configs:
//! - config_name: de            # a subset
//!   default: true              # the one that is meant where none is named
//!   data_files:                # one pattern, several (the split `train`), or those of each split
//!   - split: train
//!     path: de/train-*
//! - config_name: fr
//!   data_dir: fr               # its patterns are relative to this folder
//! ---
//! ```
//!
//! Without `data_files` the names of the files tell their splits: a file is of the split whose word its name holds
//! (`train`, `training`; `validation`, `valid`, `val`, `dev`; `test`, `testing`, `eval`, `evaluation`), or the nearest of
//! its folders, and of `train` where none does. Words are runs of letters; where a name has several, it is held out. On
//! the Hub, whose files are not known before they are chosen, such a subset is refused.
//!
//! Everything else that a README says is passed over.

use crate::config::{DatasetConfig, Patterns, unknown};
use crate::source::expand;
use crate::{DataError, suggest};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

/// A longer head is no description.
const LONGEST: usize = 4 << 20;

/// The subsets that a README.md declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    subsets: Vec<Subset>,
    /// The file, for messages.
    place: String,
}

/// A subset and the patterns of its splits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subset {
    name: String,
    is_default: bool,
    /// None where the names of the files tell them.
    splits: BTreeMap<String, Vec<String>>,
    /// Where its files lie inside the data set; empty for all of it.
    folder: String,
}

/// What is read of the head.
#[derive(Deserialize)]
struct Head {
    configs: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    config_name: Option<String>,
    #[serde(default)]
    default: bool,
    data_files: Option<DataFiles>,
    data_dir: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DataFiles {
    Pattern(String),
    Patterns(Vec<String>),
    Splits(Vec<SplitFiles>),
}

#[derive(Deserialize)]
struct SplitFiles {
    split: String,
    path: Patterns,
}

impl Card {
    /// The subsets of a README's text; none where it declares no subset. `place` names it in messages.
    ///
    /// # Errors
    /// A head that is no YAML, or `configs` of another form.
    pub fn parse(readme: &str, place: &str) -> Result<Option<Self>, DataError> {
        let readme = readme.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let Some(head) = readme.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---"))
        else {
            return Ok(None);
        };
        let wrong = |problem: String| DataError::Config {
            place: place.into(),
            problem,
            help: Some("a TOML file with [splits] names the files without the README".into()),
        };
        if head.0.len() > LONGEST {
            return Err(wrong(format!(
                "expected a head of at most {LONGEST} bytes, found {}",
                head.0.len()
            )));
        }
        let parsed: Head = match serde_saphyr::from_str(head.0) {
            Ok(parsed) => parsed,
            // Whatever is wrong with it, it does not mean to say anything about subsets.
            Err(_) if !head.0.lines().any(|line| line.starts_with("configs")) => return Ok(None),
            Err(error) => return Err(wrong(format!("the head of the file: {error}"))),
        };
        let entries = parsed.configs.unwrap_or_default();
        let subsets: Vec<Subset> = entries.into_iter().map(Subset::from).collect();
        Ok((!subsets.is_empty()).then(|| Self { subsets, place: place.into() }))
    }

    /// The names of the subsets, in their order.
    pub fn subsets(&self) -> Vec<&str> {
        self.subsets.iter().map(|subset| subset.name.as_str()).collect()
    }

    /// The subset of this name; without a name the one marked as default, the one called `default`, or the only one.
    fn subset(&self, name: Option<&str>) -> Result<&Subset, DataError> {
        let names = self.subsets();
        let named = |name: &str| self.subsets.iter().find(|subset| subset.name == name);
        match name {
            Some(name) => named(name).ok_or_else(|| unknown(name, &names, "subset", &self.place)),
            None => {
                let marked = self.subsets.iter().find(|subset| subset.is_default);
                let only = self.subsets.first().filter(|_| self.subsets.len() == 1);
                marked.or_else(|| named("default")).or(only).ok_or_else(|| DataError::Config {
                    place: self.place.clone(),
                    problem: format!("several subsets and none chosen: {}", suggest::list(&names)),
                    help: Some(format!(
                        "put it behind a colon, such as --dataset NAME:{}, or write `subset = \"{}\"` under [hub]",
                        names[0], names[0]
                    )),
                })
            }
        }
    }
}

impl From<Entry> for Subset {
    fn from(entry: Entry) -> Self {
        let folder = entry.data_dir.as_deref().unwrap_or("").trim_matches('/').to_owned();
        let inside = |pattern: &String| match folder.as_str() {
            "" => pattern.clone(),
            folder => format!("{folder}/{pattern}"),
        };
        let mut splits = BTreeMap::<String, Vec<String>>::new();
        let mut put = |split: &str, patterns: &[String]| {
            let patterns = patterns.iter().map(inside);
            splits.entry(split.to_owned()).or_default().extend(patterns);
        };
        match &entry.data_files {
            Some(DataFiles::Pattern(pattern)) => put("train", std::slice::from_ref(pattern)),
            Some(DataFiles::Patterns(patterns)) => put("train", patterns),
            Some(DataFiles::Splits(of)) => {
                of.iter().for_each(|files| put(&files.split, files.path.as_slice()));
            }
            None => {}
        }
        let name = entry.config_name.unwrap_or_else(|| "default".into());
        Self { name, is_default: entry.default, splits, folder }
    }
}

/// The splits of the data files in `inside` (all of `root` where it is empty), which nothing but their names tells; paths
/// are relative to `root`.
fn by_name(root: &Path, inside: &str) -> Result<BTreeMap<String, Vec<String>>, DataError> {
    let folder = root.join(inside);
    let mut splits = BTreeMap::<String, Vec<String>>::new();
    for file in expand(&[&folder])? {
        let split = split_of(file.strip_prefix(&folder).unwrap_or(&file));
        let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        splits.entry(split.to_owned()).or_default().push(path);
    }
    Ok(splits)
}

/// The split that a file's name tells, or else the nearest of its folders.
fn split_of(path: &Path) -> &'static str {
    // held out before trained: rows that are missing in training are noticed, rows of a test in it are not
    const WORDS: [(&str, &[&str]); 3] = [
        ("test", &["test", "testing", "eval", "evaluation"]),
        ("validation", &["validation", "valid", "val", "dev"]),
        ("train", &["train", "training"]),
    ];
    let told = |name: &OsStr| -> Option<&'static str> {
        let name = name.to_string_lossy().to_lowercase();
        let found: Vec<&str> = name.split(|c: char| !c.is_alphabetic()).collect();
        let told = WORDS.iter().find(|(_, words)| words.iter().any(|word| found.contains(word)));
        told.map(|(split, _)| *split)
    };
    path.iter().rev().find_map(told).unwrap_or("train")
}

impl DatasetConfig {
    /// A folder on this disk: the splits that its README.md declares for `subset`, or all data files in it as `train`.
    ///
    /// # Errors
    /// A README that cannot be read, an unknown subset, a subset where there is no README to declare any; no data files
    /// in the folder of a subset whose files must tell their splits by their names.
    pub fn of_folder(folder: &Path, subset: Option<&str>) -> Result<Self, DataError> {
        let readme = folder.join("README.md");
        let place = readme.display().to_string();
        let card = match readme.is_file() {
            true => {
                let text = std::fs::read(&readme).map_err(|error| DataError::io(&readme, error))?;
                Card::parse(&String::from_utf8_lossy(&text), &place)?
            }
            false => None,
        };
        let Some(card) = card else {
            return match subset {
                None => Ok(Self::of_path(&folder.to_string_lossy())),
                Some(subset) => Err(DataError::Config {
                    place: folder.display().to_string(),
                    problem: format!("subset `{subset}`: no README.md here declares subsets"),
                    help: Some(
                        "name the files: a folder, a pattern, or a TOML file with [splits]".into(),
                    ),
                }),
            };
        };
        let mut config = Self::default();
        config.take(&card, subset, Some(folder))?;
        for patterns in config.splits.values_mut() {
            let local = |pattern: &String| folder.join(pattern).to_string_lossy().into_owned();
            *patterns = Patterns::Many(patterns.as_slice().iter().map(local).collect());
        }
        Ok(config)
    }

    /// Whether its repository's README.md should say where the splits lie, because nothing else does.
    pub fn wants_card(&self) -> bool {
        self.hub.is_some() && !self.has_own_splits
    }

    /// Takes over the splits that a card declares for `[hub] subset`.
    ///
    /// # Errors
    /// An unknown subset, or several and none chosen; one that does not say in which files its splits lie; a split of the
    /// TOML that the subset does not have.
    pub fn take_card(&mut self, card: &Card) -> Result<(), DataError> {
        let subset = self.hub.as_ref().and_then(|hub| hub.subset.clone());
        self.take(card, subset.as_deref(), None)
    }

    /// `folder`: where the data set lies, if on this disk.
    fn take(
        &mut self,
        card: &Card,
        subset: Option<&str>,
        folder: Option<&Path>,
    ) -> Result<(), DataError> {
        let subset = card.subset(subset)?;
        let place = format!("{} (subset `{}`)", card.place, subset.name);
        let splits = match folder {
            _ if !subset.splits.is_empty() => subset.splits.clone(),
            Some(folder) => by_name(folder, &subset.folder)?,
            None => {
                let problem =
                    "expected `data_files` with the files of each split, found none".into();
                let train = Path::new(&subset.folder).join("train-*.parquet");
                let help = Some(format!(
                    "a TOML file with [hub] and [splits] names them, such as train = \"{}\"",
                    train.display()
                ));
                return Err(DataError::Config { place, problem, help });
            }
        };
        let names: Vec<&str> = splits.keys().map(String::as_str).collect();
        for (key, split) in [("split", &self.split), ("eval_split", &self.eval_split)] {
            if let Some(split) = split.as_deref().filter(|split| !names.contains(split)) {
                return Err(unknown(split, &names, key, &place));
            }
        }
        let many = |(name, patterns)| (name, Patterns::Many(patterns));
        self.splits = splits.into_iter().map(many).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "---\nlicense: mit\ndataset_info:\n- config_name: de\n  features:\n  - {name: text, dtype: string}\nconfigs:\n\
        - config_name: de\n  data_files:\n  - split: train\n    path: de/train-*\n  - split: test\n    path: [de/a.parquet, \"de/b.parquet\"]\n\
        - config_name: fr\n  data_dir: fr\n  data_files: '*.jsonl'\n  default: true\n- config_name: it\n  data_dir: it/\n---\n# A data set\n";

    fn splits(subset: Option<&str>) -> Vec<(String, Vec<String>)> {
        let card = Card::parse(CARD, "README.md").unwrap().unwrap();
        let subset = card.subset(subset).unwrap();
        subset.splits.clone().into_iter().collect()
    }

    #[test]
    fn subsets_and_splits() {
        let of = |split: &str, patterns: &[&str]| {
            (split.to_owned(), patterns.iter().map(|&p| p.to_owned()).collect())
        };
        assert_eq!(
            splits(Some("de")),
            [of("test", &["de/a.parquet", "de/b.parquet"]), of("train", &["de/train-*"])]
        );
        assert_eq!(splits(None), [of("train", &["fr/*.jsonl"])]);
        assert!(splits(Some("it")).is_empty(), "the names of its files tell them");
    }

    #[test]
    fn without_data_files_names_tell_the_splits() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("README.md"), CARD).unwrap();
        for (name, split) in [
            ("train-00000.jsonl", "train"),
            ("test-00000.jsonl", "test"),
            ("more/Test2.jsonl", "test"),
            ("more/eval.v1.jsonl.gz", "test"),
            ("dev/rows.jsonl", "validation"),
            ("dev/train 1.jsonl", "train"),
            ("train_test.jsonl", "test"),
            ("contest_latest.jsonl", "train"),
            ("rows.jsonl", "train"),
        ] {
            assert_eq!(split_of(Path::new(name)), split, "{name}");
            let path = root.path().join("it").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}\n").unwrap();
        }
        std::fs::write(root.path().join("it/test-info.json"), "{}").unwrap(); // describes the data
        std::fs::write(root.path().join("test.jsonl"), "{}\n").unwrap(); // outside the subset
        let config = DatasetConfig::of_folder(root.path(), Some("it")).unwrap();
        let files = |split: &str| -> Vec<String> {
            let inside = |path: &String| {
                let inside = Path::new(path).strip_prefix(root.path().join("it")).unwrap();
                inside.to_str().unwrap().to_owned()
            };
            config.split(Some(split)).unwrap().1.iter().map(inside).collect()
        };
        assert_eq!(config.splits.keys().collect::<Vec<_>>(), ["test", "train", "validation"]);
        let train =
            ["contest_latest.jsonl", "dev/train 1.jsonl", "rows.jsonl", "train-00000.jsonl"];
        assert_eq!(files("train"), train);
        let test =
            ["more/Test2.jsonl", "more/eval.v1.jsonl.gz", "test-00000.jsonl", "train_test.jsonl"];
        assert_eq!(files("test"), test);
        assert_eq!(files("validation"), ["dev/rows.jsonl"]);

        let card = Card::parse(CARD, "o/n/README.md").unwrap().unwrap();
        let error = DatasetConfig::of_hub("o/n", Some("it")).take_card(&card).unwrap_err();
        assert_eq!(
            error.to_string(),
            "o/n/README.md (subset `it`): expected `data_files` with the files of each split, found none\n\
             help: a TOML file with [hub] and [splits] names them, such as train = \"it/train-*.parquet\""
        );
    }

    #[test]
    fn readmes_without_subsets_say_nothing() {
        for text in [
            "",
            "# Title\n---\n",
            "---\nlicense: mit\n---\n",
            "---\nconfigs: []\n---\n",
            "---\nconfigs:\n",
            "---\npretty_name: Chats: 2024\n---\n",
            "---\nWords between lines.\n---\n",
        ] {
            assert_eq!(Card::parse(text, "README.md").unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let card = Card::parse(CARD, "README.md").unwrap().unwrap();
        let error = card.subset(Some("dee")).unwrap_err().to_string();
        assert_eq!(
            error,
            "README.md: subset: expected one of `de`, `fr`, `it`, found `dee`\nhelp: did you mean `de`?"
        );
        let none = CARD.replace("  default: true\n", "");
        let card = Card::parse(&none, "README.md").unwrap().unwrap();
        let error = card.subset(None).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "README.md: several subsets and none chosen: `de`, `fr`, `it`\nhelp: "
            ),
            "{error}"
        );
        for text in
            ["---\nconfigs: 3\n---\n", "---\nconfigs:\n- [\n---\n", "---\nconfigs: [*c]\n---\n"]
        {
            let error = Card::parse(text, "README.md").unwrap_err().to_string();
            assert!(error.starts_with("README.md: the head of the file: "), "{error}");
        }
    }

    #[test]
    fn data_sets_of_the_hub_take_the_splits_of_their_card() {
        let card = Card::parse(CARD, "owner/name/README.md").unwrap().unwrap();
        let mut config = DatasetConfig::of_hub("owner/name", Some("de"));
        assert!(config.wants_card());
        assert_eq!(config.split(None).unwrap().1, ["de/train-*.parquet"], "until there is a card");
        config.take_card(&card).unwrap();
        assert_eq!(config.split(None).unwrap(), ("train", &["de/train-*".to_owned()][..]));
        assert_eq!(config.split(Some("test")).unwrap().1.len(), 2);
        let mut config =
            DatasetConfig::parse("split = \"trian\"\n[hub]\nrepo = \"o/n\"\nsubset = \"de\"", "x")
                .unwrap();
        let error = config.take_card(&card).unwrap_err().to_string();
        assert_eq!(
            error,
            "owner/name/README.md (subset `de`): split: expected one of `test`, `train`, found `trian`\nhelp: did you mean `train`?"
        );
        let own = "[hub]\nrepo = \"o/n\"\n[splits]\ntrain = \"a\"";
        assert!(
            !DatasetConfig::parse(own, "x").unwrap().wants_card(),
            "what is written down holds"
        );
    }
}
