//! End-to-end and golden tests: what they share.
