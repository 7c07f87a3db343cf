// What every function of the shim is wrapped in: no exception crosses the border to Rust.

#pragma once

#include <cstring>
#include <exception>

// Runs `body`; null, or what it threw as a heap string that Rust frees with tunesmith_free_error.
template <typename F> char *guarded(F &&body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception &e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}
