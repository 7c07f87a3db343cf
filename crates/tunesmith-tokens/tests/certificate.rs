//! The certificate: what it finds in samples, and what it notices when a model is served with something else.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::golden_path;
use expect_test::expect;
use std::sync::Arc;
use tunesmith_tokens::{
    Certificate, CertificateError, Conversation, EncodeKnobs, Encoder, Message, Sample, Template,
    Tokenizer,
};

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + \
    '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn encoder(kind: &str, template: &str) -> Encoder {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokenizer.json");
    std::fs::copy(golden_path(&format!("tokenizers/{kind}.json")), &file).unwrap();
    let config = r#"{"eos_token": "</s>", "bos_token": "<s>"}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_dir(dir.path()).unwrap());
    let template =
        Template::parse(template, [("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap();
    Encoder::new(tokenizer, Some(template), EncodeKnobs::default())
}

fn chat(contents: &[&str]) -> Sample {
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages = roles.zip(contents).map(|(role, &content)| Message::new(role, content));
    Sample::Chat(Conversation { messages: messages.collect(), ..Conversation::default() })
}

fn certify(encoder: &Encoder, samples: &[Sample]) -> Certificate {
    encoder.certify(samples.iter().cloned().zip(5..).map(|(sample, row)| (row, sample)))
}

fn first(encoder: &Encoder, samples: &[Sample]) -> String {
    certify(encoder, samples).holds().unwrap_err().to_string()
}

#[test]
fn what_agrees_is_certified_and_can_be_kept() {
    for kind in ["bytes", "spaces"] {
        let encoder = encoder(kind, CHATML);
        let samples = [
            chat(&["a", "b", " c ", "<|im_end|> d"]),
            Sample::Tied(vec![chat(&["a", "b"]), chat(&["a", "c"])]),
            Sample::PromptCompletion { prompt: "One".into(), completion: " two".into() },
            Sample::Text("Some text".into()),
        ];
        let certificate = certify(&encoder, &samples);
        certificate.holds().unwrap();
        certificate.fits(&encoder).unwrap();
        let counts = [&certificate.prefix, &certificate.stop, &certificate.bos].map(|f| f.checked);
        assert_eq!((counts, certificate.skipped), ([5, 5, 5], 0), "{kind}");
        assert_eq!((certificate.served.checked, certificate.served.failed), (4, 0));
        assert!(certificate.probes.iter().all(Option::is_some));
        let text = serde_json::to_string(&certificate).unwrap();
        assert_eq!(serde_json::from_str::<Certificate>(&text).unwrap(), certificate);
    }
}

#[test]
fn what_differs_is_named() {
    let samples = [chat(&["a", "b"]), chat(&["Hi", "Hello", "c", "d"])];
    let message = |template: &str| first(&encoder("bytes", template), &samples);
    let opened = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'");
    expect![[r#"
        3 of 3 prompts are not the beginning of what is trained: row 5, message 1: the prompt that asks for this message is not the beginning of the conversation: after "user\na<|im_end|>\n<|im_start|>assistant\n" the prompt has "<think>", the conversation "b"
        help: the model will be sampled with another text than it is trained on; use a template whose history does not change as turns are added"#]].assert_eq(&message(&opened));
    let open_end = "{% for m in messages %}{{ m.role + ':\n' }}{% generation %}{{ m.content }}{% endgeneration %}\
        {{ '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}";
    expect![[r#"
        6 of 6 turns end without a trained token that stops the sampler: row 5, answer 0: its last trained token is 68 "a", which stops no generation; tokens that do: [1]
        help: put the end of the turn inside {% generation %}, or name the token that ends a turn as eos_token"#]].assert_eq(&message(open_end));
    expect![[r#"
        2 of 2 samples begin with BOS twice: row 5 begins with "<s>" twice
        help: the text or the template writes it, and the tokenizer adds it; leave it to one of them"#]].assert_eq(&message(&["{{ bos_token * 2 }}", CHATML].concat()));
    let completion = Sample::PromptCompletion { prompt: "is it ".into(), completion: "it".into() };
    expect![[r#"
        1 of 1 prompts are not the beginning of what is trained: row 5: the prompt's tokens change when the completion follows: after 5 equal ones the prompt has "Ġ", the whole text "Ġi"
        help: end prompts where a token ends, for example before a space and not behind it"#]].assert_eq(&first(&encoder("bytes", CHATML), &[completion]));
}

#[test]
fn a_prompt_that_is_refused_is_no_other_prompt() {
    let refuses = "{% if add_generation_prompt and messages | length > 1 %}\
        {{ raise_exception('one question only') }}{% endif %}";
    let encoder = encoder("bytes", &[refuses, CHATML].concat());
    let certificate = certify(&encoder, &[chat(&["a", "b", "c", "d"]), chat(&["a", "b"])]);
    certificate.holds().unwrap();
    assert_eq!((certificate.prefix.checked, certificate.prefix.failed), (2, 0));
    assert_eq!((certificate.served.checked, certificate.served.failed), (3, 1));
    expect!["row 5, message 3: the chat template refuses this conversation: one question only, when it renders the prompt that asks for this message"].assert_eq(&certificate.served.first.clone().unwrap());
    // both at once: the tokens that differ are still a disagreement
    let opened = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'");
    let encoder = self::encoder("bytes", &[refuses, &opened].concat());
    let error = first(&encoder, &[chat(&["a", "b", "c", "d"])]);
    assert!(error.starts_with("1 of 1 prompts are not the beginning"), "{error}");
}

#[test]
fn another_way_of_serving_is_noticed() {
    let trained = certify(&encoder("bytes", CHATML), &[chat(&["a", "b"])]);
    let served = encoder("bytes", &CHATML.replace("assistant\n", "assistant: "));
    let error = trained.fits(&served).unwrap_err();
    assert!(matches!(error, CertificateError::Probe { probe: 0, .. }), "{error}");
    let served = encoder("bytes", &CHATML.replace("<|im_end|>", "</s>"));
    let error = trained.fits(&served).unwrap_err();
    assert!(matches!(error, CertificateError::Stop { .. }), "{error}");
    let other = Certificate { format: 2, ..trained };
    assert!(matches!(other.fits(&served), Err(CertificateError::Format { found: 2 })));
}
