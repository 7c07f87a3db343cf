#![no_main]
#[path = "../../crates/tunesmith-data/tests/hostile/targets.rs"]
mod targets;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::card(bytes);
});
