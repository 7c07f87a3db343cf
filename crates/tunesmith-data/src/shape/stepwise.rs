//! `prompt`, `completions` and `labels`: the steps of a solution, each right or wrong. A step becomes the solution up to
//! and with it, the steps on lines of their own, with the step's label.

use super::{Columns, list, text_of, weight_of};
use crate::fault::Fault;
use crate::source::Faulty;
use tunesmith_tokens::Sample;

pub(super) const REQUIRED: &[&[&str]] = &[&["prompt", "completions", "labels"]];
pub(super) const OPTIONAL: &[&str] = &[];

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let prompt = columns.text("prompt")?;
    let (steps_at, labels_at) = (columns.pointer("completions"), columns.pointer("labels"));
    let steps = list(columns.required("completions")?, &steps_at, "a list of steps")?;
    let labels = list(columns.required("labels")?, &labels_at, "a list of labels")?;
    if steps.is_empty() {
        let fault = Fault::WrongType { expected: "at least one step", found: "none".into() };
        return Err((steps_at, fault));
    }
    if steps.len() != labels.len() {
        let (expected, found) = (steps.len(), labels.len());
        return Err((labels_at, Fault::StepCount { expected, found }));
    }
    let mut solution = String::new();
    let mut samples = Vec::with_capacity(steps.len());
    for (i, (step, label)) in steps.into_iter().zip(&labels).enumerate() {
        let step = text_of(step).map_err(|fault| (format!("{steps_at}/{i}"), fault))?;
        let label = weight_of(label).map_err(|fault| (format!("{labels_at}/{i}"), fault))?;
        if i > 0 {
            solution.push('\n');
        }
        solution += &step;
        let upto =
            Sample::PromptCompletion { prompt: prompt.clone(), completion: solution.clone() };
        samples.push(Sample::Labelled(Box::new(upto), label));
    }
    Ok(Sample::Tied(samples))
}
