//! Every instruction set against plain arithmetic.

use super::*;

/// Every instruction set the machine has.
pub(crate) fn isas() -> Vec<Isa> {
    let all = [Isa::Portable, Isa::Avx2, Isa::Avx512];
    all.into_iter().filter(|&isa| isa as u8 <= Isa::here() as u8).collect()
}

struct Exp<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Exp<'_> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        for (x, y) in self.0.chunks_exact(LANES).zip(self.1.chunks_exact_mut(LANES)) {
            // SAFETY: chunks of LANES.
            unsafe { S::store(y.as_mut_ptr(), S::exp(S::load(x.as_ptr()))) }
        }
    }
}

#[test]
fn exp_agrees_with_libm_to_2_ulp() {
    let xs: Vec<f32> = (0..4096).map(|i| -87.0 + i as f32 * (175.0 / 4096.0)).collect();
    for isa in isas() {
        let mut ys = vec![0.0; xs.len()];
        // SAFETY: detected.
        unsafe { run_on(isa, Exp(&xs, &mut ys)) };
        for (x, y) in xs.iter().zip(&ys) {
            let expected = f64::from(*x).exp();
            let error = (f64::from(*y) / expected - 1.0).abs();
            assert!(error < 2.4e-7, "{isa:?}: exp({x}) = {y:e}, expected {expected:e}");
        }
    }
}

struct Sums<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Sums<'_> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        // SAFETY: LANES vectors, one vector.
        unsafe {
            let x = std::array::from_fn(|i| S::load(self.0.as_ptr().add(i * LANES)));
            S::store(self.1.as_mut_ptr(), S::sums(&x));
        }
    }
}

#[test]
fn each_vector_has_its_sum() {
    let x: Vec<f32> = (0..LANES * LANES).map(|i| (i as f32 * 0.7).sin()).collect();
    for isa in isas() {
        let mut sums = vec![0.0; LANES];
        // SAFETY: detected.
        unsafe { run_on(isa, Sums(&x, &mut sums)) };
        for (sum, x) in sums.iter().zip(x.chunks(LANES)) {
            assert!((sum - x.iter().sum::<f32>()).abs() < 1e-5, "{isa:?}");
        }
    }
}

struct Dot<'a>(&'a [bf16], &'a [bf16], &'a mut [f32]);

impl Kernel for Dot<'_> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        // SAFETY: LANES pairs, LANES sums.
        unsafe {
            let (a, b) = (S::load_pairs(self.0.as_ptr()), S::load_pairs(self.1.as_ptr()));
            S::store(self.2.as_mut_ptr(), S::dot_pairs(a, b, S::load(self.2.as_ptr())));
        }
    }
}

#[test]
fn neighbours_are_multiplied_and_summed() {
    let [a, b] = [0.37f32, 0.11].map(|step| {
        (0..2 * LANES).map(|i| bf16::from_f32((i as f32 * step).sin())).collect::<Vec<_>>()
    });
    let product = |i: usize| a[i].to_f32() * b[i].to_f32();
    for isa in isas().into_iter().map(Some).chain([None]) {
        let mut sums = vec![1.0; LANES];
        // SAFETY: detected; `None` is the best there is for pairs.
        unsafe {
            match isa {
                Some(isa) => run_on(isa, Dot(&a, &b, &mut sums)),
                None => run_pairs(Dot(&a, &b, &mut sums)),
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            let expected = 1.0 + product(2 * i) + product(2 * i + 1);
            assert!((sum - expected).abs() < 1e-6, "{isa:?}, lane {i}: {sum}, {expected}");
        }
    }
}

struct Zip<'a>(&'a [bf16], &'a mut [bf16]);

impl Kernel for Zip<'_> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let (from, to) = (self.0.as_ptr(), self.1.as_mut_ptr());
        // SAFETY: two rows of LANES; room for two vectors of pairs.
        unsafe {
            S::store_pairs(to, S::zip_pairs(from, from.add(LANES)));
            S::store_pairs(to.add(2 * LANES), S::splat_pair(from.add(3)));
        }
    }
}

#[test]
fn two_rows_become_pairs() {
    let rows: Vec<bf16> = (0..2 * LANES).map(|i| bf16::from_f32(i as f32)).collect();
    for isa in isas() {
        let mut found = vec![bf16::ZERO; 4 * LANES];
        // SAFETY: detected.
        unsafe { run_on(isa, Zip(&rows, &mut found)) };
        let zipped = (0..LANES).flat_map(|i| [rows[i], rows[LANES + i]]);
        let expected: Vec<bf16> = zipped.chain([rows[3], rows[4]].repeat(LANES)).collect();
        assert_eq!(found, expected, "{isa:?}");
    }
}

struct Round<'a>(&'a [f32], &'a mut [bf16]);

impl Kernel for Round<'_> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        // SAFETY: both hold LANES.
        unsafe { S::store_bf16(self.1.as_mut_ptr(), S::load(self.0.as_ptr())) }
    }
}

#[test]
fn bf16_is_rounded_to_nearest_even() {
    let tie = |bits: u32| f32::from_bits(bits);
    let mut xs = [0.0f32; LANES];
    xs[..8].copy_from_slice(&[
        1.0,
        tie(0x3f80_8000), // half way, even below
        tie(0x3f81_8000), // half way, even above
        tie(0x3f80_8001),
        -3.3e38,
        f32::INFINITY,
        f32::NAN,
        f32::from_bits(0x7fff_ffff), // a NaN that plain addition would turn into −0
    ]);
    for isa in isas() {
        let mut ys = [bf16::ZERO; LANES];
        // SAFETY: detected.
        unsafe { run_on(isa, Round(&xs, &mut ys)) };
        for (x, y) in xs.iter().zip(ys) {
            let expected = bf16::from_f32(*x);
            assert!(y == expected || (y.is_nan() && x.is_nan()), "{isa:?}: {x} gives {y}");
        }
    }
}
