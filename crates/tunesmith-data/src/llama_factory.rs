//! LLaMA-Factory's `dataset_info.json`: an entry of it as a data set's configuration, read as that system reads it.
//!
//! Sources: `src/llamafactory/data/parser.py` and `data/README.md` of hiyouga/LLaMA-Factory (formats, columns, tags and
//! their defaults).

use crate::config::{DatasetConfig, HubRepo, Patterns};
use crate::{DataError, Shape, suggest};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Columns of pictures and sounds.
const MEDIA: [&str; 3] = ["images", "videos", "audios"];

#[derive(Deserialize)]
struct Entry {
    file_name: Option<String>,
    hf_hub_url: Option<String>,
    ms_hub_url: Option<String>,
    script_url: Option<String>,
    cloud_file_name: Option<String>,
    #[serde(default)]
    formatting: Formatting,
    #[serde(default)]
    ranking: bool,
    subset: Option<String>,
    split: Option<String>,
    folder: Option<String>,
    num_samples: Option<u64>,
    columns: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Formatting {
    #[default]
    Alpaca,
    Sharegpt,
    Openai,
}

impl DatasetConfig {
    /// An entry of a `dataset_info.json`; files are looked for beside it.
    ///
    /// # Errors
    /// No such file or entry, an entry that is malformed, and what tunesmith does not read: scripts, cloud storage,
    /// ModelScope alone, `num_samples`, pictures and sounds.
    pub fn from_dataset_info(path: &Path, name: &str) -> Result<Self, DataError> {
        let text = std::fs::read_to_string(path).map_err(|error| DataError::io(path, error))?;
        let wrong = |problem: String, help: &str| DataError::Config {
            place: format!("{}: {name}", path.display()),
            problem,
            help: (!help.is_empty()).then(|| help.to_owned()),
        };
        let entries: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string(), ""))?;
        let Some(entry) = entries.get(name) else {
            let near = suggest::nearest(name, entries.keys().map(String::as_str));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "its entries are {}",
                    suggest::list(&entries.keys().collect::<Vec<_>>())
                ),
            };
            return Err(wrong("no entry of this name".into(), &help));
        };
        let entry: Entry = serde_json::from_value(entry.clone())
            .map_err(|error| wrong(error.to_string(), "see `data/README.md` of LLaMA-Factory"))?;
        entry
            .config(path.parent().unwrap_or(Path::new("")))
            .map_err(|(problem, help)| wrong(problem, help))
    }
}

impl Entry {
    fn config(self, folder: &Path) -> Result<DatasetConfig, (String, &'static str)> {
        if self.num_samples.is_some() {
            return Err((
                "`num_samples` is not read".into(),
                "a TOML with [[mix]] and a weight takes a part of the rows",
            ));
        }
        let given = |column: &str| self.columns.as_ref()?.get(column)?.clone();
        if let Some(media) = MEDIA.iter().find(|column| given(column).is_some()) {
            return Err((format!("a column of {media}"), "models of text read text alone"));
        }
        // Where an entry names columns, those that it does not name are absent; else the defaults of the format hold.
        let column = |name: &str, default: Option<&str>| match &self.columns {
            Some(columns) => columns.get(name).cloned().flatten(),
            None => default.map(str::to_owned),
        };
        let label = column("kto_tag", None);
        let mut columns = BTreeMap::new();
        let mut set = |ours: &str, theirs: Option<String>| {
            columns.extend(theirs.map(|theirs| (ours.to_owned(), theirs)));
        };
        let mut config = DatasetConfig::default();
        let alpaca = self.formatting == Formatting::Alpaca;
        let (prompt, response) =
            (column("prompt", Some("instruction")), column("response", Some("output")));
        if alpaca && response.is_none() && !self.ranking {
            // columns for pre-training: text alone
            set("text", prompt);
            config.shape = Some(Shape::Text);
        } else {
            config.shape = Some(match (self.ranking, &label, alpaca) {
                (true, ..) => Shape::Preference,
                (_, Some(_), _) => Shape::UnpairedPreference,
                (_, _, true) => Shape::Alpaca,
                (_, _, false) => Shape::ShareGpt,
            });
            if alpaca {
                set("instruction", prompt);
                set("input", column("query", Some("input")));
                set("history", column("history", None));
                if !self.ranking {
                    set("output", response);
                }
            } else {
                set("conversations", column("messages", Some("conversations")));
            }
            set("system", column("system", None));
            set("tools", column("tools", None));
            if self.ranking {
                set("chosen", column("chosen", None));
                set("rejected", column("rejected", None));
            } else {
                set("label", label);
            }
        }
        if !alpaca {
            let tag =
                |name: &str, default: &str| self.tags.get(name).cloned().unwrap_or(default.into());
            let (role, content) = (tag("role_tag", "from"), tag("content_tag", "value"));
            config.keys = [("role".into(), role), ("content".into(), content)].into();
            config.roles = [
                (tag("user_tag", "human"), "user".into()),
                (tag("assistant_tag", "gpt"), "assistant".into()),
                (tag("observation_tag", "observation"), "tool".into()),
                (tag("function_tag", "function_call"), "function_call".into()),
                (tag("system_tag", "system"), "system".into()),
            ]
            .into();
        }
        columns.retain(|ours, theirs| ours != theirs);
        config.columns = columns;
        let split = self.split.unwrap_or("train".into());
        match (self.hf_hub_url, self.file_name) {
            (Some(repo), _) => {
                let within = self.folder.or(self.subset.clone()).unwrap_or("data".into());
                let pattern = format!("{within}/{split}-*.parquet");
                config.splits = [(split.clone(), Patterns::One(pattern))].into();
                config.hub = Some(HubRepo { repo, revision: "main".into(), subset: self.subset });
            }
            (None, Some(file)) => {
                let path = folder.join(file).to_string_lossy().into_owned();
                config.splits = [(split.clone(), Patterns::One(path))].into();
            }
            (None, None) => {
                let elsewhere = [
                    ("ms_hub_url", self.ms_hub_url),
                    ("script_url", self.script_url),
                    ("cloud_file_name", self.cloud_file_name),
                ];
                let found = elsewhere.iter().find(|(_, url)| url.is_some());
                let found = found.map_or("neither", |(name, _)| *name);
                return Err((
                    format!("expected `file_name` or `hf_hub_url`, found {found}"),
                    "fetch the files, and name them by `file_name`",
                ));
            }
        }
        config.split = Some(split);
        Ok(config)
    }
}
