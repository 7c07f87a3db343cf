//! Losses of pairs, each as its paper writes it: a function from log-probabilities to one number per pair.
//!
//! Shapes: P pairs.
//!
//! c and r are the log-ratios ln π(y) − ln π_ref(y) of the chosen and the rejected answer, Δ = c − r, ε the label
//! smoothing; a bar means ÷ the answer's trained tokens.

use tch::{Kind, Tensor};

/// Log-probabilities of the answers of P pairs, (P) each, fp32: sums over their trained tokens.
#[derive(Debug)]
pub struct Pairs {
    /// ln π(chosen).
    pub chosen: Tensor,
    /// ln π(rejected).
    pub rejected: Tensor,
    /// ln π_ref(chosen); zeros for losses without a reference.
    pub ref_chosen: Tensor,
    /// ln π_ref(rejected).
    pub ref_rejected: Tensor,
    /// Trained tokens of the chosen answers.
    pub n_chosen: Tensor,
    /// Trained tokens of the rejected answers.
    pub n_rejected: Tensor,
}

/// The numbers in the formulas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossKnobs {
    /// β: the temperature of the implicit reward.
    pub beta: f64,
    /// ε: the share of pairs that may be the wrong way round.
    pub label_smoothing: f64,
    /// γ: SimPO's margin.
    pub gamma: f64,
}

/// A loss, by TRL's name where TRL has it.
#[derive(Clone, Copy)]
pub struct PairLoss {
    /// Its name in recipes.
    pub name: &'static str,
    /// Whether it compares with a reference model.
    pub needs_reference: bool,
    /// The loss of each pair, (P).
    pub of: fn(&Pairs, &LossKnobs) -> Tensor,
}

/// All of them.
pub const PAIR_LOSSES: &[PairLoss] = &[
    PairLoss { name: "sigmoid", needs_reference: true, of: sigmoid },
    PairLoss { name: "cdpo", needs_reference: true, of: cdpo },
    PairLoss { name: "robust", needs_reference: true, of: robust },
    PairLoss { name: "hinge", needs_reference: true, of: hinge },
    PairLoss { name: "ipo", needs_reference: true, of: ipo },
    PairLoss { name: "sigmoid_norm", needs_reference: true, of: sigmoid_norm },
    PairLoss { name: "apo_zero", needs_reference: true, of: apo_zero },
    PairLoss { name: "apo_down", needs_reference: true, of: apo_down },
    PairLoss { name: "exo_pair", needs_reference: true, of: exo_pair },
    PairLoss { name: "nca_pair", needs_reference: true, of: nca_pair },
    PairLoss { name: "bco_pair", needs_reference: true, of: bco_pair },
    PairLoss { name: "sppo_hard", needs_reference: true, of: sppo_hard },
    PairLoss { name: "simpo", needs_reference: false, of: simpo },
    PairLoss { name: "cpo", needs_reference: false, of: cpo },
    PairLoss { name: "orpo", needs_reference: false, of: orpo },
];

impl Pairs {
    /// c.
    pub fn c(&self) -> Tensor {
        &self.chosen - &self.ref_chosen
    }

    /// r.
    pub fn r(&self) -> Tensor {
        &self.rejected - &self.ref_rejected
    }

    fn delta(&self) -> Tensor {
        self.c() - self.r()
    }

    fn mean_delta(&self) -> Tensor {
        self.c() / &self.n_chosen - self.r() / &self.n_rejected
    }
}

/// DPO: −ln σ(βΔ) (Rafailov et al. 2023, eq. 7).
fn sigmoid(p: &Pairs, k: &LossKnobs) -> Tensor {
    -(p.delta() * k.beta).log_sigmoid()
}

/// cDPO: −(1 − ε) ln σ(βΔ) − ε ln σ(−βΔ) (Mitchell 2023, "A note on DPO with noisy preferences").
fn cdpo(p: &Pairs, k: &LossKnobs) -> Tensor {
    smoothed(&(p.delta() * k.beta), k.label_smoothing)
}

/// Robust DPO: (−(1 − ε) ln σ(βΔ) + ε ln σ(−βΔ)) / (1 − 2ε) (Chowdhury et al. 2024, eq. 12).
fn robust(p: &Pairs, k: &LossKnobs) -> Tensor {
    let (logits, e) = (p.delta() * k.beta, k.label_smoothing);
    (logits.log_sigmoid() * (e - 1.0) + (-&logits).log_sigmoid() * e) / (1.0 - 2.0 * e)
}

/// Hinge: max(0, 1 − βΔ) (Zhao et al. 2023, SLiC-HF; Liu et al. 2024, RSO).
fn hinge(p: &Pairs, k: &LossKnobs) -> Tensor {
    (p.delta() * -k.beta + 1.0).relu()
}

/// IPO: (Δ̄ − 1/(2β))² (Azar et al. 2023, eq. 17; their τ is β, and log-ratios are means over tokens).
fn ipo(p: &Pairs, k: &LossKnobs) -> Tensor {
    (p.mean_delta() - 0.5 / k.beta).square()
}

/// Length-normalised DPO: −ln σ(βΔ̄) (Lambert et al. 2024, Tülu 3, eq. 6).
fn sigmoid_norm(p: &Pairs, k: &LossKnobs) -> Tensor {
    -(p.mean_delta() * k.beta).log_sigmoid()
}

/// APO-zero: 1 − σ(βc) + σ(βr) (D'Oosterlinck et al. 2024, eq. 7): chosen up, rejected down.
fn apo_zero(p: &Pairs, k: &LossKnobs) -> Tensor {
    (p.r() * k.beta).sigmoid() - (p.c() * k.beta).sigmoid() + 1.0
}

/// APO-down: σ(βc) + 1 − σ(βΔ) (D'Oosterlinck et al. 2024, eq. 8): both down, rejected more.
fn apo_down(p: &Pairs, k: &LossKnobs) -> Tensor {
    (p.c() * k.beta).sigmoid() + 1.0 - (p.delta() * k.beta).sigmoid()
}

/// EXO: KL(σ(±βΔ) ‖ (1 − ε, ε)) (Ji et al. 2024, eq. 16).
fn exo_pair(p: &Pairs, k: &LossKnobs) -> Tensor {
    let (logits, e) = (p.delta() * k.beta, k.label_smoothing);
    let won = logits.sigmoid() * (logits.log_sigmoid() - (-e).ln_1p());
    let against = -&logits;
    won + against.sigmoid() * (against.log_sigmoid() - e.ln())
}

/// NCA: −ln σ(βc) − ½ ln σ(−βc) − ½ ln σ(−βr) (Chen et al. 2024, eq. 13).
fn nca_pair(p: &Pairs, k: &LossKnobs) -> Tensor {
    let (c, r) = (p.c() * k.beta, p.r() * k.beta);
    -c.log_sigmoid() - (-&c).log_sigmoid() * 0.5 - (-r).log_sigmoid() * 0.5
}

/// BCO without its running baseline: −ln σ(βc) − ln σ(−βr) (Jung et al. 2024).
fn bco_pair(p: &Pairs, k: &LossKnobs) -> Tensor {
    -(p.c() * k.beta).log_sigmoid() - (p.r() * -k.beta).log_sigmoid()
}

/// SPPO with hard labels: (c − 1/(2β))² + (r + 1/(2β))² (Wu et al. 2024, eq. 4.7).
fn sppo_hard(p: &Pairs, k: &LossKnobs) -> Tensor {
    (p.c() - 0.5 / k.beta).square() + (p.r() + 0.5 / k.beta).square()
}

/// SimPO: −ln σ(β (c̄ − r̄) − γ), without a reference (Meng et al. 2024, eq. 6), smoothed by ε.
fn simpo(p: &Pairs, k: &LossKnobs) -> Tensor {
    let margin = (&p.chosen / &p.n_chosen - &p.rejected / &p.n_rejected) * k.beta;
    smoothed(&(margin - k.gamma), k.label_smoothing)
}

/// CPO: −ln σ(β (ln π(chosen) − ln π(rejected))) (Xu et al. 2024, eq. 3), smoothed by ε; its NLL term is `sft`.
fn cpo(p: &Pairs, k: &LossKnobs) -> Tensor {
    smoothed(&((&p.chosen - &p.rejected) * k.beta), k.label_smoothing)
}

/// ORPO: −β ln σ(ln odds(chosen) − ln odds(rejected)), odds = p / (1 − p) of the mean token probability (Hong et al.
/// 2024, eq. 7; their λ is β); its NLL term is `sft_text`.
fn orpo(p: &Pairs, k: &LossKnobs) -> Tensor {
    -log_odds_ratio(p).log_sigmoid() * k.beta
}

/// ln odds(chosen) − ln odds(rejected).
pub(super) fn log_odds_ratio(p: &Pairs) -> Tensor {
    let (c, r) = (&p.chosen / &p.n_chosen, &p.rejected / &p.n_rejected);
    (&c - &r) - (log1mexp(&c) - log1mexp(&r))
}

/// −(1 − ε) ln σ(x) − ε ln σ(−x).
fn smoothed(x: &Tensor, e: f64) -> Tensor {
    x.log_sigmoid() * (e - 1.0) - (-x).log_sigmoid() * e
}

/// ln(1 − eˣ) for x < 0, by whichever of two forms keeps its digits (Mächler 2012).
fn log1mexp(x: &Tensor) -> Tensor {
    let x = x.clamp_max(-f64::from(f32::EPSILON));
    let near = (-x.expm1()).log();
    let far = (-x.exp()).log1p();
    near.where_self(&x.gt(-std::f64::consts::LN_2), &far).to_kind(Kind::Float)
}
