#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunesmith_tests::hostile::state(bytes);
});
