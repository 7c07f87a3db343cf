//! Points on their way to a line: smoothing, and thinning that keeps every peak.

/// One point: step and value.
pub(super) type Point = (f64, f64);

/// The points smoothed by three centred box means, which come close to a Gaussian of the width `n / 60` points. Centred, so
/// that the line does not lag behind the data as a running average does. Values that are not finite are left out.
pub(super) fn smooth(points: &[Point]) -> Vec<Point> {
    let finite: Vec<Point> = points.iter().copied().filter(|p| p.1.is_finite()).collect();
    let radius = (finite.len() / 60).max(2);
    let mut y: Vec<f64> = finite.iter().map(|p| p.1).collect();
    for _ in 0..3 {
        y = box_mean(&y, radius);
    }
    finite.iter().zip(y).map(|(p, y)| (p.0, y)).collect()
}

/// The mean over `radius` neighbours on each side; fewer at the ends, but always as many on both sides, so that a
/// steep beginning is not flattened.
fn box_mean(y: &[f64], radius: usize) -> Vec<f64> {
    let mut sums = Vec::with_capacity(y.len() + 1);
    sums.push(0.0);
    for (i, v) in y.iter().enumerate() {
        sums.push(sums[i] + v);
    }
    (0..y.len())
        .map(|i| {
            let r = radius.min(i).min(y.len() - 1 - i);
            (sums[i + r + 1] - sums[i - r]) / (2 * r + 1) as f64
        })
        .collect()
}

/// At most about `2 × buckets` points of the same outline: of each stretch its lowest and its highest, in order, and one point that is not finite,
/// where there is one, so that the line breaks there.
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
    fn smoothing_keeps_a_straight_line_and_its_ends() {
        for (got, want) in smooth(&line(500)).iter().zip(line(500)) {
            assert!((got.1 - want.1).abs() < 1e-9 && got.0 == want.0);
        }
        assert!(smooth(&[]).is_empty());
        assert_eq!(smooth(&[(1.0, 2.0), (2.0, f64::NAN)]), [(1.0, 2.0)]);
    }

    #[test]
    fn smoothing_removes_noise() {
        let noisy: Vec<Point> =
            (0..600).map(|i| (i as f64, if i % 2 == 0 { 1.0 } else { 3.0 })).collect();
        let inner = &smooth(&noisy)[40..560];
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
