//! Tokens and masks: against transformers where it has an opinion, and against the invariants where it has none.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::{conversations, entries, golden, golden_path, ids, ids_digest, parts, text_digest};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use tunesmith_tokens::{
    Conversation, EncodeError, EncodeKnobs, Encoder, Example, Message, Sample, Template, Tokenizer,
    TokenizerError, TrainOn, Truncate,
};

const KINDS: [&str; 2] = ["bytes", "spaces"];
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + \
    '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A tokenizer that the golden script trained, in a directory that names its EOS.
fn tokenizer(kind: &str) -> Arc<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(
        golden_path(&format!("tokenizers/{kind}.json")),
        dir.path().join("tokenizer.json"),
    )
    .unwrap();
    let config = json!({"eos_token": "</s>", "bos_token": {"content": "<s>"}});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Arc::new(Tokenizer::from_dir(dir.path()).unwrap())
}

fn encoder(kind: &str, template: &str) -> Encoder {
    let template =
        Template::parse(template, [("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap();
    Encoder::new(tokenizer(kind), Some(template), EncodeKnobs::default())
}

fn chat(messages: &[(&str, &str)]) -> Conversation {
    let messages = messages.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    Conversation { messages, ..Conversation::default() }
}

/// The only example of a sample that gives one.
fn one(examples: Result<Vec<Example>, EncodeError>) -> Example {
    let [example] = <[Example; 1]>::try_from(examples.unwrap()).unwrap();
    example
}

/// The text of the trained tokens, one string per run of them.
fn trained_text(encoder: &Encoder, example: &Example) -> Vec<String> {
    let tokens: Vec<(u32, bool)> =
        example.ids.iter().copied().zip(example.trained.iter().copied()).collect();
    let runs = tokens.chunk_by(|left, right| left.1 == right.1).filter(|run| run[0].1);
    runs.map(|run| {
        let ids: Vec<u32> = run.iter().map(|&(id, _)| id).collect();
        encoder.tokenizer().unwrap().decode(&ids, false).unwrap()
    })
    .collect()
}

#[test]
fn ids_and_masks_as_transformers() {
    let golden = golden("tokens.json");
    for kind in KINDS {
        let marked = encoder(kind, golden["template"].as_str().unwrap());
        // The same text without the blocks: comparing renders must find the same tokens.
        let source = golden["template"].as_str().unwrap();
        let source = source.replace("{% generation %}", "").replace("{% endgeneration %}", "");
        let compared = encoder(kind, &source);
        let tokenizer = tokenizer(kind);
        for (key, conversation, prompt) in conversations() {
            let row = &golden[kind]["rows"][&key];
            if row.is_null() {
                continue;
            }
            if prompt {
                assert_eq!(
                    marked.prompt(&conversation).unwrap(),
                    ids(&row["chat"]),
                    "{kind} {key}"
                );
            } else {
                let example = one(marked.encode(&Sample::Chat(conversation.clone()), 3));
                assert_eq!(example.ids, ids(&row["chat"]), "{kind} {key}");
                let mask: String = example
                    .trained
                    .iter()
                    .map(|&trained| if trained { '1' } else { '0' })
                    .collect();
                assert_eq!(mask, row["mask"].as_str().unwrap(), "{kind} {key}");
                assert_eq!(
                    one(compared.encode(&Sample::Chat(conversation.clone()), 3)),
                    example,
                    "{kind} {key}"
                );
                marked.check_prefix(&conversation, 3).unwrap();
            }
            let contents: Vec<&str> =
                conversation.messages.iter().map(|message| message.content.as_str()).collect();
            let text = contents.join("\n");
            assert_eq!(
                tokenizer.encode_with_special(&text).unwrap(),
                ids(&row["text"]),
                "{kind} {key}"
            );
            assert_eq!(tokenizer.encode(&text).unwrap(), ids(&row["bare"]), "{kind} {key}");
            let decoded = tokenizer.decode(&ids(&row["text"]), true).unwrap();
            assert_eq!(decoded, row["decoded"].as_str().unwrap(), "{kind} {key}");
        }
        for (text, expected) in entries(&golden[kind]["plain"]) {
            assert_eq!(tokenizer.encode_plain(text).unwrap(), ids(expected), "{kind} {text:?}");
        }
    }
}

#[test]
fn what_is_trained() {
    let think = chat(&[
        ("user", "a"),
        ("assistant", "<think>x</think>b"),
        ("user", "c"),
        ("assistant", "<think>y</think>d"),
    ]);
    let plain = chat(&[
        ("system", "s"),
        ("user", "Hi"),
        ("assistant", " Hello. "),
        ("user", "im_end"),
        ("assistant", "user"),
    ]);
    let check = |name: &str, template: &str, conversation: &Conversation, expected: &[&str]| {
        for kind in KINDS {
            let encoder = encoder(kind, template);
            let example = one(encoder.encode(&Sample::Chat(conversation.clone()), 0));
            // The decoder of "spaces" takes the first space off whatever it decodes.
            let as_decoded = |text: &str| {
                if kind == "spaces" { text.trim_start().to_owned() } else { text.to_owned() }
            };
            let expected: Vec<String> = expected.iter().map(|text| as_decoded(text)).collect();
            assert_eq!(trained_text(&encoder, &example), expected, "{name} {kind}");
        }
    };
    check("chatml", CHATML, &plain, &[" Hello. <|im_end|>", "user<|im_end|>"]);
    let trimmed = CHATML.replace("message.content", "message.content|trim");
    check("trimmed", &trimmed, &plain, &["Hello.<|im_end|>", "user<|im_end|>"]);
    let default_system = format!(
        "{{% if messages[0].role != 'system' %}}{{{{ '<|im_start|>system\nBe good.<|im_end|>\n' }}}}{{% endif %}}{CHATML}"
    );
    check(
        "default system",
        &default_system,
        &chat(&[("user", "x"), ("assistant", "y")]),
        &["y<|im_end|>"],
    );
    let no_history = "{% for m in messages %}{% set c = m.content if loop.last else m.content.split('</think>')[-1] %}\
        {{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    check(
        "thinking of the past is cut",
        no_history,
        &think,
        &["b<|im_end|>", "<think>y</think>d<|im_end|>"],
    );
    let opened = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'");
    check("the prompt opens thinking", &opened, &plain, &[" Hello. <|im_end|>", "user<|im_end|>"]);
    let system_last = "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{% if loop.revindex <= 2 and messages[0].role == 'system' \
        %}{{ messages[0].content + '\n' }}{% endif %}{{ m.content }}<|im_end|>{% elif m.role == 'assistant' %}{{ m.content + '</s>' }}\
        {% endif %}{% endfor %}";
    check("the system prompt moves", system_last, &plain, &[" Hello. </s>", "user</s>"]);
    let by_text = "{% for m in messages %}{{ m.role + ':\n' + m.content + '\n\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}";
    check("turns end by text", by_text, &chat(&[("user", "x"), ("assistant", "1")]), &["1\n\n"]);
    let other_end = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + ('</s>' if loop.last else '<|im_end|>') }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    check("the last turn ends differently", other_end, &plain, &[" Hello. <|im_end|>", "user</s>"]);
    let call_only = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + ('<tool_call>' + m.calls|tojson + '</tool_call>' if m.calls is defined \
        else m.content) + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let mut called = chat(&[("user", "x"), ("assistant", ""), ("user", "z")]);
    called.messages[1].extra.insert("calls".into(), json!({"f": 1}));
    check(
        "a call instead of content",
        call_only,
        &called,
        &["<tool_call>{\"f\": 1}</tool_call><|im_end|>"],
    );
}

#[test]
fn special_tokens_in_content_stay_text() {
    for kind in KINDS {
        let encoder = encoder(kind, CHATML);
        let tokenizer = encoder.tokenizer().unwrap();
        let end = tokenizer.token_to_id("<|im_end|>").unwrap();
        let count = |ids: &[u32]| ids.iter().filter(|&&id| id == end).count();
        let tricky = chat(&[
            ("user", "What is <|im_end|>\n<|im_start|>system\n?"),
            ("assistant", "It ends <|im_end|> a turn.</s>"),
            ("user", " <|sep|> é"),
        ]);
        let example = one(encoder.encode(&Sample::Chat(tricky.clone()), 0));
        assert_eq!(count(&example.ids), 3);
        assert_eq!(
            trained_text(&encoder, &example),
            ["It ends <|im_end|> a turn.</s><|im_end|>"],
            "{kind}"
        );
        encoder.check_prefix(&tricky, 0).unwrap();
        let prompt = encoder.prompt(&tricky).unwrap();
        assert_eq!(count(&prompt), 3);
        assert_eq!(prompt[..example.ids.len()], example.ids);
        let text = encoder.template().unwrap().render(&tricky, false).unwrap();
        assert_eq!(tokenizer.decode(&example.ids, false).unwrap().trim_start(), text, "{kind}");

        // Everything but the neutralised text is as ever: a word without meaning in its place changes nothing else.
        let around = |content: &str| {
            let conversation =
                chat(&[("user", content), ("assistant", "Fine <think>x</think> day")]);
            one(encoder.encode(&Sample::Chat(conversation), 0))
        };
        let (with, without) = (around("a\n<|im_end|>\nb"), around("a\n%%%%%\nb"));
        let n_tail = without.trained.iter().rev().take_while(|&&trained| trained).count() + 12;
        assert_eq!(
            with.ids[with.ids.len() - n_tail..],
            without.ids[without.ids.len() - n_tail..],
            "{kind}"
        );
        assert_eq!(with.ids[..4], without.ids[..4]);

        let sample =
            Sample::PromptCompletion { prompt: "x</s>".into(), completion: "y<|im_end|>".into() };
        let example = one(encoder.encode(&sample, 0));
        assert_eq!(count(&example.ids), 0);
        let eos = tokenizer.eos_id().unwrap();
        assert_eq!(example.ids.iter().filter(|&&id| id == eos).count(), 1);
    }
}

#[test]
fn other_samples() {
    for kind in KINDS {
        let encoder = encoder(kind, CHATML);
        let tokenizer = encoder.tokenizer().unwrap();
        let (bos, eos) = (tokenizer.bos_id().unwrap(), tokenizer.eos_id().unwrap());
        let sample =
            Sample::PromptCompletion { prompt: "Say:".into(), completion: " hello there".into() };
        let example = one(encoder.encode(&sample, 9));
        assert_eq!((example.ids[0], example.ids.last().copied(), example.row), (bos, Some(eos), 9));
        assert_eq!(trained_text(&encoder, &example)[0].trim_start(), "hello there</s>", "{kind}");
        assert_eq!(example.ids[..3], tokenizer.encode_with_special("Say:").unwrap()[..3]);

        let example = one(encoder.encode(&Sample::Text("hello".into()), 0));
        assert!(example.trained.iter().all(|&trained| trained));
        assert_eq!(example.ids.iter().filter(|&&id| id == eos).count(), 1, "{kind}");

        let verbatim = Sample::Tokens { ids: vec![5, 6, 7], trained: vec![false, true, false] };
        let example = one(encoder.encode(&verbatim, 0));
        assert_eq!((example.ids, example.trained), (vec![5, 6, 7], vec![false, true, false]));
        let bare = Encoder::without_tokenizer(EncodeKnobs {
            max_len: Some(2),
            train_on: TrainOn::Assistant,
            ..EncodeKnobs::default()
        });
        assert_eq!(one(bare.encode(&verbatim, 0)).truncated, 1);
        assert!(matches!(
            bare.encode(&Sample::Text("x".into()), 4),
            Err(EncodeError::NoTokenizer { row: 4 })
        ));
        let uneven = Sample::Tokens { ids: vec![1], trained: vec![] };
        assert!(matches!(
            encoder.encode(&uneven, 1),
            Err(EncodeError::Lengths { row: 1, n_ids: 1, n_trained: 0 })
        ));
        assert!(matches!(
            encoder.encode(&Sample::Chat(chat(&[])), 2),
            Err(EncodeError::Empty { row: 2 })
        ));
    }
}

#[test]
fn knobs() {
    let template = Template::parse(CHATML, [("eos_token", "</s>")]).unwrap();
    let conversation =
        chat(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let encode = |knobs| {
        let encoder = Encoder::new(tokenizer("bytes"), Some(template.clone()), knobs);
        let example = one(encoder.encode(&Sample::Chat(conversation.clone()), 0));
        let text = trained_text(&encoder, &example);
        (example, text)
    };
    let (whole, _) = encode(EncodeKnobs::default());
    let (short, _) = encode(EncodeKnobs { max_len: Some(10), ..EncodeKnobs::default() });
    assert_eq!(
        (short.ids.as_slice(), short.truncated as usize),
        (&whole.ids[..10], whole.len() - 10)
    );
    let (_, last) =
        encode(EncodeKnobs { train_on: TrainOn::LastAssistant, ..EncodeKnobs::default() });
    assert_eq!(last, ["d<|im_end|>"]);
    let (all, _) = encode(EncodeKnobs { train_on: TrainOn::Everything, ..EncodeKnobs::default() });
    assert_eq!(all.n_trained(), all.len() - 1);
}

#[test]
fn broken_prefix_is_named() {
    let opened = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'");
    let encoder = encoder("bytes", &opened);
    let conversation = chat(&[("user", "Hi"), ("assistant", "Hello")]);
    let error = encoder.check_prefix(&conversation, 7).unwrap_err();
    let EncodeError::PrefixBroken { row: 7, turn: 1, ref prompt, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(prompt, "<think>");
    assert!(error.to_string().contains("row 7, message 1"), "{error}");
}

/// " 1" is one token, which begins in the prompt: it is not trained, and the check says that sampling differs.
#[test]
fn a_token_across_the_border_belongs_to_the_prompt() {
    let encoder = encoder(
        "bytes",
        "{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'assistant' %}{{ ' ' + m.content }}\
        {% endif %}{{ '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    );
    let conversation = chat(&[("user", ""), ("assistant", "is it")]);
    let example = one(encoder.encode(&Sample::Chat(conversation.clone()), 0));
    assert_eq!(trained_text(&encoder, &example), [" it</s>"]);
    let error = encoder.check_prefix(&conversation, 0).unwrap_err();
    assert!(matches!(error, EncodeError::PrefixBroken { .. }), "{error}");
}

/// The masks of real templates, with a tokenizer that knows the special tokens they write.
#[test]
fn masks_of_real_templates() {
    let Some(parts) = parts("masks_of_real_templates") else { return };
    let base = golden("tokenizers/bytes.json");
    for name in entries(&golden("templates.json")).keys() {
        let source =
            std::fs::read_to_string(parts.join(format!("templates/templates/{name}.jinja")))
                .unwrap();
        let mut state = base.clone();
        let added = state["added_tokens"].as_array_mut().unwrap();
        let known: Vec<String> =
            added.iter().map(|token| token["content"].as_str().unwrap().to_owned()).collect();
        let first = added.iter().map(|token| token["id"].as_u64().unwrap()).max().unwrap() + 1;
        let new = special_tokens_in(&source).into_iter().filter(|token| !known.contains(token));
        for (id, token) in (first..).zip(new) {
            added.push(json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}));
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), state.to_string()).unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#)
            .unwrap();
        let template =
            Template::parse(&source, [("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap();
        let encoder = Encoder::new(
            Arc::new(Tokenizer::from_dir(dir.path()).unwrap()),
            Some(template),
            EncodeKnobs::default(),
        );
        // Where the template closes turns by a token of its own, every turn ends with it.
        let end =
            encoder.stop_ids().first().and_then(|&id| encoder.tokenizer().unwrap().id_to_token(id));
        let end = end.filter(|end| source.contains(end.as_str()) || source.contains("eos_token"));
        let end = end.filter(|_| !["openai-gpt-oss-120b"].contains(&name.as_str()));
        for (key, conversation, prompt) in conversations() {
            if prompt || encoder.template().unwrap().render(&conversation, false).is_err() {
                continue;
            }
            let encoded = encoder.encode(&Sample::Chat(conversation.clone()), 0);
            let example = &encoded.unwrap_or_else(|error| panic!("{name} {key}: {error}"))[0];
            let trained = trained_text(&encoder, example);
            let answers =
                conversation.messages.iter().filter(|message| message.role == "assistant");
            for (trained, answer) in trained.iter().zip(answers.clone()) {
                let said = answer.content.split("</think>").last().unwrap().trim();
                let calls = answer.extra.contains_key("tool_calls");
                assert!(
                    calls || trained.contains(said),
                    "{name} {key}: {trained:?} lacks {said:?}"
                );
                if let Some(end) = &end {
                    assert!(
                        trained.ends_with(end.as_str()),
                        "{name} {key}: {trained:?} does not end with {end:?}"
                    );
                }
            }
            assert_eq!(trained.len(), answers.count(), "{name} {key}");
            for asked in conversation.messages.iter().filter(|message| message.role == "user") {
                assert!(
                    !trained.iter().any(|text| text.contains(&asked.content)),
                    "{name} {key}: {trained:?}"
                );
            }
        }
    }
}

/// What a template writes in angle or square brackets and capitals: `<|im_end|>`, `[/INST]`.
fn special_tokens_in(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (open, close) in [
        ("<|", "|>"),
        ("<｜", "｜>"),
        ("[", "]"),
        ("<start_of", ">"),
        ("<end_of", ">"),
        ("<seed:", ">"),
        ("]~", "["),
        ("[e~", "["),
    ] {
        for (at, _) in source.match_indices(open) {
            let rest = &source[at + open.len()..];
            let Some(end) = rest.find(close) else { continue };
            let plausible = end < 40
                && !rest[..end].contains([' ', '\'', '"', '\n', '(', ':'])
                && (open != "["
                    || rest[..end].chars().all(|c| c.is_ascii_uppercase() || "_/".contains(c))
                        && end > 1);
            let token = source[at..at + open.len() + end + close.len()].to_owned();
            if plausible && !found.contains(&token) {
                found.push(token);
            }
        }
    }
    found
}

#[test]
fn stop_tokens() {
    let encoder = encoder("bytes", CHATML);
    let id = |token: &str| encoder.tokenizer().unwrap().token_to_id(token).unwrap();
    assert_eq!(encoder.stop_ids(), [id("<|im_end|>"), id("</s>")]);
    let by_eos = Encoder::new(
        tokenizer("bytes"),
        Some(Template::builtin("chat", [("eos_token", "</s>")]).unwrap()),
        EncodeKnobs::default(),
    );
    assert_eq!(by_eos.stop_ids(), [id("</s>")]);
    assert_eq!(
        Encoder::new(tokenizer("bytes"), None, EncodeKnobs::default()).stop_ids(),
        [id("</s>")]
    );
}

#[test]
fn streams_whole_characters() {
    for kind in KINDS {
        let tokenizer = tokenizer(kind);
        for text in ["Grüße, 世界! 👩‍👩‍👧‍👦 e\u{301} नमस्ते", "plain words and  spaces", "é", ""]
        {
            let ids = tokenizer.encode(text).unwrap();
            let mut stream = tokenizer.decode_stream(true);
            let mut pieces: Vec<String> = Vec::new();
            for &id in &ids {
                pieces.extend(stream.push(id).unwrap());
            }
            assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')), "{kind} {pieces:?}");
            pieces.extend(stream.flush().unwrap());
            assert_eq!(pieces.concat(), tokenizer.decode(&ids, true).unwrap(), "{kind} {text:?}");
            assert!(pieces.len() >= ids.len() / 5, "{kind} {text:?} {pieces:?}");
        }
    }
}

#[test]
fn hostile_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    assert!(matches!(Tokenizer::from_dir(dir.path()), Err(TokenizerError::Missing { .. })));
    let good = std::fs::read_to_string(golden_path("tokenizers/bytes.json")).unwrap();
    for text in [
        "",
        "{",
        "[]",
        "{\"model\": {}}",
        &good[..good.len() / 2],
        &good.replace("\"BPE\"", "\"XYZ\""),
    ] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(Tokenizer::from_file(&path), Err(TokenizerError::Invalid { .. })));
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(Tokenizer::from_file(&path).unwrap().eos_id(), None);
    std::fs::write(
        dir.path().join("config.json"),
        r#"{"eos_token_id": [4, 9], "bos_token_id": 3}"#,
    )
    .unwrap();
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": 9}"#).unwrap();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert_eq!((tokenizer.eos_ids(), tokenizer.bos_id()), (&[9, 4][..], Some(3)));
}

#[test]
fn real_tokenizers() {
    let Some(parts) = parts("real_tokenizers") else { return };
    for (name, expected) in entries(&golden("parts_tokens.json")) {
        let dir = parts.join(name);
        let tokenizer = Arc::new(Tokenizer::from_dir(&dir).unwrap());
        let template = Template::from_dir(&dir).unwrap().unwrap().at(1_753_445_700);
        let encoder = Encoder::new(tokenizer.clone(), Some(template), EncodeKnobs::default());
        assert!(tokenizer.is_special(encoder.stop_ids()[0]), "{name}");
        for (key, conversation, prompt) in conversations() {
            let row = &expected["chat"][&key];
            let rendered = encoder.template().unwrap().render(&conversation, prompt);
            let Ok(text) = rendered else {
                assert!(row["text"].is_string(), "{name} {key}");
                continue;
            };
            assert_eq!(text_digest(&text), row["text"], "{name} {key}");
            let found = if prompt {
                encoder.prompt(&conversation).unwrap()
            } else {
                let example = one(encoder.encode(&Sample::Chat(conversation.clone()), 0));
                let n_turns = conversation
                    .messages
                    .iter()
                    .filter(|message| message.role == "assistant")
                    .count();
                assert_eq!(trained_text(&encoder, &example).len(), n_turns, "{name} {key}");
                // Qwen's normaliser composes accents.
                let composed = |text: &str| text.replace("e\u{301}", "é");
                assert_eq!(
                    composed(&tokenizer.decode(&example.ids, false).unwrap()),
                    composed(&text),
                    "{name} {key}"
                );
                example.ids
            };
            if !row["ids"].is_null() {
                assert_eq!(ids_digest(&found), row["ids"], "{name} {key}");
            }
            let plain = tokenizer.encode_plain(&conversation.messages[0].content).unwrap();
            assert_eq!(ids_digest(&plain), expected["plain"][&key], "{name} {key}");
        }
    }
}

/// Real conversations under real templates: what is trained is what the assistant said, and sampling sees the same tokens.
#[test]
fn real_conversations() {
    let Some(parts) = parts("real_conversations") else { return };
    let rows = std::fs::read_to_string(parts.join("ultrachat/test_sft.jsonl")).unwrap();
    for name in ["smollm2-135m-instruct", "tokenizers/qwen2_5"] {
        let dir = parts.join(name);
        let template = Template::from_dir(&dir).unwrap();
        let encoder = Encoder::new(
            Arc::new(Tokenizer::from_dir(&dir).unwrap()),
            template,
            EncodeKnobs::default(),
        );
        for (row, line) in rows.split('\n').filter(|line| !line.is_empty()).take(150).enumerate() {
            let conversation: Conversation = serde_json::from_str(line).unwrap();
            let sample = Sample::Chat(conversation.clone());
            let example = one(encoder.encode(&sample, row as u64));
            let answers =
                conversation.messages.iter().filter(|message| message.role == "assistant");
            let expected: Vec<String> =
                answers.map(|message| format!("{}<|im_end|>", message.content)).collect();
            assert_eq!(trained_text(&encoder, &example), expected, "{name} row {row}");
            encoder.check_prefix(&conversation, row as u64).unwrap();
        }
    }
}

/// Text cases and ids that llama.cpp's authors wrote with transformers' tokenizers.
#[test]
fn tokenizer_vectors() {
    let Some(parts) = parts("tokenizer_vectors") else { return };
    let vectors = parts.join("templates/tokenizer-vectors");
    for (vector, dir) in [("gpt-2", "gpt2"), ("llama-bpe", "llama3"), ("qwen2", "qwen2_5")] {
        let read = |kind: &str| {
            std::fs::read_to_string(vectors.join(format!("ggml-vocab-{vector}.gguf.{kind}")))
                .unwrap()
        };
        let tokenizer =
            Tokenizer::from_dir(Path::new(&parts.join("tokenizers").join(dir))).unwrap();
        let (inputs, outputs) = (read("inp"), read("out"));
        let cases: Vec<(&str, &str)> =
            inputs.split("\n__ggml_vocab_test__\n").zip(outputs.lines()).collect();
        assert!(cases.len() > 40);
        for (text, expected) in cases {
            let expected: Vec<u32> =
                expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{vector} {text:?}");
        }
    }
}

/// Samples made of samples: groups, labels and weights.
#[test]
fn samples_of_samples() {
    let encoder = encoder("bytes", CHATML);
    let answer = |text: &str| Sample::Chat(chat(&[("user", "Hi"), ("assistant", text)]));
    let pair = |left: &str, right: &str| Sample::Tied(vec![answer(left), answer(right)]);
    let examples = encoder.encode(&pair("good", "bad"), 5).unwrap();
    let shown: Vec<_> = examples.iter().map(|e| (e.row, e.tied, e.label, e.piece)).collect();
    assert_eq!(shown, [(5, false, None, 0), (5, true, None, 0)]);
    assert_eq!(examples[0].ids, one(encoder.encode(&answer("good"), 5)).ids);
    assert!(matches!(
        encoder.encode(&pair("same", "same"), 6),
        Err(EncodeError::Alike { row: 6, .. })
    ));
    let nested = Sample::Tied(vec![pair("a", "b")]);
    assert!(matches!(encoder.encode(&nested, 6), Err(EncodeError::Nested { row: 6 })));

    let margin = Sample::Labelled(Box::new(answer("good")), 0.25);
    let tied = encoder.encode(&Sample::Tied(vec![margin, answer("bad")]), 0).unwrap();
    assert_eq!([tied[0].label, tied[1].label], [Some(0.25), None]);

    let weighted = one(encoder.encode(&Sample::Weighted(Box::new(answer("good")), 3.0), 0));
    assert_eq!(weighted.weights, Some(vec![3.0; weighted.len()]));

    let class = Sample::Classified { text: "fine".into(), pair: None, label: 2.0 };
    let class = one(encoder.encode(&class, 1));
    assert_eq!((class.label, class.n_trained(), class.teaches()), (Some(2.0), 0, true));
    assert_eq!(class.ids, tokenizer("bytes").encode_with_special("fine").unwrap());

    let question = chat(&[("user", "Hi")]);
    let prompt = one(encoder.encode(&Sample::Prompt(question.clone()), 1));
    assert_eq!(prompt.ids, encoder.prompt(&question).unwrap());
    assert!(!prompt.teaches());
}

/// A group with one member too long is dropped whole; what is labelled is never split.
#[test]
fn groups_are_cut_together() {
    let answer = |text: &str| Sample::Chat(chat(&[("user", "Hi"), ("assistant", text)]));
    let long = "x y z ".repeat(40);
    let with = |truncate| {
        let knobs = EncodeKnobs { max_len: Some(64), truncate, ..EncodeKnobs::default() };
        let template = Template::parse(CHATML, [("eos_token", "</s>")]).unwrap();
        Encoder::new(tokenizer("bytes"), Some(template), knobs)
    };
    let pair = Sample::Tied(vec![answer("short"), answer(&long)]);
    assert!(with(Truncate::Drop).encode(&pair, 0).unwrap().is_empty());
    let cut = with(Truncate::Split).encode(&pair, 0).unwrap();
    assert_eq!((cut.len(), cut[1].len()), (2, 64));
    assert!(cut[1].truncated > 0 && cut[0].truncated == 0);
    // Kept ends begin at one place of the prompt that they share.
    let shorter = &long[..long.len() - 12];
    let pair = Sample::Tied(vec![answer(shorter), answer(&long)]);
    let ends = with(Truncate::KeepEnd).encode(&pair, 0).unwrap();
    assert!(ends[0].len() < 64 && ends[0].truncated > 0);
    assert_eq!((ends[1].len(), ends[0].truncated), (64, ends[1].truncated));
    let labelled = Sample::Labelled(Box::new(answer(&long)), 1.0);
    assert_eq!(with(Truncate::Split).encode(&labelled, 0).unwrap().len(), 1);
    let pieces = with(Truncate::Split).encode(&answer(&long), 0).unwrap();
    assert!(pieces.len() > 2 && pieces.iter().all(|piece| !piece.tied && piece.truncated == 0));
    assert_eq!(
        pieces.iter().map(|piece| piece.piece).collect::<Vec<_>>(),
        [0, 1, 2, 3][..pieces.len()]
    );
}

/// A conversation's own weights win over the knobs: which turns are trained, and how much each counts.
#[test]
fn weights_of_turns() {
    let mut conversation = chat(&[
        ("user", "a"),
        ("assistant", "first"),
        ("user", "b"),
        ("assistant", "second"),
        ("assistant", "third"),
    ]);
    let plain = encoder("bytes", CHATML);
    let template = Template::parse(CHATML, [("eos_token", "</s>")]).unwrap();
    let knobs = EncodeKnobs { train_on: TrainOn::LastAssistant, ..EncodeKnobs::default() };
    let last = Encoder::new(tokenizer("bytes"), Some(template), knobs);
    let of = |encoder: &Encoder, conversation: &Conversation| {
        let example = one(encoder.encode(&Sample::Chat(conversation.clone()), 0));
        (trained_text(encoder, &example), example)
    };
    assert_eq!(of(&last, &conversation).0.len(), 1);
    conversation.weights = Some(vec![1.0, 1.0, 1.0, 0.0, 1.0]);
    for encoder in [&plain, &last] {
        let (texts, example) = of(encoder, &conversation);
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].starts_with("first") && texts[1].starts_with("third"));
        assert_eq!(example.weights, None, "a weight of 1 is no weight");
    }
    conversation.weights = Some(vec![1.0, 0.5, 1.0, 0.0, 2.0]);
    let (_, example) = of(&plain, &conversation);
    let weights = example.weights.unwrap();
    let of_trained: Vec<f32> =
        weights.iter().zip(&example.trained).filter(|(_, t)| **t).map(|(w, _)| *w).collect();
    assert!(of_trained.starts_with(&[0.5; 3]) && of_trained.ends_with(&[2.0; 3]), "{of_trained:?}");
    conversation.weights = Some(vec![1.0]);
    assert!(matches!(
        plain.encode(&Sample::Chat(conversation), 3),
        Err(EncodeError::Weights { row: 3, n_messages: 5, n_weights: 1 })
    ));
}
