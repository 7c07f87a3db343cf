//! Packing whole examples into rows of bounded length: best fit, longest first.
//!
//! Packing is an offline bin-packing problem; best-fit-decreasing is within 22 % of the optimum in the worst case and, on
//! the lengths of real conversations, within a fraction of a percent (Ding et al. 2024, arXiv:2404.10830, who also show that
//! cutting documents to fill rows costs quality). Examples stay whole.
//!
//! Lengths 5 3 4 2, capacity 8: the longest first gives `5`, then 4 opens a row, 3 fills up the first, 2 joins the second:
//! rows `[0, 1]` and `[2, 3]`.

use std::collections::BTreeMap;

/// Packs the examples of these lengths into rows of at most `capacity` tokens; rows hold indices into `lengths`.
///
/// A pure function of its arguments: rows come in the order in which they were opened, and ties fall to the lower index
/// and to the row opened first. An example longer than `capacity` gets a row of its own. Every index occurs once.
/// O(n log n) in the number of examples.
pub fn best_fit(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows by the space they have left and then by age; full rows are not kept.
    let mut open: BTreeMap<(usize, usize), ()> = BTreeMap::new();
    for index in order {
        let length = lengths[index];
        let tightest = open.range((length, 0)..).next().map(|(&key, ())| key);
        let (left, row) = match tightest {
            Some(key) => {
                open.remove(&key);
                key
            }
            None => {
                rows.push(Vec::new());
                (capacity.max(length), rows.len() - 1)
            }
        };
        rows[row].push(index);
        if left > length {
            open.insert((left - length, row), ());
        }
    }
    rows
}

/// One row per example, in order: what best-fit packing is compared with.
pub fn unpacked(n: usize) -> Vec<Vec<usize>> {
    (0..n).map(|index| vec![index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lengths: &[usize], capacity: usize, expected: &[&[usize]]) {
        let rows = best_fit(lengths, capacity);
        assert_eq!(rows, expected, "{lengths:?} into {capacity}");
    }

    #[test]
    fn rows() {
        check(&[], 8, &[]);
        check(&[5, 3, 4, 2], 8, &[&[0, 1], &[2, 3]]);
        check(&[4, 4, 4], 8, &[&[0, 1], &[2]]);
        check(&[9, 8, 1], 8, &[&[0], &[1], &[2]]);
        // 3 goes where it fits best: beside 5 (3 left), not beside 4 (4 left).
        check(&[5, 4, 3, 4], 8, &[&[0, 2], &[1, 3]]);
        check(&[0, 8, 0], 8, &[&[1], &[0, 2]]);
        check(&[1, 1], 0, &[&[0], &[1]]);
        assert_eq!(unpacked(3), [[0], [1], [2]]);
    }

    /// Every index once, no row too long, and never worse than one row in nine above the bound of the total length.
    #[test]
    fn many() {
        let mut state = 7_u64;
        let lengths: Vec<usize> = (0..5000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as usize % 1500 + 1
            })
            .collect();
        let rows = best_fit(&lengths, 2048);
        let mut seen: Vec<usize> = rows.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        assert!(
            rows.iter().all(|row| row.iter().map(|&index| lengths[index]).sum::<usize>() <= 2048)
        );
        let least = lengths.iter().sum::<usize>().div_ceil(2048);
        assert!(rows.len() <= least + least / 9, "{} rows for at least {least}", rows.len());
        assert_eq!(rows, best_fit(&lengths, 2048));
    }
}
