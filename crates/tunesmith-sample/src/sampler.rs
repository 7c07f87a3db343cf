//! From logits to a token: the processors of transformers, in its order, then a choice.
//!
//! repetition penalty → temperature → top-k → top-p → min-p → draw. Greedy (temperature 0) takes the best score after
//! the repetition penalty and skips the rest.

use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// How the next token is chosen and when to stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerKnobs {
    /// Divides the scores; 0 is greedy.
    pub temperature: f32,
    /// Keep the k best tokens; 0: all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches this (Holtzman et al. 2020); 1: all.
    pub top_p: f32,
    /// Keep tokens at least this share as probable as the best (Nguyen et al. 2024); 0: all.
    pub min_p: f32,
    /// Above 1, makes tokens of the prompt and the answer less likely (Keskar et al. 2019).
    pub repetition_penalty: f32,
    /// Tokens generated at most.
    pub max_new_tokens: usize,
    /// Texts that end the answer; not part of it.
    pub stop: Vec<String>,
    /// Names the draw: the same seed, prompt and knobs give the same answer.
    pub seed: u64,
}

impl Default for SamplerKnobs {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_new_tokens: 256,
            stop: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplerKnobs {
    /// The first knob outside its range, as a sentence.
    ///
    /// # Errors
    /// That sentence.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            (
                self.temperature >= 0.0 && self.temperature.is_finite(),
                "temperature",
                "at least 0",
                self.temperature,
            ),
            (self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "above 0 and at most 1", self.top_p),
            ((0.0..=1.0).contains(&self.min_p), "min_p", "between 0 and 1", self.min_p),
            (
                self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
                "repetition_penalty",
                "above 0",
                self.repetition_penalty,
            ),
        ];
        match ranges.into_iter().find(|(good, ..)| !good) {
            None => Ok(()),
            Some((_, name, expected, found)) => {
                Err(format!("`{name}`: expected a number {expected}, found {found}"))
            }
        }
    }

    /// Applies every processor in place; what is ruled out becomes −∞. `history`: prompt and answer so far.
    pub fn process(&self, scores: &mut [f32], history: &[u32]) {
        self.penalise(scores, history);
        if self.temperature == 0.0 {
            return;
        }
        if self.temperature != 1.0 {
            scores.iter_mut().for_each(|score| *score /= self.temperature);
        }
        if self.top_k > 0 && self.top_k < scores.len() {
            let mut sorted = scores.to_vec();
            let (_, kth, _) = sorted.select_nth_unstable_by(self.top_k - 1, |a, b| b.total_cmp(a));
            let kth = *kth;
            rule_out(scores, |score| score < kth);
        }
        if self.top_p < 1.0 {
            self.nucleus(scores);
        }
        if self.min_p > 0.0 {
            // p < min_p · p_best, in log space.
            let limit = max(scores) + self.min_p.ln();
            rule_out(scores, |score| score < limit);
        }
    }

    fn penalise(&self, scores: &mut [f32], history: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        for id in history.iter().collect::<HashSet<_>>() {
            if let Some(score) = scores.get_mut(*id as usize) {
                *score = if *score < 0.0 {
                    *score * self.repetition_penalty
                } else {
                    *score / self.repetition_penalty
                };
            }
        }
    }

    /// Drops the least probable tokens while what is dropped stays within 1 − top_p; the best always stays.
    fn nucleus(&self, scores: &mut [f32]) {
        let probs = softmax(scores);
        let mut order: Vec<usize> =
            (0..scores.len()).filter(|&i| scores[i] > f32::NEG_INFINITY).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        let mut dropped = 0.0f32;
        order.pop();
        for i in order {
            dropped += probs[i];
            if dropped > 1.0 - self.top_p {
                break;
            }
            scores[i] = f32::NEG_INFINITY;
        }
    }

    /// The next token after [`process`](Self::process): the best, or a draw named by `(seed, sequence, step)`.
    pub fn choose(&self, scores: &[f32], sequence: u64, step: u64) -> u32 {
        if self.temperature == 0.0 {
            return best(scores);
        }
        let probs = softmax(scores);
        let total: f64 = probs.iter().map(|&p| f64::from(p)).sum();
        let mut left = uniform(self.seed, sequence, step) * total;
        for (i, &p) in probs.iter().enumerate() {
            left -= f64::from(p);
            if left < 0.0 {
                return i as u32;
            }
        }
        best(scores) // rounding used up the last crumb
    }
}

/// The first of the largest scores.
fn best(scores: &[f32]) -> u32 {
    let max = max(scores);
    scores.iter().position(|&score| score == max).unwrap_or(0) as u32
}

/// The largest score; what is no number does not count. In lanes, which the compiler makes vectors of.
fn max(scores: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = scores.as_chunks();
    for chunk in chunks {
        for (lane, &score) in lanes.iter_mut().zip(chunk as &[f32; 16]) {
            *lane = larger(*lane, score);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

fn rule_out(scores: &mut [f32], condition: impl Fn(f32) -> bool) {
    for score in scores {
        if condition(*score) {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let max = max(scores);
    let exps: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f32 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

/// A number in [0, 1), a pure function of its arguments (SplitMix64's finaliser, Steele et al. 2014).
fn uniform(seed: u64, sequence: u64, step: u64) -> f64 {
    let mix = |x: u64| {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    (mix(mix(mix(seed) ^ sequence) ^ step) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f32 = f32::NEG_INFINITY;

    #[test]
    fn processors() {
        let knobs = |change: fn(&mut SamplerKnobs)| {
            let mut knobs = SamplerKnobs { temperature: 1.0, ..SamplerKnobs::default() };
            change(&mut knobs);
            knobs
        };
        let ln = |ps: [f32; 4]| ps.map(f32::ln);
        let scores = ln([0.1, 0.5, 0.15, 0.25]);
        let check = |knobs: SamplerKnobs, kept: [bool; 4]| {
            let mut got = scores;
            knobs.process(&mut got, &[]);
            assert_eq!(got.map(|s| s > NONE), kept, "{knobs:?}");
        };
        check(knobs(|_| ()), [true; 4]);
        check(knobs(|k| k.top_k = 2), [false, true, false, true]);
        check(knobs(|k| k.top_p = 0.8), [false, true, true, true]); // 0.10 goes; 0.25 with 0.15 would be too much
        check(knobs(|k| k.top_p = 0.01), [false, true, false, false]);
        check(knobs(|k| k.min_p = 0.4), [false, true, false, true]);
        let mut got = [2.0, -2.0, 1.0, 1.0];
        knobs(|k| k.repetition_penalty = 2.0).process(&mut got, &[0, 1, 1, 99]);
        assert_eq!(got, [1.0, -4.0, 1.0, 1.0]);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let knobs = SamplerKnobs { temperature: 1.0, seed: 5, ..SamplerKnobs::default() };
        let scores = [0.2f32, 0.8].map(f32::ln);
        let ones = (0..10_000).filter(|&step| knobs.choose(&scores, 0, step) == 1).count();
        assert!((7_800..8_200).contains(&ones), "{ones} of 10000 draws");
        let draw = |seed| {
            (0..64)
                .map(|s| SamplerKnobs { seed, ..knobs.clone() }.choose(&scores, 0, s))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        let greedy = |scores: &[f32]| SamplerKnobs::default().choose(scores, 0, 0);
        assert_eq!(greedy(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(greedy(&[NONE, f32::NAN, -2.0, NONE]), 2);
        let mut many = [0.5f32; 100];
        (many[37], many[53], many[99]) = (0.75, 0.75, 0.7);
        assert_eq!(greedy(&many), 37);
        many[99] = 0.8;
        assert_eq!(greedy(&many), 99);
    }
}
