//! How libtorch's threads wait, and how memory is kept.
//!
//! # Why
//! libgomp's workers spin at a barrier for millions of rounds before they sleep. Alone on the machine that is free; as
//! soon as anything else wants a core (another program, or tunesmith's own threads that encode ahead), a spinning
//! worker takes the core from the one it waits for: on 2 busy cores a training step took 10 times as long (570 against
//! 5,700 tokens/s on a model of 2 M weights).
//!
//! glibc hands every block above some size back to the kernel when it is freed, and gets the next one zeroed, page by
//! page: 0.9 of the 2.6 seconds that the kernel took in four steps of SmolLM2-135M. Here memory that was used once
//! stays with the process. Huge pages (`glibc.malloc.hugetlb`) are not asked for: on a busy machine the first step came
//! 22 to 31 seconds after the start instead of 15, and later steps took no less.
//!
//! Both read their settings when they are loaded, so the program starts itself once more with these (0.16 s); settings
//! of the user's own are left alone.

use std::{env, os::unix::process::CommandExt, process::Command};

/// Rounds that a waiting thread spins before it sleeps: some microseconds.
const SPIN_COUNT: &str = "1000";

/// No block below 1 GiB is mapped by itself, and nothing below 8 GiB is given back.
const MALLOC: &str =
    "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=8589934592";

/// Restarts the program with short spins and lasting memory, unless the environment already says something of them.
///
/// Returns where nothing is to be done, or where the restart fails: then the run is slow, not wrong.
pub(crate) fn settle() {
    let set = |name: &str| env::var_os(name).is_some();
    let spin = !set("GOMP_SPINCOUNT") && !set("OMP_WAIT_POLICY");
    let malloc = !set("GLIBC_TUNABLES");
    if !spin && !malloc {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut command = Command::new(program);
    command.args(env::args_os().skip(1));
    if spin {
        command.env("GOMP_SPINCOUNT", SPIN_COUNT);
    }
    if malloc {
        command.env("GLIBC_TUNABLES", MALLOC);
    }
    let error = command.exec();
    tracing::debug!("could not restart with short spins and lasting memory: {error}");
}
