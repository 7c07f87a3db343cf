//! Any bytes as a chat template that is run, and as a tokenizer that is used; `fuzz/` hands in its own.
#![allow(unreachable_pub, reason = "several crates include this file by its path")]

use serde_json::json;
use tunesmith_tokens::{Conversation, Message, Template, Tokenizer};

/// A template, compiled and rendered both ways; its limits on time, output and recursion hold. Whether it was rendered.
pub fn render(bytes: &[u8]) -> bool {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let Ok(template) = Template::parse(&String::from_utf8_lossy(bytes), tokens) else {
        return false;
    };
    let mut call = Message::new("assistant", "");
    let calls =
        json!([{"type": "function", "function": {"name": "f", "arguments": {"x": [1, null]}}}]);
    call.extra.insert("tool_calls".into(), calls);
    let messages = vec![
        Message::new("system", "You are a llama. {{ 7 * 7 }}"),
        Message::new("user", "What is f(1)?\n"),
        call,
        Message::new("tool", "\"1\u{2028}\""),
        Message::new("assistant", "</s> 😀"),
    ];
    let conversation = Conversation { messages, ..Conversation::default() };
    [false, true].map(|prompt| template.render(&conversation, prompt).is_ok()) == [true, true]
}

/// A tokenizer.json, loaded and used.
pub fn tokenizer(bytes: &[u8]) -> bool {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a temporary folder");
    std::fs::write(dir.path().join("tokenizer.json"), bytes).expect("a file");
    let Ok(tokenizer) = Tokenizer::from_dir(dir.path()) else { return false };
    let texts = ["", "Hello, world!\n", " \u{1f999} été </s> 日本語\0", "0123456789 don't"];
    texts.iter().all(|text| {
        let ids = tokenizer.encode_with_special(text);
        ids.is_ok_and(|ids| tokenizer.decode(&ids, false).is_ok())
    })
}
