//! From what a person typed (a name, a Hub id, a path) to files on this disk.

use crate::{
    cli::SourceChoice,
    exit::{Exit, Failure},
    gguf,
    run_dir::FINAL,
};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use tunesmith_data::{Card, CleanKnobs, Cleaning, Dataset, DatasetConfig, Format, Part, RowKnobs};
use tunesmith_hub::{Hub, HubError};

/// The model that ships in `data/`, relative to [`home`].
const EMBEDDED_MODEL: &str = "data/tunesmith-tiny";

/// What makes a directory an adapter's.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The folder that holds `configs/` and `data/`: `TUNESMITH_HOME`, or the nearest one above this folder or the binary.
pub(crate) fn home() -> Result<PathBuf> {
    let holds = |dir: &Path| dir.join("configs/datasets").is_dir();
    if let Some(dir) = std::env::var_os("TUNESMITH_HOME").map(PathBuf::from) {
        if holds(&dir) {
            return Ok(dir);
        }
        let text = format!("TUNESMITH_HOME: no configs/datasets in {}", dir.display());
        return Err(Failure(Exit::BadConfig, text).into());
    }
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let found = starts.iter().flatten().flat_map(|start| start.ancestors()).find(|dir| holds(dir));
    found.map(Path::to_path_buf).ok_or_else(|| {
        let text = "no folder with configs/datasets above this one or the binary\n\
                    help: run inside the tunesmith checkout, or set TUNESMITH_HOME to it";
        Failure(Exit::NoInput, text.into()).into()
    })
}

/// A model directory, and what there is to say about how it was chosen.
pub(crate) struct LocatedModel {
    pub(crate) dir: PathBuf,
    /// Set where something else stands in for what was asked.
    pub(crate) fallback: Option<String>,
}

/// Finds a model. `explicit`: a person named it, so nothing else may stand in for it.
pub(crate) fn model(
    name: &str,
    revision: Option<&str>,
    source: SourceChoice,
    explicit: bool,
) -> Result<LocatedModel> {
    let path = Path::new(name);
    if path.extension().is_some_and(|e| e == "gguf") && path.is_file() {
        return Ok(LocatedModel { dir: gguf::directory(path)?, fallback: None });
    }
    let run = path.join(FINAL); // a run directory stands for the model it made
    if let Some(dir) = [path, run.as_path()].iter().find(|dir| dir.join("config.json").is_file()) {
        return Ok(LocatedModel { dir: dir.to_path_buf(), fallback: None });
    }
    if path.is_dir() || !is_hub_id(name) {
        let what = if path.is_dir() {
            "no config.json in this directory"
        } else {
            "no such directory, and no Hub id"
        };
        let text = format!(
            "{name}: {what}\nhelp: a model is a directory with config.json, a .gguf file, or an id such as owner/name"
        );
        return Err(Failure(Exit::NoInput, text).into());
    }
    if source == SourceChoice::Sample && !explicit {
        return Ok(LocatedModel {
            dir: home()?.join(EMBEDDED_MODEL),
            fallback: Some("--source sample".into()),
        });
    }
    match Hub::from_env().and_then(|hub| hub.model(name, revision)) {
        Ok(dir) => Ok(LocatedModel { dir, fallback: None }),
        Err(error) if source == SourceChoice::Auto && !explicit && error.is_unreachable() => {
            let dir = home()?.join(EMBEDDED_MODEL);
            Ok(LocatedModel { dir, fallback: Some(first_line(&error)) })
        }
        Err(error) => Err(error).with_context(|| format!("model {name}")),
    }
}

/// The directory of an adapter: the given one, or `final/` of the run that it is.
pub(crate) fn adapter(path: &Path) -> PathBuf {
    let inside = path.join(FINAL);
    match !path.join(ADAPTER_CONFIG).exists() && inside.join(ADAPTER_CONFIG).exists() {
        true => inside,
        false => path.to_owned(),
    }
}

/// Files of a data set.
pub(crate) struct LocatedData {
    /// What the run is called after it.
    pub(crate) name: String,
    pub(crate) config: DatasetConfig,
    /// One part, or several that are mixed.
    pub(crate) train: Vec<Part>,
    /// Nothing, or one part.
    pub(crate) eval: Vec<Part>,
    /// Set where the sample stands in for the real rows.
    pub(crate) fallback: Option<String>,
}

impl LocatedData {
    /// The rows to train on, without those that the data set's `[clean]` leaves out.
    pub(crate) fn open(&self) -> Result<Dataset> {
        let dataset = Dataset::mix(&self.train)?;
        let Some(knobs) = &self.config.clean else { return Ok(dataset) };
        let cleaning = self.clean(&dataset, knobs)?;
        tracing::info!("cleaning: {cleaning}");
        Ok(dataset.without(&cleaning))
    }

    /// What cleaning finds, the evaluation split held against the rows where it is at hand.
    pub(crate) fn clean(&self, dataset: &Dataset, knobs: &CleanKnobs) -> Result<Cleaning> {
        let eval = (!self.eval.is_empty()).then(|| Dataset::mix(&self.eval)).transpose()?;
        Ok(dataset.clean(knobs, &eval.iter().collect::<Vec<_>>())?)
    }

    /// Tells on stderr that the sample stands in, where it does.
    pub(crate) fn say_fallback(&self) {
        if let Some(why) = &self.fallback {
            tracing::warn!(
                "{why}: the sample that ships with tunesmith stands in for `{}`",
                self.name
            );
        }
    }
}

/// Finds a data set; its evaluation split is fetched only if it is wanted: a name in `configs/datasets`, a TOML file, an
/// entry of a `dataset_info.json` (its path, a colon, the entry's name), a data file, folder or pattern, or `owner/name` on
/// the Hub. Behind a folder or a name of the Hub may stand a colon and a subset.
pub(crate) fn dataset(text: &str, source: SourceChoice, with_eval: bool) -> Result<LocatedData> {
    let (name, config) = named(text)?;
    if config.mix.is_empty() {
        return files(name, config, None, source, with_eval);
    }
    let (mut train, mut fallback) = (Vec::new(), None);
    for entry in &config.mix {
        let (name, of_entry) = named(&entry.dataset)?;
        let found = files(name, of_entry, entry.split.as_deref(), source, false)?;
        train.extend(found.train.into_iter().map(|part| Part { weight: entry.weight, ..part }));
        fallback = fallback.or(found.fallback);
    }
    Ok(LocatedData { name, config, train, eval: Vec::new(), fallback })
}

/// The configuration that a text names, and a short name for it.
fn named(text: &str) -> Result<(String, DatasetConfig)> {
    let path = Path::new(text);
    let stem = || path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    if let Some((info, entry)) = text.rsplit_once(':')
        && info.ends_with("dataset_info.json")
    {
        return Ok((entry.to_owned(), DatasetConfig::from_dataset_info(Path::new(info), entry)?));
    }
    let (repo, subset) = match text.rsplit_once(':') {
        Some((repo, subset)) => (repo, Some(subset)),
        None => (text, None),
    };
    if Path::new(repo).is_dir() {
        let name = Path::new(repo).file_name().map(|name| name.to_string_lossy().into_owned());
        let name = [name, subset.map(str::to_owned)].into_iter().flatten().collect::<Vec<_>>();
        return Ok((name.join("-"), DatasetConfig::of_folder(Path::new(repo), subset)?));
    }
    if is_hub_data(repo) {
        return Ok((repo.replace('/', "-"), DatasetConfig::of_hub(repo, subset)));
    }
    let looks_like_path = path.exists() || text.contains(['/', '*', '.']);
    Ok(match looks_like_path {
        true if path.extension().is_some_and(|e| e == "toml") => {
            (stem(), DatasetConfig::load(path)?)
        }
        true => (stem(), DatasetConfig::of_path(text)),
        false => (text.to_owned(), named_dataset(text)?),
    })
}

/// `owner/name` that is no path, not even a mistyped one.
fn is_hub_data(text: &str) -> bool {
    let folder = Path::new(text).parent().filter(|parent| !parent.as_os_str().is_empty());
    folder.is_some_and(|folder| !folder.exists())
        && is_hub_id(text)
        && Format::of_name(Path::new(text)).is_none()
        && Path::new(text).extension().is_none_or(|ending| ending != "toml")
}

/// The splits that the repository's README.md declares, where it does and nothing else says where they are.
fn from_card(config: &mut DatasetConfig) -> Result<()> {
    let Some(hub) = config.hub.clone().filter(|_| config.wants_card()) else { return Ok(()) };
    let readme = Hub::from_env()
        .and_then(|client| client.dataset(&hub.repo, Some(&hub.revision), &["README.md".into()]));
    let readme = match readme {
        Ok(files) => files,
        // it has none; or its files cannot be had either, which is said where they are fetched
        Err(HubError::FileNotFound { .. }) => return Ok(()),
        Err(error) if error.is_unreachable() => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("data set {}", hub.repo)),
    };
    for path in readme {
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let place = format!("{}/README.md", hub.repo);
        if let Some(card) = Card::parse(&String::from_utf8_lossy(&text), &place)? {
            config.take_card(&card)?;
        }
    }
    Ok(())
}

/// The files of one data set.
fn files(
    name: String,
    mut config: DatasetConfig,
    split: Option<&str>,
    source: SourceChoice,
    with_eval: bool,
) -> Result<LocatedData> {
    if source != SourceChoice::Sample || config.sample.is_none() {
        from_card(&mut config)?;
    }
    let (_, patterns) = config.split(split)?;
    let eval_patterns = match config.eval_split.as_deref() {
        // Files on this disk cost nothing to name; those of the Hub would have to be fetched.
        Some(split) if with_eval || config.hub.is_none() => config.split(Some(split))?.1,
        _ => &[],
    };
    let part = |paths: Vec<PathBuf>, config: &DatasetConfig| -> Vec<Part> {
        let knobs = RowKnobs::from(config);
        let part = (!paths.is_empty()).then_some(Part { paths, knobs, weight: 1.0 });
        part.into_iter().collect()
    };
    let Some(hub) = &config.hub else {
        let paths = |patterns: &[String]| patterns.iter().map(PathBuf::from).collect();
        let (train, eval) = (part(paths(patterns), &config), part(paths(eval_patterns), &config));
        return Ok(LocatedData { name, train, eval, config, fallback: None });
    };
    let sample = |why: String| -> Result<LocatedData> {
        let sample = |path: &Option<PathBuf>| path.iter().cloned().collect::<Vec<_>>();
        let (train, eval) = (sample(&config.sample), sample(&config.eval_sample));
        let mut config = config.clone();
        (config.shape, config.columns) = (None, Default::default());
        let (train, eval) = (part(train, &config), part(eval, &config));
        Ok(LocatedData { name: name.clone(), train, eval, config, fallback: Some(why) })
    };
    if source == SourceChoice::Sample && config.sample.is_some() {
        return sample("--source sample".into());
    }
    let fetch = |patterns: &[String]| match patterns {
        [] => Ok(Vec::new()),
        patterns => Hub::from_env()
            .and_then(|hub_client| hub_client.dataset(&hub.repo, Some(&hub.revision), patterns)),
    };
    match fetch(patterns).and_then(|train| Ok((train, fetch(eval_patterns)?))) {
        Ok((train, eval)) => {
            let (train, eval) = (part(train, &config), part(eval, &config));
            Ok(LocatedData { name, train, eval, config, fallback: None })
        }
        Err(error)
            if source == SourceChoice::Auto
                && error.is_unreachable()
                && config.sample.is_some() =>
        {
            sample(first_line(&error))
        }
        Err(error) => Err(error).with_context(|| format!("data set {name}")),
    }
}

fn named_dataset(name: &str) -> Result<DatasetConfig> {
    let folder = home()?.join("configs/datasets");
    let is_there = folder.join(format!("{name}.toml")).is_file();
    DatasetConfig::find(name, &folder).map_err(|error| match is_there {
        true => error.into(),
        false => Failure(Exit::NoInput, error.to_string()).into(),
    })
}

/// The recipe file of a name in `configs/recipes`, or of a path.
pub(crate) fn recipe(text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    if path.is_file() {
        return Ok(path);
    }
    let folder = home()?.join("configs/recipes");
    let named = folder.join(format!("{text}.toml"));
    if named.is_file() {
        return Ok(named);
    }
    let names = DatasetConfig::names(&folder).join(", ");
    let text = format!(
        "no recipe `{text}` in configs/recipes, and no such file\nhelp: recipes are {names}"
    );
    Err(Failure(Exit::NoInput, text).into())
}

/// `owner/name`, or a lone name of the Hub's early days such as `gpt2`.
fn is_hub_id(name: &str) -> bool {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() <= 2 && parts.into_iter().all(good)
}

fn first_line(error: &HubError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
