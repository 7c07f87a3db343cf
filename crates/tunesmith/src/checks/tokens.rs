//! Checks of examples: no weights, no noticeable time.

use super::{Finding, Verdict};
use crate::{objective::ObjectiveKind, prepare::Prepared};
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};
use tunesmith_data::Dataset;
use tunesmith_model::Config;
use tunesmith_tokens::{Example, Sample};

/// Rows that are looked at, spread over the data set.
const PROBED: u64 = 64;
/// Rows whose content is compared with the held-out rows.
const COMPARED: u64 = 4096;
/// Share of examples that must teach the model to stop.
const ENDINGS: f64 = 0.99;
/// Share of examples whose target may be cut before it is worth a look.
const CUT: f64 = 0.1;

/// What the tokenizer and the model say about tokens.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vocabulary {
    /// What a document begins with.
    pub(crate) bos: Option<u32>,
    /// What ends an answer.
    pub(crate) ends: Vec<u32>,
    /// Ids that the tokenizer can give.
    pub(crate) tokenizer: usize,
    /// Rows of the model's embedding.
    pub(crate) model: usize,
}

/// All checks of a prepared run.
pub(crate) fn all(prepared: &Prepared) -> Vec<Finding> {
    let examples = probed(prepared);
    let encoder = &prepared.encoder;
    let tokenizer = encoder.tokenizer();
    let vocabulary = Vocabulary {
        bos: tokenizer.and_then(|tokenizer| tokenizer.bos_id()),
        ends: encoder.stop_ids(),
        tokenizer: tokenizer.map_or(0, |tokenizer| tokenizer.vocab_size()),
        model: prepared.config.vocab_size as usize,
    };
    let mut findings = vec![
        begins_once(&examples, &vocabulary),
        something_is_trained(&examples),
        targets_are_whole(&examples),
        ids_have_rows(&examples, &vocabulary),
    ];
    if tokenizer.is_some() {
        findings.push(endings_are_trained(&examples, &vocabulary));
    }
    if examples.iter().any(|example| example.tied) {
        findings.push(pairs_differ(&examples));
    }
    if prepared.recipe.objective.kind == ObjectiveKind::Classify {
        let own = Config::from_dir(&prepared.model_dir).map_or_else(|_| Vec::new(), |c| c.labels());
        findings.push(classes_are_met(&prepared.config.labels(), &prepared.classes, &own));
    }
    if let Some(held_out) = &prepared.held_out_rows {
        findings.push(held_out_is_unseen(&prepared.dataset, held_out));
    }
    findings
}

/// Examples of rows spread over the data set; what cannot be read is the stream's to report.
pub(crate) fn probed(prepared: &Prepared) -> Vec<Example> {
    let n = prepared.dataset.len();
    let rows = (0..PROBED.min(n)).map(|i| i * n / PROBED.min(n));
    rows.filter_map(|row| prepared.dataset.row_examples(row, &prepared.encoder).ok())
        .flatten()
        .collect()
}

/// The template writes a BOS and the tokenizer adds another.
fn begins_once(examples: &[Example], vocabulary: &Vocabulary) -> Finding {
    let doubled = |example: &&Example| {
        vocabulary.bos.is_some_and(|bos| example.ids.len() > 1 && example.ids[..2] == [bos, bos])
    };
    let (n, first) = (examples.iter().filter(doubled).count(), examples.iter().find(doubled));
    let evidence = match first {
        Some(example) => format!(
            "{n} of {} examples begin with two, such as row {}",
            examples.len(),
            example.row
        ),
        None => format!("none of {} examples begins with two", examples.len()),
    };
    Finding::judged("one BOS", n == 0, evidence)
}

/// A loss mask that leaves nothing.
fn something_is_trained(examples: &[Example]) -> Finding {
    let empty = examples.iter().filter(|example| !example.teaches()).count();
    let (trained, total) = examples
        .iter()
        .fold((0, 0), |(trained, total), e| (trained + e.n_trained(), total + e.ids.len()));
    let evidence = format!(
        "{trained} of {total} tokens are trained; {empty} of {} examples train none",
        examples.len()
    );
    let verdict = match empty {
        0 => Verdict::Good,
        n if n == examples.len() => Verdict::Wrong,
        _ => Verdict::Doubtful,
    };
    Finding::new("trained tokens", verdict, evidence)
}

/// Truncation that takes the answer.
fn targets_are_whole(examples: &[Example]) -> Finding {
    let cut = examples.iter().filter(|example| example.truncated > 0).count();
    let share = cut as f64 / examples.len().max(1) as f64;
    let verdict = if share > CUT { Verdict::Doubtful } else { Verdict::Good };
    let evidence = format!("{cut} of {} examples are cut at the longest length", examples.len());
    Finding::new("whole targets", verdict, evidence)
}

/// Tokens that the model has no embedding for.
fn ids_have_rows(examples: &[Example], vocabulary: &Vocabulary) -> Finding {
    let largest = examples.iter().flat_map(|example| &example.ids).max().copied().unwrap_or(0);
    let Vocabulary { tokenizer, model, .. } = vocabulary;
    let evidence = format!("largest id {largest}, tokenizer {tokenizer}, embedding {model} rows");
    let verdict = match (largest as usize) < *model {
        false => Verdict::Wrong,
        // More tokens than rows, none of them met so far.
        true if tokenizer > model => Verdict::Doubtful,
        true => Verdict::Good,
    };
    Finding::new("an embedding per token", verdict, evidence)
}

/// A model that never learns to stop: its last trained token is no end, because the end was masked with the padding or
/// the template writes it behind the answer.
fn endings_are_trained(examples: &[Example], vocabulary: &Vocabulary) -> Finding {
    let whole: Vec<&Example> =
        examples.iter().filter(|e| e.truncated == 0 && e.n_trained() > 0).collect();
    let stops = |example: &&&Example| {
        let trained = example.ids.iter().zip(&example.trained).filter(|(_, trained)| **trained);
        trained.map(|(id, _)| id).any(|id| vocabulary.ends.contains(id))
    };
    let n = whole.iter().filter(stops).count();
    let share = if whole.is_empty() { 1.0 } else { n as f64 / whole.len() as f64 };
    let verdict = if share >= ENDINGS { Verdict::Good } else { Verdict::Doubtful };
    let evidence = format!("{n} of {} whole examples train the model to stop", whole.len());
    Finding::new("endings", verdict, evidence)
}

/// A preference between an answer and itself teaches nothing, or noise.
fn pairs_differ(examples: &[Example]) -> Finding {
    let groups = || Example::groups(examples).filter(|group| group.len() > 1);
    let equal = |group: &&[Example]| group.windows(2).any(|pair| pair[0].ids == pair[1].ids);
    let (n, all) = (groups().filter(equal).count(), groups().count());
    let evidence = match groups().find(equal) {
        Some(group) => {
            format!("{n} of {all} pairs are of one answer and itself, such as row {}", group[0].row)
        }
        None => format!("none of {all} pairs is of one answer and itself"),
    };
    let verdict = match n {
        0 => Verdict::Good,
        n if n == all => Verdict::Wrong,
        _ => Verdict::Doubtful,
    };
    Finding::new("pairs differ", verdict, evidence)
}

/// Classes without a row are never learned; and a model that has the same classes in another order begins with a head
/// of its own no more. `own`: the labels that the model came with.
fn classes_are_met(labels: &[String], rows: &[u64], own: &[String]) -> Finding {
    let of = |i: usize| rows.get(i).copied().unwrap_or(0);
    let told: Vec<String> =
        labels.iter().enumerate().map(|(i, label)| format!("{label} {}", of(i))).collect();
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let permuted = own != labels && sorted(own) == sorted(labels);
    let unmet = (0..labels.len()).any(|i| of(i) == 0);
    let order = match permuted {
        true => format!("; the model has them as {}, so its head starts anew", own.join(", ")),
        false => String::new(),
    };
    let verdict = if permuted || unmet { Verdict::Doubtful } else { Verdict::Good };
    Finding::new("classes", verdict, format!("rows of each: {}{order}", told.join(", ")))
}

/// Rows on both sides of the split.
fn held_out_is_unseen(train: &Dataset, held_out: &Dataset) -> Finding {
    let rows = (0..COMPARED.min(train.len())).map(|i| i * train.len() / COMPARED.min(train.len()));
    let seen = |sample: Sample| {
        let mut hasher = DefaultHasher::new(); // for this process alone
        format!("{sample:?}").hash(&mut hasher);
        hasher.finish()
    };
    let trained: HashSet<_> = rows.filter_map(|row| train.sample(row).ok()).map(seen).collect();
    let held = (0..held_out.len()).filter_map(|row| held_out.sample(row).ok()).map(seen);
    overlap(&trained, held.collect())
}

fn overlap<T: Eq + Hash>(trained: &HashSet<T>, held_out: Vec<T>) -> Finding {
    let n = held_out.iter().filter(|row| trained.contains(row)).count();
    let verdict = if n == 0 { Verdict::Good } else { Verdict::Doubtful };
    let evidence = format!(
        "{n} of {} held-out rows stand among {} training rows",
        held_out.len(),
        trained.len()
    );
    Finding::new("held-out rows are unseen", verdict, evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOS: u32 = 1;
    const END: u32 = 2;

    fn vocabulary() -> Vocabulary {
        Vocabulary { bos: Some(BOS), ends: vec![END], tokenizer: 50, model: 50 }
    }

    /// `<s> question answer </s>`, the answer and its end trained.
    fn sound() -> Example {
        let ids = vec![BOS, 10, 11, 20, 21, END];
        Example {
            trained: vec![false, false, false, true, true, true],
            ids,
            row: 7,
            ..Example::default()
        }
    }

    fn findings(example: Example) -> Vec<Finding> {
        let (examples, vocabulary) = ([example], vocabulary());
        vec![
            begins_once(&examples, &vocabulary),
            something_is_trained(&examples),
            targets_are_whole(&examples),
            ids_have_rows(&examples, &vocabulary),
            endings_are_trained(&examples, &vocabulary),
        ]
    }

    /// Each bug, and the check that sees it: all others stay content.
    #[test]
    fn every_mutant_is_caught_by_its_check() {
        assert!(
            findings(sound()).iter().all(|f| f.verdict == Verdict::Good),
            "{:?}",
            findings(sound())
        );
        let mutant = |change: fn(&mut Example)| {
            let mut example = sound();
            change(&mut example);
            example
        };
        let mutants: [(&str, Example); 6] = [
            (
                "one BOS",
                mutant(|e| {
                    e.ids.insert(0, BOS); // the tokenizer adds what the template wrote
                    e.trained.insert(0, false);
                }),
            ),
            (
                "endings",
                mutant(|e| {
                    let eos_is_pad = |(id, trained): (&u32, &bool)| *trained && *id != END;
                    e.trained = e.ids.iter().zip(&e.trained).map(eos_is_pad).collect();
                }),
            ),
            ("trained tokens", mutant(|e| e.trained.fill(false))), // the markers of the answer were not found
            ("whole targets", mutant(|e| e.truncated = 3)),
            ("an embedding per token", mutant(|e| e.ids[3] = 50)), // a token was added, its row was not
            ("one BOS", mutant(|e| e.ids[1] = BOS)),
        ];
        for (check, example) in mutants {
            for finding in findings(example.clone()) {
                let caught = finding.verdict != Verdict::Good;
                let expected = finding.check == check;
                assert!(caught == expected, "{check}: {finding:?} of {example:?}");
            }
        }
        let pair = |answer: u32| {
            let mut other = sound();
            (other.ids[3], other.tied) = (answer, true);
            [sound(), other]
        };
        let verdict = |pairs: &[[Example; 2]]| pairs_differ(pairs.as_flattened()).verdict;
        assert_eq!(verdict(&[pair(30), pair(31)]), Verdict::Good);
        assert_eq!(verdict(&[pair(30), pair(20)]), Verdict::Doubtful);
        assert_eq!(verdict(&[pair(20)]), Verdict::Wrong);

        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let classes = |rows: &[u64], own: &str| {
            classes_are_met(&names("bad fair good"), rows, &names(own)).verdict
        };
        assert_eq!(classes(&[3, 9, 1], "bad fair good"), Verdict::Good);
        assert_eq!(classes(&[3, 9, 1], "LABEL_0 LABEL_1"), Verdict::Good);
        assert_eq!(classes(&[3, 0, 1], "bad fair good"), Verdict::Doubtful, "a class is missing");
        assert_eq!(classes(&[3, 9], "bad fair good"), Verdict::Doubtful, "the last is missing");
        assert_eq!(classes(&[3, 9, 1], "good fair bad"), Verdict::Doubtful, "permuted");

        let both: HashSet<u32> = [1, 2, 3].into();
        assert_eq!(overlap(&both, vec![4, 5]).verdict, Verdict::Good);
        assert_eq!(overlap(&both, vec![4, 2]).verdict, Verdict::Doubtful);
    }
}
