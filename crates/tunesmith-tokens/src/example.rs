//! One example: token ids, and which of them the model must learn to say.

/// `trained[i]` ⇔ the model must learn to say `ids[i]`. Unshifted; [`Batch`](crate::Batch) alone shifts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Same length as `ids`.
    pub trained: Vec<bool>,
    /// What each token counts where it is trained, same length as `ids`; `None`: 1 everywhere.
    pub weights: Option<Vec<f32>>,
    /// The class or score of the whole; of a preference's chosen answer, the margin.
    pub label: Option<f32>,
    /// The row it came from, counted from 0 over all files of the data set.
    pub row: u64,
    /// How many tokens truncation cut off.
    pub truncated: u32,
    /// Which piece of its row it is, counted from 0, where truncation splits.
    pub piece: u32,
    /// Whether it belongs together with the example before it: the rejected answer behind the chosen one.
    pub tied: bool,
}

impl Example {
    /// How many tokens it occupies.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it has no token at all.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// How many tokens give a loss: the trained ones that have a predecessor.
    pub fn n_trained(&self) -> usize {
        self.trained.iter().skip(1).filter(|&&t| t).count()
    }

    /// Whether an objective finds anything in it: a trained token or a label.
    pub fn teaches(&self) -> bool {
        self.label.is_some() || self.n_trained() > 0
    }

    /// Splits consecutive examples into groups that stay together.
    pub fn groups(examples: &[Self]) -> impl Iterator<Item = &[Self]> {
        examples.chunk_by(|_, next| next.tied)
    }

    /// Lets its tokens count `weight` times as much.
    pub(crate) fn weigh(&mut self, weight: f32) {
        let n = self.len();
        let weights = self.weights.get_or_insert_with(|| vec![1.0; n]);
        weights.iter_mut().for_each(|w| *w *= weight);
    }

    /// Leaves the tokens of `kept` alone.
    pub(crate) fn cut(&mut self, kept: std::ops::Range<usize>) {
        self.truncated += (self.ids.len() - kept.len()) as u32;
        self.ids = self.ids[kept.clone()].to_vec();
        self.trained = self.trained[kept.clone()].to_vec();
        self.weights = self.weights.as_ref().map(|weights| weights[kept].to_vec());
    }
}
