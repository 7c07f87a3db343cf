//! `text`: everything is trained.

use super::Columns;
use crate::source::Faulty;
use tunesmith_tokens::Sample;

pub(super) const REQUIRED: &[&[&str]] = &[&["text"]];
pub(super) const OPTIONAL: &[&str] = &[];

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    columns.text("text").map(Sample::Text)
}
