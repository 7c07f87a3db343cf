//! Hostile templates and tokenizers: mutations of sound ones are rendered, used or refused, soon and without a panic.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

#[path = "../../../tests/src/mutate.rs"]
mod mutate;
#[path = "hostile/targets.rs"]
mod targets;

use std::path::Path;
use std::time::{Duration, Instant};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new("tests/golden").join(name)).unwrap()
}

const TEMPLATES: [&str; 4] = [
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m.content | trim }}{% if not loop.last %}\n{% endif %}{% endfor %}",
    "{%- set ns = namespace(n=0) -%}{% macro f(x, y=2) %}{{ x | upper }}{{ y }}{% endmacro %}\
     {% for m in messages %}{% set ns.n = ns.n + 1 %}{{ f(m.role) ~ ns.n }}{% endfor %}",
    "{{ bos_token }}{% for m in messages %}{% if m.tool_calls is defined %}{{ m.tool_calls | tojson(indent=2) }}\
     {% else %}{{ m.content.split('\n')[0][:5] + eos_token }}{% endif %}{% endfor %}",
    "{% for i in range(3) %}{{ messages[i].content.replace('a', 'b').strip() | length }}{% endfor %}\
     {% if add_generation_prompt %}{% generation %}x{% endgeneration %}{% endif %}{{ strftime_now('%Y') | int > 1 }}",
];

#[test]
fn mutated_templates_are_rendered_or_refused() {
    let seeds = TEMPLATES.map(|template| template.as_bytes().to_vec());
    mutate::never_panics("chat_template.jinja", &seeds, 3000, &targets::render);
}

#[test]
fn mutated_tokenizers_are_used_or_refused() {
    let seeds = ["bytes", "spaces"].map(|name| golden(&format!("tokenizers/{name}.json")));
    mutate::never_panics("tokenizer.json", &seeds, 400, &targets::tokenizer);
}

#[test]
fn templates_that_never_end_are_stopped() {
    let hostile = [
        "{% for i in range(100000000) %}{{ i }}{% endfor %}",
        "{% for i in range(10000) %}{% for j in range(10000) %}{% for k in range(10000) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'a' * 10000000000 }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 100000) }}",
        "{{ range(1000000000) | list | length }}",
        "{{ 'x' | center(10000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ ('x' * 100000 ~ '\n') * 1000 | indent(100000) }}",
        "{{ ([[1] * 1000] * 1000) | tojson(indent=1000) }}",
        "{{ 2 ** 1000000000 }}",
        "{{ (('a' * 1000000) | replace('a', 'b' * 100000)) | length }}",
        "{{ (['a' * 1000000] * 100000) | join | length }}",
        "{{ ('x' * 1000000).join(['a'] * 100000) | length }}",
        "{{ ([1] * 90000000) | list | length }}",
        "{{ '%*d' | format(1000000000, 1) | length }}",
        "{{ '{:1000000000}'.format(1) | length }}",
    ];
    for source in hostile {
        let began = Instant::now();
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let rendered = thread.spawn(move || targets::render(source.as_bytes())).unwrap().join();
        assert!(!rendered.unwrap_or_else(|_| panic!("{source}: panics")), "{source} is rendered");
        // a debug build on a busy machine
        assert!(began.elapsed() < Duration::from_secs(60), "{source}: {:?}", began.elapsed());
    }
}
