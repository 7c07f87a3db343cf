//! The page holds for hostile text, for no data and for much data, and needs nothing from outside itself.

use std::time::Duration;

use tunesmith_report::html::{
    Answer, Document, Exchange, Html, Piece, Rows, Turn, answers, curves, facts, first_batch,
    recipe, rows, timing,
};
use tunesmith_report::{Record, Report, Section};

const EVIL: &str =
    "</script></style><script>alert(1)</script><img src=x onerror='a'>\"&amp;\u{0}]]>-->";

/// Elements that close; checked in order, so that `a` opened inside `b` closes inside `b`.
fn check_nesting(page: &str) {
    let void = ["meta", "line", "path", "circle", "!doctype"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(i) = rest.find('<') {
        rest = &rest[i + 1..];
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        let name =
            tag.trim_start_matches('/').split([' ', '/']).next().expect("split gives one part");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closing </{name}> before {:.80}", rest);
        } else if name == "script" || name == "style" {
            let close = format!("</{name}>");
            rest = &rest[rest.find(&close).expect("closed") + close.len()..];
        } else if !void.contains(&name.to_lowercase().as_str()) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

fn run(n: u64) -> Vec<Record> {
    (1..=n)
        .map(|s| {
            let mut r =
                Record::new(s).with("loss", 3.0 / (s as f64).sqrt()).with("rewards/margins", 0.1);
            if s % 10 == 0 {
                r.set("eval_loss", 3.1 / (s as f64).sqrt());
            }
            r
        })
        .collect()
}

fn full(text: &str, records: &[Record]) -> Report {
    let mut report = Report::new(text);
    report.subtitle = text.to_owned();
    report.date = text.to_owned();
    report.command = Some(text.to_owned());
    report.warnings.push(text.to_owned());
    report.figure(text, text, text);
    let answer = || Answer { text: text.to_owned(), n_tokens: 3, stopped: false };
    let pieces = vec![
        Piece { text: text.to_owned(), trained: true, id: 1 },
        Piece { text: "\n".to_owned(), trained: false, id: 2 },
    ];
    report.push(curves(records));
    report.push(answers(&[Exchange {
        prompt: vec![Turn { role: text.to_owned(), content: text.to_owned() }],
        before: Some(answer()),
        after: answer(),
    }]));
    report.push(first_batch(&vec![Document { row: 4, pieces }; 40]));
    report.push(rows(&Rows { trained: 1, dropped: vec![(text.to_owned(), 1)], ..Rows::default() }));
    report.push(timing(&[(text, Duration::from_secs(1))]));
    report.push(facts(text, &[(text, text.to_owned())]));
    report.push(recipe(text));
    report.push(Section::new(text, Html::text(text)).note(text));
    report
}

#[test]
fn hostile_text_stays_text() {
    let plain = full("plain", &run(50)).to_html();
    let mut records = run(50);
    records[3].set(EVIL, 1.0);
    records[4].set(EVIL, 2.0);
    let page = full(EVIL, &records).to_html();
    check_nesting(&plain);
    check_nesting(&page);
    for needle in ["<script>alert", "<img", "\u{0}", "onerror='a'>"] {
        assert!(!page.contains(needle), "{needle:?}");
    }
    // One script more than in the plain page: the data of the plot of the metric with the hostile name.
    assert_eq!(page.matches("</script>").count(), plain.matches("</script>").count() + 1);
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let page = full("x", &run(300)).to_html();
    for needle in ["http:", "https:", "//cdn", "url(", " src=", "@import", "<link"] {
        assert!(!page.contains(needle), "{needle}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn any_amount_of_data() {
    let kinds: [(&str, Vec<Record>); 6] = [
        ("nothing", vec![]),
        ("one", run(1)),
        ("two", run(2)),
        ("much", run(100_000)),
        ("no finite value", vec![Record::new(1).with("loss", f64::NAN); 3]),
        ("evaluation only", vec![Record::new(5).with("eval_loss", 2.0)]),
    ];
    for (name, records) in kinds {
        let page = full("run", &records).to_html();
        check_nesting(&page);
        assert!(
            !page.contains("NaN%") && !page.contains("inf%") && !page.contains("NaN NaN"),
            "{name}"
        );
        assert!(page.len() < 400_000, "{name}: {} bytes", page.len());
    }
    let page = full("run", &[]).to_html();
    assert!(page.contains("No step was logged") && page.contains("and 28 more documents"));
}

#[test]
fn what_the_line_cannot_show_is_said() {
    let mut records = run(200);
    records[99].set("loss", f64::INFINITY);
    records[149].set("loss", 5000.0);
    let page = curves(&records).body.to_string();
    assert!(page.contains("× step 100 was ∞"));
    assert!(page.contains("1 point lies above this plot, up to 5.00k"));
    assert!(page.contains("<h3>rewards/margins</h3>"), "a metric nobody knew has its plot");
    assert_eq!(page.matches("class=\"dot eval\"").count(), 20);
}

#[test]
fn a_report_replaces_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    Report::new("first").write(&path).unwrap();
    Report::new("second").write(&path).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains("<h1>second</h1>"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
