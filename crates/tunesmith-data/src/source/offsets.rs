//! Where the rows of a file start, in four bytes and a bit a row: a file of 10 GB may hold a hundred million of them.

/// Rows that share a base.
const GROUP: usize = 64;

/// Ascending offsets in bytes.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    /// The offset of every 64th row.
    bases: Vec<u64>,
    /// The lines, from 1, that these rows start on.
    lines: Vec<u64>,
    /// What each row's offset adds to its base.
    deltas: Vec<u32>,
}

impl Offsets {
    /// Takes the next offset and the line it lies on; `false` where it lies more than 4 GiB behind its group's first:
    /// no file of rows does that.
    #[must_use]
    pub(super) fn push(&mut self, offset: u64, line: u64) -> bool {
        if self.deltas.len().is_multiple_of(GROUP) {
            self.bases.push(offset);
            self.lines.push(line);
        }
        let base = self.bases.last().copied().unwrap_or_default();
        let delta = u32::try_from(offset - base);
        self.deltas.extend(delta.ok());
        delta.is_ok()
    }

    pub(super) fn len(&self) -> u64 {
        self.deltas.len() as u64
    }

    /// The offset and the line of the last row at or before `row` whose line is known.
    pub(super) fn known_line(&self, row: u64) -> Option<(u64, u64)> {
        let group = row as usize / GROUP;
        Some((*self.bases.get(group)?, *self.lines.get(group)?))
    }

    /// The offset of a row; `None` past the last one.
    pub(super) fn get(&self, row: u64) -> Option<u64> {
        let row = row as usize;
        Some(self.bases[..].get(row / GROUP)? + u64::from(*self.deltas.get(row)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let offsets: Vec<u64> = (0..1000).map(|i| i * i * 4099 + 3).collect();
        let mut packed = Offsets::default();
        assert!(offsets.iter().all(|&offset| packed.push(offset, 1)));
        let back: Vec<u64> = (0..packed.len()).map_while(|row| packed.get(row)).collect();
        assert_eq!(back, offsets);
        assert_eq!(packed.get(1000), None);
    }

    #[test]
    fn a_gap_of_more_than_four_gibibytes_is_refused() {
        let mut packed = Offsets::default();
        assert!(packed.push(0, 1));
        assert!(packed.push(u32::MAX.into(), 2));
        assert!(!packed.push(1 << 32, 3));
    }
}
