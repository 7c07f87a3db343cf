//! Where a run finds the tokens that `tunesmith data prepare` wrote.

use crate::exit::{Exit, Failure};
use anyhow::Result;
use std::path::{Path, PathBuf};
use tunesmith_data::{Dataset, Prepared, cache_dir};
use tunesmith_tokens::EncodeKnobs;

/// Where they are written and looked for, unless something else is said.
pub(crate) fn folder() -> PathBuf {
    cache_dir().join("prepared")
}

/// The data set with its tokens, where there are any. `wanted`: a file or a folder that a person named, which must hold
/// them; else they are used if they are there.
pub(crate) fn attach(
    dataset: Dataset,
    wanted: &str,
    knobs: EncodeKnobs,
    encoder_name: impl FnOnce() -> Result<String>,
) -> Result<Dataset> {
    let place = match wanted {
        "" => folder(),
        named => PathBuf::from(named),
    };
    // a name is made of all the data, which costs a reading of them: only where something may be found
    if wanted.is_empty() && !place.is_dir() {
        return Ok(dataset);
    }
    let key = dataset.prepared_key(&encoder_name()?, knobs)?;
    let path = if place.is_dir() { place.join(key.file_name()) } else { place.clone() };
    if !path.is_file() {
        return if wanted.is_empty() { Ok(dataset) } else { Err(missing(&place, &path)) };
    }
    tracing::info!("tokens are taken from {}", path.display());
    Ok(dataset.with_prepared(Prepared::open(&path, &key)?)?)
}

fn missing(place: &Path, path: &Path) -> anyhow::Error {
    let text = format!(
        "data.prepared = {}: expected the tokens of these data, this tokenizer and these options, found no {}\n\
         help: the data or the options changed; `tunesmith data prepare --out {}` with the same --set and --recipe writes them",
        place.display(),
        path.display(),
        place.display(),
    );
    Failure(Exit::NoInput, text).into()
}
