//! Reads a recipe, builds the parts, runs a command.

fn main() {}
