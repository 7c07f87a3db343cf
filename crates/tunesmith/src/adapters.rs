//! The adapters of a command line: several on one base, each under a name that requests choose it by.

use crate::{
    exit::{ConfigError, Exit, Failure},
    grow, locate,
    run_dir::FINAL,
};
use anyhow::Result;
use std::{
    path::{Path, PathBuf},
    str::FromStr,
};
use tunesmith_data::suggest;
use tunesmith_model::{Storage, adapter_labels, adapter_storage};

/// What requests call the model without any adapter.
const BASE: &str = "base";

/// `--adapter DIR`, called by the last part of its path, or `--adapter NAME=DIR`.
#[derive(Debug, Clone)]
pub(crate) struct AdapterArg {
    pub(crate) name: String,
    /// Where the adapter's own files lie.
    pub(crate) dir: PathBuf,
}

impl FromStr for AdapterArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = text.split_once('=').filter(|(name, dir)| {
            !name.contains('/') && !dir.is_empty() && !Path::new(text).exists()
        });
        let (name, dir) = match named {
            Some(("", _)) => return Err("expected DIR or NAME=DIR, found no name".into()),
            Some((name, dir)) => (name.to_owned(), Path::new(dir)),
            None => (own_name(Path::new(text)), Path::new(text)),
        };
        if name == BASE {
            return Err(format!(
                "`{BASE}` is the model without an adapter; NAME=DIR gives another name"
            ));
        }
        Ok(Self { name, dir: locate::adapter(dir) })
    }
}

/// The last part of a path that tells one run from another.
fn own_name(path: &Path) -> String {
    let parts = path.iter().rev().map(|part| part.to_string_lossy().into_owned());
    let mut telling = parts.filter(|part| part != FINAL);
    telling.next().unwrap_or_else(|| path.display().to_string())
}

/// Refuses two adapters of one name, and what is no adapter, before a model is loaded for it.
pub(crate) fn check(adapters: &[AdapterArg]) -> Result<()> {
    for (i, adapter) in adapters.iter().enumerate() {
        if !adapter.dir.join("adapter_config.json").is_file() {
            let found = match adapter.dir.exists() {
                true => "no adapter_config.json there",
                false => "nothing there",
            };
            let text = format!(
                "--adapter {}: expected the directory of an adapter, or of a run that has ended, found {found}\nhelp: a run leaves its adapter in final/; --adapter NAME=DIR names one",
                adapter.dir.display()
            );
            return Err(Failure(Exit::NoInput, text).into());
        }
        if let Some(other) = adapters[..i].iter().find(|other| other.name == adapter.name) {
            let text = format!(
                "--adapter: {} and {} are both called `{}`\nhelp: --adapter NAME=DIR gives them different names",
                other.dir.display(),
                adapter.dir.display(),
                adapter.name
            );
            return Err(Failure(Exit::Usage, text).into());
        }
    }
    Ok(())
}

/// The number of the adapter that a request names; `base` is none. The error says what there is.
pub(crate) fn choose(adapters: &[AdapterArg], name: &str) -> Result<Option<usize>, String> {
    if let Some(number) = adapters.iter().position(|adapter| adapter.name == name) {
        return Ok(Some(number));
    }
    if name == BASE {
        return Ok(None);
    }
    if adapters.is_empty() {
        return Err(format!(
            "no adapter is called `{name}`: none was given\nhelp: --adapter {name}=DIR gives one"
        ));
    }
    let meant = suggest::nearest(name, all_names(adapters));
    let meant = meant.map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
    Err(format!("no adapter is called `{name}`\nhelp: {meant}there are {}", names(adapters)))
}

fn all_names(adapters: &[AdapterArg]) -> Vec<&str> {
    adapters.iter().map(|adapter| adapter.name.as_str()).chain([BASE]).collect()
}

/// What requests are answered by, the one in use first: for people.
pub(crate) fn names(adapters: &[AdapterArg]) -> String {
    suggest::list(&all_names(adapters))
}

/// What a request without a name is answered by: the first adapter, if there is one.
pub(crate) fn first(adapters: &[AdapterArg]) -> Option<usize> {
    (!adapters.is_empty()).then_some(0)
}

/// The name of an adapter of the model, or that of none.
pub(crate) fn name(adapters: &[AdapterArg], number: Option<usize>) -> &str {
    number.and_then(|number| adapters.get(number)).map_or(BASE, |adapter| &adapter.name)
}

/// The model directory `dir` with the tokens that the adapters bring, which must be the same for all that bring any.
pub(crate) fn grown(dir: &Path, adapters: &[AdapterArg]) -> Result<PathBuf> {
    let mut grown: Option<(PathBuf, &AdapterArg)> = None;
    for adapter in adapters {
        let with = grow::with_adapter(dir, &adapter.dir)?;
        if with == dir {
            continue;
        }
        match &grown {
            Some((other, first)) if *other != with => {
                return Err(differ(
                    "brings other tokens than",
                    first,
                    adapter,
                    "use them one by one",
                ));
            }
            _ => grown = Some((with, adapter)),
        }
    }
    Ok(grown.map_or_else(|| dir.to_owned(), |(dir, _)| dir))
}

/// The labels of the classifier that the adapters make of their base; `None` where they leave it a language model.
pub(crate) fn labels(adapters: &[AdapterArg]) -> Result<Option<Vec<String>>> {
    let said = |adapter: &AdapterArg| Ok(adapter_labels(&adapter.dir)?);
    common(adapters, said, "has other labels than", "use them one by one").map(Option::flatten)
}

/// How the bases of the adapters lay in memory while they were trained; dense without any.
pub(crate) fn storage(adapters: &[AdapterArg]) -> Result<Storage> {
    let said = |adapter: &AdapterArg| Ok(adapter_storage(&adapter.dir)?);
    let help = "--storage chooses how the matrices of both lie in memory";
    let storage = common(adapters, said, "was trained on another storage than", help)?;
    Ok(storage.unwrap_or(Storage::Dense))
}

/// What all adapters say; `None` without any.
fn common<T: PartialEq>(
    adapters: &[AdapterArg],
    said: impl Fn(&AdapterArg) -> Result<T>,
    how: &str,
    help: &str,
) -> Result<Option<T>> {
    let Some((first, others)) = adapters.split_first() else { return Ok(None) };
    let common = said(first)?;
    for other in others {
        if said(other)? != common {
            return Err(differ(how, first, other, help));
        }
    }
    Ok(Some(common))
}

fn differ(how: &str, first: &AdapterArg, other: &AdapterArg, help: &str) -> anyhow::Error {
    let place = format!("--adapter {}", other.dir.display());
    let problem = format!("`{}` {how} `{}` ({})", other.name, first.name, first.dir.display());
    ConfigError::new(place, problem, help).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_or_taken_from_the_path() {
        for (text, name, dir) in [
            ("runs/chats", "chats", "runs/chats"),
            ("runs/chats/", "chats", "runs/chats/"),
            ("runs/chats/final", "chats", "runs/chats/final"),
            ("a=runs/chats", "a", "runs/chats"),
            ("a=b=c", "a", "b=c"),
            ("runs/lr=3", "lr=3", "runs/lr=3"),
        ] {
            let found: AdapterArg = text.parse().unwrap();
            assert_eq!(
                (found.name.as_str(), found.dir.as_path()),
                (name, Path::new(dir)),
                "{text}"
            );
        }
        for bad in ["=runs/chats", "base=runs/chats", "runs/base"] {
            assert!(bad.parse::<AdapterArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_choose_by_name() {
        let adapters = ["chats=a", "facts=b"].map(|text| text.parse().unwrap());
        assert_eq!(choose(&adapters, "facts"), Ok(Some(1)));
        assert_eq!(choose(&adapters, "base"), Ok(None));
        let error = choose(&adapters, "Fact").unwrap_err();
        assert_eq!(
            error,
            "no adapter is called `Fact`\nhelp: did you mean `facts`? there are `chats`, `facts`, `base`"
        );
        let error = choose(&adapters, "zebra").unwrap_err();
        assert_eq!(error, "no adapter is called `zebra`\nhelp: there are `chats`, `facts`, `base`");
        assert!(choose(&[], "facts").unwrap_err().contains("--adapter facts=DIR"));
    }
}
