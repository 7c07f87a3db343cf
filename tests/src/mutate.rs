//! Mutations of sound files: a short, repeatable stand-in for a fuzzer, for any parser.
//!
//! Included by the tests of several crates, so it stands on the standard library alone.
#![allow(unreachable_pub, reason = "several crates include this file by its path")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

/// A file of a few bytes may not cost more.
const LONGEST: Duration = Duration::from_secs(10);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n.max(1) as u64) as usize
    }
}

/// Pieces that meant trouble to some parser.
const PIECES: [&[u8]; 18] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"9223372036854775808",
    b"\\ud800",
    b"\xff\xfe",
    b"\0",
    b"../../../etc/passwd",
    b"{{",
    b"{%",
    b"NaN",
    b"\xf0\x9f\x98\x80",
];

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            4 => {
                let end = (at + 1 + random.below(64)).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            5 => {
                // A number becomes another: lengths, offsets and shapes that lie.
                let digits = bytes.iter().skip(at).position(u8::is_ascii_digit).map(|i| at + i);
                if let Some(at) = digits {
                    let number = PIECES[6 + random.below(4)];
                    bytes.splice(at..=at, number.iter().copied());
                }
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
}

/// `accepts` takes the sound files, and says yes or no to `rounds` mutations of them, soon and without a panic.
///
/// # Panics
/// If it does not, with the bytes that it met.
pub fn never_panics(name: &str, seeds: &[Vec<u8>], rounds: usize, accepts: &dyn Fn(&[u8]) -> bool) {
    for seed in seeds {
        assert!(accepts(seed), "{name}: a sound file is refused");
    }
    let (mut random, mut n_accepted) = (Random(7), 0);
    for round in 0..rounds {
        let mut bytes = seeds[round % seeds.len()].clone();
        mutate(&mut bytes, &mut random);
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| accepts(&bytes)));
        let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
        let ok =
            outcome.unwrap_or_else(|_| panic!("{name}, round {round}, panics on:\n{}", shown()));
        let took = began.elapsed();
        assert!(took < LONGEST, "{name}, round {round}: {took:?} for\n{}", shown());
        n_accepted += usize::from(ok);
    }
    assert!(n_accepted < rounds, "{name}: every mutation is accepted");
}
