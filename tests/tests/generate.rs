//! Greedy continuations and logits processors against transformers.

use std::path::Path;
use tunesmith_sample::{FinishReason, SamplerKnobs, generate};
use tunesmith_tests::*;

/// All prompts at once, unequal in length, and the shortest alone give transformers' tokens.
fn check(name: &str, dir: &Path) {
    let model = load(dir, false);
    let golden = golden_json(&format!("generate/{name}.json"));
    let cases = golden.as_array().expect("a list");
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| case["prompt"].ids()).collect();
    let expected: Vec<Vec<u32>> = cases.iter().map(|case| case["ids"].ids()).collect();
    let knobs = SamplerKnobs { max_new_tokens: expected[0].len(), ..SamplerKnobs::default() };
    let answer = |prompts: &[Vec<u32>]| {
        generate(&model, None, prompts, &[], &knobs, &mut |_, _| ())
            .expect("prompts of the vocabulary")
    };
    let together = answer(&prompts);
    assert_eq!(together.len(), prompts.len());
    for (i, (prompt, ids)) in prompts.iter().zip(&expected).enumerate() {
        assert_eq!(together[i].finish_reason, FinishReason::Length, "{name}, prompt {i}");
        assert_eq!(&together[i].prompt_ids, prompt, "{name}, prompt {i}");
        assert_eq!(&together[i].ids, ids, "{name}, prompt {i} among the others");
    }
    let shortest = prompts.iter().enumerate().min_by_key(|(_, prompt)| prompt.len());
    let (i, prompt) = shortest.expect("a prompt");
    assert_eq!(
        answer(std::slice::from_ref(prompt))[0].ids,
        expected[i],
        "{name}, prompt {i} alone"
    );
}

#[test]
fn small_models_continue_as_in_transformers() {
    for name in ["qwen3", "gpt2", "llama3", "mistral-window"] {
        check(name, &golden(&format!("models/{name}")));
    }
}

#[test]
fn smollm2_continues_as_in_transformers() {
    let Some(parts) = parts() else { return };
    check("smollm2-135m", &parts.join("smollm2-135m-instruct"));
}

#[test]
fn processed_logits_are_those_of_transformers() {
    let golden = golden_json("processors.json");
    for case in golden.as_array().unwrap() {
        let knobs = &case["knobs"];
        let number = |name: &str, default: f64| knobs[name].as_f64().unwrap_or(default);
        let sampler = SamplerKnobs {
            temperature: number("temperature", 1.0) as f32,
            top_k: number("top_k", 0.0) as usize,
            top_p: number("top_p", 1.0) as f32,
            min_p: number("min_p", 0.0) as f32,
            repetition_penalty: number("repetition_penalty", 1.0) as f32,
            ..SamplerKnobs::default()
        };
        let mut scores: Vec<f32> =
            case["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        sampler.process(&mut scores, &case["history"].ids());
        let expected = case["scores"].as_array().unwrap();
        assert_eq!(scores.len(), expected.len());
        for (token, (&found, expected)) in scores.iter().zip(expected).enumerate() {
            let close = match expected.as_f64() {
                Some(expected) => (f64::from(found) - expected).abs() <= 1e-5,
                None => found == f32::NEG_INFINITY, // transformers rules it out
            };
            assert!(close, "{knobs}: token {token} has the score {found}, expected {expected}");
        }
    }
}
