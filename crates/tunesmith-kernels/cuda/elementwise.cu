// Rotary embedding and the gate of the MLP: each one pass over memory.

// (x₁, x₂) ← (x₁ c − s x₂, x₂ c + s x₁) for the pairs i, i + D/2 of each head; x (N, heads, D), cos and sin (N, D).
// One block per token; `sign` is −1 on the way back.
extern "C" __global__ void rotate(T *x, const T *cos, const T *sin, int heads, int d, float sign) {
  i64 token = blockIdx.x;
  int half = d / 2;
  x += token * heads * d;
  cos += token * d;
  sin += token * d;
  for (int i = threadIdx.x; i < heads * half; i += blockDim.x) {
    int at = i % half;
    T *pair = x + (i / half) * d + at;
    float c = widen(cos[at]), s = sign * widen(sin[at]);
    float x1 = widen(pair[0]), x2 = widen(pair[half]);
    pair[0] = narrow(x1 * c - x2 * s);
    pair[half] = narrow(x2 * c + x1 * s);
  }
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// out = silu(gate) · up
extern "C" __global__ void swiglu(const T *gate, const T *up, T *out, i64 n) {
  i64 step = (i64)gridDim.x * blockDim.x * PACK;
  for (i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * PACK; i < n; i += step) {
    if (i + PACK <= n) {
      Pack g = load(gate + i), u = load(up + i);
#pragma unroll
      for (int j = 0; j < PACK; j++) {
        float x = widen(g.lane[j]);
        g.lane[j] = narrow(x * sigmoid(x) * widen(u.lane[j]));
      }
      store(out + i, g);
    } else {
      for (i64 k = i; k < n; k++) out[k] = narrow(widen(gate[k]) * sigmoid(widen(gate[k])) * widen(up[k]));
    }
  }
}

__device__ __forceinline__ void gate_gradient(float da, T *gate, T *up) {
  float g = widen(*gate), u = widen(*up), s = sigmoid(g);
  *gate = narrow(da * u * s * (1.0f + g * (1.0f - s)));
  *up = narrow(da * g * s);
}

// gate and up become their gradients
extern "C" __global__ void swiglu_backward(const T *da, T *gate, T *up, i64 n) {
  i64 step = (i64)gridDim.x * blockDim.x * PACK;
  for (i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * PACK; i < n; i += step) {
    if (i + PACK <= n) {
      Pack a = load(da + i), g = load(gate + i), u = load(up + i);
#pragma unroll
      for (int j = 0; j < PACK; j++) gate_gradient(widen(a.lane[j]), &g.lane[j], &u.lane[j]);
      store(gate + i, g);
      store(up + i, u);
    } else {
      for (i64 k = i; k < n; k++) gate_gradient(widen(da[k]), gate + k, up + k);
    }
  }
}
