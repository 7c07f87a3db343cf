//! Which files of a repository make a model, and which match a data set's patterns.

use glob::{MatchOptions, Pattern};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::HubError;
use crate::names::{FileName, invalid};

/// Everything a model needs beside its weights, by name at the top of the repository.
const BESIDE_WEIGHTS: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// File endings of formats that run code when Python opens them.
const PICKLES: [&str; 5] = [".bin", ".pt", ".pth", ".ckpt", ".pkl"];

/// How a repository stores its weights.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// These files are all of them.
    Files(Vec<FileName>),
    /// This index names them.
    Index(FileName),
    /// There are none that can be opened safely, only these pickles.
    Pickles(Vec<FileName>),
    /// There are none.
    Missing,
}

/// Configuration, tokenizer and chat templates among `names`.
pub(crate) fn beside_weights(names: &[FileName]) -> Vec<FileName> {
    let template =
        |name: &str| name.starts_with("additional_chat_templates/") && name.ends_with(".jinja");
    names
        .iter()
        .filter(|name| BESIDE_WEIGHTS.contains(&name.as_str()) || template(name.as_str()))
        .cloned()
        .collect()
}

/// How `names` store the weights, in the order in which Python's transformers looks: one file, then an index.
/// Mistral's `consolidated.safetensors` holds the same weights again under other names, so it is left out.
pub(crate) fn weights(names: &[FileName]) -> Weights {
    let find = |wanted: &str| names.iter().find(|name| name.as_str() == wanted).cloned();
    if let Some(single) = find("model.safetensors") {
        return Weights::Files(vec![single]);
    }
    if let Some(index) = find("model.safetensors.index.json") {
        return Weights::Index(index);
    }
    let at_top = |wanted: &dyn Fn(&str) -> bool| -> Vec<FileName> {
        names.iter().filter(|name| name.at_top().is_some_and(wanted)).cloned().collect()
    };
    let loose = at_top(&|name| name.ends_with(".safetensors") && !name.starts_with("consolidated"));
    if !loose.is_empty() {
        return Weights::Files(loose);
    }
    let pickles = at_top(&|name| {
        PICKLES.iter().any(|end| name.ends_with(end)) && name != "training_args.bin"
    });
    if pickles.is_empty() { Weights::Missing } else { Weights::Pickles(pickles) }
}

/// The files that an index spreads the weights over; they are names from a server like any other.
pub(crate) fn shards(index: &[u8]) -> Result<Vec<FileName>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Map<String, Value>,
    }
    let help = "the index of the weights is broken; choose another revision of the repository";
    let index: Index = serde_json::from_slice(index).map_err(|_| {
        invalid("index", "model.safetensors.index.json", "it has no `weight_map`", help)
    })?;
    let mut files = Vec::new();
    for file in index.weight_map.values() {
        let name = FileName::parse(file.as_str().unwrap_or_default())?;
        if !name.as_str().ends_with(".safetensors") {
            return Err(invalid(
                "index",
                name.as_str(),
                "it names a file that is no *.safetensors",
                help,
            ));
        }
        files.push(name);
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// Shell patterns over the names of a repository: `*` and `?` stay within a folder, `**` crosses folders.
#[derive(Debug, Clone)]
pub(crate) struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Checks the patterns.
    pub(crate) fn parse(patterns: &[String]) -> Result<Patterns, HubError> {
        let help = "write for example data/train-*.parquet, or **/*.jsonl for any folder";
        let parse = |text: &String| {
            Pattern::new(text).map_err(|error| invalid("file pattern", text, error.msg, help))
        };
        Ok(Patterns(patterns.iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// The names that match, in the order of `names`, or the first pattern that matches none.
    pub(crate) fn pick(&self, names: &[FileName]) -> Result<Vec<FileName>, String> {
        let options = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let matches =
            |pattern: &Pattern, name: &FileName| pattern.matches_with(name.as_str(), options);
        if let Some(idle) =
            self.0.iter().find(|pattern| !names.iter().any(|name| matches(pattern, name)))
        {
            return Err(idle.as_str().to_string());
        }
        Ok(names
            .iter()
            .filter(|name| self.0.iter().any(|pattern| matches(pattern, name)))
            .cloned()
            .collect())
    }
}

/// Up to eight of `names`, those most like `wanted` first.
pub(crate) fn nearest(names: &[FileName], wanted: &str) -> Vec<String> {
    let mut ranked: Vec<(f64, &str)> = names
        .iter()
        .map(|name| (strsim::jaro_winkler(name.as_str(), wanted), name.as_str()))
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    ranked.into_iter().take(8).map(|(_, name)| name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<FileName> {
        list.iter().map(|name| FileName::parse(name).unwrap()).collect()
    }

    #[test]
    fn weights_of_real_repositories() {
        let cases: [(&[&str], Weights); 8] = [
            (
                &["model.safetensors", "pytorch_model.bin"],
                Weights::Files(names(&["model.safetensors"])),
            ),
            (
                &[
                    "consolidated.safetensors",
                    "model-00001-of-00002.safetensors",
                    "model.safetensors.index.json",
                ],
                Weights::Index(names(&["model.safetensors.index.json"]).remove(0)),
            ),
            (
                &["adapter_model.safetensors", "training_args.bin"],
                Weights::Files(names(&["adapter_model.safetensors"])),
            ),
            (&["a.safetensors", "sub/b.safetensors"], Weights::Files(names(&["a.safetensors"]))),
            (
                &["pytorch_model.bin", "training_args.bin"],
                Weights::Pickles(names(&["pytorch_model.bin"])),
            ),
            (&["old.pth", "onnx/model.safetensors"], Weights::Pickles(names(&["old.pth"]))),
            (&["training_args.bin"], Weights::Missing),
            (&["model.gguf"], Weights::Missing),
        ];
        for (list, expected) in cases {
            assert_eq!(weights(&names(list)), expected, "{list:?}");
        }
    }

    #[test]
    fn beside_the_weights_comes_what_a_model_directory_needs() {
        let all = names(&[
            "README.md",
            "additional_chat_templates/tool.jinja",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "onnx/config.json",
            "pytorch_model.bin",
            "tokenizer.json",
        ]);
        let picked: Vec<&str> = all
            .iter()
            .map(FileName::as_str)
            .filter(|n| beside_weights(&all).iter().any(|p| p.as_str() == *n))
            .collect();
        assert_eq!(
            picked,
            [
                "additional_chat_templates/tool.jinja",
                "chat_template.jinja",
                "config.json",
                "generation_config.json",
                "merges.txt",
                "tokenizer.json"
            ]
        );
    }

    #[test]
    fn an_index_cannot_point_elsewhere() {
        let index = |file: &str| {
            format!(r#"{{"metadata":{{}},"weight_map":{{"a":"b.safetensors","c":{file}}}}}"#)
        };
        assert_eq!(
            shards(index(r#""a.safetensors""#).as_bytes()).unwrap(),
            names(&["a.safetensors", "b.safetensors"])
        );
        for bad in [
            r#""../x.safetensors""#,
            r#""/x.safetensors""#,
            "7",
            r#""x.bin""#,
            r#""a\\b.safetensors""#,
        ] {
            assert!(
                matches!(shards(index(bad).as_bytes()), Err(HubError::InvalidName { .. })),
                "{bad}"
            );
        }
        assert!(shards(b"{}").is_err() && shards(b"<html>").is_err());
    }

    #[test]
    fn patterns_keep_to_their_folder() {
        let all = names(&[
            "README.md",
            "data/test-0.parquet",
            "data/train-0.parquet",
            "data/x/train-1.parquet",
        ]);
        let pick = |patterns: &[&str]| {
            let owned: Vec<String> = patterns.iter().map(|p| p.to_string()).collect();
            Patterns::parse(&owned).unwrap().pick(&all)
        };
        assert_eq!(pick(&["data/train-*.parquet"]).unwrap(), names(&["data/train-0.parquet"]));
        assert_eq!(pick(&["**/train-*.parquet"]).unwrap().len(), 2);
        assert_eq!(
            pick(&["data/test*", "data/t*"]).unwrap(),
            names(&["data/test-0.parquet", "data/train-0.parquet"])
        );
        assert_eq!(pick(&["data/*.parquet", "*.csv"]), Err("*.csv".to_string()));
        assert!(matches!(Patterns::parse(&["a[".to_string()]), Err(HubError::InvalidName { .. })));
        assert_eq!(nearest(&all, "data/tran-0.parquet")[0], "data/train-0.parquet");
    }
}
