// AdamW in one pass over a parameter; formulas, 8-bit blocks and random bits are those of adamw.rs, blockwise.rs and
// stochastic.rs.

typedef unsigned char u8;
typedef unsigned long long u64;

__device__ __forceinline__ u64 mix(u64 x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// 16 random bits for element i.
__device__ __forceinline__ u32 draw(u64 stream, i64 i) {
  u64 key = mix(stream ^ mix((u64)i >> 16));
  u32 x = ((u32)i & 0xffffu) ^ (u32)key;
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  return ((x ^ (x >> 16)) + (u32)(key >> 32)) >> 16;
}

__device__ __forceinline__ T narrow_by_chance(float x, u32 r) {
#ifdef ELEMENT_BF16
  u32 bits = __float_as_uint(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return narrow(x);
  return (T)((bits + r) >> 16);
#else
  return narrow(x);
#endif
}

// One weight: fp32 at w, its bf16 copy at `copy` if that is not null; without w, the bf16 one at `copy` is all there is.
// `fresh1` is 1 − β₁, `fresh2` 1 − β₂, `keep` 1 − lr λ, `rate` lr / (1 − β₁ᵗ), `root` 1 / √(1 − β₂ᵗ): made on the host,
// in fp64.
__device__ __forceinline__ void update(i64 i, float *w, T *copy, u64 stream, float grad, float &m, float &v, float clip,
                                       float fresh1, float beta2, float fresh2, float eps, float keep, float rate,
                                       float root) {
  float g = clip * grad;
  m += fresh1 * (g - m);
  v = beta2 * v + fresh2 * g * g;
  float before = w ? w[i] : widen(copy[i]);
  float after = before * keep - rate * m / (sqrtf(v) * root + eps);
  if (!w) {
    copy[i] = narrow_by_chance(after, draw(stream, i));
    return;
  }
  w[i] = after;
  if (copy) copy[i] = narrow(after);
}

extern "C" __global__ void adamw(float *w, T *copy, i64 stream, const float *grad, float *m, float *v, i64 n, float clip,
                                 float fresh1, float beta2, float fresh2, float eps, float keep, float rate,
                                 float root) {
  i64 step = (i64)gridDim.x * blockDim.x;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    float m1 = m[i], v1 = v[i];
    update(i, w, copy, (u64)stream, grad[i], m1, v1, clip, fresh1, beta2, fresh2, eps, keep, rate, root);
    m[i] = m1;
    v[i] = v1;
  }
}

// The largest x of a block, for every thread; x ≥ 0. `scratch` holds 32 floats; all threads call.
__device__ __forceinline__ float block_max(float x, float *scratch) {
  for (int reach = WARP / 2; reach > 0; reach /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, reach));
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, n_warps = blockDim.x / WARP;
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = lane < n_warps ? scratch[lane] : 0.0f;
  for (int reach = WARP / 2; reach > 0; reach /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, reach));
  __syncthreads(); // `scratch` may be used again
  return x;
}

// Which of the `n` values from zero upwards is nearest to x ≥ 0; of two equally near, the lower.
__device__ __forceinline__ int nearest(const float *values, int n, float x) {
  int low = 0, high = n - 1; // values[low] ≤ x
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (values[middle] <= x) low = middle;
    else high = middle - 1;
  }
  return low + 1 < n && x > (values[low] + values[low + 1]) / 2 ? low + 1 : low;
}

// A block of 256 threads per block of 256 elements. SIGNED_BOOK and UNSIGNED_BOOK come before this file.
extern "C" __global__ void adamw_blockwise(float *w, T *copy, i64 stream, const float *grad, u8 *m, float *m_scales, u8 *v,
                                           float *v_scales, i64 n, float clip, float fresh1, float beta2, float fresh2,
                                           float eps, float keep, float rate, float root) {
  constexpr int BLOCK = 256, ZERO = 127; // ZERO: the code of 0 in the signed book
  __shared__ float signed_book[BLOCK], unsigned_book[BLOCK], scratch[WARP];
  int lane = threadIdx.x;
  signed_book[lane] = SIGNED_BOOK[lane];
  unsigned_book[lane] = UNSIGNED_BOOK[lane];
  __syncthreads();
  for (i64 block = blockIdx.x; block * BLOCK < n; block += gridDim.x) {
    i64 i = block * BLOCK + lane;
    bool there = i < n;
    float m1 = 0.0f, v1 = 0.0f;
    if (there) {
      m1 = signed_book[m[i]] * m_scales[block];
      v1 = unsigned_book[v[i]] * v_scales[block];
      update(i, w, copy, (u64)stream, grad[i], m1, v1, clip, fresh1, beta2, fresh2, eps, keep, rate, root);
    }
    float m_max = block_max(fabsf(m1), scratch), v_max = block_max(v1, scratch); // all have read the old scales
    if (there) {
      int first = m_max > 0.0f ? nearest(signed_book + ZERO, BLOCK - ZERO, fabsf(m1) / m_max) : 0;
      int second = v_max > 0.0f ? nearest(unsigned_book, BLOCK, v1 / v_max) : 0;
      m[i] = (u8)(m1 < 0.0f ? ZERO - min(first, ZERO) : ZERO + first);
      v[i] = (u8)(v1 > 0.0f ? max(second, 1) : second); // what is not zero stays so
    }
    if (lane == 0) {
      m_scales[block] = m_max;
      v_scales[block] = v_max;
    }
  }
}
