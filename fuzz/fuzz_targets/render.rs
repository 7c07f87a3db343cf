#![no_main]
#[path = "../../crates/tunesmith-tokens/tests/hostile/targets.rs"]
mod targets;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::render(bytes);
});
