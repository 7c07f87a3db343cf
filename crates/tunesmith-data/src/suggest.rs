//! "Did you mean …": the nearest of a few names, or nothing where none is near.

/// The candidate closest to `name`, unless all are too far away to be what was meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let near = |candidate: &&str| strsim::jaro_winkler(&lower, &candidate.to_lowercase());
    let best = candidates.into_iter().max_by(|a, b| near(a).total_cmp(&near(b)))?;
    (near(&best) > 0.8).then_some(best)
}

/// What other systems call a column of ours.
const SYNONYMS: [(&str, &[&str]); 7] = [
    ("messages", &["conversations", "conversation", "dialog", "dialogue", "chat", "turns"]),
    ("instruction", &["prompt", "question", "query"]),
    ("output", &["response", "answer", "completion", "target"]),
    ("prompt", &["question", "query", "instruction", "input"]),
    ("completion", &["answer", "response", "output", "target"]),
    ("text", &["content", "document", "body", "story"]),
    ("input_ids", &["tokens", "ids", "token_ids"]),
];

/// The column among `found` that probably holds what we call `column`.
pub(crate) fn column<'a>(column: &str, found: &'a [String]) -> Option<&'a str> {
    let ours = SYNONYMS.iter().find(|(ours, _)| *ours == column);
    let synonyms = ours.map_or(&[][..], |(_, synonyms)| synonyms);
    let is = |name: &&String, synonym: &str| name.to_lowercase() == synonym;
    let known = synonyms.iter().find_map(|synonym| found.iter().find(|name| is(name, synonym)));
    known.map(String::as_str).or_else(|| nearest(column, found.iter().map(String::as_str)))
}

/// `a`, `b` and `c`, for messages.
pub fn list<S: AsRef<str>>(names: &[S]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word_and_nonsense_finds_none() {
        let names = ["shape", "columns", "eval_split"];
        let cases = [
            ("shpae", Some("shape")),
            ("column", Some("columns")),
            ("evalsplit", Some("eval_split")),
            ("xyzzy", None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name, names), expected, "{name}");
        }
    }
}
