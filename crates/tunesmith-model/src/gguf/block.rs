//! How GGUF stores numbers: plain, or in blocks of small integers with a shared scale.
//!
//! | type | numbers per block | bits per number | a number is |
//! |---|---|---|---|
//! | Q8_0 | 32 | 8.5 | d·q |
//! | Q4_0 | 32 | 4.5 | d·(q − 8) |
//! | Q4_1 | 32 | 5 | d·q + m |
//! | Q5_0 | 32 | 5.5 | d·(q − 16) |
//! | Q4_K | 256 | 4.5 | d·s·q − m·t, with 6-bit s and t for each 32 |
//! | Q6_K | 256 | 6.5625 | d·s·(q − 32), with 8-bit s for each 16 |
//!
//! d and m are fp16; products are taken in fp32, in the order of the `gguf` Python package, so that both agree in every
//! bit. Definitions: ggml's `ggml-common.h`.

use half::f16;

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names of the format")]
pub enum GgufType {
    /// fp32.
    F32,
    /// fp16.
    F16,
    /// bf16.
    BF16,
    /// 4 bits, scale.
    Q4_0,
    /// 4 bits, scale and minimum.
    Q4_1,
    /// 5 bits, scale.
    Q5_0,
    /// 8 bits, scale.
    Q8_0,
    /// 4 bits in blocks of blocks, scale and minimum.
    Q4_K,
    /// 6 bits in blocks of blocks, scale.
    Q6_K,
}

impl GgufType {
    const ALL: [(Self, u32, &'static str, usize, usize); 9] = [
        (Self::F32, 0, "f32", 1, 4),
        (Self::F16, 1, "f16", 1, 2),
        (Self::BF16, 30, "bf16", 1, 2),
        (Self::Q4_0, 2, "q4_0", 32, 18),
        (Self::Q4_1, 3, "q4_1", 32, 20),
        (Self::Q5_0, 6, "q5_0", 32, 22),
        (Self::Q8_0, 8, "q8_0", 32, 34),
        (Self::Q4_K, 12, "q4_k", 256, 144),
        (Self::Q6_K, 14, "q6_k", 256, 210),
    ];

    fn row(self) -> (Self, u32, &'static str, usize, usize) {
        let index = Self::ALL.iter().position(|row| row.0 == self).unwrap_or_default();
        Self::ALL[index]
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().find(|row| row.1 == number).map(|row| row.0)
    }

    /// Its number in the file.
    pub(super) fn number(self) -> u32 {
        self.row().1
    }

    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// The type of this name, if it is one that tunesmith writes.
    pub fn to_write(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Q4_0]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// Numbers of a block.
    pub(super) fn block_len(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        self.row().4
    }

    /// The numbers that `bytes`, whole blocks, stand for.
    pub(super) fn dequantise(self, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::with_capacity(bytes.len() / self.block_bytes() * self.block_len());
        for block in bytes.chunks_exact(self.block_bytes()) {
            match self {
                Self::F32 => out.extend(number(block).map(f32::from_le_bytes)),
                Self::F16 => out.push(half_at(block, 0)),
                Self::BF16 => out.push(f32::from_bits(u32::from(u16_at(block, 0)) << 16)),
                Self::Q4_0 => {
                    let d = half_at(block, 0);
                    out.extend(nibbles(&block[2..]).map(|q| d * (f32::from(q) - 8.0)));
                }
                Self::Q4_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    out.extend(nibbles(&block[4..]).map(|q| d * f32::from(q) + m));
                }
                Self::Q5_0 => {
                    let d = half_at(block, 0);
                    let high = u32::from(u16_at(block, 2)) | u32::from(u16_at(block, 4)) << 16;
                    let q = nibbles(&block[6..]).enumerate();
                    out.extend(
                        q.map(|(i, q)| d * (f32::from(q | ((high >> i & 1) << 4) as u8) - 16.0)),
                    );
                }
                Self::Q8_0 => {
                    let d = half_at(block, 0);
                    out.extend(block[2..].iter().map(|&q| d * f32::from(q as i8)));
                }
                Self::Q4_K => q4_k(block, &mut out),
                Self::Q6_K => q6_k(block, &mut out),
            }
        }
        out
    }

    /// `numbers`, whole blocks, as bytes of one of the types that tunesmith writes.
    pub(super) fn quantise(self, numbers: &[f32]) -> Vec<u8> {
        let n_blocks = numbers.len() / self.block_len();
        let mut out = Vec::with_capacity(n_blocks * self.block_bytes());
        for block in numbers.chunks_exact(self.block_len()) {
            match self {
                Self::F16 => out.extend(f16::from_f32(block[0]).to_le_bytes()),
                Self::BF16 => out.extend(half::bf16::from_f32(block[0]).to_le_bytes()),
                Self::Q8_0 => q8_0(block, &mut out),
                Self::Q4_0 => q4_0(block, &mut out),
                // Nothing else is written: see `to_write`.
                _ => out.extend(block.iter().flat_map(|x| x.to_le_bytes())),
            }
        }
        out
    }
}

fn number(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.try_into().ok()
}

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(block, at)).to_f32()
}

/// The low halves of all bytes, then the high halves.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

/// d, dmin, 12 bytes of eight 6-bit scales and minima, 128 bytes of 4-bit numbers.
fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    // The first four have their six bits in one byte; of the others, four here and two at the top of those bytes.
    let six = |j: usize| match j < 4 {
        true => (packed[j] & 63, packed[j + 4] & 63),
        false => {
            (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
        }
    };
    for (pair, bytes) in block[16..].chunks_exact(32).enumerate() {
        for (half, shift) in [(0, 0), (1, 4)] {
            let (scale, min) = six(2 * pair + half);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            out.extend(bytes.iter().map(|byte| scale * f32::from(byte >> shift & 15) - min));
        }
    }
}

/// 128 bytes of low halves, 64 of two high bits, 16 signed scales, d.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at(block, 208);
    for part in 0..2 {
        let (low, high) = (&block[64 * part..][..64], &block[128 + 32 * part..][..32]);
        let scales = &block[192 + 8 * part..][..8];
        for quarter in 0..4 {
            for i in 0..32 {
                let four = low[32 * (quarter % 2) + i] >> (4 * (quarter / 2)) & 15;
                let q = (four | (high[i] >> (2 * quarter) & 3) << 4) as i8 - 32;
                let scale = scales[2 * quarter + i / 16] as i8;
                out.push(d * f32::from(scale) * f32::from(q));
            }
        }
    }
}

/// d = max |x| / 127, numbers rounded half away from zero.
fn q8_0(block: &[f32], out: &mut Vec<u8>) {
    let d = block.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
}

/// d = the number of largest magnitude / −8, so that this number is met exactly.
fn q4_0(block: &[f32], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0_f32, |max, &x| if x.abs() > max.abs() { x } else { max });
    let d = largest / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out.extend(f16::from_f32(d).to_le_bytes());
    let q = |x: f32| (f64::from(x * inverse) + 8.5).trunc().clamp(0.0, 15.0) as u8;
    let (low, high) = block.split_at(16);
    out.extend(low.iter().zip(high).map(|(&low, &high)| q(low) | q(high) << 4));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_what_their_definition_says() {
        // d = 0.5, q = 0, 1, … 15 in both halves.
        let half = f16::from_f32(0.5).to_le_bytes();
        let bytes: Vec<u8> = (0..16).map(|q| q | q << 4).collect();
        let q4_0 = GgufType::Q4_0.dequantise(&[&half[..], &bytes].concat());
        assert_eq!((q4_0[0], q4_0[15], q4_0[16]), (-4.0, 3.5, -4.0));
        let q4_1 = GgufType::Q4_1.dequantise(&[&half[..], &half, &bytes].concat());
        assert_eq!((q4_1[0], q4_1[15]), (0.5, 8.0));
        let q5_0 = GgufType::Q5_0.dequantise(&[&half[..], &[0xff; 4], &bytes].concat());
        assert_eq!((q5_0[0], q5_0[31]), (0.0, 7.5));
    }

    fn golden(name: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gguf").join(name)
    }

    /// Bit for bit what the `gguf` package of PyPI writes and reads (`tests/golden/blocks.py`).
    #[test]
    fn blocks_are_those_of_the_reference() {
        let expected = crate::TensorFile::open(&golden("blocks.safetensors")).unwrap();
        let file = crate::gguf::Gguf::open(&golden("blocks.gguf")).unwrap();
        assert_eq!(file.names().count(), 8);
        for name in file.names() {
            assert_eq!(file.tensor(name).unwrap(), expected.tensor(name).unwrap(), "{name}");
        }
        let metadata = file.metadata();
        let float = metadata["test.float"].as_f64();
        assert_eq!((metadata["test.unsigned"].as_u64(), float), (Some(7), Some(1e-5)));
        assert_eq!(metadata["test.texts"], super::super::GgufValue::strings(["a", "ä"]));

        let numbers = expected.tensor("numbers").unwrap().view(-1);
        let numbers = Vec::<f32>::try_from(numbers).unwrap();
        for (kind, name) in [(GgufType::Q8_0, "Q8_0"), (GgufType::Q4_0, "Q4_0")] {
            let bytes = expected.tensor(&format!("quantised.{name}")).unwrap().view(-1);
            let bytes: Vec<u8> = bytes.iter::<i64>().unwrap().map(|byte| byte as u8).collect();
            assert_eq!(kind.quantise(&numbers), bytes, "{name}");
        }
    }

    /// Whatever is cut off or flipped in a file: an answer or a refusal, never a panic.
    #[test]
    fn broken_files_are_refused_or_read() {
        let good = std::fs::read(golden("blocks.gguf")).unwrap();
        let header = 700.min(good.len());
        for end in 0..header {
            assert!(crate::gguf::header(&good[..end]).is_err(), "cut at {end}");
        }
        assert!(crate::gguf::header(&good[..good.len() - 1024]).is_err());
        for at in 0..header {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                if let Ok((_, tensors)) = crate::gguf::header(&bad) {
                    assert!(tensors.values().all(|info| info.end <= bad.len()));
                }
            }
        }
    }
}
