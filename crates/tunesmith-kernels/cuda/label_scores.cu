// ln p of one label per row of logits, and its gradient in place. One block per row of V.

#define INFINITY __int_as_float(0x7f800000)

// lse = ln Σ eᶻ, logprob = z[label] − lse, correct: the label is the first of the largest.
extern "C" __global__ void label_scores(const T *logits, const i64 *labels, float *logprob, float *lse, bool *correct,
                                        int v) {
  __shared__ float best_of[WARP], sum_of[WARP];
  __shared__ int at_of[WARP];
  const T *z = logits + (i64)blockIdx.x * v;
  float best = -INFINITY, sum = 0.0f; // the sum is relative to the best so far
  int at = v;
  for (int i = threadIdx.x; i < v; i += blockDim.x) {
    float x = widen(z[i]);
    if (x > best) {
      sum = sum * expf(best - x) + 1.0f;
      best = x;
      at = i;
    } else {
      sum += expf(x - best);
    }
  }
  auto meet = [&](float best2, float sum2, int at2) {
    float top = fmaxf(best, best2);
    if (top == -INFINITY) return; // both saw nothing
    sum = sum * expf(best - top) + sum2 * expf(best2 - top);
    if (best2 > best || (best2 == best && at2 < at)) at = at2;
    best = top;
  };
  for (int reach = WARP / 2; reach > 0; reach /= 2)
    meet(__shfl_xor_sync(ALL, best, reach), __shfl_xor_sync(ALL, sum, reach), __shfl_xor_sync(ALL, at, reach));
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, n_warps = blockDim.x / WARP;
  if (lane == 0) best_of[warp] = best, sum_of[warp] = sum, at_of[warp] = at;
  __syncthreads();
  if (warp != 0) return;
  best = lane < n_warps ? best_of[lane] : -INFINITY;
  sum = lane < n_warps ? sum_of[lane] : 0.0f;
  at = lane < n_warps ? at_of[lane] : v;
  for (int reach = WARP / 2; reach > 0; reach /= 2)
    meet(__shfl_xor_sync(ALL, best, reach), __shfl_xor_sync(ALL, sum, reach), __shfl_xor_sync(ALL, at, reach));
  if (lane != 0) return;
  i64 label = labels[blockIdx.x];
  float denominator = best + logf(sum);
  lse[blockIdx.x] = denominator;
  logprob[blockIdx.x] = widen(z[label]) - denominator;
  correct[blockIdx.x] = at == label;
}

// z ← grad · (onehot(label) − e^(z − lse))
extern "C" __global__ void label_scores_backward(T *logits, const i64 *labels, const float *lse, const float *grad, int v) {
  T *z = logits + (i64)blockIdx.x * v;
  float denominator = lse[blockIdx.x], g = grad[blockIdx.x];
  i64 label = labels[blockIdx.x];
  if (v % PACK == 0) {
    for (int i = threadIdx.x * PACK; i < v; i += blockDim.x * PACK) {
      Pack pack = load(z + i);
#pragma unroll
      for (int j = 0; j < PACK; j++)
        pack.lane[j] = narrow(g * ((i + j == label ? 1.0f : 0.0f) - expf(widen(pack.lane[j]) - denominator)));
      store(z + i, pack);
    }
  } else {
    for (int i = threadIdx.x; i < v; i += blockDim.x)
      z[i] = narrow(g * ((i == label ? 1.0f : 0.0f) - expf(widen(z[i]) - denominator)));
  }
}
