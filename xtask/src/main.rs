//! Sets up libtorch, builds, forwards to the binary, tests, benchmarks.

fn main() {}
