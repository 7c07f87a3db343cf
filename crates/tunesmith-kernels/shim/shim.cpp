// The C++ half of tunesmith-kernels: what libtorch offers in C++ and tch does not pass on.
//
// Every function catches whatever C++ throws and returns it as a heap string (null: success), which the Rust half
// frees with tunesmith_free_error. No exception and no panic crosses this border.

#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace {

// What Rust gives a node: a boxed closure, called at most once, and the function that drops it unused.
// `backward` receives n_out gradients (null where none arrived) and fills n_in slots with new tensors (null: none);
// it returns null, or an error string that Rust allocated with strdup's allocator.
extern "C" {
typedef char *(*tunesmith_backward)(void *closure, const at::Tensor *const *grads, int64_t n_out, at::Tensor **out,
                                    int64_t n_in);
typedef void (*tunesmith_drop)(void *closure);
}

struct RustNode final : torch::autograd::Node {
  void *closure = nullptr;
  tunesmith_backward backward = nullptr;
  tunesmith_drop drop = nullptr;
  int64_t n_inputs = 0;
  std::string label;

  ~RustNode() override { release_variables(); }

  std::string name() const override { return label; }

  void release_variables() override {
    if (closure != nullptr) {
      drop(closure);
      closure = nullptr;
    }
  }

  torch::autograd::variable_list apply(torch::autograd::variable_list &&grads) override {
    TORCH_CHECK(closure != nullptr, "second backward through ", label,
                ": a coarse node frees what it saved after its first backward");
    std::vector<const at::Tensor *> grad_ptrs;
    for (auto &g : grads) grad_ptrs.push_back(g.defined() ? &g : nullptr);
    std::vector<at::Tensor *> out(n_inputs, nullptr);
    void *once = closure;
    closure = nullptr; // Rust consumes it, whatever happens
    char *error = backward(once, grad_ptrs.data(), grad_ptrs.size(), out.data(), n_inputs);
    torch::autograd::variable_list result(n_inputs);
    for (int64_t i = 0; i < n_inputs; i++) {
      if (out[i] != nullptr) {
        result[i] = std::move(*out[i]);
        delete out[i];
      }
    }
    if (error != nullptr) {
      std::string message(error);
      free(error);
      TORCH_CHECK(false, label, ": ", message);
    }
    return result;
  }
};

} // namespace

extern "C" {

void tunesmith_free_error(char *error) { free(error); }

char *tunesmith_strdup(const char *text, size_t length) { return strndup(text, length); }

// Lets oneDNN round inputs of fp32 products to bf16 if it likes; on CPUs without the units for it, it computes in fp32.
// CUDA's own switch stays: setFloat32MatmulPrecision("medium") would turn on TF32 there, too.
char *tunesmith_let_onednn_multiply() {
  return guarded([] {
    at::globalContext().setFloat32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL, at::Float32Precision::BF16);
  });
}

// Runs `body(data)` once on every thread of libtorch's OpenMP pool, or once where there is no such pool. The entry point
// is looked up rather than linked: a second OpenMP runtime in the process would be a second pool on the same cores.
void tunesmith_parallel(void (*body)(void *), void *data) {
  using parallel_t = void (*)(void (*)(void *), void *, unsigned, unsigned);
  static const auto parallel = reinterpret_cast<parallel_t>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  if (parallel == nullptr)
    body(data);
  else
    parallel(body, data, 0, 0); // 0 threads: as many as at::set_num_threads said
}

// Makes `outputs` (computed outside autograd) results of a node whose backward is the Rust closure.
// The closure is owned by the node from here on, or dropped at once when no input needs a gradient.
char *tunesmith_attach_node(const char *label, at::Tensor *const *inputs, int64_t n_inputs, at::Tensor *const *outputs,
                            int64_t n_outputs, void *closure, tunesmith_backward backward, tunesmith_drop drop) {
  return guarded([&] {
    std::vector<at::Tensor> ins;
    for (int64_t i = 0; i < n_inputs; i++) ins.push_back(*inputs[i]);
    auto node = std::shared_ptr<RustNode>(new RustNode(), torch::autograd::deleteNode);
    node->closure = closure;
    node->backward = backward;
    node->drop = drop;
    node->n_inputs = n_inputs;
    node->label = label;
    for (int64_t i = 0; i < n_outputs; i++)
      TORCH_CHECK(!outputs[i]->requires_grad(), label, ": output ", i,
                  " already has a history; compute it without gradient tracking");
    if (!torch::autograd::compute_requires_grad(ins)) return; // node dies here and drops the closure
    node->set_next_edges(torch::autograd::collect_next_edges(ins));
    for (int64_t i = 0; i < n_outputs; i++) torch::autograd::set_history(*outputs[i], node);
  });
}
}
