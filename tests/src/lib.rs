//! End-to-end and golden tests: what they share.

use std::path::{Path, PathBuf};

/// The folder of golden numbers, `tests/golden`.
pub fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The folder of real models and data named by `TUNESMITH_PARTS`, or `None` with the reason printed.
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
pub fn parts() -> Option<PathBuf> {
    let folder = std::env::var_os("TUNESMITH_PARTS").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: TUNESMITH_PARTS is not set; it names the folder with smollm2-135m-instruct/ and stories15m/");
    }
    folder
}
