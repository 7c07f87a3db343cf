//! "Did you mean …": the nearest of a few names, or nothing where none is near.

/// The candidate closest to `name`, unless all are too far away to be what was meant.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let near = |candidate: &&str| strsim::jaro_winkler(&lower, &candidate.to_lowercase());
    let best = candidates.into_iter().max_by(|a, b| near(a).total_cmp(&near(b)))?;
    (near(&best) > 0.8).then_some(best)
}

/// `a`, `b` and `c`, for messages.
pub(crate) fn list<S: AsRef<str>>(names: &[S]) -> String {
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
