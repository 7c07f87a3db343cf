//! Sequences that come and go give the answers that each gives alone.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use tch::{Device, Kind};
use tunesmith_model::{Config, LoadOptions, LoraConfig, ModelError, Pass, Ragged, Transformer};
use tunesmith_sample::{Engine, FinishReason, GenerateError, SamplerKnobs, generate};

fn model() -> Transformer {
    let dir = tempfile::tempdir().unwrap();
    let config = r#"{"model_type":"llama","hidden_act":"silu","vocab_size":97,"hidden_size":32,
        "intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
        "rms_norm_eps":1e-5,"tie_word_embeddings":true,"initializer_range":0.3}"#;
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let config = Config::from_dir(dir.path()).unwrap();
    Transformer::fresh(config, 5, LoadOptions::frozen(Kind::Float, Device::Cpu))
}

fn prompt(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 13 + n) % 97).collect()
}

#[test]
fn a_slot_is_taken_as_soon_as_it_is_free() {
    let model = model();
    let lengths = [9, 1, 30, 4, 2];
    let knobs: Vec<SamplerKnobs> = [3, 20, 1, 7, 12]
        .map(|max_new_tokens| SamplerKnobs { max_new_tokens, ..SamplerKnobs::default() })
        .into();
    let mut engine = Engine::new(&model, None, &[], 2, 64);
    assert!(engine.is_idle());
    // Two are in line before the first step, the others come later.
    for i in 0..2 {
        assert_eq!(engine.submit(&prompt(lengths[i]), &knobs[i]).unwrap(), i);
    }
    let (mut answers, mut n_steps) = (Vec::new(), 0);
    while !engine.is_idle() {
        answers.extend(engine.step(&mut |_, _| ()).unwrap());
        n_steps += 1;
        if n_steps == 2 {
            for i in 2..5 {
                engine.submit(&prompt(lengths[i]), &knobs[i]).unwrap();
            }
        }
    }
    // Slot 0: 3 + 1 + 7 + 12 tokens while slot 1 is at its 20: no step of either is lost.
    assert_eq!(n_steps, 23);
    answers.sort_by_key(|&(ticket, _)| ticket);
    assert_eq!(answers.len(), 5);
    for (ticket, answer) in answers {
        let alone = [prompt(lengths[ticket])];
        let alone = generate(&model, None, &alone, &[], &knobs[ticket], &mut |_, _| ()).unwrap();
        assert_eq!(answer, alone[0], "prompt {ticket}");
        assert_eq!(answer.finish_reason, FinishReason::Length);
    }
}

#[test]
fn more_prompts_than_slots_come_back_in_order() {
    let model = model();
    let knobs = SamplerKnobs { max_new_tokens: 3, ..SamplerKnobs::default() };
    let prompts: Vec<Vec<u32>> = (1..40).map(prompt).collect();
    let answers = generate(&model, None, &prompts, &[], &knobs, &mut |_, _| ()).unwrap();
    let read: Vec<Vec<u32>> = answers.iter().map(|answer| answer.prompt_ids.clone()).collect();
    assert_eq!(read, prompts);
    assert!(answers.iter().all(|answer| answer.ids.len() == 3));
}

#[test]
fn what_has_no_room_is_refused() {
    let (model, knobs) = (model(), SamplerKnobs::default());
    let mut engine = Engine::new(&model, None, &[], 1, 8);
    let error = engine.submit(&prompt(8), &knobs).unwrap_err();
    assert!(matches!(error, GenerateError::PromptTooLong { n_tokens: 8, max: 8, .. }), "{error}");
    assert!(matches!(engine.submit(&[], &knobs), Err(GenerateError::EmptyPrompt { index: 0 })));
}

/// Requests to two adapters and to the base, side by side: each is answered as it is alone.
#[test]
fn every_request_is_answered_by_the_adapter_it_names() {
    let mut model = model();
    let config = LoraConfig { r: 4, alpha: 64.0, ..LoraConfig::default() };
    for seed in 0..2 {
        let number = model.add_adapter(&config, seed, true).unwrap();
        for param in model.adapters()[number].params() {
            // A fresh B is zero.
            let _ = tch::no_grad(|| param.tensor.shallow_clone().normal_(0.0, 0.5));
        }
    }
    let names: std::collections::BTreeSet<&str> =
        model.params().iter().map(|param| param.name.as_str()).collect();
    assert_eq!(names.len(), model.params().len(), "two parameters of one name");
    let knobs = SamplerKnobs { max_new_tokens: 12, ..SamplerKnobs::default() };
    let asked = [Some(0), Some(1), None, Some(1), Some(0)];
    let answers = |n_slots, asked: &[Option<usize>]| {
        let mut engine = Engine::new(&model, None, &[], n_slots, 64);
        for (i, adapter) in asked.iter().enumerate() {
            engine.submit_to(*adapter, &prompt(5 + i as u32 % 3), &knobs).unwrap();
        }
        let mut answers = Vec::new();
        while !engine.is_idle() {
            answers.extend(engine.step(&mut |_, _| ()).unwrap());
        }
        answers.sort_by_key(|&(ticket, _)| ticket);
        answers.into_iter().map(|(_, answer)| answer.ids).collect::<Vec<_>>()
    };
    let together = answers(3, &asked);
    for adapter in [Some(0), Some(1), None] {
        let alone = answers(1, &[adapter; 5]);
        for (i, _) in asked.iter().enumerate().filter(|(_, other)| **other == adapter) {
            assert_eq!(together[i], alone[i], "request {i} to {adapter:?}");
        }
    }
    let first = |adapter| answers(1, &[adapter])[0].clone();
    assert_ne!(first(Some(0)), first(Some(1)));
    assert_ne!(first(Some(0)), first(None));
    let mut engine = Engine::new(&model, None, &[], 1, 64);
    let refused = engine.submit_to(Some(2), &prompt(3), &knobs);
    assert!(matches!(
        refused,
        Err(GenerateError::Model(ModelError::NoSuchAdapter { number: 2, n_adapters: 2 }))
    ));
    let ragged = Ragged::new(&[&prompt(3)], Device::Cpu);
    let mut pass = Pass { adapter: Some(2), ..Pass::default() };
    assert!(matches!(model.hidden(&ragged, &mut pass), Err(ModelError::NoSuchAdapter { .. })));
}
