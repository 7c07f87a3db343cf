//! What becomes of an example that is too long. Nothing is cut without being counted.

use crate::{EncodeKnobs, Example};
use serde::{Deserialize, Serialize};

/// What becomes of an example that is longer than [`EncodeKnobs::max_len`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncate {
    /// Its start is kept.
    #[default]
    KeepStart,
    /// Its end is kept.
    KeepEnd,
    /// The row is dropped.
    Drop,
    /// It becomes several examples. Each but the first begins with the token before it, so that every trained token is
    /// still predicted once. What a label or a group holds together is not split; there, the start is kept.
    Split,
}

/// The examples of at most `knobs.max_len` tokens that `example` becomes.
pub(super) fn cut(mut example: Example, knobs: EncodeKnobs) -> Vec<Example> {
    let (n, max_len) = match (example.len(), knobs.max_len) {
        (n, Some(max_len)) if n > max_len => (n, max_len),
        _ => return vec![example],
    };
    match knobs.truncate {
        Truncate::KeepStart => example.cut(0..max_len),
        Truncate::KeepEnd => example.cut(n - max_len..n),
        Truncate::Drop => return Vec::new(),
        Truncate::Split => return split(&example, max_len),
    }
    vec![example]
}

/// Pieces that teach nothing are left out, and their tokens count as cut off.
fn split(example: &Example, max_len: usize) -> Vec<Example> {
    let (n, stride) = (example.len(), max_len.saturating_sub(1).max(1));
    let mut pieces: Vec<Example> = Vec::new();
    let mut truncated = 0;
    let mut start = 0;
    while start + 1 < n {
        let end = (start + max_len.max(2)).min(n);
        let mut piece = example.clone();
        piece.cut(start..end);
        (piece.truncated, piece.piece) = (0, pieces.len() as u32);
        if piece.teaches() {
            pieces.push(piece);
        } else {
            truncated += (end - start - usize::from(start > 0)) as u32;
        }
        start += stride;
    }
    if pieces.is_empty() {
        let mut first = example.clone();
        first.cut(0..max_len);
        return vec![first];
    }
    pieces[0].truncated = truncated;
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_to(max_len: usize, truncate: Truncate, trained: &[bool]) -> Vec<(Vec<u32>, u32, u32)> {
        let ids = (0..trained.len() as u32).collect();
        let example = Example { ids, trained: trained.to_vec(), ..Example::default() };
        let knobs = EncodeKnobs { max_len: Some(max_len), truncate, ..EncodeKnobs::default() };
        let examples = cut(example, knobs);
        examples.into_iter().map(|e| (e.ids, e.piece, e.truncated)).collect()
    }

    #[test]
    fn each_policy() {
        let all = [true; 7];
        assert_eq!(cut_to(3, Truncate::KeepStart, &all), [(vec![0, 1, 2], 0, 4)]);
        assert_eq!(cut_to(3, Truncate::KeepEnd, &all), [(vec![4, 5, 6], 0, 4)]);
        assert_eq!(cut_to(3, Truncate::Drop, &all), []);
        assert_eq!(cut_to(7, Truncate::Drop, &all).len(), 1);
        let pieces = [(vec![0, 1, 2], 0, 0), (vec![2, 3, 4], 1, 0), (vec![4, 5, 6], 2, 0)];
        assert_eq!(cut_to(3, Truncate::Split, &all), pieces);
        // The first piece asks only: it is left out and counted.
        let late = [false, false, false, true, true];
        assert_eq!(cut_to(3, Truncate::Split, &late), [(vec![2, 3, 4], 0, 3)]);
        assert_eq!(cut_to(3, Truncate::Split, &[false; 5]), [(vec![0, 1, 2], 0, 2)]);
    }

    #[test]
    fn splitting_predicts_every_trained_token_once() {
        for n in 2..40_usize {
            for max_len in 2..9 {
                let trained: Vec<bool> = (0..n).map(|i| i % 3 != 0).collect();
                let ids = (0..n as u32).collect();
                let example = Example { ids, trained, ..Example::default() };
                let truncate = Truncate::Split;
                let knobs =
                    EncodeKnobs { max_len: Some(max_len), truncate, ..EncodeKnobs::default() };
                let mut predicted: Vec<u32> = Vec::new();
                for piece in cut(example.clone(), knobs) {
                    assert!(piece.len() <= max_len);
                    let tokens = piece.ids.iter().zip(&piece.trained).skip(1);
                    predicted.extend(tokens.filter(|(_, trained)| **trained).map(|(id, _)| id));
                }
                let expected: Vec<u32> = (1..n as u32).filter(|i| i % 3 != 0).collect();
                assert_eq!(predicted, expected, "{n} tokens in pieces of {max_len}");
            }
        }
    }
}
