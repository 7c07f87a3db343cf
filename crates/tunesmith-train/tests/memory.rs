//! What a forward pass keeps, measured, beside what the model says of each policy; and that no policy changes a step.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![allow(clippy::print_stdout, reason = "a child tells its figures on stdout")]

use std::process::Command;
use tch::{Device, Kind};
use tunesmith_model::{Config, LoadOptions, LoraConfig, Pass, Recompute, Transformer};
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{AdamW, AdamWKnobs, Objective, Reading, Sft, step};

const TOKENS: u32 = 2048;
/// Of a child: its case.
const CASE: &str = "TUNESMITH_MEMORY_CASE";

fn model(kind: Kind, recompute: Recompute, lora: bool) -> Transformer {
    let dir = tempfile::tempdir().unwrap();
    let config = r#"{"model_type":"qwen3","hidden_act":"silu","vocab_size":500,"hidden_size":256,
        "intermediate_size":768,"num_hidden_layers":6,"num_attention_heads":4,"num_key_value_heads":2,
        "head_dim":64,"rms_norm_eps":1e-5,"tie_word_embeddings":true,"initializer_range":0.02}"#;
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let config = Config::from_dir(dir.path()).unwrap();
    let options = match lora {
        true => LoadOptions::frozen(kind, Device::Cpu),
        false => LoadOptions::trained(kind, Device::Cpu),
    };
    let mut model = Transformer::fresh(config, 3, options);
    if lora {
        model.add_adapter(&LoraConfig::default(), 5, true).unwrap();
    }
    model.recompute = recompute;
    model
}

fn batch(n: u32) -> Batch {
    let row = |salt: u32| {
        let ids: Vec<u32> = (0..n / 4).map(|i| (i * 31 + salt * 7) % 500).collect();
        Example { trained: vec![true; ids.len()], ids, ..Example::default() }
    };
    Batch::new(&(0..4).map(row).collect::<Vec<_>>())
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// A process of its own measures one case: glibc gives each tensor pages of its own there, and takes them back at once.
#[test]
#[ignore = "a child of the test below"]
fn measured_in_a_process_of_its_own() {
    let Ok(case) = std::env::var(CASE) else { return };
    let case: Vec<usize> = case.split(' ').map(|word| word.parse().unwrap()).collect();
    let kind = [Kind::Float, Kind::BFloat16][case[0]];
    let model = model(kind, Recompute::ALL[case[1]], case[2] == 1);
    let batch = batch(TOKENS);
    let read = || Sft.terms(&Reading::new(&model, &batch, &mut Pass::default()).unwrap()).unwrap();
    drop(read()); // whatever is made once for this shape is made now
    let before = resident();
    let terms = read();
    let kept = resident() - before;
    println!("KEPT {kept} {}", model.kept_per_token(model.recompute).unwrap() * u64::from(TOKENS));
    drop(terms);
}

#[test]
fn what_is_kept_is_what_is_predicted() {
    for lora in [0, 1] {
        for kind in [0, 1] {
            for policy in 0..3 {
                let case = format!("{kind} {policy} {lora}");
                let output = Command::new(std::env::current_exe().unwrap())
                    .args([
                        "--ignored",
                        "--exact",
                        "measured_in_a_process_of_its_own",
                        "--nocapture",
                    ])
                    .env(CASE, &case)
                    .env("MALLOC_MMAP_THRESHOLD_", "16384")
                    .env("MALLOC_TRIM_THRESHOLD_", "16384")
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&output.stdout);
                let line = text.lines().find_map(|line| Some(line.split_once("KEPT ")?.1));
                let line = line.unwrap_or_else(|| panic!("{case}: {text}"));
                let figures: Vec<f64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
                let (found, predicted) = (figures[0], figures[1]);
                println!(
                    "{case}: kept {found:.3e}, predicted {predicted:.3e}, {:.3}",
                    predicted / found
                );
                assert!(
                    (predicted / found - 1.0).abs() < 0.15,
                    "dtype, policy, adapter {case}: kept {found:e} bytes, predicted {predicted:e}"
                );
            }
        }
    }
}

#[test]
fn no_policy_changes_a_step() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for lora in [false, true] {
            let run = |recompute: Recompute| {
                let model = model(kind, recompute, lora);
                let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
                let mut made = |_| {
                    let outcome = step(&model, &mut optimizer, &Sft, &[batch(128)], 1e-3, 0);
                    outcome.map(|outcome| (outcome.loss.to_bits(), outcome.grad_norm.to_bits()))
                };
                let steps: Vec<_> = (0..3).map(&mut made).collect::<Result<_, _>>().unwrap();
                let weights: Vec<_> = model.params().iter().map(|p| p.tensor.copy()).collect();
                (steps, weights)
            };
            let expected = run(Recompute::None);
            for recompute in [Recompute::Mlp, Recompute::Blocks] {
                let found = run(recompute);
                assert_eq!(found.0, expected.0, "{kind:?}, {recompute:?}");
                assert!(found.1 == expected.1, "{kind:?}, {recompute:?}: other weights");
            }
        }
    }
}
