//! From flags to the parts of a run that need no weights: recipe, files, encoder, streams.

use crate::{
    cli::{FinetuneArgs, SourceChoice},
    exit::{ConfigError, Exit, Failure},
    grow, load,
    locate::{self, LocatedData},
    objective::ObjectiveKind,
    recipe::{Layers, OnMismatch, Origin, Recipe},
    tokens,
};
use anyhow::Result;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tunesmith_data::{Dataset, Stream, StreamKnobs, Written};
use tunesmith_model::Config;
use tunesmith_tokens::{Batch, Certificate, EncodeKnobs, Encoder, Template, Tokenizer};

/// The recipe of the embedded model: what suits a model of two million weights.
const EMBEDDED_RECIPE: &str = "sft-tiny";
/// Rows whose training text is compared with the text that sampling will feed.
const PROBED_ROWS: u64 = 32;
/// Labels from here on are no numbers of classes.
const MAX_CLASSES: u32 = 65536;

/// A run on paper: its recipe and its files, nothing of them read yet.
pub(crate) struct Plan {
    pub(crate) recipe: Recipe,
    pub(crate) layers: Layers,
    pub(crate) data: LocatedData,
    pub(crate) model_dir: PathBuf,
    /// What a reader of the results must know.
    pub(crate) warnings: Vec<String>,
}

/// A run before its weights.
pub(crate) struct Prepared {
    pub(crate) recipe: Recipe,
    pub(crate) layers: Layers,
    pub(crate) data: LocatedData,
    pub(crate) model_dir: PathBuf,
    pub(crate) config: Config,
    pub(crate) encoder: Arc<Encoder>,
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) stream: Stream,
    pub(crate) held_out: Option<Stream>,
    pub(crate) held_out_rows: Option<Arc<Dataset>>,
    /// Training rows of each class, by its number; empty where there are no classes.
    pub(crate) classes: Vec<u64>,
    /// What a reader of the results must know.
    pub(crate) warnings: Vec<String>,
    /// That training and serving see the same tokens.
    pub(crate) certificate: Option<Certificate>,
}

impl Plan {
    /// Resolves the recipe and finds the files.
    pub(crate) fn new(args: &FinetuneArgs) -> Result<Self> {
        let recipe_file = args.recipe.as_deref().map(locate::recipe).transpose()?;
        let mut layers = layers(args, recipe_file.as_deref())?;
        let mut recipe = layers.resolve()?;
        if recipe.data.dataset.is_empty() {
            let text = "no data set given\nhelp: --dataset takes a name in configs/datasets, a TOML file, or a data file or folder";
            return Err(Failure(Exit::Usage, text.into()).into());
        }
        let with_eval = recipe.train.eval_every > 0;
        let mut data = locate::dataset(&recipe.data.dataset, recipe.source, with_eval)?;
        let explicit = layers.origin("model.name") != Origin::Default;
        // Whoever could not reach the Hub a moment ago need not wait for it again.
        let source = match (&data.fallback, recipe.source) {
            (Some(_), SourceChoice::Auto) if !explicit => SourceChoice::Sample,
            (_, source) => source,
        };
        let model =
            locate::model(&recipe.model.name, Some(&recipe.model.revision), source, explicit)?;
        let mut warnings = Vec::new();
        if let Some(why) = data.fallback.clone().or(model.fallback.clone()) {
            if model.fallback.is_some() {
                let file = recipe_file.map_or_else(|| locate::recipe(EMBEDDED_RECIPE), Ok)?;
                layers = self::layers(args, Some(&file))?;
                let reason = Origin::Chosen("stands in for the Hub's".into());
                layers.put_text("model.name", &relative(&model.dir).to_string_lossy(), reason)?;
                recipe = layers.resolve()?;
                if data.fallback.is_some() {
                    data = locate::dataset(&recipe.data.dataset, SourceChoice::Sample, true)?;
                }
            }
            let what = match (&data.fallback, &model.fallback) {
                (Some(_), Some(_)) => {
                    "the small model and the sample that ship with tunesmith stand in"
                }
                (Some(_), None) => {
                    "the sample that ships with tunesmith stands in for the data set"
                }
                _ => "the small model that ships with tunesmith stands in",
            };
            warnings
                .push(format!("{why}: {what}. This run shows the machinery, not a useful model."));
        }
        let model_dir = grown(model.dir, &recipe)?;
        Ok(Self { recipe, layers, data, model_dir, warnings })
    }

    /// The encoder of the run, for rows of the recipe's length where the model has as many positions. `clock`: the
    /// present, in Unix seconds, for a template that tells the date; it is noted in the recipe.
    fn encoder(&mut self, config: &Config, clock: i64) -> Result<Arc<Encoder>> {
        let knobs = &self.recipe.data;
        let positions = config.max_position_embeddings as usize;
        let max_len = knobs.seq_len.min(positions);
        if max_len < knobs.seq_len && self.layers.origin("data.seq_len") != Origin::Default {
            let seq_len = knobs.seq_len;
            self.warnings.push(format!(
                "data.seq_len = {seq_len}, and the model was made for {positions} positions: a longer row is cut there, and the ledger counts it"
            ));
        }
        let encode_knobs = EncodeKnobs {
            max_len: Some(max_len),
            truncate: knobs.truncate,
            train_on: knobs.train_on,
        };
        let fallback = self.data.config.template.as_deref();
        let load::Encoding { encoder, note } =
            load::encoder(&self.model_dir, fallback, encode_knobs, Some(clock))?;
        self.warnings.extend(note);
        if encoder.template().is_some_and(Template::tells_date) {
            let reason = Origin::Chosen("the start of the run".into());
            self.layers.set("data.clock", &clock.to_string(), reason)?;
            self.recipe.data.clock = clock;
        }
        Ok(encoder)
    }

    /// What names the encoder's tokenizer, template and clock.
    fn encoder_name(&self) -> Result<String> {
        let clock = Some(self.recipe.data.clock).filter(|clock| *clock != 0);
        load::encoder_name(&self.model_dir, self.data.config.template.as_deref(), clock)
    }

    /// Writes the tokens that this run would train on into `folder`; see [`Dataset::prepare`].
    pub(crate) fn write_tokens(mut self, clock: i64, folder: &Path) -> Result<(Written, Self)> {
        let encoder = self.encoder(&Config::from_dir(&self.model_dir)?, clock)?;
        let written = self.data.open()?.prepare(&encoder, &self.encoder_name()?, folder)?;
        Ok((written, self))
    }

    /// Opens everything but the weights. `clock` as for the encoder; a resumed run keeps the one it began with, so that
    /// its tokens stay the same.
    pub(crate) fn prepare(mut self, clock: i64) -> Result<Prepared> {
        let config = Config::from_dir(&self.model_dir)?;
        let encoder = self.encoder(&config, clock)?;
        let dataset = self.data.open()?;
        let wanted = &self.recipe.data.prepared;
        let dataset = tokens::attach(dataset, wanted, encoder.knobs(), || self.encoder_name())?;
        let dataset = Arc::new(dataset);
        let Self { recipe, layers, data, model_dir, warnings } = self;
        let knobs = &recipe.data;
        let stream_knobs = StreamKnobs {
            seed: recipe.seed,
            shuffle: knobs.shuffle,
            packing: knobs.packing,
            share_prompt: knobs.share_prompt,
            epochs: (recipe.train.max_steps == 0).then_some(recipe.train.epochs),
            on_bad_row: knobs.on_bad_row,
            ..StreamKnobs::new(knobs.seq_len, knobs.batch)
        };
        let stream = Stream::new(dataset.clone(), encoder.clone(), stream_knobs.clone())?;
        let held_out_rows = match data.eval.is_empty() {
            true => None,
            false => Some(Arc::new(Dataset::mix(&data.eval)?.first(knobs.eval_rows))),
        };
        let held_out = match &held_out_rows {
            Some(rows) if recipe.train.eval_every > 0 => {
                let knobs = StreamKnobs { shuffle: false, epochs: Some(1), ..stream_knobs };
                Some(Stream::new(rows.clone(), encoder.clone(), knobs)?)
            }
            None if recipe.train.eval_every > 0 => {
                let text = format!(
                    "train.eval_every = {}: the data set `{}` has no evaluation split\n\
                     help: name one as `eval_split` in its TOML file, or leave --eval-every out",
                    recipe.train.eval_every, data.name
                );
                return Err(Failure(Exit::BadConfig, text).into());
            }
            _ => None,
        };
        // A malformed row is the stream's to report, and a label that is no class the objective's.
        let classes = match recipe.objective.kind {
            ObjectiveKind::Classify => dataset.classes(MAX_CLASSES),
            _ => Vec::new(),
        };
        let config = recipe.objective.model(config, &data.config.labels, classes.len());
        let mut prepared = Prepared {
            recipe,
            layers,
            data,
            model_dir,
            config,
            encoder,
            dataset,
            stream,
            held_out,
            held_out_rows,
            classes,
            warnings,
            certificate: None,
        };
        prepared.certify()?;
        Ok(prepared)
    }
}

/// The present, in Unix seconds.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

impl Prepared {
    /// The first micro-batch, if its tokens are the model's; the stream hands it out all the same.
    pub(crate) fn first_batch(&mut self) -> Result<Option<Batch>> {
        let vocab_size = self.config.vocab_size;
        let batch = self.stream.peek()?;
        for (range, doc) in batch.iter().flat_map(|batch| batch.doc_ranges().zip(&batch.docs)) {
            let ids = batch.iter().flat_map(|batch| &batch.tokens[range.clone()]);
            if let Some(id) = ids.copied().find(|&id| i64::from(id) >= vocab_size) {
                let text = format!(
                    "row {}: token id {id} is outside the model's vocabulary of {vocab_size}\n\
                     help: the tokenizer and the model do not belong together",
                    doc.row
                );
                return Err(Failure(Exit::BadData, text).into());
            }
        }
        Ok(batch)
    }

    /// Whether the model brought its chat template.
    pub(crate) fn has_own_template(&self) -> bool {
        tunesmith_tokens::Template::from_dir(&self.model_dir)
            .is_ok_and(|template| template.is_some())
    }

    /// What is trained must be what will be served: rows spread over the data set are looked at both ways.
    fn certify(&mut self) -> Result<()> {
        if self.encoder.tokenizer().is_none() {
            return Ok(()); // ids are served as they were trained
        }
        let n = self.dataset.len();
        let rows = (0..PROBED_ROWS.min(n)).map(|i| i * n / PROBED_ROWS.min(n));
        // A malformed row is the stream's to report.
        let samples = rows.filter_map(|row| Some((row, self.dataset.sample(row).ok()?)));
        let certificate = self.encoder.certify(samples);
        if let Err(error) = certificate.holds() {
            let text = format!("training and serving differ: {error}");
            if self.recipe.data.on_mismatch == OnMismatch::Stop {
                let help = "help: use a template that fits, or train all the same with --set data.on_mismatch=warn";
                return Err(Failure(Exit::BadData, format!("{text}\n{help}")).into());
            }
            self.warnings.push(text);
        }
        let served = &certificate.served;
        if let Some(first) = &served.first {
            self.warnings.push(format!(
                "the template refuses {} of {} prompts, which nobody can ask after training: {first}",
                served.failed, served.checked
            ));
        }
        self.certificate = Some(certificate);
        Ok(())
    }
}

/// Every value of the recipe as TOML; nothing is looked up or read but the recipe file.
pub(crate) fn resolved(args: &FinetuneArgs) -> Result<String> {
    let recipe_file = args.recipe.as_deref().map(locate::recipe).transpose()?;
    let layers = layers(args, recipe_file.as_deref())?;
    layers.resolve()?;
    Ok(layers.to_toml(&[]))
}

/// The model directory `dir` with the tokens of the adapter that training starts from, and with the recipe's new ones.
fn grown(dir: PathBuf, recipe: &Recipe) -> Result<PathBuf> {
    let (from, new) = (&recipe.adapter.from, &recipe.model.new_tokens);
    if from.is_empty() {
        return if new.is_empty() { Ok(dir) } else { grow::with_tokens(&dir, new) };
    }
    let adapter = locate::adapter(Path::new(from));
    // What is no adapter is refused where it is loaded.
    let dir = match adapter.join("adapter_config.json").is_file() {
        true => grow::with_adapter(&dir, &adapter)?,
        false => dir,
    };
    if !new.is_empty() {
        let tokenizer = Tokenizer::from_dir(&dir)?;
        if let Some(token) = new.iter().find(|token| tokenizer.token_to_id(token).is_none()) {
            let problem = format!(
                "the adapter {from} has no row for {token:?}, which so would not be learned"
            );
            let help = "train a new adapter, without adapter.from, for tokens that the model lacks";
            return Err(ConfigError::new("model.new_tokens", problem, help).into());
        }
    }
    Ok(dir)
}

/// Defaults, then a recipe file, then flags.
fn layers(args: &FinetuneArgs, recipe: Option<&Path>) -> Result<Layers> {
    let mut layers = Layers::new()?;
    if let Some(path) = recipe {
        layers.file(path)?;
    }
    let texts =
        [("--dataset", "data.dataset", &args.dataset), ("--model", "model.name", &args.model)];
    for (flag, key, value) in texts {
        if let Some(value) = value {
            layers.put_text(key, value, Origin::Flag(flag.into()))?;
        }
    }
    if let Some(source) = args.source {
        layers.put_text("source", source.name(), Origin::Flag("--source".into()))?;
    }
    if args.job && args.source.is_none() && layers.origin("source") == Origin::Default {
        layers.put_text("source", SourceChoice::Hub.name(), Origin::Flag("--job".into()))?;
    }
    if args.from_scratch {
        layers.set("model.from_scratch", "true", Origin::Flag("--from-scratch".into()))?;
    }
    for (flag, key, value) in args.knobs.given() {
        layers.set(key, &value, Origin::Flag(flag.into()))?;
    }
    args.set.iter().try_for_each(|assignment| layers.assignment(assignment))?;
    Ok(layers)
}

/// A path below this folder without it, so that a recipe can move with its checkout.
fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_path_buf()
}
