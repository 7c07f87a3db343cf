//! Random numbers without a stored state: every stream of numbers is named by what it is for.
//!
//! A key is the BLAKE3 hash of (seed, purpose, epoch, index); from there on SplitMix64 counts. The same four names
//! give the same numbers on every machine, and nothing has to be saved in a checkpoint.

/// SplitMix64's finaliser: a bijection that spreads every bit.
pub(crate) const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The numbers of one purpose, epoch and index.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64, purpose: &str, epoch: u64, index: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        for number in [seed, epoch, index] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(purpose.as_bytes());
        let mut key = [0; 8];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_le_bytes(key))
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n` (at least 1), without bias: Lemire's multiply and reject.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        let reject_under = n.wrapping_neg() % n;
        loop {
            let wide = u128::from(self.next()) * u128::from(n);
            if wide as u64 >= reject_under {
                return (wide >> 64) as u64;
            }
        }
    }

    /// Fisher–Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_own_numbers() {
        let first = |seed, purpose, epoch, index| Rng::new(seed, purpose, epoch, index).next();
        let base = first(1, "rows", 0, 0);
        assert_eq!(base, first(1, "rows", 0, 0));
        for other in [
            first(2, "rows", 0, 0),
            first(1, "packs", 0, 0),
            first(1, "rows", 1, 0),
            first(1, "rows", 0, 1),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn all_six_orders_of_three_are_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for index in 0..6000 {
            let mut items = [0, 1, 2];
            Rng::new(7, "test", 0, index).shuffle(&mut items);
            *counts.entry(items).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        // 1000 expected; 5 standard deviations are 145
        assert!(counts.values().all(|&count: &i32| (855..=1145).contains(&count)), "{counts:?}");
    }
}
