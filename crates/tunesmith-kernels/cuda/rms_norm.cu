// RMSNorm: r = 1 / sqrt(mean(x²) + ε), y = (x · r) · w, where x · r is rounded to T first, as the CPU kernel does.

// One block per row of C elements; blockDim.x is a multiple of 32.
extern "C" __global__ void rms_norm(const T *x, const T *w, T *y, float *rstd, int c, float eps) {
  __shared__ float scratch[WARP];
  x += (i64)blockIdx.x * c;
  y += (i64)blockIdx.x * c;
  float squares = 0.0f;
  if (c % PACK == 0) {
    for (int i = threadIdx.x * PACK; i < c; i += blockDim.x * PACK) {
      Pack pack = load(x + i);
#pragma unroll
      for (int j = 0; j < PACK; j++) squares += widen(pack.lane[j]) * widen(pack.lane[j]);
    }
  } else {
    for (int i = threadIdx.x; i < c; i += blockDim.x) squares += widen(x[i]) * widen(x[i]);
  }
  float r = 1.0f / sqrtf(block_sum(squares, scratch) / c + eps);
  if (threadIdx.x == 0) rstd[blockIdx.x] = r;
  if (c % PACK == 0) {
    for (int i = threadIdx.x * PACK; i < c; i += blockDim.x * PACK) {
      Pack pack = load(x + i), weight = load(w + i);
#pragma unroll
      for (int j = 0; j < PACK; j++) pack.lane[j] = narrow(rounded(widen(pack.lane[j]) * r) * widen(weight.lane[j]));
      store(y + i, pack);
    }
  } else {
    for (int i = threadIdx.x; i < c; i += blockDim.x) y[i] = narrow(rounded(widen(x[i]) * r) * widen(w[i]));
  }
}

// dx += r (g − n · mean(g · n)), with n = x · r and g = dy · w; each block sums dy · n of its rows into a row of `dw`
// (grid, C), or none where `dw` is null. Blocks take rows in turn; shared memory: C floats where `dw` is wanted.
extern "C" __global__ void rms_norm_backward(const T *dy, const T *x, const T *w, const float *rstd, T *dx, float *dw,
                                             int n_rows, int c) {
  extern __shared__ float sums[];
  __shared__ float scratch[WARP];
  if (dw)
    for (int i = threadIdx.x; i < c; i += blockDim.x) sums[i] = 0.0f;
  for (i64 row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const T *x_row = x + row * c, *dy_row = dy + row * c;
    T *dx_row = dx + row * c;
    float r = rstd[row], product = 0.0f;
    for (int i = threadIdx.x; i < c; i += blockDim.x) {
      float n = widen(x_row[i]) * r, g = widen(dy_row[i]) * widen(w[i]);
      product += g * n;
      if (dw) sums[i] += widen(dy_row[i]) * n; // a column belongs to one thread
    }
    float mean = block_sum(product, scratch) / c;
    for (int i = threadIdx.x; i < c; i += blockDim.x) {
      float n = widen(x_row[i]) * r, g = widen(dy_row[i]) * widen(w[i]);
      dx_row[i] = narrow(widen(dx_row[i]) + r * (g - n * mean));
    }
  }
  if (dw)
    for (int i = threadIdx.x; i < c; i += blockDim.x) dw[(i64)blockIdx.x * c + i] = sums[i];
}
