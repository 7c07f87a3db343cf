//! One example: token ids, and which of them the model must learn to say.

/// `trained[i]` ⇔ the model must learn to say `ids[i]`. Unshifted; [`Batch`](crate::Batch) alone shifts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Same length as `ids`.
    pub trained: Vec<bool>,
    /// The row it came from, counted from 0 over all files of the data set.
    pub row: u64,
    /// How many tokens truncation cut off its end.
    pub truncated: u32,
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
}
