// AdamW in one pass over all parameters; formulas, 8-bit blocks and random bits are those of adamw.rs, blockwise.rs and
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

// A parameter, in the words that src/cuda/adamw.rs writes. Its weights are fp32 at w, their bf16 copy at `copy` if that is
// not null; without w, the bf16 ones at `copy` are all there is. Moments are fp32, or codes with scales.
// `keep` is 1 − lr λ, `rate` lr / (1 − β₁ᵗ): made on the host, in fp64.
struct Param {
  i64 first; // of the launch's blocks, those of this parameter begin here
  i64 n;
  float *w;
  T *copy;
  u64 stream;
  const float *grad;
  void *m, *v;
  float *m_scales, *v_scales;
  float keep, rate;
};

// What all parameters share: `fresh1` is 1 − β₁, `fresh2` 1 − β₂, `root` 1 / √(1 − β₂ᵗ).
struct Factors {
  float clip, fresh1, beta2, fresh2, eps, root;
};

// Elements of a block of threads.
constexpr i64 CHUNK = 16384;

// The parameter of this block of threads: the last that begins at it or before.
__device__ __forceinline__ Param own(const Param *params, int n_params) {
  int low = 0, high = n_params - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (params[middle].first <= blockIdx.x) low = middle;
    else high = middle - 1;
  }
  return params[low];
}

__device__ __forceinline__ void update(const Param &p, const Factors &f, i64 i, float &m, float &v) {
  float g = f.clip * p.grad[i];
  m += f.fresh1 * (g - m);
  v = f.beta2 * v + f.fresh2 * g * g;
  float before = p.w ? p.w[i] : widen(p.copy[i]);
  float after = before * p.keep - p.rate * m / (sqrtf(v) * f.root + f.eps);
  if (!p.w) {
    p.copy[i] = narrow_by_chance(after, draw(p.stream, i));
    return;
  }
  p.w[i] = after;
  if (p.copy) p.copy[i] = narrow(after);
}

extern "C" __global__ void adamw(const Param *params, int n_params, float clip, float fresh1, float beta2, float fresh2,
                                 float eps, float root) {
  Factors factors{clip, fresh1, beta2, fresh2, eps, root};
  Param p = own(params, n_params);
  float *m = (float *)p.m, *v = (float *)p.v;
  i64 start = (blockIdx.x - p.first) * CHUNK, end = min(start + CHUNK, p.n);
  for (i64 i = start + threadIdx.x; i < end; i += blockDim.x) {
    float m1 = m[i], v1 = v[i];
    update(p, factors, i, m1, v1);
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

// 256 threads, as many as elements share a scale. SIGNED_BOOK and UNSIGNED_BOOK come before this file.
extern "C" __global__ void adamw_blockwise(const Param *params, int n_params, float clip, float fresh1, float beta2,
                                           float fresh2, float eps, float root) {
  constexpr int BLOCK = 256, ZERO = 127; // ZERO: the code of 0 in the signed book
  __shared__ float signed_book[BLOCK], unsigned_book[BLOCK], scratch[WARP];
  Factors factors{clip, fresh1, beta2, fresh2, eps, root};
  Param p = own(params, n_params);
  u8 *m = (u8 *)p.m, *v = (u8 *)p.v;
  int lane = threadIdx.x;
  signed_book[lane] = SIGNED_BOOK[lane];
  unsigned_book[lane] = UNSIGNED_BOOK[lane];
  __syncthreads();
  i64 start = (blockIdx.x - p.first) * CHUNK, end = min(start + CHUNK, p.n);
  for (; start < end; start += BLOCK) {
    i64 i = start + lane, block = start / BLOCK;
    bool there = i < end;
    float m1 = 0.0f, v1 = 0.0f;
    if (there) {
      m1 = signed_book[m[i]] * p.m_scales[block];
      v1 = unsigned_book[v[i]] * p.v_scales[block];
      update(p, factors, i, m1, v1);
    }
    float m_max = block_max(fabsf(m1), scratch), v_max = block_max(v1, scratch); // all have read the old scales
    if (there) {
      int first = m_max > 0.0f ? nearest(signed_book + ZERO, BLOCK - ZERO, fabsf(m1) / m_max) : 0;
      int second = v_max > 0.0f ? nearest(unsigned_book, BLOCK, v1 / v_max) : 0;
      m[i] = (u8)(m1 < 0.0f ? ZERO - min(first, ZERO) : ZERO + first);
      v[i] = (u8)(v1 > 0.0f ? max(second, 1) : second); // what is not zero stays so
    }
    if (lane == 0) {
      p.m_scales[block] = m_max;
      p.v_scales[block] = v_max;
    }
  }
}
