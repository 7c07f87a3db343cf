//! Weights in 4 or 8 bits: NF4 with double quantisation (Dettmers et al. 2023, QLoRA) and int8 by rows (Dettmers et al.
//! 2022, LLM.int8()). The same tables, codes and scales as bitsandbytes, bit for bit.
//!
//! Shapes: E elements of a matrix, B = ⌈E/64⌉ blocks, G = ⌈B/256⌉ groups of blocks; O rows, I columns.
//!
//! ```text
//! NF4:   w ≈ nf4[code] · scale[block]               scale = the block's largest |w|
//! its scales, again quantised:  scale ≈ dynamic[code] · scale2[group] + offset      offset = the mean scale
//! int8:  w ≈ code · scale[row] / 127
//! ```
//! Per weight: 4 + 8/64 + 32/(64·256) = 4.127 bits.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use tunesmith_kernels::{dequantise_blocks, dynamic_codebook, quantise_blocks, supports};

/// Elements that share a scale.
const BLOCK: i64 = 64;
/// The code of 0, for a half byte that is left over.
const ZERO: u8 = 7;
/// Scales that share a scale.
const GROUP: i64 = 256;

/// Rows of int8 at once.
const ROWS: i64 = 256;

/// The quantiles of a normal distribution, scaled to [−1, 1], with an exact zero (QLoRA, appendix E).
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Half the widest gap between neighbours in [`NF4`]: from −1 to −0.696.
const VALUE_GAP: f64 = 0.151_904;
/// The same of the scales' code, [`dynamic`]: half of (1 − 0.1) / 64, and from its last value to 1.
const SCALE_GAP: f64 = 0.007_1;

/// How the matrices of linear layers lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In the model's dtype.
    #[default]
    Dense,
    /// NF4 with double quantisation: 4.13 bits per weight.
    Nf4,
    /// int8 with a scale per row: 8 bits per weight.
    Int8,
}

impl Storage {
    /// What people call each.
    pub const NAMES: [(&'static str, Self); 3] =
        [("dense", Self::Dense), ("nf4", Self::Nf4), ("int8", Self::Int8)];

    /// Its name, as recipes write it.
    pub fn name(self) -> &'static str {
        let [dense, others @ ..] = Self::NAMES;
        others.into_iter().find(|(_, storage)| *storage == self).unwrap_or(dense).0
    }
}

/// A quantised matrix.
#[derive(Debug)]
pub(crate) enum Quantised {
    Nf4(Nf4),
    Int8(Int8),
}

/// NF4 with double quantisation.
#[derive(Debug)]
pub(crate) struct Nf4 {
    codes: Tensor,  // (⌈E/2⌉), u8: two codes, the first in the high half
    scales: Tensor, // (B), u8
    scale2: Tensor, // (G), fp32
    offset: f32,
    shape: Vec<i64>,
}

/// int8 by rows.
#[derive(Debug)]
pub(crate) struct Int8 {
    codes: Tensor,  // (O, I), i8
    scales: Tensor, // (O), fp32
}

impl Quantised {
    /// Memory for a matrix of this shape; `None` for dense storage.
    ///
    /// It is taken before the matrix is read: what stays would else lie behind what goes, and the gaps between, each too
    /// small for the next matrix, were 1.0 of the 2.6 GB that a run on a model of 1.1 B weights took.
    pub(crate) fn empty(shape: &[i64], storage: Storage, device: Device) -> Option<Self> {
        match storage {
            Storage::Dense => None,
            Storage::Nf4 => Some(Self::Nf4(Nf4::empty(shape, device))),
            Storage::Int8 => Some(Self::Int8(Int8::empty(shape, device))),
        }
    }

    /// Takes the values of `w`, in any dtype: (O, I), or (I, O) where the checkpoint has it so.
    pub(crate) fn fill(&mut self, w: &Tensor) {
        tch::no_grad(|| match self {
            Self::Nf4(nf4) => nf4.fill(w),
            Self::Int8(int8) => int8.fill(w),
        });
    }

    #[cfg(test)]
    fn new(w: &Tensor, storage: Storage) -> Option<Self> {
        let mut quantised = Self::empty(&w.size(), storage, w.device())?;
        quantised.fill(w);
        Some(quantised)
    }

    /// The matrix that the codes stand for, in the shape it came in.
    pub(crate) fn dequantise(&self, kind: Kind) -> Tensor {
        tch::no_grad(|| match self {
            Self::Nf4(nf4) => nf4.dequantise(kind),
            Self::Int8(int8) => int8.dequantise(kind),
        })
    }

    /// The largest error of a weight against `w`, of which it was made, as a share of what rounding can do: at most 1.
    ///
    /// NF4: half the widest gap of its values times the block's scale, and the scale's own error; int8: half a step.
    pub(crate) fn worst_error(&self, w: &Tensor) -> f64 {
        tch::no_grad(|| {
            let error = (self.dequantise(Kind::Float) - w.to_kind(Kind::Float)).abs();
            let allowed = match self {
                Self::Int8(_) => w.abs().amax([1i64].as_slice(), true).to_kind(Kind::Float) / 254.0,
                Self::Nf4(_) => {
                    let scales = in_blocks(&w.to_kind(Kind::Float).flatten(0, -1), BLOCK).1;
                    let centred = &scales - scales.mean(Kind::Float);
                    let of_group = in_blocks(&centred, GROUP).1;
                    let of_group = of_group.repeat_interleave_self_int(GROUP, 0, None::<i64>);
                    let of_scale = of_group.narrow(0, 0, scales.numel() as i64) * SCALE_GAP;
                    let of_block = (scales * VALUE_GAP + of_scale).repeat_interleave_self_int(
                        BLOCK,
                        0,
                        None::<i64>,
                    );
                    of_block.narrow(0, 0, w.numel() as i64).view_as(w)
                }
            };
            // Products and sums round, too: a thousandth, and nothing to divide by zero with.
            (error / (allowed * 1.001 + 1e-30)).max().double_value(&[])
        })
    }

    /// The same storage under another handle.
    pub(crate) fn shallow_clone(&self) -> Self {
        match self {
            Self::Nf4(Nf4 { codes, scales, scale2, offset, shape }) => Self::Nf4(Nf4 {
                codes: codes.shallow_clone(),
                scales: scales.shallow_clone(),
                scale2: scale2.shallow_clone(),
                offset: *offset,
                shape: shape.clone(),
            }),
            Self::Int8(Int8 { codes, scales }) => {
                Self::Int8(Int8 { codes: codes.shallow_clone(), scales: scales.shallow_clone() })
            }
        }
    }

    /// Weights it stands for.
    pub(crate) fn numel(&self) -> usize {
        match self {
            Self::Nf4(nf4) => nf4.shape.iter().product::<i64>() as usize,
            Self::Int8(int8) => int8.codes.numel(),
        }
    }
}

impl Nf4 {
    fn empty(shape: &[i64], device: Device) -> Self {
        let n: i64 = shape.iter().product();
        let n_blocks = (n + BLOCK - 1) / BLOCK;
        Self {
            codes: Tensor::empty([(n + 1) / 2], (Kind::Uint8, device)),
            scales: Tensor::empty([n_blocks], (Kind::Uint8, device)),
            scale2: Tensor::empty([(n_blocks + GROUP - 1) / GROUP], (Kind::Float, device)),
            offset: 0.0,
            shape: shape.to_vec(),
        }
    }

    fn fill(&mut self, w: &Tensor) {
        let flat = w.flatten(0, -1).contiguous();
        let scales = match supports(&flat) && w.device() == Device::Cpu {
            true => quantise_blocks(&flat, &NF4, BLOCK as usize, ZERO, &self.codes),
            false => {
                let (codes, scales) = Self::codes_of(&flat);
                self.codes.copy_(&codes);
                scales
            }
        };
        let offset = scales.mean(Kind::Float);
        let dynamic = Tensor::from_slice(&dynamic_codebook(true)).to_device(w.device());
        let (scales, scale2) = quantise(&(scales - &offset), &dynamic, GROUP);
        self.scales.copy_(&scales);
        self.scale2.copy_(&scale2);
        self.offset = offset.double_value(&[]) as f32;
    }

    /// Codes and scales in tensor operations, for a GPU.
    fn codes_of(flat: &Tensor) -> (Tensor, Tensor) {
        let table = Tensor::from_slice(&NF4).to_device(flat.device());
        let (codes, scales) = quantise(&flat.to_kind(Kind::Float), &table, BLOCK);
        let rest = Tensor::full([1], i64::from(ZERO), (Kind::Uint8, flat.device()));
        let codes = if codes.numel() % 2 == 0 { codes } else { Tensor::cat(&[codes, rest], 0) };
        let pairs = codes.view([-1, 2]);
        (pairs.select(1, 0) * 16 + pairs.select(1, 1), scales)
    }

    fn dequantise(&self, kind: Kind) -> Tensor {
        if self.codes.device() != Device::Cpu {
            return self.values_of(kind);
        }
        let out = Tensor::empty(&self.shape[..], (kind, Device::Cpu));
        dequantise_blocks(&self.codes, &self.scales(), &NF4, BLOCK as usize, &out);
        out
    }

    /// The matrix in tensor operations, for a GPU.
    fn values_of(&self, kind: Kind) -> Tensor {
        let n: i64 = self.shape.iter().product();
        let device = self.codes.device();
        // Two values at a time: one look-up per byte.
        let pairs: Vec<f32> = (0..256).flat_map(|byte| [NF4[byte >> 4], NF4[byte & 15]]).collect();
        let pairs = Tensor::from_slice(&pairs).view([256, 2]).to_device(device);
        let values =
            pairs.index_select(0, &self.codes.to_kind(Kind::Int)).view([-1]).narrow(0, 0, n);
        let scales = self.scales();
        let whole = n / BLOCK * BLOCK;
        let scaled = match n - whole {
            0 => values.view([-1, BLOCK]) * scales.unsqueeze(1),
            rest => {
                let full = values.narrow(0, 0, whole).view([-1, BLOCK])
                    * scales.narrow(0, 0, whole / BLOCK).unsqueeze(1);
                let tail = values.narrow(0, whole, rest) * scales.narrow(0, whole / BLOCK, 1);
                Tensor::cat(&[full.view([-1]), tail], 0)
            }
        };
        scaled.view(&self.shape[..]).to_kind(kind)
    }

    /// The blocks' scales, (B), fp32.
    fn scales(&self) -> Tensor {
        let dynamic = Tensor::from_slice(&dynamic_codebook(true)).to_device(self.scales.device());
        let values = dynamic.index_select(0, &self.scales.to_kind(Kind::Int)); // (B)
        let of_block = self.scale2.repeat_interleave_self_int(GROUP, 0, None::<i64>);
        values * of_block.narrow(0, 0, self.scales.numel() as i64) + f64::from(self.offset)
    }
}

impl Int8 {
    fn empty(shape: &[i64], device: Device) -> Self {
        let n_rows = shape.first().copied().unwrap_or(0);
        Self {
            codes: Tensor::empty(shape, (Kind::Int8, device)),
            scales: Tensor::empty([n_rows], (Kind::Float, device)),
        }
    }

    fn fill(&mut self, w: &Tensor) {
        let scales = w.abs().amax([1i64].as_slice(), false).to_kind(Kind::Float); // (O)
        // A row of zeros would divide by zero; its codes are zeros whatever the scale.
        let factor = scales.clamp_min(f64::from(f32::MIN_POSITIVE)).reciprocal() * 127.0;
        // Some rows at a time: in fp32 all of them are a multiple of what is left.
        let parts = w.split(ROWS, 0).into_iter().zip(factor.split(ROWS, 0));
        for ((w, factor), mut codes) in parts.zip(self.codes.split(ROWS, 0)) {
            codes.copy_(&(w.to_kind(Kind::Float) * factor.unsqueeze(1)).round());
        }
        self.scales.copy_(&scales);
    }

    fn dequantise(&self, kind: Kind) -> Tensor {
        let scales = self.scales.unsqueeze(1) * (1.0 / 127.0);
        let values = self.codes.split(ROWS, 0).into_iter().zip(scales.split(ROWS, 0));
        let values =
            values.map(|(codes, scales)| (codes.to_kind(Kind::Float) * scales).to_kind(kind));
        Tensor::cat(&values.collect::<Vec<_>>(), 0)
    }
}

/// Codes (E), u8, of the nearest values of a sorted `table` after scaling each block to [−1, 1], and the scales.
fn quantise(x: &Tensor, table: &Tensor, block: i64) -> (Tensor, Tensor) {
    let n = x.numel() as i64;
    let (padded, scales) = in_blocks(x, block);
    let inverse = scales.clamp_min(1e-38).reciprocal();
    let scaled = (padded * inverse.unsqueeze(1)).clamp(-1.0, 1.0);
    let last = table.numel() as i64 - 1;
    let middles = (table.narrow(0, 0, last) + table.narrow(0, 1, last)) / 2.0;
    let codes = scaled.bucketize(&middles, true, false).to_kind(Kind::Uint8);
    (codes.view([-1]).narrow(0, 0, n).contiguous(), scales)
}

/// `x` (E) in blocks (B, `block`), the last filled up with zeros, and the largest |x| of each (B).
fn in_blocks(x: &Tensor, block: i64) -> (Tensor, Tensor) {
    let n = x.numel() as i64;
    let n_blocks = (n + block - 1) / block;
    let padded = x.constant_pad_nd([0, n_blocks * block - n]).view([n_blocks, block]);
    let scales = padded.abs().amax([1i64].as_slice(), false);
    (padded, scales)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn an_odd_number_of_weights_in_a_last_short_block() {
        let w = Tensor::randn([3, 43], (Kind::Float, Device::Cpu));
        for storage in [Storage::Nf4, Storage::Int8] {
            let back = Quantised::new(&w, storage).unwrap().dequantise(Kind::Float);
            let error = ((&back - &w).abs().max() / w.abs().max()).double_value(&[]);
            assert_eq!(back.size(), w.size());
            assert!(error < 0.16, "{storage:?}: {error}");
        }
        assert!(Quantised::new(&w, Storage::Dense).is_none());
    }

    /// What a GPU computes is what the CPU's kernels do.
    #[test]
    fn tensor_operations_and_kernels_agree() {
        for (rows, columns) in [(3, 43), (64, 96), (70, 1000)] {
            let w = Tensor::randn([rows, columns], (Kind::BFloat16, Device::Cpu));
            let (codes, scales) = Nf4::codes_of(&w.flatten(0, -1));
            let ours = codes.zeros_like();
            let ours_too = quantise_blocks(&w.flatten(0, -1), &NF4, BLOCK as usize, ZERO, &ours);
            assert_eq!((codes, scales), (ours, ours_too));
            let Some(Quantised::Nf4(nf4)) = Quantised::new(&w, Storage::Nf4) else { panic!() };
            for kind in [Kind::Float, Kind::BFloat16] {
                assert_eq!(nf4.dequantise(kind), nf4.values_of(kind));
            }
        }
    }

    #[test]
    fn rounding_stays_within_its_bound_and_a_wrong_state_does_not() {
        let cpu = (Kind::Float, Device::Cpu);
        // Rows of unlike size, and outliers: every block has a scale of its own.
        let sizes = Tensor::rand([96, 1], cpu) * 3.0 + 0.1;
        let w = Tensor::randn([96, 300], cpu) * sizes;
        let _ = w.narrow(0, 7, 1).narrow(1, 20, 3).fill_(40.0);
        for kind in [Kind::Float, Kind::BFloat16] {
            let w = w.to_kind(kind);
            for storage in [Storage::Nf4, Storage::Int8] {
                let worst = Quantised::new(&w, storage).unwrap().worst_error(&w);
                assert!((0.5..=1.0).contains(&worst), "{storage:?} {kind:?}: {worst}");
            }
        }
        let nf4 = || match Quantised::new(&w, Storage::Nf4) {
            Some(Quantised::Nf4(nf4)) => nf4,
            _ => panic!("asked for NF4"),
        };
        let of_next = |nf4: Nf4| Nf4 { scales: nf4.scales.roll([1], [0]), ..nf4 };
        let halves_swapped = |nf4: Nf4| {
            let high = nf4.codes.bitwise_right_shift_tensor_scalar(4);
            let low = nf4.codes.bitwise_and(15);
            Nf4 { codes: low * 16 + high, ..nf4 }
        };
        let mutants = [
            of_next(nf4()),
            halves_swapped(nf4()),
            Nf4 { offset: 0.0, ..nf4() }, // double quantisation, half undone
            Nf4 { scale2: nf4().scale2 * 1.5, ..nf4() },
        ];
        for (i, mutant) in mutants.into_iter().enumerate() {
            let worst = Quantised::Nf4(mutant).worst_error(&w);
            assert!(worst > 1.2, "mutant {i}: {worst}");
        }
        let Some(Quantised::Int8(int8)) = Quantised::new(&w, Storage::Int8) else { panic!() };
        let mutant = Int8 { scales: int8.scales.roll([1], [0]), ..int8 };
        assert!(Quantised::Int8(mutant).worst_error(&w) > 1.2);
    }

    #[test]
    fn what_is_in_the_table_comes_back_exactly() {
        let w = Tensor::from_slice(&NF4).repeat([8]).view([2, 64]) * 0.5;
        let back = Quantised::new(&w, Storage::Nf4).unwrap().dequantise(Kind::Float);
        assert_eq!(back, w);
    }

    /// bitsandbytes' numbers; see `tests/golden/quantised.py`.
    #[test]
    fn codes_and_scales_are_those_of_bitsandbytes() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/quantised");
        let read = |name: &str| std::fs::read(format!("{folder}/{name}.safetensors")).unwrap();
        let tables = read("tables");
        let tables = SafeTensors::deserialize(&tables).unwrap();
        let bytes =
            |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(tables.tensor("nf4").unwrap().data(), bytes(&NF4));
        assert_eq!(tables.tensor("scales").unwrap().data(), bytes(&dynamic_codebook(true)));

        for shape in ["square", "wide", "tall", "many"] {
            for (dtype, kind) in [("fp32", Kind::Float), ("bf16", Kind::BFloat16)] {
                let name = format!("{shape}-{dtype}");
                let file = read(&name);
                let file = SafeTensors::deserialize(&file).unwrap();
                let tensor = |key: &str, kind| {
                    let view = file.tensor(key).unwrap();
                    let size: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
                    Tensor::from_data_size(view.data(), &size, kind)
                };
                let w = tensor("weight", kind);
                let Some(Quantised::Nf4(nf4)) = Quantised::new(&w, Storage::Nf4) else { panic!() };
                assert_eq!(nf4.codes, tensor("nf4.codes", Kind::Uint8), "{name}: codes");
                assert_eq!(nf4.scales, tensor("nf4.absmax", Kind::Uint8), "{name}: scales");
                let scale2 = tensor("nf4.absmax2", Kind::Float);
                let ulps = ((&nf4.scale2 - &scale2) / &scale2).abs().max().double_value(&[]);
                assert!(ulps <= 2e-7, "{name}: {ulps}");
                let offset = tensor("nf4.offset", Kind::Float).double_value(&[0]) as f32;
                assert!((nf4.offset / offset - 1.0).abs() <= 2e-7, "{name}: offset");
                // Half a unit in the last place of bf16 is 2⁻⁸ of a value at most.
                let expected = tensor("nf4.dequant", kind).to_kind(Kind::Float);
                let off = (nf4.dequantise(Kind::Float) - &expected).abs() - expected.abs() / 256.0;
                assert!(off.max().double_value(&[]) <= 1e-12, "{name}: values");

                let Some(Quantised::Int8(int8)) = Quantised::new(&w, Storage::Int8) else {
                    panic!()
                };
                assert_eq!(int8.codes, tensor("int8.codes", Kind::Int8), "{name}: int8");
                assert_eq!(int8.scales, tensor("int8.scales", Kind::Float), "{name}: int8 scales");
            }
        }
    }
}
