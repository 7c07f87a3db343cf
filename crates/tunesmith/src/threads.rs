//! How libtorch's threads wait.
//!
//! # Why
//! libgomp's workers spin at a barrier for millions of rounds before they sleep. Alone on the machine that is free; as
//! soon as anything else wants a core (another program, or tunesmith's own threads that encode ahead), a spinning
//! worker takes the core from the one it waits for: on 2 busy cores a training step took 10 times as long (570 against
//! 5,700 tokens/s on a model of 2 M weights). libgomp reads its settings when it is loaded, so the program starts
//! itself once more with a short spin (0.16 s); a setting of the user's own is left alone.

use std::{env, os::unix::process::CommandExt, process::Command};

/// Rounds that a waiting thread spins before it sleeps: some microseconds.
const SPIN_COUNT: &str = "1000";

/// Restarts the program with a short spin, unless it has one or the user has a wait policy.
///
/// Returns where nothing is to be done, or where the restart fails: then the run is slow, not wrong.
pub(crate) fn settle() {
    let set = |name: &str| env::var_os(name).is_some();
    if set("GOMP_SPINCOUNT") || set("OMP_WAIT_POLICY") {
        return;
    }
    if let Ok(program) = env::current_exe() {
        let error = Command::new(program)
            .args(env::args_os().skip(1))
            .env("GOMP_SPINCOUNT", SPIN_COUNT)
            .exec();
        tracing::debug!("could not restart with a short spin: {error}");
    }
}
