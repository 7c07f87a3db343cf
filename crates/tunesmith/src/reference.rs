//! Reference log-probabilities on disk: computed once for a model and its data, read by every run of the two.

use crate::{identity::adapter_print, load, prepare::Prepared};
use anyhow::{Context, Result};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};
use tch::Tensor;
use tunesmith_data::OnBadRow;
use tunesmith_model::{TensorFile, Transformer, base_hash, write_tensors};
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{DocKey, Reference};

/// The table for the training rows; `begin` makes the model as it is before step 0.
pub(crate) fn table(
    prepared: &Prepared,
    begin: &dyn Fn() -> Result<Transformer>,
) -> Result<HashMap<DocKey, f32>> {
    let path = cache()?.join(format!("{}.safetensors", key(prepared)?));
    if path.exists() {
        tracing::info!("reference log-probabilities: {}", path.display());
        return read(&path);
    }
    tracing::info!("reference log-probabilities: computing them once, for {}", path.display());
    let model = begin()?;
    let mut table = HashMap::new();
    let knobs = &prepared.recipe.data;
    let mut add = |examples: &mut Vec<Example>| -> Result<()> {
        if !examples.is_empty() {
            if knobs.share_prompt {
                Example::share_prompts(examples);
            }
            table.extend(Reference::tabulate(&model, &Batch::new(examples.iter()))?);
            examples.clear();
        }
        Ok(())
    };
    // Every row once, whichever an epoch of a mix will draw.
    let mut examples = Vec::new();
    for row in prepared.dataset.examples(&prepared.encoder, 0..u64::MAX) {
        match row {
            Ok(row) => examples.extend(row),
            Err(_) if knobs.on_bad_row == OnBadRow::Skip => {} // the stream will say so
            Err(error) => return Err(error.into()),
        }
        if examples.iter().map(Example::len).sum::<usize>() >= knobs.seq_len * knobs.batch {
            add(&mut examples)?;
        }
    }
    add(&mut examples)?;
    write(&path, &table)?;
    Ok(table)
}

/// Everything that the numbers depend on.
fn key(prepared: &Prepared) -> Result<String> {
    let recipe = &prepared.recipe;
    let data = &recipe.data;
    let clock = (data.clock != 0).then_some(data.clock);
    let fallback = prepared.data.config.template.as_deref();
    let encoder = load::encoder_name(&prepared.model_dir, fallback, clock)?;
    let adapter = match recipe.adapter.from.is_empty() {
        true => String::new(),
        false => adapter_print(&recipe.adapter.from)?,
    };
    let mut hasher = blake3::Hasher::new();
    for part in [
        base_hash(&prepared.model_dir)?,
        prepared.dataset.identity()?,
        prepared.dataset.prepared_key(&encoder, prepared.encoder.knobs())?.file_name(),
        adapter,
        format!("{:?} {:?}", recipe.model, data.on_bad_row),
    ] {
        hasher.update(part.as_bytes()).update(b"\n");
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// `reference` in tunesmith's cache folder.
fn cache() -> Result<PathBuf> {
    let dir = tunesmith_data::cache_dir().join("reference");
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

fn read(path: &Path) -> Result<HashMap<DocKey, f32>> {
    let file = TensorFile::open(path)?;
    let rows = Vec::<i64>::try_from(file.tensor("row")?)?;
    let places = Vec::<i64>::try_from(file.tensor("place")?)?;
    let logps = Vec::<f32>::try_from(file.tensor("logp")?)?;
    let keys = rows.into_iter().zip(places).map(|(row, place)| (row as u64, place as u32));
    Ok(keys.zip(logps).collect())
}

/// Whole or not at all: another run may read it at the same time.
fn write(path: &Path, table: &HashMap<DocKey, f32>) -> Result<()> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| **key);
    let rows: Vec<i64> = entries.iter().map(|((row, _), _)| *row as i64).collect();
    let places: Vec<i64> = entries.iter().map(|((_, place), _)| i64::from(*place)).collect();
    let logps: Vec<f32> = entries.iter().map(|(_, logp)| **logp).collect();
    let [rows, places] = [rows, places].map(|list| Tensor::from_slice(&list));
    let logps = Tensor::from_slice(&logps);
    let staging = path.with_extension(format!("tmp-{}", std::process::id()));
    let tensors = [("row", &rows), ("place", &places), ("logp", &logps)];
    write_tensors(&staging, tensors.map(|(name, tensor)| (name.to_owned(), tensor)))?;
    std::fs::rename(&staging, path).with_context(|| path.display().to_string())
}
