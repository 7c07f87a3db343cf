// What all kernels share. Compiled by NVRTC without any header; ELEMENT_BF16 chooses the dtype of T.

typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;

#ifdef ELEMENT_BF16
typedef u16 T;
__device__ __forceinline__ float widen(T x) { return __uint_as_float((u32)x << 16); }
// To the nearest bf16, ties to even; a NaN stays one.
__device__ __forceinline__ T narrow(float x) {
  u32 bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (T)((bits >> 16) | 0x40u);
  return (T)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
#else
typedef float T;
__device__ __forceinline__ float widen(T x) { return x; }
__device__ __forceinline__ T narrow(float x) { return x; }
#endif

// What a store into T and a load from it leave of x.
__device__ __forceinline__ float rounded(float x) { return widen(narrow(x)); }

// Elements of one 16-byte access. Rows whose length is a multiple of it are aligned, since tensors begin at 512 bytes.
constexpr int PACK = 16 / sizeof(T);
struct __align__(16) Pack {
  T lane[PACK];
};
__device__ __forceinline__ Pack load(const T *from) { return *reinterpret_cast<const Pack *>(from); }
__device__ __forceinline__ void store(T *to, const Pack &pack) { *reinterpret_cast<Pack *>(to) = pack; }

constexpr int WARP = 32;
constexpr u32 ALL = 0xffffffffu;

// The sum over a block, for every thread. `scratch` holds 32 floats; all threads call.
__device__ __forceinline__ float block_sum(float x, float *scratch) {
  for (int reach = WARP / 2; reach > 0; reach /= 2) x += __shfl_xor_sync(ALL, x, reach);
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, n_warps = blockDim.x / WARP;
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = lane < n_warps ? scratch[lane] : 0.0f;
  for (int reach = WARP / 2; reach > 0; reach /= 2) x += __shfl_xor_sync(ALL, x, reach);
  __syncthreads(); // `scratch` may be used again
  return x;
}
