//! Where an axis puts its marks: multiples of 1, 2 or 5 times a power of ten.

/// An axis: its range, widened to whole ticks, and the ticks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) lo: f64,
    pub(super) hi: f64,
    /// Distance between ticks.
    pub(super) step: f64,
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// An axis over `lo..=hi` of about `n` ticks, whose ends are ticks.
    pub(super) fn snapped(lo: f64, hi: f64, n: usize) -> Self {
        let (lo, hi) = spread(lo, hi);
        let step = nice_step((hi - lo) / n as f64);
        let (first, last) = ((lo / step + 1e-9).floor(), (hi / step - 1e-9).ceil());
        let ticks = ticks(first, last, step);
        Self { lo: lo.min(first * step), hi: hi.max(last * step), step, ticks }
    }

    /// An axis over exactly `lo..=hi`, with ticks at whole numbers inside, and one at its beginning where
    /// there is room.
    pub(super) fn exact(lo: f64, hi: f64, n: usize) -> Self {
        if lo >= hi {
            return Self { lo: lo - 1.0, hi: lo + 1.0, step: 1.0, ticks: vec![lo] };
        }
        let step = nice_step((hi - lo) / n as f64).max(1.0);
        let mut ticks = ticks((lo / step - 1e-9).ceil(), (hi / step + 1e-9).floor(), step);
        if ticks.first().is_none_or(|first| first - lo > 0.5 * step) {
            ticks.insert(0, lo);
        }
        Self { lo, hi, step, ticks }
    }

    /// Where `x` lies, 0 at the low end and 1 at the high end.
    pub(super) fn at(&self, x: f64) -> f64 {
        (x - self.lo) / (self.hi - self.lo)
    }
}

/// Every tick from its number, so that errors do not add up.
fn ticks(first: f64, last: f64, step: f64) -> Vec<f64> {
    (0..=(last - first).round() as usize).map(|i| (first + i as f64) * step).collect()
}

/// A range of one value becomes one around it.
fn spread(lo: f64, hi: f64) -> (f64, f64) {
    match hi - lo > 1e-9 * hi.abs().max(lo.abs()) {
        true => (lo, hi),
        false if lo == 0.0 => (0.0, 1.0),
        false => (lo - lo.abs() * 0.1, hi + hi.abs() * 0.1),
    }
}

/// The smallest of 1, 2, 5 × 10ᵏ that is not below `x`.
fn nice_step(x: f64) -> f64 {
    let power = 10f64.powf(x.log10().floor());
    let m = x / power;
    let nice = match m {
        _ if m <= 1.0 + 1e-9 => 1.0,
        _ if m <= 2.0 + 1e-9 => 2.0,
        _ if m <= 5.0 + 1e-9 => 5.0,
        _ => 10.0,
    };
    nice * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nice_axes() {
        for ((lo, hi, n), want) in [
            ((1.13, 2.84, 5), vec![1.0, 1.5, 2.0, 2.5, 3.0]),
            ((0.0, 2e-5, 4), vec![0.0, 5e-6, 1e-5, 1.5e-5, 2e-5]),
            ((0.0, 0.0, 4), vec![0.0, 0.5, 1.0]),
            ((5.0, 5.0, 2), vec![4.5, 5.0, 5.5]),
            ((-0.4, 0.9, 3), vec![-0.5, 0.0, 0.5, 1.0]),
        ] {
            let axis = Axis::snapped(lo, hi, n);
            let close = |a: &f64, b: &f64| (a - b).abs() <= 1e-12 * b.abs().max(1e-9);
            assert!(
                axis.ticks.len() == want.len()
                    && axis.ticks.iter().zip(&want).all(|(a, b)| close(a, b)),
                "{lo}..{hi}: {:?}, expected {want:?}",
                axis.ticks
            );
            assert!(axis.lo <= lo && axis.hi >= hi);
        }
        assert_eq!(Axis::exact(1.0, 2000.0, 5).ticks, [1.0, 500.0, 1000.0, 1500.0, 2000.0]);
        assert_eq!(Axis::exact(1.0, 3.0, 8).ticks, [1.0, 2.0, 3.0]);
        assert_eq!(Axis::exact(7.0, 7.0, 2).ticks, [7.0]);
    }
}
