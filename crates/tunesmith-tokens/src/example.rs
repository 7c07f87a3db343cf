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
    /// What the row counts where objectives judge it as a whole; `None`: 1. It is in `weights` already.
    pub weight: Option<f32>,
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
    /// How many of its first tokens stand in a batch with the first example of its group alone, which has the same.
    pub shared: usize,
}

impl Example {
    /// How many tokens it has.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// How many tokens it occupies in a batch: those that it does not share.
    pub fn n_own(&self) -> usize {
        self.ids.len() - self.shared
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

    /// Lets the members of each group share with its first one what all their tokens begin with, mostly a prompt, so that
    /// a model reads it once.
    ///
    /// A token can be asked for one next token only: the one before the first trained token of a member stays its own, and
    /// so does the last one, which heads over labels read. Sharing pays from the first token on
    /// (`docs/benchmarks/adapters.md`).
    pub fn share_prompts(examples: &mut [Self]) {
        for group in examples.chunk_by_mut(|_, next| next.tied) {
            let Some((first, others)) = group.split_first_mut() else { continue };
            for other in others {
                let alike = first.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
                let trained = other.trained.iter().skip(1).position(|&trained| trained);
                let predicting = trained.unwrap_or(other.len().saturating_sub(1));
                other.shared = alike.min(predicting);
            }
        }
    }

    /// Lets it and its tokens count `weight` times as much.
    pub(crate) fn weigh(&mut self, weight: f32) {
        self.weight = Some(self.weight.unwrap_or(1.0) * weight);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_shares_its_beginning_up_to_what_predicts_an_answer() {
        let example = |ids: &[u32], prompt: usize, tied: bool| Example {
            ids: ids.to_vec(),
            trained: (0..ids.len()).map(|i| i >= prompt).collect(),
            tied,
            ..Example::default()
        };
        let mut examples = [
            example(&[1, 2, 3, 4, 5], 3, false),
            example(&[1, 2, 3, 6], 3, true), // 3 predicts 4 there and 6 here
            example(&[1, 2, 3, 4, 7], 3, true), // answers that begin alike
            example(&[1, 9, 3, 4], 3, true), // another prompt
            example(&[1, 2, 3], 9, true),    // nothing trained: a head reads the 3
            example(&[], 0, true),
            example(&[1, 2, 3, 4, 5], 3, false), // another group
            example(&[1, 2, 3, 4, 5], 0, true),  // trained from its first token on
        ];
        Example::share_prompts(&mut examples);
        let found: Vec<usize> = examples.iter().map(|example| example.shared).collect();
        assert_eq!(found, [0, 2, 2, 1, 2, 0, 0, 0]);
        let own: Vec<usize> = examples.iter().map(Example::n_own).collect();
        assert_eq!(own, [5, 2, 3, 3, 1, 0, 5, 5]);
    }
}
