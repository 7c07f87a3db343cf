//! Choices without a stored state: each is a pure function of (what it is for, which sample, how many came before).

/// The choices of one sample.
pub(crate) struct Dice {
    key: u64,
    drawn: u64,
}

/// Changing it changes every generated file.
const SEED: u64 = 2026;

impl Dice {
    /// The choices that `sample` needs for `purpose`.
    pub(crate) fn new(purpose: &str, sample: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&SEED.to_le_bytes()).update(&sample.to_le_bytes()).update(purpose.as_bytes());
        let mut key = [0; 8];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self { key: u64::from_le_bytes(key), drawn: 0 }
    }

    /// A number below `n`, which is small: the bias of a remainder of 64 bits does not matter here.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        let mut z = self.key.wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15)); // SplitMix64
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, of which there is at least one.
    pub(crate) fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// One of `phrases`, of which there is at least one.
    pub(crate) fn phrase<'a>(&mut self, phrases: &'a [String]) -> &'a str {
        self.choose(phrases).as_str()
    }

    /// Fisher–Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
