//! The stream: the same batches whatever the file format, the number of threads and the place it starts at.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod common;

use common::{encoder, file, golden, knobs, open, rest, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tunesmith_data::tokens::{Batch, BatchSource, Cursor};
use tunesmith_data::{Dataset, Ledger, OnBadRow, Packing, Part, RowKnobs, Stream, StreamKnobs};

#[test]
fn examples_are_those_of_transformers() {
    #[derive(serde::Deserialize)]
    struct Expected {
        ids: Vec<u32>,
        trained: Vec<u8>,
    }
    let expected: Vec<Expected> =
        serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap();
    let (dataset, encoder) = (open(golden("chats.parquet")), encoder(4096));
    let examples: Vec<_> =
        dataset.examples(&encoder, 0..u64::MAX).flat_map(Result::unwrap).collect();
    assert_eq!(examples.len(), expected.len());
    for (row, (example, expected)) in examples.iter().zip(expected).enumerate() {
        assert_eq!(example.ids, expected.ids, "row {row}");
        let trained: Vec<u8> = example.trained.iter().map(|&trained| trained.into()).collect();
        assert_eq!(trained, expected.trained, "row {row}");
        assert_eq!((example.row, example.truncated), (row as u64, 0));
    }
}

#[test]
fn parquet_and_jsonl_of_the_same_rows_give_the_same_batches() {
    let batches = rest(&mut stream("chats.jsonl", &knobs()));
    assert!(batches.len() > 10);
    assert_eq!(batches, rest(&mut stream("chats.parquet", &knobs())));
}

#[test]
fn every_codec_and_both_widths_of_offsets_are_read() {
    let expected: Vec<_> =
        (0..6).map(|row| open(golden("chats.jsonl")).sample(row).unwrap()).collect();
    let codecs = ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]
        .map(|codec| format!("codec-{codec}.parquet"));
    for name in codecs.iter().map(String::as_str).chain(["large.parquet"]) {
        let dataset = open(golden(name));
        let samples: Vec<_> = (0..dataset.len()).map(|row| dataset.sample(row).unwrap()).collect();
        assert_eq!(samples, expected, "{name}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_batches() {
    let with = |threads| {
        rest(&mut stream("chats.parquet", &StreamKnobs { threads: Some(threads), ..knobs() }))
    };
    let one = with(1);
    for threads in [2, 3, 7] {
        assert_eq!(one, with(threads), "{threads} threads");
    }
}

#[test]
fn seeking_to_every_cursor_continues_as_if_nothing_had_happened() {
    let one_by_one = StreamKnobs { packing: Packing::None, shuffle: false, batch: 7, ..knobs() };
    let odd_window = StreamKnobs { window: 13, batch: 3, ..knobs() };
    for knobs in [knobs(), one_by_one, odd_window] {
        let all = rest(&mut stream("chats.jsonl", &knobs));
        let mut seeker = stream("chats.jsonl", &knobs);
        for (i, (cursor, _)) in all.iter().enumerate().rev() {
            seeker.seek(*cursor).unwrap();
            assert_eq!(seeker.cursor(), *cursor);
            assert_eq!(rest(&mut seeker), all[i..], "{cursor:?}");
        }
        let end = seeker.cursor();
        assert_eq!(end, Cursor { epoch: 2, window: 0, pack: 0 });
        seeker.seek(end).unwrap();
        assert_eq!(rest(&mut seeker), []);
    }
}

#[test]
fn looking_ahead_changes_nothing() {
    let expected = rest(&mut stream("chats.jsonl", &knobs()));
    let mut stream = stream("chats.jsonl", &knobs());
    for (_, expected) in &expected {
        let (cursor, epoch, ledger) = (stream.cursor(), stream.epoch(), stream.ledger());
        assert_eq!(stream.peek().unwrap().as_ref(), Some(expected));
        assert_eq!((stream.cursor(), stream.epoch(), stream.ledger()), (cursor, epoch, ledger));
        stream.seek(cursor).unwrap(); // to where it stands
        assert_eq!(stream.next().unwrap().as_ref(), Some(expected));
        assert_ne!(stream.cursor(), cursor);
    }
    assert_eq!(stream.peek().unwrap(), None);
    stream.seek(Cursor::default()).unwrap();
    assert_eq!(stream.next().unwrap().as_ref(), expected.first().map(|(_, batch)| batch));
}

#[test]
fn a_cursor_outside_the_data_is_refused() {
    let mut stream = stream("chats.jsonl", &knobs());
    for (epoch, window, pack) in [(3, 0, 0), (2, 0, 1), (0, 5, 0), (0, 0, 1000)] {
        assert!(stream.seek(Cursor { epoch, window, pack }).is_err(), "{epoch} {window} {pack}");
    }
    let message = stream.seek(Cursor { epoch: 1, window: 5, pack: 0 }).unwrap_err().to_string();
    assert!(
        message.starts_with(
            "cursor epoch 1, window 5, pack 0 lies outside the data: an epoch has 5 windows"
        ),
        "{message}"
    );
}

#[test]
fn each_epoch_has_every_row_once_in_another_order() {
    let batches = rest(&mut stream("chats.jsonl", &knobs()));
    let rows = |epoch| -> Vec<u64> {
        let of_epoch = batches.iter().filter(|(cursor, _)| cursor.epoch == epoch);
        of_epoch.flat_map(|(_, batch)| batch.docs.iter().map(|doc| doc.row)).collect()
    };
    for epoch in [0, 1] {
        assert_eq!(rows(epoch).len(), 48);
        assert_eq!(rows(epoch).into_iter().collect::<BTreeSet<_>>(), (0..48).collect());
    }
    assert_ne!(rows(0), rows(1));
    assert!(batches.iter().all(|(_, batch)| batch.len() <= 2 * 256));
}

#[test]
fn a_mixed_epoch_has_each_row_as_often_as_its_weight_says() {
    let part =
        |name: &str, weight| Part { paths: vec![golden(name)], knobs: RowKnobs::default(), weight };
    let parts = [part("chats.jsonl", 0.5), part("codec-zstd.parquet", 2.0)];
    let dataset = Arc::new(Dataset::mix(&parts).unwrap());
    let mut stream = Stream::new(dataset, encoder(256), knobs()).unwrap();
    let batches = rest(&mut stream);
    let rows = |epoch| -> Vec<u64> {
        let of_epoch = batches.iter().filter(|(cursor, _)| cursor.epoch == epoch);
        of_epoch.flat_map(|(_, batch)| batch.docs.iter().map(|doc| doc.row)).collect()
    };
    let of_first =
        |epoch| -> BTreeSet<u64> { rows(epoch).into_iter().filter(|&r| r < 48).collect() };
    assert_eq!((rows(0).len(), rows(1).len()), (36, 36));
    assert_eq!((of_first(0).len(), of_first(1).len()), (24, 24));
    assert!(of_first(0).is_disjoint(&of_first(1)), "the other half in the next epoch");
    assert!((48..54).all(|row| rows(0).iter().filter(|&&r| r == row).count() == 2));
    let ledger = stream.ledger();
    assert_eq!((ledger.rows, ledger.trained + ledger.truncated + ledger.n_dropped()), (36, 36));
    let middle = batches.len() / 2;
    stream.seek(batches[middle].0).unwrap();
    assert_eq!(rest(&mut stream), batches[middle..]);
}

/// 40 pairs with prompts of many lengths; every eighth pair has answers that begin alike.
fn pairs() -> (tempfile::TempDir, std::path::PathBuf) {
    let row = |i: usize| {
        let prompt = "Tell me a story about the sea and the wind. ".repeat(1 + i % 5);
        let begin = if i.is_multiple_of(8) { "Once upon a time " } else { "" };
        format!(
            r#"{{"prompt": "{i}: {prompt}", "chosen": "{begin}there was a boat.", "rejected": "{begin}{}"}}"#,
            "no. ".repeat(1 + i % 3)
        )
    };
    file("pairs.jsonl", (0..40).map(row).collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_shared_prompt_is_in_a_batch_once_and_all_else_stays() {
    let (_folder, path) = pairs();
    let of = |share_prompt, threads| {
        let knobs = StreamKnobs { share_prompt, threads, ..knobs() };
        let mut stream = Stream::new(open(&path), encoder(256), knobs).unwrap();
        let batches = rest(&mut stream);
        let middle = batches.len() / 2;
        stream.seek(batches[middle].0).unwrap();
        assert_eq!(rest(&mut stream), batches[middle..]);
        (batches, stream.ledger())
    };
    let (twice, _) = of(false, None);
    let (once, _) = of(true, None);
    assert_eq!(once, of(true, Some(1)).0);
    // Every document with its labels, by epoch, row and place in its pair.
    let documents = |batches: &[(Cursor, Batch)]| {
        let mut all = BTreeMap::new();
        for (cursor, batch) in batches {
            for (i, (range, doc)) in batch.doc_ranges().zip(&batch.docs).enumerate() {
                let labels = batch.labels[range].iter().copied();
                let before = std::iter::repeat_n(-100, doc.shared);
                let labels: Vec<i64> = before.chain(labels).collect();
                let key = (cursor.epoch, doc.row, i - batch.group_start(i));
                assert!(all.insert(key, (batch.doc_tokens(i), labels)).is_none());
            }
        }
        all
    };
    assert_eq!(documents(&once), documents(&twice));
    assert_eq!(documents(&once).len(), 2 * 2 * 40);
    let tokens = |batches: &[(Cursor, Batch)]| batches.iter().map(|(_, b)| b.len()).sum::<usize>();
    assert!(tokens(&once) < tokens(&twice) * 3 / 4, "{} of {}", tokens(&once), tokens(&twice));
    assert!(once.len() < twice.len(), "packs hold more pairs");
    for (_, batch) in &once {
        assert!(batch.len() <= 2 * 256);
        for doc in batch.docs.chunks(2) {
            assert_eq!((doc[0].row, doc[0].shared), (doc[1].row, 0));
            assert!(doc[1].shared > 10, "{doc:?}");
        }
    }
}

#[test]
fn without_shuffle_and_packing_rows_come_as_they_stand() {
    let knobs = StreamKnobs { packing: Packing::None, shuffle: false, ..knobs() };
    let batches = rest(&mut stream("chats.jsonl", &knobs));
    let rows: Vec<u64> =
        batches.iter().flat_map(|(_, batch)| batch.docs.iter().map(|doc| doc.row)).collect();
    assert_eq!(rows, (0..48).chain(0..48).collect::<Vec<_>>());
    assert!(batches.iter().all(|(_, batch)| batch.docs.len() == 2));
}

#[test]
fn training_does_not_go_by_length() {
    let knobs = StreamKnobs { window: 48, batch: 1, epochs: Some(1), ..knobs() };
    let lengths: Vec<usize> =
        rest(&mut stream("chats.jsonl", &knobs)).iter().map(|(_, batch)| batch.len()).collect();
    let mut sorted = lengths.clone();
    sorted.sort_unstable();
    assert_ne!(lengths, sorted);
    sorted.reverse();
    assert_ne!(lengths, sorted);
}

#[test]
fn the_stream_repeats_for_ever_where_no_epochs_are_given() {
    let mut stream = stream("chats.jsonl", &StreamKnobs { epochs: None, ..knobs() });
    while stream.cursor().epoch < 5 {
        assert!(stream.next().unwrap().is_some());
    }
    assert!((stream.epoch() - 5.0).abs() < 0.5);
}

#[test]
fn the_epoch_grows_with_every_batch() {
    let mut stream = stream("chats.jsonl", &knobs());
    let mut last = stream.epoch();
    assert_eq!(last, 0.0);
    while stream.next().unwrap().is_some() {
        assert!(stream.epoch() > last, "{} after {last}", stream.epoch());
        last = stream.epoch();
    }
    assert_eq!(last, 2.0);
}

/// 48 conversations cut to 96 tokens, with a malformed row and one that asks and gets no answer.
fn mixed() -> (tempfile::TempDir, std::path::PathBuf) {
    let mut text = std::fs::read_to_string(golden("chats.jsonl")).unwrap();
    text += "{\"messages\": [{\"role\": \"user\", \"content\": null}]}\n";
    text += "{\"messages\": [{\"role\": \"user\", \"content\": \"Nobody answers.\"}]}\n";
    file("mixed.jsonl", text)
}

#[test]
fn the_ledger_accounts_for_every_row_once() {
    let (_folder, path) = mixed();
    let knobs = StreamKnobs { seq_len: 96, on_bad_row: OnBadRow::Skip, ..knobs() };
    let mut stream = Stream::new(open(&path), encoder(96), knobs).unwrap();
    let watch = stream.watch_ledger();
    assert_eq!(stream.ledger(), Ledger::new(50));
    let batches = rest(&mut stream);
    let ledger = stream.ledger();
    assert_eq!(ledger, watch());
    assert_eq!(ledger.trained + ledger.truncated + ledger.n_dropped(), 50);
    assert_eq!((ledger.rows, ledger.unread), (50, 0));
    assert!(ledger.truncated > 0 && ledger.trained > 0);
    assert_eq!(ledger.dropped["null content"], 1);
    assert_eq!(ledger.dropped["no trained token"], 1);
    let first: Vec<&Batch> =
        batches.iter().filter(|(cursor, _)| cursor.epoch == 0).map(|(_, batch)| batch).collect();
    assert_eq!(ledger.tokens, first.iter().map(|batch| batch.len() as u64).sum::<u64>());
    assert_eq!(
        ledger.trained_tokens,
        first.iter().map(|batch| batch.n_trained() as u64).sum::<u64>()
    );
    let whole: usize = open(&path)
        .examples(&encoder(4096), 0..48)
        .flat_map(Result::unwrap)
        .map(|example| example.len())
        .sum();
    let cut: usize = open(&path)
        .examples(&encoder(96), 0..48)
        .flat_map(Result::unwrap)
        .map(|example| example.len())
        .sum();
    let lost_with_dropped = whole as u64 - cut as u64 - ledger.truncated_tokens;
    assert!(
        ledger.dropped.contains_key("no trained token left after truncation")
            || lost_with_dropped == 0
    );
}

#[test]
fn a_restored_ledger_ends_as_one_that_was_never_interrupted() {
    let (_folder, path) = mixed();
    let knobs = StreamKnobs { seq_len: 96, on_bad_row: OnBadRow::Skip, ..knobs() };
    let new = || Stream::new(open(&path), encoder(96), knobs.clone()).unwrap();
    let mut whole = new();
    let mut ledgers = vec![whole.ledger()];
    while whole.next().unwrap().is_some() {
        ledgers.push(whole.ledger());
    }
    let cursors: Vec<Cursor> = ledgers.iter().map(|ledger| ledger.upto).collect();
    for saved in ledgers {
        let json = serde_json::to_string(&saved).unwrap();
        let mut resumed = new();
        resumed.restore(serde_json::from_str(&json).unwrap()).unwrap();
        assert_eq!((resumed.cursor(), resumed.ledger()), (saved.upto, saved));
        rest(&mut resumed);
        assert_eq!(resumed.ledger(), whole.ledger());
    }
    for cursor in cursors {
        let mut recounted = new();
        recounted.seek(cursor).unwrap();
        recounted.recount().unwrap();
        rest(&mut recounted);
        assert_eq!(recounted.ledger(), whole.ledger());
    }
    let mut sought = new();
    sought.seek(Cursor { epoch: 0, window: 3, pack: 0 }).unwrap();
    rest(&mut sought);
    assert_eq!(sought.ledger().unread, 30);
}

#[test]
fn a_malformed_row_stops_the_stream_where_it_stands() {
    let (_folder, path) = mixed();
    let knobs = StreamKnobs { shuffle: false, ..knobs() };
    let mut stream = Stream::new(open(&path), encoder(256), knobs).unwrap();
    let mut error = None;
    for _ in 0..100 {
        match stream.next() {
            Ok(batch) => assert!(batch.is_some()),
            Err(found) => {
                error = Some(found.to_string());
                break;
            }
        }
    }
    let error = error.unwrap();
    assert!(
        error.contains("row 48 (line 49) /messages/0/content: expected text, found null"),
        "{error}"
    );
    assert_eq!(stream.next().unwrap_err().to_string(), error, "asked again");
    assert!(stream.cursor().window <= 4);
}

#[test]
fn rows_without_a_trained_token_alone_are_an_error_and_no_endless_search() {
    let (_folder, path) = file(
        "asks.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Nobody?\"}]}\n".repeat(30),
    );
    let mut stream =
        Stream::new(open(&path), encoder(256), StreamKnobs { epochs: None, ..knobs() }).unwrap();
    let message = stream.next().unwrap_err().to_string();
    assert!(
        message
            .starts_with("expected at least one row with a trained token, found none in 30 rows"),
        "{message}"
    );
}

#[test]
fn a_setting_of_zero_is_refused() {
    for (name, bad) in [("seq_len", StreamKnobs::new(0, 1)), ("batch", StreamKnobs::new(1, 0))] {
        let error = Stream::new(open(golden("chats.jsonl")), encoder(256), bad).unwrap_err();
        assert_eq!(error.to_string(), format!("{name}: expected at least 1, found 0"));
    }
}

#[test]
fn dropping_a_stream_early_ends_its_thread() {
    for _ in 0..20 {
        let mut stream = stream("chats.parquet", &StreamKnobs { epochs: None, ..knobs() });
        assert!(stream.next().unwrap().is_some());
    }
}
