//! Cleaning: repetitions, evaluation rows, secrets, and what becomes of them in the ledger.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests panic as tests do; recall is printed"
)]

mod common;

use common::{encoder, file, open, rest};
use expect_test::expect;
use serde_json::json;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use tunesmith_data::{CleanKnobs, Dataset, RowKnobs, Stream, StreamKnobs};

/// Pseudo-random numbers below `n`.
fn chance(seed: &mut u64, n: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize % n
}

fn texts(texts: &[String]) -> (tempfile::TempDir, Dataset) {
    let rows: String = texts.iter().map(|text| format!("{}\n", json!({"text": text}))).collect();
    let (folder, path) = file("rows.jsonl", rows);
    (folder, Dataset::open(&[path], &RowKnobs::default()).unwrap())
}

/// The Jaccard index of the sets of five-word runs.
fn jaccard(a: &[usize], b: &[usize]) -> f64 {
    let set = |words: &[usize]| words.windows(5).map(<[usize]>::to_vec).collect::<HashSet<_>>();
    let (a, b) = (set(a), set(b));
    a.intersection(&b).count() as f64 / a.union(&b).count() as f64
}

/// 1,000 texts of 200 words, and of each a copy with a stretch of words replaced so that about the wanted part of the
/// runs is shared: pairs at and above the limit must be found, pairs below it must not.
#[test]
fn near_duplicates_are_found_at_their_jaccard_index_and_others_are_not() {
    let mut seed = 1;
    let (mut rows, mut shared) = (Vec::new(), Vec::new());
    let say = |words: &[usize]| -> String {
        words.iter().map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ")
    };
    for i in 0..1000 {
        let words: Vec<usize> = (0..200).map(|_| chance(&mut seed, 50_000)).collect();
        let mut copy = words.clone();
        // a stretch of n new words breaks n + 4 runs of 196: J = (192 − n) / (200 + n)
        let n = if i % 2 == 0 { 17 } else { 60 };
        let at = 5 + chance(&mut seed, 120);
        copy[at..at + n].iter_mut().for_each(|word| *word = chance(&mut seed, 50_000));
        shared.push(jaccard(&words, &copy));
        rows.extend([say(&words), say(&copy)]);
    }
    let (_folder, dataset) = texts(&rows);
    let knobs = CleanKnobs { near_duplicates: Some(0.8), ..Default::default() };
    let cleaning = dataset.clean(&knobs, &[]).unwrap();
    let dropped: BTreeSet<u64> = cleaning.dropped.iter().map(|(row, _)| *row).collect();
    let above: Vec<u64> = (0..1000).filter(|&i| shared[i as usize] >= 0.8).collect();
    let found = above.iter().filter(|&&i| dropped.contains(&(2 * i + 1))).count();
    let false_positives = dropped.len() - found;
    println!("recall {found} of {} at 0.8, {false_positives} false positives", above.len());
    assert!(above.len() >= 450);
    assert!(found * 100 >= above.len() * 99, "{found} of {}", above.len());
    assert_eq!(false_positives, 0);
    assert!(cleaning.pairs.iter().all(|pair| pair.row == pair.other + 1 && pair.shared >= 0.8));
}

#[test]
fn each_step_is_counted_and_shown() {
    let long = |i: usize| {
        format!(
            "This is sentence number {i} about kettles, harbours and violins, and it goes on for a while."
        )
    };
    let mut rows: Vec<String> = (0..20).map(long).collect();
    rows[3] = rows[1].clone();
    rows[5] = "hm".into();
    rows[7] = "mail me: someone@somewhere.org, since everything else here is quite ordinary".into();
    rows[9] = "again and\n".repeat(30);
    rows[11] = "Before it: the quick brown fox jumps over the lazy dog while seven old wizards look on. After.".into();
    let (_eval, held_out) =
        texts(&["The quick brown fox jumps over the lazy dog while seven old wizards look on"
            .to_owned()]);
    let (_folder, dataset) = texts(&rows);
    let knobs = CleanKnobs {
        duplicates: true,
        min_chars: Some(10),
        max_repetition: Some(0.3),
        drop_secrets: true,
        ..Default::default()
    };
    let cleaning = dataset.clean(&knobs, &[&held_out]).unwrap();
    expect![[r#"
        contaminated            1 rows: 11
        duplicate               1 rows: 3
        repetitive              1 rows: 9
        secret                  1 rows: 7
        too short               1 rows: 5
          duplicate: row 3 and row 1 share 100 %
          contaminated: row 11 and evaluation row 0 share 100 %
        email address           1 rows: 7
        5 of 20 rows are left out"#]]
    .assert_eq(&cleaning.to_string());
    assert!(!format!("{cleaning:?}").contains("somewhere"), "secrets are never kept");

    let dataset = Arc::new(dataset.without(&cleaning));
    let mut stream = Stream::new(dataset, encoder(256), StreamKnobs::new(256, 1)).unwrap();
    let trained: BTreeSet<u64> = rest(&mut stream)
        .iter()
        .flat_map(|(_, batch)| batch.docs.iter().map(|doc| doc.row))
        .collect();
    assert_eq!(trained, (0..20).filter(|row| ![3, 5, 7, 9, 11].contains(row)).collect());
    let ledger = stream.ledger();
    assert_eq!((ledger.trained, ledger.n_dropped()), (15, 5));
    let steps = ["contaminated", "duplicate", "repetitive", "secret", "too short"];
    assert_eq!(ledger.dropped.keys().collect::<Vec<_>>(), steps);
}

#[test]
fn without_steps_nothing_goes() {
    let (_folder, dataset) = texts(&["a".to_owned(), "a".to_owned()]);
    let cleaning = dataset.clean(&CleanKnobs::default(), &[]).unwrap();
    assert_eq!(cleaning.to_string(), "0 of 2 rows are left out");
}

#[test]
fn rows_of_both_splits_are_counted() {
    let (_a, train) = texts(&["a".to_owned(), "b".to_owned(), "c".to_owned()]);
    let (_b, eval) = texts(&["x".to_owned(), "b".to_owned(), "c".to_owned()]);
    let overlap = eval.overlap(&train).unwrap();
    assert_eq!((overlap.count, overlap.first), (2, vec![1, 2]));
}

#[test]
fn any_number_of_threads_cleans_alike() {
    let dataset = open(common::golden("chats.jsonl"));
    let knobs = CleanKnobs { duplicates: true, near_duplicates: Some(0.3), ..Default::default() };
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| dataset.clean(&knobs, &[]).unwrap())
    };
    let one = with(1);
    for threads in [2, 3, 7] {
        assert_eq!(with(threads), one);
    }
}
