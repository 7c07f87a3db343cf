// What libtorch's CUDA side knows and tch does not ask it: streams, memory, graphs. Streams and memory are behind
// interfaces of libc10, so this compiles and links without CUDA; they answer once libtorch_cuda has been loaded.

#include "guarded.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/stack.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <dlfcn.h>

#include <cstdint>
#include <new>
#include <utility>
#include <vector>

namespace {

const c10::impl::DeviceGuardImplInterface *cuda() { return c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA); }

c10::Device at_index(int64_t index) { return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)}; }

// A member function of libtorch_cuda, by its name in the Itanium C++ ABI: there, `this` is the first argument.
template <typename F> F member(const char *name) {
  auto found = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  TORCH_CHECK(found != nullptr, "libtorch_cuda has no ", name);
  return found;
}

// Room for an at::cuda::CUDAGraph, whose header wants CUDA's: 2.11 needs 104 bytes.
struct alignas(64) Graph {
  char room[1024];
  c10::Stream before, side; // what was current before the capture, and the stream that is captured
};

} // namespace

extern "C" {

// The stream that libtorch's next operation on this device will be put into by the calling thread: a cudaStream_t.
char *tunesmith_device_stream(int64_t index, void **out) {
  return guarded([&] { *out = cuda()->getStreamNativeHandle(cuda()->getStream(at_index(index))); });
}

// Bytes: allocated now, the most that were allocated and reserved since the last reset, free and total on the device.
char *tunesmith_device_memory(int64_t index, int64_t *out) {
  return guarded([&] {
    auto *allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
    auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(index));
    auto [free, total] = allocator->getMemoryInfo(static_cast<c10::DeviceIndex>(index));
    out[0] = stats.allocated_bytes[0].current;
    out[1] = stats.allocated_bytes[0].peak;
    out[2] = stats.reserved_bytes[0].peak;
    out[3] = static_cast<int64_t>(free);
    out[4] = static_cast<int64_t>(total);
  });
}

// Gives unused memory back to the driver and lets the peaks begin again.
char *tunesmith_device_reset_memory(int64_t index) {
  return guarded([&] {
    auto *allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
    allocator->emptyCache();
    allocator->resetPeakStats(static_cast<c10::DeviceIndex>(index));
  });
}

// The L2 norm of each tensor, fp32, in a few launches for all: (n).
char *tunesmith_norms(const at::Tensor *const *tensors, int64_t n, at::Tensor **out) {
  return guarded([&] {
    std::vector<at::Tensor> all;
    for (int64_t i = 0; i < n; i++) all.push_back(*tensors[i]);
    out[0] = new at::Tensor(at::stack(at::_foreach_norm(all, 2)));
  });
}

// A capture of what the calling thread does on this device from here on; it runs when it is replayed.
char *tunesmith_graph_begin(int64_t index, void **out) {
  return guarded([&] {
    using make_t = void (*)(void *, bool);
    using begin_t = void (*)(void *, std::pair<unsigned long long, unsigned long long>, unsigned);
    auto make = member<make_t>("_ZN2at4cuda9CUDAGraphC1Eb");
    auto begin = member<begin_t>("_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
    auto device = at_index(index);
    c10::DeviceGuard current(device); // a capture takes the current stream of the current device
    auto before = cuda()->getStream(device);
    cuda()->synchronizeStream(before);
    auto side = cuda()->getStreamFromGlobalPool(device); // the default stream cannot be captured
    auto graph = new Graph{{}, before, side};
    cuda()->exchangeStream(side);
    try {
      make(graph->room, false);
      begin(graph->room, {0, 0}, /*cudaStreamCaptureModeThreadLocal*/ 1);
    } catch (...) {
      cuda()->exchangeStream(before);
      throw; // what is half made is not freed: its destructor would want more of it
    }
    *out = graph;
  });
}

// Ends the capture and makes it ready to run.
char *tunesmith_graph_end(void *pointer) {
  return guarded([&] {
    auto graph = static_cast<Graph *>(pointer);
    auto end = member<void (*)(void *)>("_ZN2at4cuda9CUDAGraph11capture_endEv");
    c10::DeviceGuard current(graph->side.device());
    try {
      end(graph->room);
    } catch (...) {
      cuda()->exchangeStream(graph->before);
      throw;
    }
    cuda()->exchangeStream(graph->before);
  });
}

// Runs what was captured, on the stream that is current.
char *tunesmith_graph_replay(void *pointer) {
  return guarded([&] {
    static const auto replay = member<void (*)(void *)>("_ZN2at4cuda9CUDAGraph6replayEv");
    replay(static_cast<Graph *>(pointer)->room);
  });
}

// Frees a graph whose capture has ended.
char *tunesmith_graph_free(void *pointer) {
  return guarded([&] {
    auto graph = static_cast<Graph *>(pointer);
    member<void (*)(void *)>("_ZN2at4cuda9CUDAGraphD1Ev")(graph->room);
    delete graph;
  });
}
}
