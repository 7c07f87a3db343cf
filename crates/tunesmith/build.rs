//! Gives the binary a run path to libtorch, so that `target/release/tunesmith` runs directly.
//!
//! It is a RUNPATH, over which `LD_LIBRARY_PATH` wins. A linker argument of this package alone leaves the flags of
//! all other packages as they are, so nothing else is compiled again when libtorch moves.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        println!("cargo:rustc-link-arg-bins=-Wl,--enable-new-dtags,-rpath,{libtorch}/lib");
    }
}
