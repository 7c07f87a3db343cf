//! Checks of what a run begins with: its reference, and weights in few bits.

use super::{Finding, rehearsal::Once};
use anyhow::Result;
use std::sync::atomic::AtomicBool;
use tunesmith_model::Transformer;
use tunesmith_tokens::Batch;
use tunesmith_train::{Evaluation, Objective, evaluate};

/// Those that apply: to objectives with a reference, to quantised models. `tolerance`: of the model's dtype.
pub(super) fn all(
    model: &Transformer,
    objective: &dyn Objective,
    batch: &Batch,
    tolerance: f64,
) -> Result<Vec<Finding>> {
    let (mut findings, never) = (Vec::new(), AtomicBool::new(false));
    if objective.has_reference()
        && let Some(Evaluation { metrics, .. }) =
            evaluate(model, &mut Once(Some(batch.clone())), objective, &never)?
    {
        findings.push(reference_is_the_start(&metrics, tolerance));
    }
    if let Some((name, worst)) = model.quantisation_error()? {
        findings.push(codes_stand_for_weights(&name, worst));
    }
    Ok(findings)
}

/// Before its first step a model is its own reference: every reward is 0.
fn reference_is_the_start(metrics: &[(&'static str, f64)], tolerance: f64) -> Finding {
    let of = |name: &str| metrics.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
    let sides = ["chosen", "rejected"].into_iter().filter_map(|side| {
        let (reward, logp) = (of(&format!("rewards/{side}"))?, of(&format!("logps/{side}"))?);
        Some((side, reward, logp))
    });
    let sides: Vec<_> = sides.collect();
    // A reward that is no number is none that is small.
    let good =
        sides.iter().all(|(_, reward, logp)| reward.abs() <= tolerance * logp.abs().max(1.0));
    let told: Vec<String> = sides
        .iter()
        .map(|(side, reward, logp)| format!("reward of {side} {reward:.1e}, ln p {logp:.1}"))
        .collect();
    Finding::judged("the start is the reference", good, told.join("; "))
}

/// Quantised weights are as near to those on file as their storage can be.
fn codes_stand_for_weights(name: &str, worst: f64) -> Finding {
    let evidence = format!("{name}: largest error {worst:.2} of what rounding can do");
    Finding::judged("quantised weights", worst <= 1.0, evidence)
}

#[cfg(test)]
mod mutants {
    use super::*;
    use crate::checks::{Verdict, gradients::tests};
    use tunesmith_train::{LossKnobs, Preference, Reference};

    /// A reference that is not what the run begins with: other weights, or an adapter that has learned already.
    #[test]
    fn another_reference_is_caught() {
        let model = tests::model();
        let mut pairs = tests::examples();
        for pair in pairs.chunks_mut(2) {
            let prompt = pair[0].ids[..3].to_vec();
            pair[1].ids[..3].copy_from_slice(&prompt);
            (pair[1].tied, pair[1].row) = (true, pair[0].row);
        }
        let check = |reference: Transformer, expected: Verdict| {
            let losses = [("sigmoid".to_owned(), 1.0)];
            let reference = Some(Reference::Copy(Box::new(reference)));
            let objective = Preference::new(
                &losses,
                LossKnobs { beta: 0.1, label_smoothing: 0.0, gamma: 0.0 },
                reference,
            )
            .unwrap();
            let findings = all(&model, &objective, &Batch::new(&pairs), 1e-5).unwrap();
            let [finding] = findings.as_slice() else { panic!("{findings:?}") };
            assert_eq!(finding.verdict, expected, "{finding:?}");
        };
        let other = tests::model();
        tch::no_grad(|| {
            let weight = &other.params().last().unwrap().tensor;
            let _ = weight.shallow_clone().g_mul_scalar_(1.01);
        });
        check(other, Verdict::Wrong);
        check(tests::model(), Verdict::Good);
    }

    #[test]
    fn codes_of_other_weights_are_caught() {
        assert_eq!(codes_stand_for_weights("w", 0.98).verdict, Verdict::Good);
        assert_eq!(codes_stand_for_weights("w", 1.3).verdict, Verdict::Wrong);
        assert_eq!(codes_stand_for_weights("w", f64::NAN).verdict, Verdict::Wrong);
    }
}
