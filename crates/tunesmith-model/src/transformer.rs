//! The decoder, read top to bottom: embed, blocks, norm, head. Every supported family is this file with a [`Config`].
//!
//! Shapes: N tokens of all documents, C model width.

use crate::{
    Adapter, Config, ModelError, Pass, Ragged, Recompute, Storage,
    adapter::Module,
    attention::Attention,
    config::Position,
    decode::Makeup,
    embedding::Embedding,
    head::Head,
    linear::{Linear, Weight},
    mlp::Mlp,
    norm::Norm,
    param::{Init, Param, Place, Role, Spec, Supply, dense},
    ragged::rounded,
    rope::{Rope, Rotation},
};
use std::{path::PathBuf, rc::Rc};
use tch::{Device, Kind, Tensor};
use tunesmith_kernels::supports;

/// The module with the scores of labels, in every Hugging Face class for sequence classification.
pub(crate) const SCORE: &str = "score";

/// A model in memory.
#[derive(Debug)]
pub struct Transformer {
    /// What it is.
    pub config: Config,
    /// What its blocks compute again in the backward pass.
    pub recompute: Recompute,
    params: Vec<Rc<Param>>, // the base's, then the adapters'
    n_base: usize,
    pub(crate) adapters: Vec<Adapter>,
    pub(crate) dir: Option<PathBuf>, // where it was loaded from
    pub(crate) storage: Storage,
    pub(crate) makeup: Makeup,
    embed: Embedding,
    position: Option<Rc<Param>>,
    rope: Option<Rope>,
    blocks: Vec<Block>,
    norm: Norm,
    head: Head,
    score: Option<Linear>,
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
        recompute: Recompute,
        pass: &mut Pass,
    ) -> Tensor {
        // Each half is one node where it has a fused form, and otherwise what is written here.
        let half = self.attention.half(x, &self.input_norm, ragged, rotation, recompute, pass);
        let x = half.unwrap_or_else(|| {
            let normed = self.input_norm.forward(x, pass);
            x + self.attention.forward(&normed, ragged, rotation, pass)
        });
        self.mlp
            .half(&x, &self.post_norm, recompute, pass)
            .unwrap_or_else(|| &x + self.mlp.forward(&self.post_norm.forward(&x, pass), pass))
    }
}

impl Transformer {
    /// Builds the model that `config` describes out of the parameters that `supply` gives.
    pub(crate) fn build(config: Config, device: Device, supply: &mut Supply) -> Self {
        let mut params: Vec<Rc<Param>> = Vec::new();
        let mut supply = |spec: Spec| {
            let weight = supply(spec);
            if let Weight::Dense(place) = &weight {
                params.push(place.base().clone());
            }
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
        // A classifier has no head over the vocabulary; the embedding stands in where a tied model has it.
        let head = match config.tie_word_embeddings || config.n_labels.is_some() {
            true => embed.clone(),
            false => {
                let shape = vec![config.vocab_size, config.hidden_size];
                let name = format!("{}.weight", names.head);
                dense(supply, Spec { name, role: Role::Head, shape, init })
            }
        };
        let score = config.n_labels.map(|n_labels| {
            let (name, shape) = (format!("{SCORE}.weight"), vec![n_labels, config.hidden_size]);
            Linear::around(SCORE, dense(supply, Spec { name, role: Role::Head, shape, init }))
        });
        let (embed, head) = (Embedding::new(names.embed, embed), Head::new(names.head, head));
        let rope = Rope::new(&config.position, config.head_dim, device);
        Self {
            n_base: params.len(),
            params,
            adapters: Vec::new(),
            dir: None,
            storage: Storage::Dense,
            makeup: Makeup::new(),
            embed,
            position,
            rope,
            blocks,
            norm,
            head,
            score,
            recompute: Recompute::None,
            config,
        }
    }

    /// Hidden states after the last norm, (N, C).
    ///
    /// With a cache, document `i` continues the cache's sequence `i`, and the cache grows by what was read.
    ///
    /// # Errors
    /// A token outside the vocabulary, or a position that the model does not have.
    pub fn hidden(&self, ragged: &Ragged, pass: &mut Pass) -> Result<Tensor, ModelError> {
        self.watched(ragged, pass, &mut |_, _| ())
    }

    /// As [`hidden`](Self::hidden); `watch` sees the stream after each block, under the block's name.
    ///
    /// # Errors
    /// As [`hidden`](Self::hidden).
    pub fn watched(
        &self,
        ragged: &Ragged,
        pass: &mut Pass,
        watch: &mut dyn FnMut(&str, &Tensor),
    ) -> Result<Tensor, ModelError> {
        self.check(ragged)?;
        self.check_choice(pass.adapter)?;
        let (n, whole) = (ragged.tokens.size()[0], rounded(ragged.tokens.size()[0]));
        if whole > n && pass.cache.is_none() && !pass.plain && self.device() == Device::Cpu {
            return Ok(self.watched(&ragged.filled(whole), pass, watch)?.narrow(0, 0, n));
        }
        let mut x = self.embed.forward(&ragged.tokens, pass); // (N, C)
        if let Some(position) = &self.position {
            x += Tensor::embedding(&position.tensor, &ragged.positions, -1, false, false);
        }
        let rotation = self.rope.as_ref().map(|rope| rope.at(&ragged.positions, x.kind()));
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, ragged, rotation.as_ref(), self.recompute, pass);
            watch(&format!("{}{layer}", self.config.names.layer), &x);
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

    /// What the head over labels makes of rows of [`hidden`](Self::hidden): (R, C) → (R, labels), fp32; `None` where the
    /// model has none.
    pub fn label_scores(&self, hidden: &Tensor, pass: &Pass) -> Option<Tensor> {
        Some(self.score.as_ref()?.forward(hidden, pass).to_kind(Kind::Float))
    }

    /// All parameters: the base's in the order of the architecture, then those of its adapters. A tied head appears
    /// once, as the embedding.
    pub fn params(&self) -> &[Rc<Param>] {
        &self.params
    }

    /// The parameters of the base alone.
    pub fn base_params(&self) -> &[Rc<Param>] {
        &self.params[..self.n_base]
    }

    /// The number of scalars in [`params`](Self::params) and in quantised matrices.
    pub fn n_params(&self) -> usize {
        let dense: usize = self.params.iter().map(|p| p.tensor.numel()).sum();
        dense + self.linears().filter_map(Linear::n_quantised).sum::<usize>()
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embed.base().tensor.device()
    }

    /// The dtype of the weights and of the stream.
    pub fn kind(&self) -> Kind {
        self.embed.base().tensor.kind()
    }

    /// Every module that an adapter may change, in the order of the architecture.
    pub(crate) fn modules_mut(&mut self) -> Vec<Module<'_>> {
        let mut modules = vec![Module::Embedding(&mut self.embed)];
        for block in &mut self.blocks {
            let (linears, norms) = block.attention.parts_mut();
            modules.extend(linears.map(Module::Projection));
            modules.extend(norms.iter_mut().map(Module::Norm));
            modules.extend(block.mlp.linears_mut().map(Module::Projection));
            modules.extend([&mut block.input_norm, &mut block.post_norm].map(Module::Norm));
        }
        modules.push(Module::Norm(&mut self.norm));
        match &mut self.score {
            Some(score) => modules.push(Module::Head(score)),
            None => modules.push(Module::Head(&mut self.head.linear)),
        }
        modules
    }

    /// Every linear layer.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let blocks = self.blocks.iter();
        let of_blocks =
            blocks.flat_map(|block| block.attention.linears().chain(block.mlp.linears()));
        of_blocks.chain([self.score.as_ref().unwrap_or(&self.head.linear)])
    }

    /// The halves of every block.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (&Attention, &Mlp)> {
        self.blocks.iter().map(|block| (&block.attention, &block.mlp))
    }

    /// Adds an adapter whose modules have their parts already.
    pub(crate) fn hold(&mut self, adapter: Adapter) {
        self.makeup = Makeup::new();
        self.params.extend_from_slice(adapter.params());
        self.adapters.push(adapter);
    }

    /// Whether every matrix is dense.
    pub fn is_dense(&self) -> bool {
        self.linears().all(|linear| linear.n_quantised().is_none())
    }

    /// Turns quantised matrices into the dense ones that they stand for, in the dtype of the stream.
    pub fn dequantise(&mut self) {
        (self.storage, self.makeup) = (Storage::Dense, Makeup::new());
        let modules = self.modules_mut().into_iter();
        let dense = modules.filter_map(|module| match module {
            Module::Projection(linear) => linear.dequantise(),
            _ => None,
        });
        let dense: Vec<Rc<Param>> = dense.collect();
        let at = self.n_base;
        self.n_base += dense.len();
        self.params.splice(at..at, dense);
    }

    /// Gives the head a weight of its own, where it shares the embedding's and `adapter` changes one of the two.
    pub(crate) fn untie(&mut self, adapter: usize) {
        let changed = self.head.linear.is_changed_by(adapter) || self.embed.is_changed_by(adapter);
        // Rows that both of them share change both of them alike.
        let rows = [self.head.linear.rows_of(Some(adapter)), self.embed.rows_of(Some(adapter))];
        let alike = matches!(rows, [Some(a), Some(b)] if Rc::ptr_eq(&a.rows, &b.rows));
        if !self.ties_head() || !changed || alike {
            return;
        }
        let name = format!("{}.weight", self.config.names.head);
        let weight = self.embed.base().tensor.detach().copy();
        let weight = Param::new(name, Role::Head, weight, false);
        let own = Weight::Dense(Place::new(weight.clone()));
        let shared = std::mem::replace(&mut self.head.linear.weight, own);
        if let Weight::Dense(place) = shared {
            self.head.linear.weight = Weight::Dense(place.on(weight.clone()));
        }
        self.params.insert(self.n_base, weight);
        self.n_base += 1;
        self.config.tie_word_embeddings = false;
        self.config.raw.insert("tie_word_embeddings".into(), false.into());
    }

    /// Takes the newest adapter away.
    pub(crate) fn drop_adapter(&mut self) {
        let Some(adapter) = self.adapters.pop() else { return };
        self.makeup = Makeup::new();
        self.params.truncate(self.params.len() - adapter.params().len());
        let number = self.adapters.len();
        for module in self.modules_mut() {
            match module {
                Module::Projection(linear) | Module::Head(linear) => linear.detach(number),
                Module::Embedding(embedding) => embedding.detach(number),
                Module::Norm(norm) => {
                    norm.weight.restore(number);
                    norm.bias.iter_mut().for_each(|bias| bias.restore(number));
                }
            }
        }
    }

    /// Whoever asks for an adapter that is not there must not be answered by the base.
    fn check_choice(&self, adapter: Option<usize>) -> Result<(), ModelError> {
        let n_adapters = self.adapters.len();
        match adapter {
            Some(number) if number >= n_adapters.max(1) => {
                Err(ModelError::NoSuchAdapter { number, n_adapters })
            }
            _ => Ok(()),
        }
    }

    /// Whether every block can read one token per sequence at places that only the device knows.
    pub(crate) fn steps_together(&self) -> bool {
        let fused = |block: &Block| block.attention.is_fused(&block.input_norm);
        supports(self.embedding()) && self.position.is_none() && self.blocks.iter().all(fused)
    }

    /// Whether the head over the vocabulary is the embedding.
    pub(crate) fn ties_head(&self) -> bool {
        self.config.tie_word_embeddings && self.score.is_none()
    }

    /// Lets `param` stand in for one weight of the base under the newest adapter, with which it is saved.
    pub(crate) fn hold_weight(&mut self, module: &str, param: Rc<Param>) {
        let Some(number) = self.adapters.len().checked_sub(1) else { return };
        for mut place in self.modules_mut() {
            if place.name() == module {
                place.replace(number, "weight", param.clone());
            }
        }
        self.makeup = Makeup::new();
        self.adapters[number].hold(param.clone());
        self.params.push(param);
    }

    /// The table of the base's token embedding.
    pub(crate) fn embedding(&self) -> &Tensor {
        &self.embed.base().tensor
    }

    /// An index error in a kernel names nothing; this one names the token.
    pub(crate) fn check(&self, ragged: &Ragged) -> Result<(), ModelError> {
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
