//! Which module an adapter touches: names are matched as PEFT matches them.

use super::{LoraConfig, Modules, Pattern, module::ModuleKind};
use crate::ModelError;
use regex::Regex;
use std::collections::BTreeSet;

/// From how many names on PEFT looks for shorter ones.
const MIN_NAMES_TO_SHORTEN: usize = 20;

/// The names of a [`LoraConfig`], compiled.
pub(super) struct Targets<'a> {
    config: &'a LoraConfig,
    wanted: Matcher,
    excluded: Matcher,
    kept_whole: Vec<Regex>, // `modules_to_save` and what lies in them: never adapted
    layers: Vec<Regex>,
    ranks: Vec<(Regex, f64)>,
    alphas: Vec<(Regex, f64)>,
}

enum Matcher {
    AllLinear,
    Names(Vec<String>),
    Whole(Regex),
}

impl Matcher {
    fn new(modules: &Modules, key: &str) -> Result<Self, ModelError> {
        Ok(match modules {
            all if all.is_all_linear() => Self::AllLinear,
            Modules::Names(names) => Self::Names(names.clone()),
            Modules::Pattern(pattern) if pattern.is_empty() => Self::Names(Vec::new()),
            Modules::Pattern(pattern) => Self::Whole(compile(&format!("^(?:{pattern})$"), key)?),
        })
    }

    fn matches(&self, name: &str, kind: ModuleKind) -> bool {
        match self {
            Self::AllLinear => kind == ModuleKind::Projection,
            Self::Names(names) => names.iter().any(|end| names_module(end, name)),
            Self::Whole(regex) => regex.is_match(name),
        }
    }
}

fn names_module(end: &str, name: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn compile(pattern: &str, key: &str) -> Result<Regex, ModelError> {
    Regex::new(pattern).map_err(|error| ModelError::BadAdapter {
        place: format!("`{key}`"),
        reason: format!("not a regular expression: {error}"),
    })
}

impl<'a> Targets<'a> {
    pub(super) fn new(config: &'a LoraConfig) -> Result<Self, ModelError> {
        let patterns = |patterns: &[Pattern], key: &str| {
            let compiled = patterns
                .iter()
                .map(|p| Ok((compile(&format!(r"^(?:.*\.)?(?:{})$", p.pattern), key)?, p.value)));
            compiled.collect::<Result<Vec<_>, ModelError>>()
        };
        let whole =
            |name: &String| compile(&format!(r"(?:^|^.*\.){name}(?:$|\..*)"), "modules_to_save");
        let layer = |pattern: &String| {
            compile(&format!(r"^(?:.*?\.)?(?:{pattern})\.(\d+)\."), "layers_pattern")
        };
        let layers = match config.layers_pattern.is_empty() {
            true => vec![compile(r"^.*?\.[^.]*\.(\d+)\.", "layers_to_transform")?],
            false => config.layers_pattern.iter().map(layer).collect::<Result<_, _>>()?,
        };
        Ok(Self {
            config,
            wanted: Matcher::new(&config.target_modules, "target_modules")?,
            excluded: Matcher::new(&config.exclude_modules, "exclude_modules")?,
            kept_whole: config.modules_to_save.iter().map(whole).collect::<Result<_, _>>()?,
            layers,
            ranks: patterns(&config.rank_pattern, "rank_pattern")?,
            alphas: patterns(&config.alpha_pattern, "alpha_pattern")?,
        })
    }

    /// Whether the module gets A and B.
    pub(super) fn adapts(&self, name: &str, kind: ModuleKind) -> bool {
        let excluded = self.excluded.matches(name, kind)
            || self.kept_whole.iter().any(|regex| regex.is_match(name));
        !excluded && self.wanted.matches(name, kind) && self.in_layers(name)
    }

    /// Whether the module is trained whole. PEFT matches the end of the name, without a dot before it.
    pub(super) fn keeps_whole(&self, name: &str) -> bool {
        self.config.modules_to_save.iter().any(|end| name.ends_with(end.as_str()))
    }

    fn in_layers(&self, name: &str) -> bool {
        let wanted = &self.config.layers_to_transform;
        let Modules::Names(names) = &self.config.target_modules else { return true };
        if wanted.is_empty() || names.iter().any(|whole| whole == name) {
            return true;
        }
        let number = self.layers.iter().find_map(|regex| regex.captures(name)?[1].parse().ok());
        number.is_some_and(|number: i64| wanted.contains(&number))
    }

    /// Rank and alpha of a module.
    pub(super) fn rank_and_alpha(&self, name: &str) -> (usize, f64) {
        let first = |patterns: &[(Regex, f64)]| {
            patterns.iter().find(|(regex, _)| regex.is_match(name)).map(|(_, value)| *value)
        };
        let rank = first(&self.ranks).map_or(self.config.r, |rank| rank as usize);
        (rank, first(&self.alphas).unwrap_or(self.config.alpha))
    }

    /// Settings that name nothing of this model, as sentences.
    pub(super) fn unmatched(&self, modules: &[(String, ModuleKind)]) -> Vec<String> {
        let mut unmatched = Vec::new();
        if let Modules::Names(names) = &self.config.target_modules {
            let lost =
                names.iter().filter(|end| !modules.iter().any(|(name, _)| names_module(end, name)));
            unmatched
                .extend(lost.map(|name| format!("`target_modules`: no module is named {name:?}")));
        }
        for end in &self.config.modules_to_save {
            if !modules.iter().any(|(name, _)| name.ends_with(end.as_str())) {
                unmatched.push(format!("`modules_to_save`: no module is named {end:?}"));
            }
        }
        let depth = modules.iter().filter_map(|(name, _)| {
            self.layers.iter().find_map(|regex| regex.captures(name)?[1].parse::<i64>().ok())
        });
        let depth = depth.max().map_or(0, |last| last + 1);
        for layer in self.config.layers_to_transform.iter().filter(|&&n| n < 0 || n >= depth) {
            unmatched
                .push(format!("`layers_to_transform`: {layer} is not one of the {depth} blocks"));
        }
        for (key, patterns, given) in [
            ("rank_pattern", &self.ranks, &self.config.rank_pattern),
            ("alpha_pattern", &self.alphas, &self.config.alpha_pattern),
        ] {
            for ((regex, _), pattern) in patterns.iter().zip(given) {
                let adapted = modules.iter().filter(|(name, kind)| self.adapts(name, *kind));
                if !adapted.map(|(name, _)| name).any(|name| regex.is_match(name)) {
                    unmatched
                        .push(format!("`{key}`: {:?} matches no adapted module", pattern.pattern));
                }
            }
        }
        unmatched
    }
}

/// The names that PEFT writes into `target_modules` where `all-linear` or a long list was given: the whole names, or the
/// shortest endings that tell them from the `others`, if there are many.
pub(super) fn written_names(adapted: &BTreeSet<String>, others: &BTreeSet<String>) -> Vec<String> {
    if adapted.len() < MIN_NAMES_TO_SHORTEN {
        return adapted.iter().cloned().collect();
    }
    let endings = |name: &str| {
        let starts = name.match_indices('.').map(|(at, _)| at + 1);
        let mut all: Vec<String> = starts.chain([0]).map(|at| name[at..].to_owned()).collect();
        all.sort_by_key(String::len);
        all
    };
    let taken: BTreeSet<String> = others.iter().flat_map(|name| endings(name)).collect();
    let mut names: Vec<(Vec<String>, &String)> =
        adapted.iter().map(|name| (endings(name), name)).collect();
    names.sort();
    let mut chosen: BTreeSet<String> = BTreeSet::new();
    for (endings, name) in names {
        let covered = chosen.iter().any(|end| name.ends_with(&format!(".{end}")));
        if !covered
            && let Some(ending) =
                endings.into_iter().find(|end| !chosen.contains(end) && !taken.contains(end))
        {
            chosen.insert(ending);
        }
    }
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_peft_matches_them() {
        let check = |config: LoraConfig, expected: [bool; 4]| {
            let targets = Targets::new(&config).unwrap();
            let names = [
                ("model.layers.0.self_attn.q_proj", ModuleKind::Projection),
                ("model.layers.11.mlp.up_proj", ModuleKind::Projection),
                ("model.embed_tokens", ModuleKind::Embedding),
                ("lm_head", ModuleKind::Head),
            ];
            assert_eq!(
                names.map(|(name, kind)| targets.adapts(name, kind)),
                expected,
                "{config:?}"
            );
        };
        let names = |names: &[&str]| Modules::Names(names.iter().map(|&n| n.to_owned()).collect());
        let config = |target_modules| LoraConfig { target_modules, ..LoraConfig::default() };
        check(config(Modules::Pattern("all-linear".into())), [true, true, false, false]);
        check(config(names(&["q_proj", "lm_head"])), [true, false, false, true]);
        check(config(names(&["proj"])), [false; 4]);
        check(config(names(&["model.embed_tokens"])), [false, false, true, false]);
        check(config(Modules::Pattern(r".*\.\d\..*proj".into())), [true, false, false, false]);
        check(config(Modules::Pattern("q_proj".into())), [false; 4]);
        let both = names(&["q_proj", "up_proj"]);
        check(
            LoraConfig { layers_to_transform: vec![11], ..config(both.clone()) },
            [false, true, false, false],
        );
        check(
            LoraConfig { exclude_modules: names(&["mlp.up_proj"]), ..config(both.clone()) },
            [true, false, false, false],
        );
        check(
            LoraConfig { modules_to_save: vec!["mlp".into()], ..config(both) },
            [true, false, false, false],
        );
    }

    #[test]
    fn the_first_pattern_that_matches_counts() {
        let pattern = |text: &str| Pattern::try_from(text.to_owned()).unwrap();
        let config = LoraConfig {
            rank_pattern: vec![pattern("0.*q_proj = 4"), pattern("q_proj = 8")],
            alpha_pattern: vec![pattern("up_proj=1.5")],
            ..LoraConfig::default()
        };
        let targets = Targets::new(&config).unwrap();
        assert_eq!(targets.rank_and_alpha("model.layers.0.self_attn.q_proj"), (4, 32.0));
        assert_eq!(targets.rank_and_alpha("model.layers.1.self_attn.q_proj"), (8, 32.0));
        assert_eq!(targets.rank_and_alpha("model.layers.1.mlp.up_proj"), (16, 1.5));
        assert!(Pattern::try_from("q_proj".to_owned()).is_err());
    }

    #[test]
    fn many_names_are_shortened() {
        let name = |i, part: &str| format!("model.layers.{i}.{part}");
        let adapted: BTreeSet<String> =
            (0..10).flat_map(|i| [name(i, "attn.q_proj"), name(i, "mlp.up")]).collect();
        let others = BTreeSet::from(["model.up".to_owned(), "lm_head".into()]);
        assert_eq!(written_names(&adapted, &others), ["mlp.up", "q_proj"]);
        let few = BTreeSet::from(["a.q".to_owned(), "b.q".into()]);
        assert_eq!(written_names(&few, &others), ["a.q", "b.q"]);
    }
}
