//! What one forward pass may choose: cache, adapter, dropout, and how it is computed.

use crate::{KvCache, random};

/// The choices of one forward pass. The default reads whole documents with the model's first adapter, if it has one,
/// without dropout.
#[derive(Debug)]
pub struct Pass<'a> {
    /// Document `i` continues the cache's sequence `i`; `None`: documents are read whole.
    pub cache: Option<&'a mut KvCache>,
    /// Which adapter takes part, by the number that adding it gave; `None`: the base alone. Another number than the
    /// model has is an error, but for 0, the default: the first adapter, where there is one.
    pub adapter: Option<usize>,
    /// What names the dropout masks of adapters; `None`: no dropout.
    pub dropout: Option<DropoutKey>,
    /// Whether everything is computed by the plain twins, in ordinary autograd.
    pub plain: bool,
}

/// Names the dropout masks of one pass: a mask is a pure function of this and the module's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// The micro-batch of that step.
    pub micro_batch: u64,
}

impl DropoutKey {
    /// What names the mask of one module.
    pub(crate) fn stream(self, module: &str) -> u64 {
        let key = random::mix(random::mix(self.seed) ^ self.step);
        random::stream(random::mix(key) ^ self.micro_batch, module)
    }
}

impl Default for Pass<'_> {
    fn default() -> Self {
        Self { cache: None, adapter: Some(0), dropout: None, plain: false }
    }
}

impl<'a> Pass<'a> {
    /// The default, continuing `cache`.
    pub fn cached(cache: &'a mut KvCache) -> Self {
        Self { cache: Some(cache), ..Self::default() }
    }

    /// The base alone: no adapter.
    pub fn base() -> Self {
        Self { adapter: None, ..Self::default() }
    }
}
