//! Chat templates against Jinja2 under transformers: real ones, and the constructs that they are made of.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::{conversations, entries, golden, golden_path, parts, text_digest};
use serde_json::Value;
use tunesmith_tokens::{Conversation, Message, Template, TemplateError};

/// What the goldens give every template, and the time at which they were made.
const VARIABLES: [(&str, &str); 4] =
    [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];
const NOW: i64 = 1_753_445_700; // 2025-07-25 12:15:00 UTC

#[test]
fn dialect() {
    let golden = golden("dialect.json");
    let mut wrong = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let source = case["source"].as_str().unwrap();
        let conversation = Conversation {
            messages: vec![Message::new("user", "u")],
            tools: None,
            template_kwargs: entries(&golden["variables"]).clone(),
            weights: None,
        };
        let rendered = Template::parse(source, VARIABLES)
            .and_then(|template| template.at(NOW).render(&conversation, false));
        match (case["text"].as_str(), rendered) {
            (Some(expected), Ok(found)) if expected == found => {}
            (None, Err(_)) => {}
            // The engine formats with filters and methods only, and refuses the operator.
            (_, Err(_)) if source.contains("' % (") => {}
            (_, found) => wrong.push(format!("{source}\n  expected {case}\n  found    {found:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn real_templates() {
    let Some(parts) = parts("real_templates") else { return };
    let golden = golden("templates.json");
    let full = common::golden("full_texts.json");
    let mut wrong = Vec::new();
    let mut n_texts = 0;
    for (name, cases) in entries(&golden) {
        let source =
            std::fs::read_to_string(parts.join(format!("templates/templates/{name}.jinja")))
                .unwrap();
        let template = match Template::parse(&source, VARIABLES) {
            Ok(template) => template.at(NOW),
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        for (key, conversation, prompt) in conversations() {
            let rendered = template.render(&conversation, prompt);
            n_texts += usize::from(rendered.is_ok());
            match (&cases[&key], rendered) {
                (Value::String(_), Err(_)) => {}
                (expected, Ok(text)) if *expected == text_digest(&text) => {
                    if let Some(expected) = full[name][&key].as_str() {
                        assert_eq!(text, expected, "{name} {key}");
                    }
                }
                (expected, found) => {
                    wrong.push(format!("{name} {key}: expected {expected}, found {found:?}"))
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(n_texts > 300, "only {n_texts} texts were compared");
}

#[test]
fn hostile_templates_are_stopped() {
    let conversation =
        Conversation { messages: vec![Message::new("user", "u")], ..Conversation::default() };
    let render = |source: &str| {
        Template::parse(source, VARIABLES).and_then(|t| t.render(&conversation, false))
    };
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' * 100 }}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% macro m(x, n) %}{{ m(x + x, n - 1) if n else '' }}{% endmacro %}{{ m('ab', 64) }}",
        "{% set x %}{% for a in range(100000) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' * 100 }}{% endfor %}{% endset %}",
    ] {
        assert!(matches!(render(source), Err(TemplateError::Limit(_))), "{source}");
    }
    assert!(render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").is_err());
    let error = render("{{ raise_exception('only ' + messages[0].role) }}").unwrap_err();
    assert_eq!(error.to_string(), "the chat template refuses this conversation: only user");
    let error = render("line one\n{{ messages[0].content.nothing.more }}").unwrap_err();
    assert!(matches!(error, TemplateError::Render { line: 2, .. }), "{error}");
    assert!(matches!(render("a\n{% if %}"), Err(TemplateError::Syntax { line: 2, .. })));
}

#[test]
fn directories() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let conversation =
        Conversation { messages: vec![Message::new("user", "u")], ..Conversation::default() };
    let with_tools =
        Conversation { tools: Some(serde_json::json!([{"name": "t"}])), ..conversation.clone() };
    let render = |conversation| {
        let template = Template::from_dir(dir.path()).unwrap().unwrap();
        template.render(conversation, false).unwrap()
    };
    assert!(Template::from_dir(dir.path()).unwrap().is_none());
    write("chat_template.json", r#"{"chat_template": "legacy"}"#);
    assert_eq!(render(&conversation), "legacy");
    write(
        "tokenizer_config.json",
        r#"{"bos_token": null, "eos_token": {"content": "<e>"}, "chat_template": "{{ eos_token }}{{ bos_token is defined }}"}"#,
    );
    assert_eq!(render(&conversation), "<e>False");
    write(
        "special_tokens_map.json",
        r#"{"bos_token": {"content": "<b>"}, "eos_token": "<other>"}"#,
    );
    assert_eq!(render(&conversation), "<e>True");
    let list = r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#;
    write("tokenizer_config.json", list);
    assert_eq!((render(&conversation), render(&with_tools)), ("d".into(), "t".into()));
    write("chat_template.jinja", "{{ messages[0].content }} from a file\n");
    assert_eq!(render(&conversation), "u from a file");
    write("tokenizer_config.json", "not json");
    assert!(matches!(Template::from_dir(dir.path()), Err(TemplateError::BadFile { .. })));
}

#[test]
fn builtins() {
    let conversation = |messages: Value| -> Conversation {
        serde_json::from_value(serde_json::json!({"messages": messages})).unwrap()
    };
    let chat = conversation(serde_json::json!([
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "More"}
    ]));
    let template =
        Template::builtin("chat", [("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap();
    assert_eq!(
        template.render(&chat, true).unwrap(),
        "<s><|system|>\nBe brief.\n<|user|>\nHi\n<|assistant|>\nHello</s>\n<|user|>\nMore\n<|assistant|>\n"
    );
    let row = conversation(serde_json::json!([
        {"role": "user", "content": "Add.\n1 2", "instruction": "Add.", "input": "1 2"},
        {"role": "assistant", "content": "3"}
    ]));
    let template = Template::builtin("alpaca", [("eos_token", "</s>")]).unwrap();
    let rendered = template.render_marked(&row, false).unwrap();
    assert_eq!(
        rendered.text,
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
         response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n\
         ### Response:\n3</s>\n\n"
    );
    assert_eq!(&rendered.text[rendered.generated[0].clone()], "3</s>");
    let question = conversation(serde_json::json!([{"role": "user", "content": "Name a colour."}]));
    assert_eq!(
        template.render(&question, true).unwrap(),
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
         ### Instruction:\nName a colour.\n\n### Response:\n"
    );
    assert!(Template::builtin("vicuna", VARIABLES).unwrap_err().to_string().contains("alpaca"));
    assert!(golden_path("make.py").exists());
}
