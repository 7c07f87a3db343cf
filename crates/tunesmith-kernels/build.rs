//! Compiles the C++ shim against the libtorch that tch was built with.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=shim");
    let lib = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from);
    let Some(root) = lib.as_deref().and_then(|lib| lib.parent()) else {
        println!(
            "cargo::error=torch-sys did not say where libtorch is; build through `cargo xtask build`"
        );
        return;
    };
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false) // libtorch's headers are not ours to mend
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        .file("shim/shim.cpp")
        .file("shim/flash.cpp")
        .file("shim/device.cpp")
        .compile("tunesmith_shim");
}
