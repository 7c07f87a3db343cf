//! Points on their way to a line: smoothing, and thinning that keeps every peak.

/// One point: step and value.
pub(super) type Point = (f64, f64);

/// The points smoothed by three passes of a centred mean, which come close to a Gaussian. Centred, so that the line
/// does not lag behind the data as a running average does; narrow at the beginning, where a loss falls steeply, and
/// as wide as `n / 50` points on each side later. Values that are not finite are left out.
pub(super) fn smooth(points: &[Point]) -> Vec<Point> {
    let finite: Vec<Point> = points.iter().copied().filter(|p| p.1.is_finite()).collect();
    let radius = (finite.len() / 50).max(2);
    let mut y: Vec<f64> = finite.iter().map(|p| p.1).collect();
    for _ in 0..3 {
        y = local_mean(&y, radius);
    }
    finite.iter().zip(y).map(|(p, y)| (p.0, y)).collect()
}

/// The mean over a neighbourhood that grows with the index up to `radius` on each side, and is cut at the end.
fn local_mean(y: &[f64], radius: usize) -> Vec<f64> {
    let mut sums = Vec::with_capacity(y.len() + 1);
    sums.push(0.0);
    for (i, v) in y.iter().enumerate() {
        sums.push(sums[i] + v);
    }
    (0..y.len())
        .map(|i| {
            let r = radius.min(i.div_ceil(8));
            let (start, end) = (i - r, (i + r + 1).min(y.len()));
            (sums[end] - sums[start]) / (end - start) as f64
        })
        .collect()
}

/// At most about `2 × buckets` points of the same outline: of each stretch its lowest and its highest, in order, and
/// one point that is not finite, where there is one, so that the line breaks there.
pub(super) fn thin(points: &[Point], buckets: usize) -> Vec<Point> {
    if points.len() <= 2 * buckets {
        return points.to_vec();
    }
    let mut out = Vec::with_capacity(3 * buckets);
    for b in 0..buckets {
        let chunk = &points[b * points.len() / buckets..(b + 1) * points.len() / buckets];
        let finite = || chunk.iter().enumerate().filter(|(_, p)| p.1.is_finite());
        let mut keep: Vec<usize> = [
            finite().min_by(|a, b| a.1.1.total_cmp(&b.1.1)),
            finite().max_by(|a, b| a.1.1.total_cmp(&b.1.1)),
            chunk.iter().enumerate().find(|(_, p)| !p.1.is_finite()),
        ]
        .into_iter()
        .flatten()
        .map(|(i, _)| i)
        .collect();
        keep.sort_unstable();
        keep.dedup();
        out.extend(keep.into_iter().map(|i| chunk[i]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: usize) -> Vec<Point> {
        (0..n).map(|i| (i as f64, i as f64)).collect()
    }

    #[test]
    fn smoothing_keeps_a_straight_line_and_a_steep_beginning() {
        for (got, want) in smooth(&line(500)).iter().zip(line(500)).take(470) {
            assert!((got.1 - want.1).abs() < 1e-9 && got.0 == want.0);
        }
        let steep: Vec<Point> =
            (0..2000).map(|i| (f64::from(i), 3.0 / (1.0 + f64::from(i) / 10.0))).collect();
        for (got, want) in smooth(&steep).iter().zip(&steep) {
            assert!((got.1 - want.1).abs() < 0.06 * want.1, "{got:?} {want:?}");
        }
        assert!(smooth(&[]).is_empty());
        assert_eq!(smooth(&[(1.0, 2.0), (2.0, f64::NAN)]), [(1.0, 2.0)]);
    }

    #[test]
    fn smoothing_removes_noise() {
        let noisy: Vec<Point> =
            (0..600).map(|i| (i as f64, if i % 2 == 0 { 1.0 } else { 3.0 })).collect();
        let inner = &smooth(&noisy)[130..560];
        assert!(inner.iter().all(|p| (p.1 - 2.0).abs() < 0.01));
    }

    #[test]
    fn thinning_keeps_order_peaks_and_gaps() {
        let mut points = line(100_000);
        points[55_555].1 = 1e9;
        points[77_777].1 = f64::NAN;
        let thin = thin(&points, 600);
        assert!(thin.len() <= 1201);
        assert!(thin.is_sorted_by(|a, b| a.0 < b.0));
        assert!(thin.contains(&points[55_555]) && thin.iter().any(|p| p.1.is_nan()));
        assert_eq!((thin[0], thin[thin.len() - 1]), (points[0], points[99_999]));
        assert_eq!(super::thin(&line(10), 600), line(10));
    }
}
