//! The head with its scores as one node: no logits outlive the chunk of rows they belong to, forward or backward.
//!
//! Shapes: R rows, C width, V vocabulary.
//!
//! Where the gradient of each log-probability is known beforehand, a chunk's logits become their own gradient at once and
//! are multiplied from there. For any other objective the backward pass makes them again: one product more.

use super::{Head, TokenScores};
use crate::{
    Pass,
    linear::{Dx, LinearOp, Saved},
    node,
    ragged::{rounded, with_zeros},
};
use tch::{Kind, Tensor};
use tunesmith_kernels as kernels;

/// What the head reads, a chunk of rows at a time.
struct Rows {
    linear: LinearOp,
    hidden: Tensor,
    labels: Tensor,
    per_chunk: i64,
}

impl Head {
    /// [`Head::score`] or, where the gradient of each log-probability is `known`, [`Head::score_knowing`], fused; `None`
    /// where there is no fused form.
    pub(super) fn score_fused(
        &self,
        hidden: &Tensor,
        labels: &Tensor,
        known: Option<&Tensor>,
        pass: &Pass,
    ) -> Option<TokenScores> {
        if !node::fits(hidden, pass) || hidden.size()[0] == 0 {
            return None;
        }
        let (n, whole) = (hidden.size()[0], rounded(hidden.size()[0]));
        let rows = Rows {
            linear: self.linear.op(pass),
            hidden: with_zeros(&hidden.detach(), whole),
            labels: with_zeros(labels, whole),
            per_chunk: self.chunk_rows(whole, hidden.device()),
        };
        let leaves: Vec<Tensor> =
            rows.linear.leaves().into_iter().map(Tensor::shallow_clone).collect();
        let own = |x: &Tensor| x.narrow(0, 0, n).copy();
        let Some(known) = known else {
            let [scores, lse, correct] = rows.score(|_, _, _, _| {});
            let scores = TokenScores { logprobs: own(&scores), correct: own(&correct) };
            node::attach(c"head", hidden, &leaves, &scores.logprobs, move |grad, want_dx| {
                let grad = with_zeros(&grad.to_kind(Kind::Float), whole);
                Some(rows.descend(&lse, &grad, want_dx)?.narrow(0, 0, n))
            });
            return Some(scores);
        };
        let grad = with_zeros(known, whole);
        let dx = hidden.requires_grad().then(|| rows.hidden.empty_like());
        let [scores, _, correct] = rows.score(|start, logits, saved, lse| {
            rows.descend_chunk(start, logits, saved, [lse, &grad], dx.as_ref());
        });
        let scores = TokenScores { logprobs: own(&scores), correct: own(&correct) };
        let known = known.shallow_clone();
        node::attach(c"head", hidden, &leaves, &scores.logprobs, move |grad, _| {
            let off = ((grad - &known).abs().max() / known.abs().max()).double_value(&[]);
            assert!(
                off < 1e-5,
                "log-probabilities got another gradient than was said: off by {off:e}"
            );
            Some(dx?.narrow(0, 0, n))
        });
        Some(scores)
    }
}

impl Rows {
    /// Log-probabilities (R), their softmaxes' denominators (R), and whether the label is the best (R). `then` may use up
    /// each chunk: its first row, its logits, what the layer kept, its denominators.
    fn score(&self, mut then: impl FnMut(i64, Tensor, Saved, &Tensor)) -> [Tensor; 3] {
        let _no_grad = tch::no_grad_guard();
        let mut parts: [Vec<Tensor>; 3] = Default::default();
        for start in self.starts() {
            let (logits, saved) = self.linear.forward(&self.chunk(&self.hidden, start));
            let scores = kernels::label_scores(&logits, &self.chunk(&self.labels, start));
            then(start, logits, saved, &scores.lse);
            parts[0].push(scores.logprobs);
            parts[1].push(scores.lse);
            parts[2].push(scores.correct);
        }
        parts.map(|part| Tensor::cat(&part, 0))
    }

    /// From the log-probabilities' gradient to the parameters' and, where it is wanted, that of the hidden states.
    fn descend(&self, lse: &Tensor, grad: &Tensor, want_dx: bool) -> Option<Tensor> {
        let dx = want_dx.then(|| self.hidden.empty_like());
        for start in self.starts() {
            let (logits, saved) = self.linear.forward(&self.chunk(&self.hidden, start));
            let lse = self.chunk(lse, start);
            self.descend_chunk(start, logits, saved, [&lse, grad], dx.as_ref());
        }
        dx
    }

    fn descend_chunk(
        &self,
        start: i64,
        logits: Tensor,
        saved: Saved,
        [lse, grad]: [&Tensor; 2], // of the chunk; of all rows
        dx: Option<&Tensor>,
    ) {
        let (labels, grad) = (self.chunk(&self.labels, start), self.chunk(grad, start));
        kernels::label_scores_backward_(&logits, &labels, lse, &grad); // logits are their gradient now
        let hidden = self.chunk(&self.hidden, start);
        let mut of_hidden = Dx::wanted(dx.is_some());
        self.linear.backward(saved, &hidden, &logits, &mut of_hidden);
        if let (Some(dx), Some(of_hidden)) = (dx, of_hidden.take()) {
            self.chunk(dx, start).copy_(&of_hidden);
        }
    }

    fn starts(&self) -> impl Iterator<Item = i64> {
        (0..self.hidden.size()[0]).step_by(self.per_chunk as usize)
    }

    fn chunk(&self, x: &Tensor, start: i64) -> Tensor {
        x.narrow(0, start, self.per_chunk.min(x.size()[0] - start))
    }
}
