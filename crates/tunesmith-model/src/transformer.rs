//! The decoder, read top to bottom: embed, blocks, norm, head. Every supported family is this file with a [`Config`].
//!
//! Shapes: N tokens of all documents, C model width.

use crate::{
    Config, ModelError, Pass, Ragged,
    attention::Attention,
    config::Position,
    embedding::Embedding,
    head::Head,
    linear::Weight,
    mlp::Mlp,
    norm::Norm,
    param::{Init, Param, Role, Spec, Supply, dense},
    ragged::rounded,
    rope::{Rope, Rotation},
};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// A model in memory.
#[derive(Debug)]
pub struct Transformer {
    /// What it is.
    pub config: Config,
    params: Vec<Rc<Param>>,
    embed: Embedding,
    position: Option<Rc<Param>>,
    rope: Option<Rope>,
    blocks: Vec<Block>,
    norm: Norm,
    head: Head,
}

#[derive(Debug)]
struct Block {
    input_norm: Norm,
    attention: Attention,
    post_norm: Norm,
    mlp: Mlp,
}

impl Block {
    fn forward(
        &self,
        x: &Tensor,
        ragged: &Ragged,
        rotation: Option<&Rotation>,
        pass: &mut Pass,
    ) -> Tensor {
        // Each half is one node where it has a fused form, and otherwise what is written here.
        let half = self.attention.half(x, &self.input_norm, ragged, rotation, pass);
        let x = half.unwrap_or_else(|| {
            let normed = self.input_norm.forward(x, pass);
            x + self.attention.forward(&normed, ragged, rotation, pass)
        });
        self.mlp
            .half(&x, &self.post_norm, pass)
            .unwrap_or_else(|| &x + self.mlp.forward(&self.post_norm.forward(&x, pass), pass))
    }
}

impl Transformer {
    /// Builds the model that `config` describes out of the parameters that `supply` gives.
    pub(crate) fn build(config: Config, device: Device, supply: &mut Supply) -> Self {
        let mut params: Vec<Rc<Param>> = Vec::new();
        let mut supply = |spec: Spec| {
            let weight = supply(spec);
            let Weight::Dense(place) = &weight;
            params.push(place.base().clone());
            weight
        };
        let supply: &mut Supply = &mut supply;
        let names = config.names;
        let init = Init::Normal { std: config.initializer_range };
        let mut table = |name: &str, role, rows| {
            let (name, shape) = (format!("{name}.weight"), vec![rows, config.hidden_size]);
            dense(supply, Spec { name, role, shape, init })
        };
        let embed = table(names.embed, Role::Embedding, config.vocab_size);
        let position = (config.position == Position::Learned)
            .then(|| table(names.position, Role::Position, config.max_position_embeddings));
        let blocks =
            (0..config.n_layer).map(|layer| Block::build(&config, layer, supply)).collect();
        let norm = Norm::build(names.final_norm, config.norm, config.hidden_size, supply);
        let head = match config.tie_word_embeddings {
            true => embed.clone(),
            false => {
                let shape = vec![config.vocab_size, config.hidden_size];
                let name = format!("{}.weight", names.head);
                dense(supply, Spec { name, role: Role::Head, shape, init })
            }
        };
        let (embed, head) = (Embedding::new(embed), Head::new(names.head, head));
        let rope = Rope::new(&config.position, config.head_dim, device);
        Self { params, embed, position, rope, blocks, norm, head, config }
    }

    /// Hidden states after the last norm, (N, C).
    ///
    /// With a cache, document `i` continues the cache's sequence `i`, and the cache grows by what was read.
    ///
    /// # Errors
    /// A token outside the vocabulary, or a position that the model does not have.
    pub fn hidden(&self, ragged: &Ragged, pass: &mut Pass) -> Result<Tensor, ModelError> {
        self.check(ragged)?;
        let (n, whole) = (ragged.tokens.size()[0], rounded(ragged.tokens.size()[0]));
        if whole > n && pass.cache.is_none() && !pass.plain && self.device() == Device::Cpu {
            return Ok(self.hidden(&ragged.filled(whole), pass)?.narrow(0, 0, n));
        }
        let mut x = self.embed.forward(&ragged.tokens, pass); // (N, C)
        if let Some(position) = &self.position {
            x += Tensor::embedding(&position.tensor, &ragged.positions, -1, false, false);
        }
        let rotation = self.rope.as_ref().map(|rope| rope.at(&ragged.positions, x.kind()));
        for block in &self.blocks {
            x = block.forward(&x, ragged, rotation.as_ref(), pass);
        }
        if let Some(cache) = &mut pass.cache {
            cache.advance(&ragged.lens);
        }
        Ok(self.norm.forward_fused(&x, pass).unwrap_or_else(|| self.norm.forward(&x, pass)))
    }

    /// The output projection, for rows of [`hidden`](Self::hidden).
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// All parameters, in the order of the architecture; a tied head appears once, as the embedding.
    pub fn params(&self) -> &[Rc<Param>] {
        &self.params
    }

    /// The number of scalars in [`params`](Self::params).
    pub fn n_params(&self) -> usize {
        self.params.iter().map(|p| p.tensor.numel()).sum()
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embed.base().tensor.device()
    }

    /// The dtype of the weights and of the stream.
    pub fn kind(&self) -> Kind {
        self.embed.base().tensor.kind()
    }

    /// An index error in a kernel names nothing; this one names the token.
    fn check(&self, ragged: &Ragged) -> Result<(), ModelError> {
        let Ragged { max_token, max_position, .. } = *ragged;
        let vocab_size = self.config.vocab_size;
        if max_token >= vocab_size {
            return Err(ModelError::TokenOutOfRange { id: max_token, vocab_size });
        }
        let max = self.config.max_position_embeddings;
        if self.position.is_some() && max_position >= max {
            return Err(ModelError::PositionOutOfRange { position: max_position, max });
        }
        Ok(())
    }
}

impl Block {
    fn build(config: &Config, layer: usize, supply: &mut Supply) -> Self {
        let names = config.names;
        let prefix = format!("{}{layer}.", names.layer);
        Self {
            input_norm: Norm::build(
                &format!("{prefix}{}", names.input_norm),
                config.norm,
                config.hidden_size,
                supply,
            ),
            attention: Attention::build(config, layer, &prefix, supply),
            post_norm: Norm::build(
                &format!("{prefix}{}", names.post_norm),
                config.norm,
                config.hidden_size,
                supply,
            ),
            mlp: Mlp::build(config, &prefix, supply),
        }
    }
}
