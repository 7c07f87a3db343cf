//! What is rewritten in a template's source before the engine compiles it.
//!
//! Three things: `{% generation %}` blocks, which are no Jinja of the engine's (see `generation`); what loops run over, so
//! that a loop over none fails as it does in Python; and what variables and the parameters of macros are set to, so that
//! a text which a template doubles again and again is stopped before it fills the memory. Comments, raw blocks and string
//! literals are left alone, and no line changes its number.

use super::generation;

/// The function through which loops see what they run over.
pub(super) const EACH: &str = "__each__";

/// The function through which values go that are given a name.
pub(super) const BOUNDED: &str = "__bounded__";

/// The rewritten source, and whether it has `{% generation %}` blocks.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut rest = source;
    let mut has_generation = false;
    let mut raw = false;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        let end = match tail.as_bytes().get(1) {
            Some(b'#') if !raw => tail.find("#}").map_or(tail.len(), |end| end + 2),
            Some(b'{') if !raw => {
                scan(tail, |rest, _| rest.starts_with("}}")).map_or(tail.len(), |end| end + 2)
            }
            Some(b'%') => {
                let end = if raw {
                    tail.find("%}")
                } else {
                    scan(tail, |rest, _| rest.starts_with("%}"))
                };
                let tag = &tail[..end.map_or(tail.len(), |end| end + 2)];
                let (open, body, close) = parts(tag);
                let word = body.split_whitespace().next().unwrap_or_default();
                if raw && word != "endraw" {
                    // What looks like a tag inside raw text may be half of one: only its brace is settled.
                    1
                } else {
                    raw = word == "raw";
                    has_generation |= word == "generation";
                    match word {
                        "generation" => out.push_str(
                            &[open, " call ", generation::FUNCTION, "() ", close].concat(),
                        ),
                        "endgeneration" => out.push_str(&[open, " endcall ", close].concat()),
                        "for" => out.push_str(&[open, &checked_loop(body), close].concat()),
                        "set" => out.push_str(&[open, &bounded_set(body), close].concat()),
                        "macro" => {
                            out.push_str(tag);
                            for name in parameters(body) {
                                let set =
                                    ["{% set ", name, " = ", BOUNDED, "((", name, ")) ", close];
                                out.push_str(&set.concat());
                            }
                        }
                        _ => out.push_str(tag),
                    }
                    rest = &tail[tag.len()..];
                    continue;
                }
            }
            _ => 1,
        };
        out.push_str(&tail[..end]);
        rest = &tail[end..];
    }
    out.push_str(rest);
    (out, has_generation)
}

/// `{%-`, what stands between, and `-%}` of a tag.
fn parts(tag: &str) -> (&str, &str, &str) {
    let open = 2 + usize::from(tag[2..].starts_with(['-', '+']));
    // Of `{%}` the sign that opens is the sign that closes: there is no body.
    let body = tag.strip_suffix("%}").filter(|body| body.len() >= open).unwrap_or(tag);
    let close = body.len() - usize::from(body.len() > open && body.ends_with(['-', '+']));
    (&tag[..open], &tag[open..close], &tag[close..])
}

/// `for a in b if c` as `for a in __each__(b) if c`.
fn checked_loop(body: &str) -> String {
    let keyword = |word: &'static str| {
        move |rest: &str, depth: usize| {
            let inner =
                rest.strip_prefix(char::is_whitespace).and_then(|rest| rest.strip_prefix(word));
            depth == 0
                && inner.is_some_and(|rest| {
                    !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
                })
        }
    };
    let Some(at) = scan(body, keyword("in")) else { return body.to_owned() };
    // The white space character before the keyword may be a line break, but is one byte long in any real template.
    let Some((targets, iterated)) = body.split_at_checked(at + 3) else { return body.to_owned() };
    let filter = scan(iterated, keyword("if"));
    let end = filter.or_else(|| scan(iterated, keyword("recursive"))).unwrap_or(iterated.len());
    format!("{targets} {EACH}({}){}", &iterated[..end], &iterated[end..])
}

/// `set a = b` as `set a = __bounded__((b))`; a block that is given a name has no such sign, and stays.
fn bounded_set(body: &str) -> String {
    match scan(body, |rest, depth| depth == 0 && rest.starts_with('=')) {
        Some(at) => format!("{} {BOUNDED}(({}))", &body[..=at], &body[at + 1..]),
        None => body.to_owned(),
    }
}

/// The names of a macro's parameters.
fn parameters(body: &str) -> impl Iterator<Item = &str> {
    let list = body.split_once('(').map_or("", |(_, list)| list);
    let mut rest = list.rsplit_once(')').map_or(list, |(list, _)| list);
    std::iter::from_fn(move || {
        if rest.trim().is_empty() {
            return None;
        }
        let comma = scan(rest, |rest, depth| depth == 0 && rest.starts_with(','));
        let (parameter, behind) = rest.split_at(comma.unwrap_or(rest.len()));
        rest = behind.get(1..).unwrap_or_default();
        Some(parameter.split('=').next().unwrap_or_default().trim())
    })
}

/// The first place outside string literals where `found` says yes to the rest of the text and the depth of brackets.
fn scan(text: &str, found: impl Fn(&str, usize) -> bool) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match quote {
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if found(&text[at..], depth) => return Some(at),
            None => match c {
                '"' | '\'' => quote = Some(c),
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            },
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        assert_eq!(rewrite(source).0, expected);
    }

    #[test]
    fn a_tag_without_a_body_is_left_to_the_engine() {
        for source in ["{%}", "a {%} b", "{%-%}", "{%%}", "{%+}", "{%"] {
            check(source, source);
        }
    }

    #[test]
    fn sources() {
        check(
            "{%- generation -%}x{%endgeneration+%}",
            "{%- call __generation__() -%}x{% endcall +%}",
        );
        check(
            "{{ '{% generation %}' }}{# {% generation %} #}",
            "{{ '{% generation %}' }}{# {% generation %} #}",
        );
        let raw = "{% raw %}{% generation %}{{ '{%- endraw %}";
        check(&format!("{raw}{{% for a in b %}}"), &format!("{raw}{{% for a in __each__( b )%}}"));
        check(
            "{% for a, b in x.items() if a in b %}",
            "{% for a, b in __each__( x.items()) if a in b %}",
        );
        check(
            "{%- for t in [x if y else z, ' in if '] recursive -%}",
            "{%- for t in __each__( [x if y else z, ' in if ']) recursive -%}",
        );
        check("{%- for ins in\n  index -%}", "{%- for ins in __each__(\n  index )-%}");
        check("{%- set a = b == c -%}", "{%- set a = __bounded__(( b == c ))-%}");
        check("{% set a, b.c = 1, '=' %}", "{% set a, b.c = __bounded__(( 1, '=' ))%}");
        check("{% set a %}x{% endset %}", "{% set a %}x{% endset %}");
        check(
            "{% macro m(a, b=[1, 2], c = ')') -%}",
            "{% macro m(a, b=[1, 2], c = ')') -%}{% set a = __bounded__((a)) -%}\
             {% set b = __bounded__((b)) -%}{% set c = __bounded__((c)) -%}",
        );
        check("{% macro m() %}", "{% macro m() %}");
        check("a { b {", "a { b {");
        check("{% for", "{% for");
        assert_eq!((rewrite("{% generation %}").1, rewrite("{{ generation }}").1), (true, false));
    }
}
