//! `trainable_token_indices` of PEFT: tokens whose rows alone are trained, of which tables.

use super::{LoraConfig, ModuleKind, PREFIX, targets::Targets};
use crate::{ModelError, TensorFile};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Tokens whose rows are trained beside the matrices of an adapter, while the rest of the vocabulary stands still.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIndices {
    /// Of the embedding, and of the head where that is the same table.
    Embedding(Vec<i64>),
    /// Of each module by its name, such as `embed_tokens` and `lm_head`.
    Modules(BTreeMap<String, Vec<i64>>),
}

impl Default for TokenIndices {
    fn default() -> Self {
        Self::Embedding(Vec::new())
    }
}

impl TokenIndices {
    /// Whether no row is trained on its own.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Embedding(ids) => ids.is_empty(),
            Self::Modules(modules) => modules.is_empty(),
        }
    }

    /// Adds those of `ids` that are not there yet: to every module that is named, else to the embedding.
    pub fn extend(&mut self, ids: &[i64]) {
        let lists: Vec<&mut Vec<i64>> = match self {
            Self::Embedding(list) => vec![list],
            Self::Modules(modules) => modules.values_mut().collect(),
        };
        for list in lists {
            for &id in ids {
                if !list.contains(&id) {
                    list.push(id);
                }
            }
        }
    }

    /// Adds `ids` to both tables of a model whose head is a table of its own; what is there already stays where it is.
    pub fn extend_both(&mut self, ids: &[i64], embedding: &str, head: &str) {
        let mut modules = match std::mem::take(self) {
            Self::Modules(modules) => modules,
            Self::Embedding(ids) if ids.is_empty() => BTreeMap::new(),
            Self::Embedding(ids) => BTreeMap::from([(embedding.to_owned(), ids)]),
        };
        for table in [embedding, head] {
            let named = modules.keys().find(|name| name.ends_with(table)).cloned();
            let list = modules.entry(named.unwrap_or_else(|| table.to_owned())).or_default();
            list.extend(ids.iter().filter(|id| !list.contains(id)).copied().collect::<Vec<_>>());
        }
        *self = Self::Modules(modules);
    }

    /// The largest token.
    pub(super) fn largest(&self) -> Option<i64> {
        self.lists().flat_map(|(_, ids)| ids).copied().max()
    }

    /// The tokens of a module.
    pub(super) fn of(&self, name: &str, kind: ModuleKind) -> Option<&[i64]> {
        match (self, kind) {
            (Self::Embedding(ids), ModuleKind::Embedding) if !ids.is_empty() => Some(ids),
            (Self::Modules(modules), ModuleKind::Embedding | ModuleKind::Head) => {
                let named = modules.iter().find(|(end, _)| name.ends_with(end.as_str()));
                named.map(|(_, ids)| ids.as_slice())
            }
            _ => None,
        }
    }

    fn lists(&self) -> impl Iterator<Item = (&str, &Vec<i64>)> {
        let (embedding, modules) = match self {
            Self::Embedding(ids) => (Some(("the embedding", ids)), None),
            Self::Modules(modules) => (None, Some(modules)),
        };
        let named = modules.into_iter().flatten().map(|(name, ids)| (name.as_str(), ids));
        embedding.into_iter().chain(named)
    }

    /// What no model could work with.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        for (module, ids) in self.lists() {
            let mut seen = BTreeSet::new();
            let (expected, found) = if ids.is_empty() && module != "the embedding" {
                ("at least one token", "none".to_owned())
            } else if let Some(id) = ids.iter().find(|id| **id < 0) {
                ("token ids of at least 0", id.to_string())
            } else if let Some(id) = ids.iter().find(|id| !seen.insert(**id)) {
                ("each token once", format!("{id} twice"))
            } else {
                continue;
            };
            return Err(ModelError::BadAdapter {
                place: "`trainable_token_indices`".into(),
                reason: format!("expected {expected}, found {found} for {module}"),
            });
        }
        Ok(())
    }

    /// What does not fit a model with these modules and `vocab_size` tokens, as sentences. `tied`: its head is its
    /// embedding.
    pub(super) fn misfits(
        &self,
        targets: &Targets,
        modules: &[(String, ModuleKind)],
        vocab_size: i64,
        tied: bool,
    ) -> Vec<String> {
        const KEY: &str = "`trainable_token_indices`";
        let mut wrong = Vec::new();
        let tables = modules.iter().filter(|(name, kind)| is_table(name, *kind));
        let tables: Vec<&(String, ModuleKind)> = tables.collect();
        if let Self::Modules(named) = self {
            let lost = named
                .keys()
                .filter(|end| !tables.iter().any(|(name, _)| name.ends_with(end.as_str())));
            let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join(" or ");
            wrong.extend(lost.map(|end| format!("{KEY}: expected {names}, found {end:?}")));
        }
        for (name, kind) in &tables {
            let shared = tied && *kind == ModuleKind::Head;
            let embedding = tables.iter().find(|(_, kind)| *kind == ModuleKind::Embedding);
            let ids = self.of(name, *kind).or_else(|| {
                embedding.filter(|_| shared).and_then(|(name, kind)| self.of(name, *kind))
            });
            let Some(ids) = ids else { continue };
            if let Some(id) = ids.iter().find(|id| **id >= vocab_size) {
                wrong
                    .push(format!("{KEY}: {name}: expected tokens below {vocab_size}, found {id}"));
            }
            if targets.keeps_whole(name) {
                wrong.push(format!(
                    "{KEY}: {name}: is trained whole by `modules_to_save`; choose one"
                ));
            }
            if targets.adapts(name, *kind) {
                wrong.push(format!("{KEY}: {name}: is adapted by `target_modules`; choose one"));
            }
        }
        wrong
    }
}

/// Whether a module has a row for every token.
pub(super) fn is_table(name: &str, kind: ModuleKind) -> bool {
    match kind {
        ModuleKind::Embedding => true,
        ModuleKind::Head => name != crate::transformer::SCORE,
        ModuleKind::Projection | ModuleKind::Norm => false,
    }
}

/// The tables that PEFT saved whole beside the rows, because the vocabulary had grown: module, and name in the file.
pub(super) fn whole_tables<'a>(
    config: &LoraConfig,
    file: &TensorFile,
    tables: &[&'a str],
) -> Vec<(&'a str, String)> {
    if config.trainable_token_indices.is_empty() {
        return Vec::new();
    }
    let saved = |name: &str| config.modules_to_save.iter().any(|end| name.ends_with(end.as_str()));
    let found = tables.iter().filter(|name| !saved(name)).filter_map(|name| {
        let [beside, alone] =
            [".token_adapter.base_layer", ""].map(|layer| format!("{PREFIX}{name}{layer}.weight"));
        let held = [beside, alone].into_iter().find(|stored| file.shape(stored).is_some())?;
        Some((*name, held))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_tokens_are_read_and_said_and_others_stay_where_they_are() {
        let modules = |pairs: [(&str, Vec<i64>); 2]| {
            TokenIndices::Modules(pairs.map(|(name, ids)| (name.to_owned(), ids)).into())
        };
        let extended = |mut indices: TokenIndices| {
            indices.extend_both(&[8, 9], "embed_tokens", "lm_head");
            indices
        };
        let both = modules([("embed_tokens", vec![8, 9]), ("lm_head", vec![8, 9])]);
        assert_eq!(extended(TokenIndices::default()), both);
        let read = modules([("embed_tokens", vec![5, 8, 9]), ("lm_head", vec![8, 9])]);
        assert_eq!(extended(TokenIndices::Embedding(vec![5])), read);
        let named = BTreeMap::from([("model.embed_tokens".to_owned(), vec![8, 5])]);
        let under_its_name =
            modules([("model.embed_tokens", vec![8, 5, 9]), ("lm_head", vec![8, 9])]);
        assert_eq!(extended(TokenIndices::Modules(named)), under_its_name);
    }
}
