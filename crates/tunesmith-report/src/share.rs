//! How sure a share is: so many of so many.

/// Standard deviations on each side that hold 95 % of a normal distribution.
const Z: f64 = 1.959_963_985;

/// The 95 % interval of a `share` of `n` (Wilson 1927, "Probable inference, the law of succession, and statistical
/// inference"), which stays within 0 and 1 and holds for few, too.
pub fn wilson(share: f64, n: u64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let n = n as f64;
    let shrunk = 1.0 + Z * Z / n;
    let middle = (share + Z * Z / (2.0 * n)) / shrunk;
    let half = Z / shrunk * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

/// A share with its interval, in words: `0.65 (95 %: 0.56 to 0.73, of 118)`.
pub fn with_interval(share: f64, n: u64) -> String {
    let (low, high) = wilson(share, n);
    format!("{share:.3} (95 %: {low:.3} to {high:.3}, of {n})")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    #[test]
    fn intervals_are_those_of_the_literature() {
        for (right, n, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let found = wilson(f64::from(right) / f64::from(n), n as u64);
            assert!(
                (found.0 - low).abs() < 5e-5 && (found.1 - high).abs() < 5e-5,
                "{right} of {n}: {found:?}"
            );
        }
        assert_eq!(wilson(0.5, 0), (0.0, 1.0));
        assert_eq!(with_interval(0.5, 100), "0.500 (95 %: 0.404 to 0.596, of 100)");
    }
}
