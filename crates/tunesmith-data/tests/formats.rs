//! Every file format, compressed or not: the same rows come out of all of them.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod common;

use common::{file, golden, open};
use std::io::Write;
use std::path::{Path, PathBuf};
use tunesmith_data::tokens::Sample;
use tunesmith_data::{Dataset, DatasetConfig, FileKnobs, Format, Part, RowKnobs, Shape, TextRows};

fn samples(dataset: &Dataset) -> Vec<Sample> {
    (0..dataset.len()).map(|row| dataset.sample(row).unwrap()).collect()
}

fn texts(dataset: &Dataset) -> Vec<String> {
    let text = |sample| match sample {
        Sample::Text(text) => text,
        other => panic!("{other:?}"),
    };
    samples(dataset).into_iter().map(text).collect()
}

fn read(path: &Path, files: FileKnobs) -> Dataset {
    Dataset::open(&[path], &RowKnobs { files, ..Default::default() }).unwrap()
}

#[test]
fn arrow_files_and_streams_hold_what_jsonl_holds() {
    let expected: Vec<_> =
        (0..6).map(|row| open(golden("chats.jsonl")).sample(row).unwrap()).collect();
    for name in ["file", "file-lz4", "stream", "stream-zstd", "dictionary", "dictionary-stream"] {
        let dataset = open(golden(&format!("chats-{name}.arrow")));
        assert_eq!(samples(&dataset), expected, "{name}");
        assert_eq!(dataset.sample(5).unwrap(), expected[5], "{name}: out of order");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A folder with a compressed file in it, and knobs that unpack beside it.
fn packed(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf, FileKnobs) {
    let (folder, path) = file(name, bytes);
    let knobs = FileKnobs { cache: Some(folder.path().join("cache")), ..Default::default() };
    (folder, path, knobs)
}

#[test]
fn compressed_files_are_unpacked_once_whatever_they_are_called() {
    let plain = std::fs::read(golden("chats.jsonl")).unwrap();
    let expected = samples(&open(golden("chats.jsonl")));
    // two members and two frames, as `cat a.gz b.gz` makes them
    let (a, b) = plain.split_at(plain.len() / 2);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let two_gzip = [gzip(a), gzip(b)].concat();
    let two_zstd = [zstd(a), zstd(b)].concat();
    let parquet = gzip(&std::fs::read(golden("chats.parquet")).unwrap());
    for (name, bytes) in [
        ("rows.jsonl.gz", &two_gzip),
        ("rows.jsonl.zst", &two_zstd),
        ("rows.jsonl", &two_zstd),
        ("rows.gz", &two_gzip),
        ("rows.parquet.gz", &parquet),
    ] {
        let (folder, path, knobs) = packed(name, bytes);
        assert_eq!(samples(&read(&path, knobs.clone())), expected, "{name}");
        let unpacked = || -> Vec<_> {
            let entries = std::fs::read_dir(folder.path().join("cache/unpacked")).unwrap();
            entries
                .map(|e| e.unwrap())
                .map(|e| (e.path(), e.metadata().unwrap().modified().unwrap()))
                .collect()
        };
        let first = unpacked();
        assert_eq!(first.len(), 1);
        read(&path, knobs.clone());
        assert_eq!(unpacked(), first, "{name}: unpacked again");
        std::fs::write(&path, gzip(b"{\"text\": \"other\"}\n")).unwrap();
        let named_otherwise = name.contains("parquet");
        if !named_otherwise {
            assert_eq!(texts(&read(&path, knobs)), ["other"], "{name}: a changed file");
        }
    }
}

#[test]
fn damaged_streams_and_bombs_are_refused_and_leave_nothing() {
    let plain = std::fs::read(golden("chats.jsonl")).unwrap();
    let cut = gzip(&plain)[..2000].to_vec();
    let cut_zstd = zstd::encode_all(&plain[..], 3).unwrap()[..2000].to_vec();
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let line = "{\"text\": \"a\"}\n".repeat(1 << 16);
    (0..400).for_each(|_| bomb.write_all(line.as_bytes()).unwrap());
    let bomb = bomb.finish().unwrap();
    for (name, bytes, expected) in [
        ("a.jsonl.gz", cut, "expected a sound gzip stream, found after"),
        ("a.jsonl.zst", cut_zstd, "expected a sound zstd stream, found after"),
        ("a.jsonl.zst", bomb, "expected a file that zstd shrinks to no less than 1/200, found"),
    ] {
        let (folder, path, files) = packed(name, &bytes);
        let knobs = RowKnobs { files, ..Default::default() };
        let error = Dataset::open(&[&path], &knobs).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("\nhelp: "), "{error}");
        let left = std::fs::read_dir(folder.path().join("cache/unpacked")).unwrap().count();
        assert_eq!(left, 0, "{name}");
    }
}

#[test]
fn csv_as_people_write_it() {
    let cases: [(&str, &str, &str); 7] = [
        ("rows.csv", "id,text\n1,a\n2,b\n", "plain"),
        ("rows.csv", "id;text\r\n1;a\r\n2;b", "semicolons, CRLF and no last line end"),
        ("rows.tsv", "id\ttext\n1\ta\n2\tb\n", "tabs"),
        ("rows.csv", "\u{feff}text|id\na|1\nb|2\n", "bars behind a byte order mark"),
        ("rows.csv", "\"id\",\"text\"\n\"1\",\"a\"\n\n\"2\",\"b\"\n", "quotes and a blank line"),
        ("rows.csv", "text\na\nb\n", "one column"),
        ("rows.csv", "text,more\na,\"x, y\"\nb,\"\n\"\"z\"\"\n\"\n", "what must be quoted"),
    ];
    for (name, content, what) in cases {
        let (_folder, path) = file(name, content);
        assert_eq!(texts(&open(path)), ["a", "b"], "{what}");
    }
    let (_folder, path) = file("rows.csv", "text\n\"a\nb, \"\"c\"\"\"\n\"\"\nlast");
    assert_eq!(texts(&open(&path)), ["a\nb, \"c\"", "", "last"]);
    let (_folder, path) = file("rows.dat", "text+id\na,b+1\n");
    let knobs = FileKnobs { format: Some(Format::Csv), delimiter: Some('+'), ..Default::default() };
    assert_eq!(texts(&read(&path, knobs)), ["a,b"]);
    let (_folder, path) = file("rows.csv", "instruction,output\nAdd 1 2,3\n");
    assert_eq!(open(path).shape(), Shape::Alpaca);
}

#[test]
fn rows_of_plain_text_are_lines_paragraphs_or_files() {
    let text = "\u{feff}one\n  two  \n\n \t\nthree\u{2028}four\r\n\r\nfive";
    let (_folder, path) = file("rows.txt", text);
    let rows = |text_rows| texts(&read(&path, FileKnobs { text_rows, ..Default::default() }));
    assert_eq!(rows(TextRows::Line), ["one", "  two", "three\u{2028}four", "five"]);
    assert_eq!(rows(TextRows::Paragraph), ["one\n  two", "three\u{2028}four", "five"]);
    assert_eq!(rows(TextRows::Document), [text.trim_start_matches('\u{feff}')]);
    let (folder, path) = file("a.txt", "a\n");
    std::fs::write(folder.path().join("b.txt"), "b\n").unwrap();
    assert_eq!(texts(&open(path.parent().unwrap())), ["a", "b"]);
    let config = DatasetConfig::parse("text_rows = \"document\"\nformat = \"text\"", "x").unwrap();
    assert_eq!(config.file_knobs().text_rows, TextRows::Document);
}

#[test]
fn sources_are_mixed_by_weight() {
    let (_one, chats) = file("a.jsonl", "{\"text\": \"a\"}\n".repeat(100));
    let (_two, notes) = file("b.txt", "b\n".repeat(40));
    let part =
        |path: &Path, weight| Part { paths: vec![path.into()], knobs: RowKnobs::default(), weight };
    let dataset = Dataset::mix(&[part(&chats, 0.5), part(&notes, 2.0)]).unwrap();
    assert_eq!((dataset.len(), dataset.draws()), (140, 130));
    let rows: Vec<u64> = (0..130).map(|draw| dataset.draw(1, 0, draw)).collect();
    assert_eq!(rows.iter().filter(|&&row| row < 100).count(), 50);
    assert!((100..140).all(|row| rows.iter().filter(|&&r| r == row).count() == 2));
    assert!(matches!(dataset.sample(139).unwrap(), Sample::Text(text) if text == "b"));
    let error = Dataset::mix(&[part(&chats, 0.0)]).unwrap_err().to_string();
    assert_eq!(error, "weight: expected weights that leave at least one row, found none");
    assert!(Dataset::mix(&[part(&chats, f64::NAN)]).is_err());
}

#[test]
fn subsets_and_splits_of_the_hub_have_their_usual_places() {
    let files = |text: &str| {
        let config = DatasetConfig::parse(text, "x").unwrap();
        let (name, files) = config.split(None).unwrap();
        (name.to_owned(), files.to_vec())
    };
    let of = |name: &str, pattern: &str| (name.to_owned(), vec![pattern.to_owned()]);
    assert_eq!(files("[hub]\nrepo = \"a/b\""), of("train", "data/train-*.parquet"));
    assert_eq!(
        files("split = \"test\"\n[hub]\nrepo = \"a/b\"\nsubset = \"main\""),
        of("test", "main/test-*.parquet")
    );
    let named = "[hub]\nrepo = \"a/b\"\nsubset = \"de\"\n[splits]\ntrain = \"{subset}/x.jsonl\"";
    assert_eq!(files(named), of("train", "de/x.jsonl"));
}

/// Small changes to files of every format: an error or other rows, and never a panic or an endless loop.
#[test]
fn no_change_to_a_file_breaks_its_reader() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |n: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % n as u64) as usize
    };
    let names = ["chats.jsonl", "codec-none.parquet", "codec-snappy.parquet", "large.parquet"];
    let arrows = ["chats-file.arrow", "chats-stream.arrow", "chats-dictionary.arrow"];
    let folder = tempfile::tempdir().unwrap();
    std::panic::set_hook(Box::new(|_| {})); // parsers that panic are caught; their words are not wanted here
    for name in names.iter().chain(&arrows) {
        let sound = std::fs::read(golden(name)).unwrap();
        for round in 0..150 {
            let mut bytes = sound.clone();
            for _ in 0..1 + next(4) {
                let at = next(bytes.len());
                match next(5) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes[at] ^= 1 << next(8),
                    2 => bytes[at] = [0, 0xff, 0x80, b'"', b'{'][next(5)],
                    3 => _ = bytes.remove(at),
                    _ => bytes.insert(at, next(256) as u8),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            let path = folder.path().join(format!("{round}-{name}"));
            std::fs::write(&path, &bytes).unwrap();
            let Ok(dataset) = Dataset::open(&[&path], &RowKnobs::default()) else { continue };
            for row in 0..dataset.len().min(50) {
                if let Err(error) = dataset.sample(row) {
                    assert!(!error.to_string().is_empty());
                }
            }
            std::fs::remove_file(&path).unwrap();
        }
    }
    _ = std::panic::take_hook();
}
