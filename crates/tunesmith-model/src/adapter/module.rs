//! The modules of a model as an adapter sees them: each with its name, and what can be put there.

use crate::{
    Param,
    embedding::Embedding,
    linear::{Linear, Weight},
    norm::Norm,
};
use std::rc::Rc;

/// What a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModuleKind {
    /// A linear layer inside a block.
    Projection,
    /// The token embedding.
    Embedding,
    /// The head, over the vocabulary or over labels.
    Head,
    /// A norm.
    Norm,
}

/// A module that an adapter may change.
pub(crate) enum Module<'a> {
    /// A linear layer inside a block.
    Projection(&'a mut Linear),
    /// A head.
    Head(&'a mut Linear),
    /// The token embedding.
    Embedding(&'a mut Embedding),
    /// A norm.
    Norm(&'a mut Norm),
}

impl Module<'_> {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Projection(linear) | Self::Head(linear) => &linear.name,
            Self::Embedding(embedding) => &embedding.name,
            Self::Norm(norm) => &norm.name,
        }
    }

    pub(crate) fn kind(&self) -> ModuleKind {
        match self {
            Self::Projection(_) => ModuleKind::Projection,
            Self::Head(_) => ModuleKind::Head,
            Self::Embedding(_) => ModuleKind::Embedding,
            Self::Norm(_) => ModuleKind::Norm,
        }
    }

    /// Its dense parameters, with the ending of their names: `weight`, `bias`.
    pub(crate) fn params(&self) -> Vec<(&'static str, Rc<Param>)> {
        let pair = |weight: Option<&Rc<Param>>, bias: Option<&Rc<Param>>| {
            let named = [("weight", weight), ("bias", bias)];
            named.into_iter().filter_map(|(end, param)| Some((end, param?.clone()))).collect()
        };
        match self {
            Self::Projection(linear) | Self::Head(linear) => {
                let weight = match &linear.weight {
                    Weight::Dense(weight) => Some(weight.base()),
                    Weight::Quantised { .. } => None,
                };
                pair(weight, linear.bias().map(|bias| bias.base()))
            }
            Self::Embedding(embedding) => pair(Some(embedding.base()), None),
            Self::Norm(norm) => {
                pair(Some(norm.weight.base()), norm.bias.as_ref().map(|b| b.base()))
            }
        }
    }

    /// Puts `param` where the base's parameter of this ending stands, for one adapter.
    pub(crate) fn replace(&mut self, adapter: usize, ending: &str, param: Rc<Param>) {
        let place = match (self, ending) {
            (Self::Projection(linear) | Self::Head(linear), "bias") => linear.bias_mut(),
            (Self::Projection(linear) | Self::Head(linear), _) => match &mut linear.weight {
                Weight::Dense(place) => Some(place),
                Weight::Quantised { .. } => None, // refused before
            },
            (Self::Embedding(embedding), _) => Some(&mut embedding.weight),
            (Self::Norm(norm), "bias") => norm.bias.as_mut(),
            (Self::Norm(norm), _) => Some(&mut norm.weight),
        };
        if let Some(place) = place {
            place.replace(adapter, param);
        }
    }
}
