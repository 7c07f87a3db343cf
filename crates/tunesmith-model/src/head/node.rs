//! The head with its scores as one node: no logits outlive the chunk of rows they belong to, forward or backward.
//!
//! Shapes: R rows, C width, V vocabulary.
//!
//! The backward pass makes a chunk's logits again, turns them into their gradient in place and multiplies from there:
//! one product more than keeping them, a logits tensor of R · V less, and right for any objective's gradient.

use super::{Head, TokenScores};
use crate::{
    Pass,
    linear::LinearOp,
    node,
    ragged::{rounded, with_zeros},
};
use tch::{Kind, Tensor};
use tunesmith_kernels as kernels;

impl Head {
    /// As [`Head::score`], fused; `None` where there is no fused form.
    pub(super) fn score_fused(
        &self,
        hidden: &Tensor,
        labels: &Tensor,
        pass: &Pass,
    ) -> Option<TokenScores> {
        if !node::fits(hidden, pass) || hidden.size()[0] == 0 {
            return None;
        }
        let linear = self.linear.op(pass);
        let (n, whole) = (hidden.size()[0], rounded(hidden.size()[0]));
        let (input, labels) = (with_zeros(&hidden.detach(), whole), with_zeros(labels, whole));
        let rows = self.chunk_rows();
        let [scores, lse, correct] = tch::no_grad(|| score(&linear, &input, &labels, rows));
        let [scores, correct] = [scores, correct].map(|x| x.narrow(0, 0, n).copy());
        let leaves: Vec<Tensor> = linear.leaves().iter().map(|leaf| leaf.shallow_clone()).collect();
        node::attach(c"head", hidden, &leaves, &scores, move |grad, want_dx| {
            let grad = with_zeros(&grad.to_kind(Kind::Float), whole);
            let dx = backward(&linear, [&input, &labels, &lse, &grad], rows, want_dx);
            dx.map(|dx| dx.narrow(0, 0, n))
        });
        Some(TokenScores { logprobs: scores, correct })
    }
}

/// Log-probabilities (R), their softmaxes' denominators (R), and whether the label is the best (R).
fn score(linear: &LinearOp, hidden: &Tensor, labels: &Tensor, rows: i64) -> [Tensor; 3] {
    let mut parts: [Vec<Tensor>; 3] = Default::default();
    for (hidden, labels) in hidden.split(rows, 0).iter().zip(labels.split(rows, 0)) {
        let scores = kernels::label_scores(&linear.forward(hidden).0, &labels);
        parts[0].push(scores.logprobs);
        parts[1].push(scores.lse);
        parts[2].push(scores.correct);
    }
    parts.map(|part| Tensor::cat(&part, 0))
}

fn backward(
    linear: &LinearOp,
    [hidden, labels, lse, grad]: [&Tensor; 4],
    rows: i64,
    want_dx: bool,
) -> Option<Tensor> {
    let dx = want_dx.then(|| Tensor::empty(hidden.size(), (hidden.kind(), hidden.device())));
    let n = hidden.size()[0];
    for start in (0..n).step_by(rows as usize) {
        let part = |x: &Tensor| x.narrow(0, start, rows.min(n - start));
        let hidden = part(hidden);
        let (logits, saved) = linear.forward(&hidden);
        kernels::label_scores_backward_(&logits, &part(labels), &part(lse), &part(grad));
        let of_hidden = linear.backward(saved, &hidden, &logits, want_dx);
        if let (Some(dx), Some(of_hidden)) = (&dx, of_hidden) {
            part(dx).copy_(&of_hidden);
        }
    }
    dx
}
