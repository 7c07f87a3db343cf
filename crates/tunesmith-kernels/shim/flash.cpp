// Varlen flash attention, which tch leaves out because its name ends in `_forward`. The operators are declared in
// libtorch_cpu, so this links without CUDA; they answer once libtorch_cuda has been loaded.

#include "guarded.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/_cudnn_attention_backward.h>
#include <ATen/ops/_cudnn_attention_forward.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace {

// A token sees `window` tokens, itself included: window − 1 to the left. 0: all of them.
std::optional<int64_t> left(int64_t window) {
  return window > 0 ? std::optional<int64_t>(window - 1) : std::nullopt;
}

std::optional<int64_t> right(int64_t window) { return window > 0 ? std::optional<int64_t>(0) : std::nullopt; }

} // namespace

extern "C" {

// tensors: q (N, H, D), k and v (S, K, D), borders of the documents (int32) in q and in k. Where a document has more keys
// than queries, its last query sees all of them. out: attended values, log-sum-exps.
char *tunesmith_flash_attention(const at::Tensor *const *tensors, int64_t longest, double scale, int64_t window,
                                at::Tensor **out) {
  return guarded([&] {
    const at::Tensor &queries = *tensors[3], &keys = *tensors[4];
    auto result = at::_flash_attention_forward(*tensors[0], *tensors[1], *tensors[2], queries, keys, longest, longest,
                                               /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, scale,
                                               left(window), right(window));
    out[0] = new at::Tensor(std::get<0>(result));
    out[1] = new at::Tensor(std::get<1>(result));
  });
}

// tensors: dout, q, k, v, what the forward pass gave, both borders, the state of a generator that nothing reads.
char *tunesmith_flash_attention_backward(const at::Tensor *const *tensors, int64_t longest, double scale, int64_t window,
                                         at::Tensor **out) {
  return guarded([&] {
    const at::Tensor &queries = *tensors[6], &keys = *tensors[7], &random = *tensors[8];
    auto [dq, dk, dv] = at::_flash_attention_backward(*tensors[0], *tensors[1], *tensors[2], *tensors[3], *tensors[4],
                                                      *tensors[5], queries, keys, longest, longest,
                                                      /*dropout_p=*/0.0, /*is_causal=*/true, random, random, scale,
                                                      left(window), right(window));
    out[0] = new at::Tensor(dq);
    out[1] = new at::Tensor(dk);
    out[2] = new at::Tensor(dv);
  });
}

// The same by cuDNN, which libtorch has but does not choose for packed documents; no window. out: as above, and what the
// backward pass wants of the generator.
char *tunesmith_cudnn_attention(const at::Tensor *const *tensors, int64_t longest, double scale, int64_t window,
                                at::Tensor **out) {
  return guarded([&] {
    TORCH_CHECK(window == 0, "cuDNN's ragged attention has no window");
    const at::Tensor &borders = *tensors[3];
    auto result = at::_cudnn_attention_forward(*tensors[0], *tensors[1], *tensors[2], std::nullopt, borders, borders,
                                               longest, longest, /*compute_log_sumexp=*/true, /*dropout_p=*/0.0,
                                               /*is_causal=*/true, /*return_debug_mask=*/false, scale);
    out[0] = new at::Tensor(std::get<0>(result));
    out[1] = new at::Tensor(std::get<1>(result));
    out[2] = new at::Tensor(std::get<6>(result));
    out[3] = new at::Tensor(std::get<7>(result));
  });
}

// tensors: dout, q, k, v, then the four of the forward pass, borders.
char *tunesmith_cudnn_attention_backward(const at::Tensor *const *tensors, int64_t longest, double scale,
                                         int64_t window, at::Tensor **out) {
  return guarded([&] {
    TORCH_CHECK(window == 0, "cuDNN's ragged attention has no window");
    const at::Tensor &borders = *tensors[8];
    auto [dq, dk, dv] = at::_cudnn_attention_backward(*tensors[0], *tensors[1], *tensors[2], *tensors[3], *tensors[4],
                                                      *tensors[5], *tensors[6], *tensors[7], /*attn_bias=*/at::Tensor(),
                                                      borders, borders, longest, longest, /*dropout_p=*/0.0,
                                                      /*is_causal=*/true, scale);
    out[0] = new at::Tensor(dq);
    out[1] = new at::Tensor(dk);
    out[2] = new at::Tensor(dv);
  });
}
}
