//! Files that somebody made to do harm: one function for each parser of weights, configurations,
//! templates and checkpoints, for any bytes at all. (Those of data and logs have theirs beside them.)
//!
//! Each takes bytes, lets the parser have them, and says whether it refused. None may panic, hang, or ask for memory that
//! the bytes do not pay for. `fuzz/` hands them to libFuzzer, `tests/hostile.rs` to a short loop of mutations.

use std::{fs, path::PathBuf};
use tempfile::TempDir;
use tunesmith_model::{Config, LoadOptions, TensorFile, Transformer, gguf::Gguf};
use tunesmith_tokens::Template;
use tunesmith_train::{Checkpoint, Disk, RunState};

/// A parser, by what it reads.
pub struct Target {
    /// The file's name, as users know it.
    pub name: &'static str,
    /// Sound files to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Whether the bytes were accepted.
    pub accepts: fn(&[u8]) -> bool,
    /// Mutations that fit into a second or two.
    pub rounds: usize,
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "model.safetensors",
        seeds: || vec![golden("models/llama3/model.safetensors")],
        accepts: safetensors,
        rounds: 3000,
    },
    Target {
        name: "model.safetensors.index.json",
        seeds: index_seeds,
        accepts: index,
        rounds: 300,
    },
    Target { name: "config.json", seeds: config_seeds, accepts: config, rounds: 3000 },
    Target { name: "chat_template.jinja", seeds: template_seeds, accepts: template, rounds: 2000 },
    Target { name: "MANIFEST.json", seeds: manifest_seeds, accepts: manifest, rounds: 500 },
    Target { name: "state.json", seeds: state_seeds, accepts: state, rounds: 3000 },
    Target {
        name: "model.gguf",
        seeds: || vec![golden("gguf/blocks.gguf")],
        accepts: gguf,
        rounds: 1000,
    },
    Target { name: "adapter_config.json", seeds: adapter_seeds, accepts: adapter, rounds: 300 },
];

fn golden(path: &str) -> Vec<u8> {
    fs::read(crate::golden(path)).expect(path)
}

/// A folder with one file in it, in memory where there is any.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a temporary folder");
    let path = dir.path().join(name);
    fs::write(&path, bytes).expect(name);
    (dir, path)
}

/// A file of tensors, each of which is read.
pub fn safetensors(bytes: &[u8]) -> bool {
    let (_dir, path) = file("a.safetensors", bytes);
    TensorFile::open(&path)
        .is_ok_and(|file| file.names().iter().all(|name| file.tensor(name).is_ok()))
}

/// The index of a sharded model, beside one shard.
pub fn index(bytes: &[u8]) -> bool {
    let (dir, _) = file("model.safetensors.index.json", bytes);
    let write =
        |name: &str, from: &str| fs::write(dir.path().join(name), golden(from)).expect(name);
    write("config.json", "models/llama3/config.json");
    write("shard.safetensors", "models/llama3/model.safetensors");
    Transformer::load(dir.path(), LoadOptions::frozen(tch::Kind::Float, tch::Device::Cpu)).is_ok()
}

/// A model's configuration.
pub fn config(bytes: &[u8]) -> bool {
    let (dir, _) = file("config.json", bytes);
    Config::from_dir(dir.path()).is_ok()
}

/// A chat template; compiled, not run.
pub fn template(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).into_owned();
    Template::parse(&text, Vec::<(String, String)>::new()).is_ok()
}

/// The manifest of a checkpoint.
pub fn manifest(bytes: &[u8]) -> bool {
    let (dir, _) = file("unused", b"");
    let checkpoint = dir.path().join("step-000000004");
    fs::create_dir(&checkpoint).expect("a folder");
    for name in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let from = format!("checkpoint-format-1/run/checkpoints/step-000000004/{name}");
        fs::write(checkpoint.join(name), golden(&from)).expect(name);
    }
    fs::write(checkpoint.join("MANIFEST.json"), bytes).expect("a manifest");
    Checkpoint::newest(&Disk::default(), dir.path()).is_ok_and(|found| found.is_some())
}

/// The state of a checkpoint: its manifest would refuse other bytes, so they go to the parser alone.
pub fn state(bytes: &[u8]) -> bool {
    serde_json::from_slice::<RunState>(bytes).is_ok()
}

/// A GGUF file, each tensor of which is read.
pub fn gguf(bytes: &[u8]) -> bool {
    let (_dir, path) = file("model.gguf", bytes);
    Gguf::open(&path).is_ok_and(|gguf| {
        let _ = gguf.config_json(); // which a file without a model's metadata refuses
        gguf.names().all(|name| gguf.tensor(name).is_ok())
    })
}

/// The configuration of an adapter, beside its weights.
pub fn adapter(bytes: &[u8]) -> bool {
    let (dir, _) = file("adapter_config.json", bytes);
    let weights = golden("adapters/llama-all/adapter_model.safetensors");
    fs::write(dir.path().join("adapter_model.safetensors"), weights).expect("weights");
    let options = LoadOptions::frozen(tch::Kind::Float, tch::Device::Cpu);
    let mut model = Transformer::load(&crate::golden("models/llama3"), options).expect("a model");
    model.load_adapter(dir.path(), false).is_ok()
}

fn state_seeds() -> Vec<Vec<u8>> {
    vec![golden("checkpoint-format-1/run/checkpoints/step-000000004/state.json")]
}

fn adapter_seeds() -> Vec<Vec<u8>> {
    vec![golden("adapters/llama-all/adapter_config.json")]
}

fn config_seeds() -> Vec<Vec<u8>> {
    ["llama3", "gpt2"].iter().map(|name| golden(&format!("models/{name}/config.json"))).collect()
}

fn index_seeds() -> Vec<Vec<u8>> {
    let path = crate::golden("models/llama3/model.safetensors");
    let names = TensorFile::open(&path).expect("a model").names();
    let map: serde_json::Map<_, _> =
        names.into_iter().map(|name| (name, "shard.safetensors".into())).collect();
    vec![serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string().into()]
}

fn template_seeds() -> Vec<Vec<u8>> {
    vec![
        b"{% for message in messages %}<|{{ message['role'] }}|>{{ message.content | trim }}{% if not loop.last %}\n{% endif %}{% endfor %}".to_vec(),
        b"{%- set ns = namespace(n=0) -%}{% macro f(x) %}{{ x | upper }}{% endmacro %}{{ f('a') ~ ns.n }}".to_vec(),
    ]
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    vec![golden("checkpoint-format-1/run/checkpoints/step-000000004/MANIFEST.json")]
}
