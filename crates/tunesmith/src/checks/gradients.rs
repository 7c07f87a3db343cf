//! Checks of the step itself: on a few short examples, before a long run is trusted to it.

use super::{Finding, Verdict, beginning};
use anyhow::Result;
use tch::{Kind, Tensor};
use tunesmith_model::{Pass, Transformer};
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{AdamW, Measured, Objective, Reading, Terms, TrainError, measure, ragged};

/// Tokens of an example, at most: enough to attend, few enough for seconds.
const LENGTH: usize = 48;
/// Examples (or tied groups of them).
const GROUPS: usize = 4;
/// Relative error that the order of sums explains: in fp32, and in bf16 with its 8 bits.
const TOLERANCES: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::BFloat16, 0.1)];
/// Share of the weights with a gradient that a step must move.
const MOVED: f64 = 0.5;
/// The same where weights are rounded by chance: lr ÷ a weight's own step, 1.3e-4 for weights of 1 at a rate of 1e-6.
const MOVED_BY_CHANCE: f64 = 1e-5;

/// All checks of one model; afterwards its weights are no longer those that were loaded.
pub(crate) fn all(
    model: &Transformer,
    optimizer: &mut AdamW,
    objective: &dyn Objective,
    examples: &[Example],
    lr: f64,
) -> Result<Vec<Finding>> {
    let groups = short(examples);
    if groups.len() < 2 {
        let evidence = format!("{} short examples; two are needed", groups.len());
        return Ok(vec![Finding::new("gradients", Verdict::Doubtful, evidence)]);
    }
    let tolerance =
        TOLERANCES.iter().find(|(kind, _)| *kind == model.kind()).map_or(0.1, |(_, t)| *t);
    let never = std::sync::atomic::AtomicBool::new(false);
    // Nothing is dropped: a mask is named by its micro-batch, and so differs where a step is split.
    let go = |optimizer: &AdamW, objective: &dyn Objective, batches: &[Batch]| {
        measure(model, optimizer, objective, batches, None, &never)
    };
    let mut gradient = |batches: &[Batch]| -> Result<Vec<Tensor>> {
        let measured = go(optimizer, objective, batches)?;
        Ok(measured
            .map_or_else(Vec::new, |m| m.gradients.tensors().map(Tensor::shallow_clone).collect()))
    };
    let hidden = |batch: &Batch| -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        Ok(model.hidden(&ragged(batch, model.device()), &mut Pass::default())?)
    };
    let mut findings = vec![
        split_changes_nothing(&mut gradient, &groups, tolerance)?,
        documents_are_apart(&hidden, &groups)?,
        alone_is_the_same(&hidden, &groups, tolerance)?,
    ];
    findings.extend(sharing_changes_nothing(&mut gradient, &groups, tolerance)?);
    let batch = [Batch::new(groups.iter().flatten())];
    findings.extend(beginning::all(model, objective, &batch[0], tolerance)?);
    if let Some(Measured { gradients, .. }) = go(optimizer, objective, &batch)? {
        findings.push(norm_is_the_norm(gradients.norm, gradients.tensors()));
    }
    let poisoned = go(optimizer, &Poisoned(objective), &batch).err();
    findings.push(not_a_number_stops(poisoned.as_ref()));
    if let Some(Measured { gradients, .. }) = go(optimizer, objective, &batch)? {
        let _no_grad = tch::no_grad_guard();
        let pairs =
            optimizer.touched(&gradients).map(|(w, g)| (w.shallow_clone(), g.shallow_clone()));
        let (weights, slopes): (Vec<_>, Vec<_>) = pairs.unzip();
        let before: Vec<Tensor> = weights.iter().map(|weight| weight.detach().copy()).collect();
        optimizer.step(gradients, lr);
        let share = if optimizer.rounds_by_chance() { MOVED_BY_CHANCE } else { MOVED };
        findings.push(weights_move(&before, &weights, &slopes, share));
    }
    Ok(findings)
}

/// A few groups of examples, each cut short, all of which teach.
fn short(examples: &[Example]) -> Vec<Vec<Example>> {
    // The part with the last trained token, so that it still teaches.
    let start = |example: &Example| {
        let last = example.trained.iter().rposition(|&trained| trained).unwrap_or(0);
        (last + 1).saturating_sub(LENGTH)
    };
    let cut = |example: &Example, from: usize| {
        let to = (from + LENGTH).min(example.ids.len());
        Example {
            ids: example.ids[from..to].to_vec(),
            trained: example.trained[from..to].to_vec(),
            weights: example.weights.as_ref().map(|weights| weights[from..to].to_vec()),
            ..example.clone()
        }
    };
    // Those of a group begin at one place: the answers of a preference have one prompt.
    let groups = Example::groups(examples).map(|group| {
        let from = group.iter().map(start).min().unwrap_or(0);
        group.iter().map(|example| cut(example, from)).collect::<Vec<_>>()
    });
    let teaches = |group: &Vec<Example>| group.iter().all(|e| e.ids.len() > 1 && e.teaches());
    let mut groups: Vec<_> = groups.filter(teaches).take(GROUPS).collect();
    // Unequal lengths: an average of averages shows only then.
    if let Some(group) = groups.first_mut() {
        for example in group.iter_mut().filter(|e| e.n_trained() > 2) {
            let half = example.trained.iter().skip(1).filter(|&&t| t).count() / 2;
            let mut left = half;
            for trained in example.trained.iter_mut().skip(1).filter(|t| **t) {
                *trained = left > 0;
                left = left.saturating_sub(1);
            }
        }
    }
    groups
}

/// The gradient of a step does not depend on how it is split, a partial last micro-batch included.
fn split_changes_nothing(
    gradient: &mut dyn FnMut(&[Batch]) -> Result<Vec<Tensor>>,
    groups: &[Vec<Example>],
    tolerance: f64,
) -> Result<Finding> {
    let batch = |groups: &[Vec<Example>]| Batch::new(groups.iter().flatten());
    let whole = gradient(&[batch(groups)])?;
    let (first, rest) = groups.split_at(1);
    let parts: Vec<Batch> = std::iter::once(first).chain(rest.chunks(2)).map(batch).collect();
    let error = distance(&whole, &gradient(&parts)?);
    let good = error <= tolerance;
    let evidence = format!(
        "gradient of {} groups whole and in {} parts: relative difference {error:.1e}, at most {tolerance:.0e}",
        groups.len(),
        parts.len()
    );
    Ok(Finding::judged("accumulation", good, evidence))
}

/// Answers that share their prompt give the gradient of answers with a prompt each; `None` where none shares anything.
fn sharing_changes_nothing(
    gradient: &mut dyn FnMut(&[Batch]) -> Result<Vec<Tensor>>,
    groups: &[Vec<Example>],
    tolerance: f64,
) -> Result<Option<Finding>> {
    let mut shared = groups.concat();
    Example::share_prompts(&mut shared);
    let n: usize = shared.iter().map(|example| example.shared).sum();
    if n == 0 {
        return Ok(None);
    }
    let repeated = gradient(&[Batch::new(groups.iter().flatten())])?;
    let error = distance(&repeated, &gradient(&[Batch::new(&shared)])?);
    let evidence = format!(
        "gradient with {n} tokens of prompts shared and repeated: relative difference {error:.1e}, at most {tolerance:.0e}"
    );
    Ok(Some(Finding::judged("shared prompts", error <= tolerance, evidence)))
}

/// ‖a − b‖ / ‖a‖ of two gradients; infinite where they are not of the same parameters.
fn distance(a: &[Tensor], b: &[Tensor]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let square = |t: &Tensor| t.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(&(a - b))).sum();
    let size: f64 = a.iter().map(square).sum();
    (difference / size.max(f64::MIN_POSITIVE)).sqrt()
}

/// A document's hidden states do not change with its neighbour.
fn documents_are_apart(
    hidden: &dyn Fn(&Batch) -> Result<Tensor>,
    groups: &[Vec<Example>],
) -> Result<Finding> {
    let (a, b) = (&groups[0][0], &groups[1][0]);
    let other = Example { ids: a.ids.iter().rev().map(|id| id ^ 1).collect(), ..a.clone() };
    let of_b = |a: &Example| -> Result<Tensor> {
        Ok(hidden(&Batch::new([a, b]))?.narrow(0, a.ids.len() as i64, b.ids.len() as i64))
    };
    let difference = largest(&(of_b(a)? - of_b(&other)?));
    let evidence = format!("another neighbour moves hidden states by {difference:.1e}");
    Ok(Finding::judged("documents stay apart", difference == 0.0, evidence))
}

/// A document reads the same alone and behind another: positions begin anew, and nothing pads.
fn alone_is_the_same(
    hidden: &dyn Fn(&Batch) -> Result<Tensor>,
    groups: &[Vec<Example>],
    tolerance: f64,
) -> Result<Finding> {
    let (a, b) = (&groups[0][0], &groups[1][0]);
    let packed = hidden(&Batch::new([a, b]))?;
    let packed = packed.narrow(0, a.ids.len() as i64, b.ids.len() as i64);
    let alone = hidden(&Batch::new([b]))?;
    let error = largest(&(&packed - &alone)) / largest(&alone).max(f64::MIN_POSITIVE);
    let evidence = format!("alone and packed differ by {error:.1e} of the largest hidden state");
    Ok(Finding::judged("positions begin anew", error <= 10.0 * tolerance, evidence))
}

/// The norm that is logged and clipped is that of the gradient.
fn norm_is_the_norm<'a>(norm: f64, gradient: impl Iterator<Item = &'a Tensor>) -> Finding {
    let square = |t: &Tensor| t.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
    let expected = gradient.map(square).sum::<f64>().sqrt();
    let good = (norm - expected).abs() <= 1e-5 * expected;
    let evidence = format!("reported {norm:.6}, that of the gradient {expected:.6}");
    Finding::judged("gradient norm", good, evidence)
}

/// A loss that is no number is an error, not a line in a log.
fn not_a_number_stops(error: Option<&TrainError>) -> Finding {
    let stopped = matches!(error, Some(TrainError::NonFinite { .. }));
    let evidence = match stopped {
        true => "a poisoned step is stopped before its update",
        false => "a poisoned step went through",
    };
    Finding::judged("NaN stops", stopped, evidence)
}

/// A step changes the weights: in bf16 without fp32 masters, small updates round to nothing.
fn weights_move(
    before: &[Tensor],
    after: &[Tensor],
    gradients: &[Tensor],
    at_least: f64,
) -> Finding {
    let (mut with_gradient, mut moved) = (0, 0);
    for ((before, after), gradient) in before.iter().zip(after).zip(gradients) {
        let pushed = gradient.not_equal(0.0);
        let count = |mask: &Tensor| mask.sum(Kind::Int64).int64_value(&[]);
        with_gradient += count(&pushed);
        moved += count(&before.not_equal_tensor(after).logical_and(&pushed));
    }
    let share = moved as f64 / (with_gradient as f64).max(1.0);
    let evidence =
        format!("a step moves {:.1} % of the weights that have a gradient", 100.0 * share);
    Finding::judged("weights move", share >= at_least, evidence)
}

fn largest(t: &Tensor) -> f64 {
    t.abs().max().to_kind(Kind::Double).double_value(&[])
}

/// An objective whose loss is no number.
struct Poisoned<'a>(&'a dyn Objective);

impl Objective for Poisoned<'_> {
    fn units(&self) -> &[tunesmith_train::Unit] {
        self.0.units()
    }

    fn terms(&self, reading: &Reading<'_>) -> Result<Terms, TrainError> {
        let mut terms = self.0.terms(reading)?;
        terms.terms.iter_mut().for_each(|term| term.sum = &term.sum * f64::NAN);
        Ok(terms)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use tch::Device;
    use tunesmith_model::{Config, LoadOptions, LoraConfig};
    use tunesmith_train::{AdamWKnobs, Sft};

    const CONFIG: &str = r#"{"model_type":"llama","hidden_act":"silu","vocab_size":32,"hidden_size":16,
        "intermediate_size":24,"num_hidden_layers":2,"num_attention_heads":2,"initializer_range":0.3}"#;

    pub(in crate::checks) fn model() -> Transformer {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
        let options = LoadOptions::trained(Kind::Float, Device::Cpu);
        Transformer::fresh(Config::from_dir(dir.path()).unwrap(), 7, options)
    }

    pub(in crate::checks) fn examples() -> Vec<Example> {
        let example = |row: u64| {
            let n = 9 + 5 * row as usize;
            let ids = (0..n as u32).map(|i| (3 + 7 * i + 5 * row as u32) % 32).collect();
            Example { ids, trained: (0..n).map(|i| i > 2).collect(), row, ..Example::default() }
        };
        (0..4).map(example).collect()
    }

    fn groups() -> Vec<Vec<Example>> {
        short(&examples())
    }

    #[test]
    fn a_sound_step_passes() {
        let model = model();
        let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
        let findings = all(&model, &mut optimizer, &Sft, &examples(), 1e-4).unwrap();
        assert_eq!(findings.len(), 6);
        for finding in findings {
            assert_eq!(finding.verdict, Verdict::Good, "{finding:?}");
        }
    }

    /// What an adapter drops is named by its micro-batch, and no bug.
    #[test]
    fn dropout_is_no_finding() {
        let mut model = model();
        let lora = LoraConfig { dropout: 0.5, ..LoraConfig::default() };
        model.add_adapter(&lora, 1, true).unwrap();
        let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
        let findings = all(&model, &mut optimizer, &Sft, &examples(), 1e-4).unwrap();
        let accumulation = findings.iter().find(|finding| finding.check == "accumulation");
        assert_eq!(accumulation.unwrap().verdict, Verdict::Good, "{findings:?}");
    }

    /// Answers that do not see the prompt that they share.
    #[test]
    fn a_lost_prompt_is_caught() {
        let model = model();
        let optimizer = AdamW::new(AdamWKnobs::default(), model.params());
        let never = std::sync::atomic::AtomicBool::new(false);
        let sound = |batches: &[Batch]| -> Result<Vec<Tensor>> {
            let measured = measure(&model, &optimizer, &Sft, batches, None, &never)?.unwrap();
            Ok(measured.gradients.tensors().map(Tensor::shallow_clone).collect())
        };
        let pair = |example: Example| {
            let mut other = Example { tied: true, ..example.clone() };
            other.ids.iter_mut().skip(3).for_each(|id| *id ^= 1);
            vec![example, other]
        };
        let pairs: Vec<_> = examples().into_iter().map(pair).collect();
        let finding = sharing_changes_nothing(&mut { sound }, &pairs, 1e-5).unwrap().unwrap();
        assert_eq!(finding.verdict, Verdict::Good, "{finding:?}");
        let mut mutant = |batches: &[Batch]| {
            let mut batch = batches[0].clone();
            batch.docs.iter_mut().for_each(|doc| doc.shared = 0);
            sound(&[batch])
        };
        let finding = sharing_changes_nothing(&mut mutant, &pairs, 1e-5).unwrap().unwrap();
        assert_eq!(finding.verdict, Verdict::Wrong, "{finding:?}");
        assert_eq!(sharing_changes_nothing(&mut { sound }, &groups(), 1e-5).unwrap(), None);
    }

    /// The loss of each micro-batch averaged by itself, and the averages averaged: the bug of October 2024.
    #[test]
    fn an_average_of_averages_is_caught() {
        let model = model();
        let optimizer = AdamW::new(AdamWKnobs::default(), model.params());
        let never = std::sync::atomic::AtomicBool::new(false);
        let of = |batch: &Batch| -> Vec<Tensor> {
            let batches = std::slice::from_ref(batch);
            let measured =
                measure(&model, &optimizer, &Sft, batches, None, &never).unwrap().unwrap();
            measured.gradients.tensors().map(Tensor::shallow_clone).collect()
        };
        let mut mutant = |batches: &[Batch]| {
            let all: Vec<Vec<Tensor>> = batches.iter().map(of).collect();
            let mean = |i: usize| {
                all.iter().map(|g| g[i].shallow_clone()).reduce(|a, b| a + b).unwrap()
                    / all.len() as f64
            };
            Ok((0..all[0].len()).map(mean).collect())
        };
        let finding = split_changes_nothing(&mut mutant, &groups(), 1e-5).unwrap();
        assert_eq!(finding.verdict, Verdict::Wrong, "{finding:?}");
    }

    /// One attention over the whole pack, with positions that begin anew or go on.
    #[test]
    fn a_leak_between_documents_is_caught() {
        let model = model();
        for positions_go_on in [false, true] {
            let mutant = |batch: &Batch| -> Result<Tensor> {
                let mut leaky = batch.clone();
                leaky.docs.truncate(1);
                if positions_go_on {
                    leaky.positions = (0..leaky.len() as u32).collect();
                }
                let _no_grad = tch::no_grad_guard();
                Ok(model.hidden(&ragged(&leaky, Device::Cpu), &mut Pass::default())?)
            };
            let apart = documents_are_apart(&mutant, &groups()).unwrap();
            let alone = alone_is_the_same(&mutant, &groups(), 1e-5).unwrap();
            assert_eq!([apart.verdict, alone.verdict], [Verdict::Wrong; 2], "{apart:?} {alone:?}");
        }
    }

    /// Documents apart, but the second one's positions count on from the first: what padding on the wrong side does.
    #[test]
    fn shifted_positions_are_caught() {
        let model = model();
        let mutant = |batch: &Batch| -> Result<Tensor> {
            let mut shifted = batch.clone();
            // Rotary positions are relative: only what stretches them shows, as positions that skip the padding do.
            shifted.positions = (0..batch.len() as u32).map(|i| i + i / 7).collect();
            let _no_grad = tch::no_grad_guard();
            Ok(model.hidden(&ragged(&shifted, Device::Cpu), &mut Pass::default())?)
        };
        let finding = alone_is_the_same(&mutant, &groups(), 1e-5).unwrap();
        assert_eq!(finding.verdict, Verdict::Wrong, "{finding:?}");
    }

    #[test]
    fn a_norm_after_clipping_is_caught() {
        let gradient = [Tensor::from_slice(&[3.0f32, 0.0]), Tensor::from_slice(&[4.0f32])];
        assert_eq!(norm_is_the_norm(5.0, gradient.iter()).verdict, Verdict::Good);
        assert_eq!(
            norm_is_the_norm(1.0, gradient.iter()).verdict,
            Verdict::Wrong,
            "after clipping"
        );
        assert_eq!(
            norm_is_the_norm(7.0, gradient.iter()).verdict,
            Verdict::Wrong,
            "a sum of norms"
        );
    }

    #[test]
    fn a_hidden_nan_is_caught() {
        assert_eq!(not_a_number_stops(None).verdict, Verdict::Wrong);
        let other = TrainError::NothingTrained { step: 1, n_tokens: 2 };
        assert_eq!(not_a_number_stops(Some(&other)).verdict, Verdict::Wrong);
    }

    #[test]
    fn bf16_weights_that_stay_are_caught() {
        let before = Tensor::ones([1000], (Kind::Float, Device::Cpu));
        let gradient = [Tensor::ones([1000], (Kind::Float, Device::Cpu))];
        let stepped = &before - 1e-5;
        let check = |kind: Kind| {
            let [before, after] = [&before, &stepped].map(|t| [t.to_kind(kind)]);
            weights_move(&before, &after, &gradient, MOVED).verdict
        };
        assert_eq!(check(Kind::Float), Verdict::Good);
        assert_eq!(check(Kind::BFloat16), Verdict::Wrong);
    }
}
