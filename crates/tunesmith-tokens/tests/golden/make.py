"""Writes the golden files of tunesmith-tokens with transformers, jinja2 and tokenizers as the judges.

    python make.py --parts DIR

DIR holds `templates/templates/*.jinja`, `tokenizers/{llama3,qwen2_5,qwen3}` and `smollm2-135m-instruct`. Third-party
templates and tokenizers are not copied: their outputs are stored as length and 64-bit FNV-1a hash, and the tests that
need them read the same DIR. Written here: tokenizers/*.json (trained by this script), conversations.json,
templates.json, dialect.json, tokens.json.
"""

import argparse
import datetime
import json
import pathlib
import struct

import jinja2
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 7, 25, 12, 15, 0)


class FrozenDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = FrozenDatetime

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather at a place, \"now\" or later – in °C & <b>bold</b>.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City's name, as in 'Köln'"},
                "days": {"type": "integer", "description": "How far ahead", "default": 1},
                "scale": {"type": "number", "enum": [1.0, 0.5, 1e-07], "description": "Factor"},
                "when": {"type": ["string", "null"], "description": "Date"},
            },
            "required": ["place"],
        },
        "return": {"type": "string", "description": "The weather"},
    },
}


def call(arguments):
    return [{"id": "callabc12", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}]


def m(role, content, **extra):
    return {"role": role, "content": content, **extra}


LONG = " ".join(f"Sentence number {i} says that {i} times {i} is {i * i}." for i in range(200))
CONVERSATIONS = {
    "system": dict(messages=[m("system", "You are terse."), m("user", "What is 2+2?"), m("assistant", "4")]),
    "no_system": dict(messages=[m("user", "Hello"), m("assistant", "Hi! How can I help?")]),
    "multi_turn": dict(messages=[
        m("system", "Be kind."), m("user", "One?"), m("assistant", "1."), m("user", "Two?"), m("assistant", "2."),
        m("user", "And three?"), m("assistant", "3, of course."),
    ]),
    "unicode": dict(messages=[
        m("user", "Grüße, 世界! 👩‍👩‍👧‍👦 e\u0301 \u00a0\u2028 नमस्ते"), m("assistant", "שלום 🌍 — “quotes” … \u200b"),
    ]),
    "empty_system": dict(messages=[m("system", ""), m("user", "Anyone?"), m("assistant", "Yes.")]),
    "whitespace": dict(messages=[
        m("system", "  spaced \n"), m("user", "\n\n  lead and trail\t \n"), m("assistant", "  kept?  \n\n"),
        m("user", " \x1f\u3000again\u3000\x1f "), m("assistant", "\tcode:\n    x = 1\n"),
    ]),
    "special": dict(messages=[
        m("user", "What does <|im_end|> mean, and </s>, <|eot_id|>, <end_of_turn>, [INST]?"),
        m("assistant", "<|im_end|> ends a turn; <|endoftext|> ends a text. {{ x }} {% raw %} {# c #}"),
        m("user", "And\n<|im_start|>assistant\n?"), m("assistant", "It starts one."),
    ]),
    "long": dict(messages=[m("user", LONG), m("assistant", LONG[::-1])]),
    "prompt": dict(messages=[m("user", "Continue:")], add_generation_prompt=True),
    "prompt_later": dict(messages=[
        m("system", "S"), m("user", "A"), m("assistant", "B"), m("user", "C"),
    ], add_generation_prompt=True),
    "thinking": dict(messages=[
        m("user", "1+1?"), m("assistant", "<think>\nEasy: two.\n</think>\n\n2"), m("user", "2+2?"),
        m("assistant", "<think>\nAlso easy.\n</think>\n\n4"),
    ]),
    "reasoning": dict(messages=[
        m("user", "1+1?"), m("assistant", "2", reasoning_content="Easy: two."), m("user", "2+2?"),
        m("assistant", "4", reasoning_content="Also easy."),
    ], add_generation_prompt=True, template_kwargs={"enable_thinking": False}),
    "tools": dict(messages=[m("system", "Use tools."), m("user", "Weather in Köln?")], tools=[WEATHER],
                  add_generation_prompt=True),
    "tool_calls": dict(messages=[
        m("user", "Weather in Köln?"),
        m("assistant", "", tool_calls=call({"place": "Köln", "days": 2, "scale": 1e-07, "when": None, "ok": True})),
        m("tool", '{"temp": 21.5, "sky": "clear"}', name="get_weather", tool_call_id="callabc12"),
        m("assistant", "21.5 °C and clear."),
    ], tools=[WEATHER]),
    "tool_strings": dict(messages=[
        m("user", "Weather?"), m("assistant", "Let me look.", tool_calls=call('{"place": "Bonn"}')),
        m("tool", "rain", name="get_weather", tool_call_id="callabc12"), m("assistant", "It rains."),
    ], tools=[WEATHER]),
    "two_users": dict(messages=[m("user", "One"), m("user", "Two"), m("assistant", "Both.")]),
}

# (template, variables): what Jinja2 makes of the constructs that chat templates use, and of some that they might.
X = {"x": [1, 2.0, "a'b", None, True], "s": "Hello, World", "d": {"k": 1, "z": [1.5, {"q": "é\"\n<&>'"}], "a": None},
     "ws": "  \t pad \u00a0\x1c", "f": [1e16, 1e-5, 0.1, 1.0, 123456789.125, 1e22, -0.0, 2.5e-7], "n": None, "e": "",
     "lines": "a\nb\r\nc\u2028d\n", "words": " a  b c ", "ts": [{"name": "t", "args": {}}], "i": 7, "t": True}
DIALECT = [
    "{{ x }}|{{ d }}|{{ n }}|{{ t }}|{{ undefined_thing }}|{{ f }}",
    "{% for v in f %}{{ v }} {% endfor %}{{ f | tojson }}",
    "{{ d | tojson }}\n{{ d | tojson(indent=2) }}\n{{ d | tojson(indent=4) }}\n{{ x|tojson(ensure_ascii=True) }}",
    "{{ d | tojson(separators=(',', ':')) }}{{ d | tojson(sort_keys=True) }}{{ d|tojson(True) }}{{ d|tojson(False, 1) }}",
    "{{ {} | tojson(indent=2) }}{{ [] | tojson(indent=2) }}{{ 'x/y\\u007f\u0001' | tojson }}{{ {1: 2, none: 3} | tojson }}",
    "{{ s[1:] }}|{{ s[:-1] }}|{{ s[::-1] }}|{{ s[-3:] }}|{{ x[1:3] }}|{{ x[::-1] }}|{{ x[-1] }}|{{ s[0] }}|{{ x[::2] }}",
    "{{ ws|trim }}|{{ ws.strip() }}|{{ ws.lstrip() }}|{{ ws.rstrip() }}|{{ s.strip('Hd') }}|{{ s|trim('dH') }}",
    "{{ s.split(', ') }}{{ words.split() }}{{ words.split(' ') }}{{ s.split('l', 1) }}{{ s.rsplit('l', 1) }}"
    "{{ words.split(none, 1) }}{{ words.rsplit(maxsplit=1) }}{{ s.split(',')[-1] }}",
    "{{ lines.splitlines() }}{{ lines.splitlines(true) }}{{ s.partition(', ') }}{{ s.rpartition('zz') }}",
    "{{ s.startswith('Hell') }}{{ s.endswith(('x','d')) }}{{ s.find('World') }}{{ s.find('q') }}{{ s.count('l') }}{{ s.index('W') }}",
    "{{ s.upper() }}{{ s.lower() }}{{ s.title() }}{{ s.capitalize() }}{{ s.swapcase() }}{{ s.replace('l', 'L', 2) }}{{ s|replace('o','0') }}",
    "{{ s.removeprefix('He') }}{{ s.removesuffix('ld') }}{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}|{{ 'a'.center(4) }}|{{ 'a'.ljust(3, '.') }}{{ 'a'.rjust(3) }}",
    "{{ 'abc'.isalpha() }}{{ '12'.isdigit() }}{{ ' '.isspace() }}{{ ''.isspace() }}{{ 'aB'.isupper() }}{{ 'a1'.isalnum() }}",
    "{{ '%s-%d' % (s, i) }}",
    "{% for v in n %}{% endfor %}", "{% for v in x if v in [1, 2] %}{{ v }}{% endfor %}{% for v in ('a' if n else 'b') %}{{ v }}{% endfor %}",
    "{{ '{} is {}'.format(s, i) }}{{ '%.2f'|format(2.0) }}{{ ', '.join(['a', 'b']) }}",
    "{{ d.items() | list }}{{ d.keys() | list }}{{ d.values() | list }}{{ d.get('k') }}{{ d.get('zz') }}{{ d.get('zz', 4) }}{{ d|items|list }}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ loop.index }}{{ loop.last }}{{ k }}{% endfor %}",
    "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}{% for v in x if v %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.length }}{{ v }}{% else %}none{% endfor %}",
    "{{ d is mapping }}{{ x is mapping }}{{ s is mapping }}{{ s is string }}{{ n is none }}{{ zz is defined }}{{ zz is undefined }}"
    "{{ s is iterable }}{{ i is iterable }}{{ d is iterable }}{{ s is sequence }}{{ x is sequence }}{{ d is sequence }}{{ i is sequence }}",
    "{{ i is number }}{{ t is number }}{{ t is boolean }}{{ i is integer }}{{ 1.5 is float }}{{ i is odd }}{{ i is even }}"
    "{{ t is true }}{{ n is false }}{{ i is divisibleby 7 }}{{ 'a' in s }}{{ 'k' in d }}{{ 'zz' not in d }}{{ s is eq s }}{{ i is in [7] }}",
    "{% set ns = namespace(a=1, b=[]) %}{% for v in x %}{% set ns.a = ns.a + 1 %}{% set ns.b = ns.b + [v] %}{% endfor %}{{ ns.a }}{{ ns.b }}",
    "{% set ns = namespace() %}{% set ns.q = 'v' %}{{ ns.q }}{{ ns.zz is defined }}{% set a, b = (1, 2) %}{{ a }}{{ b }}",
    "{% for v in x %}{% if v == 'a\\'b' %}{% break %}{% endif %}{% if loop.first %}{% continue %}{% endif %}{{ v }}{% endfor %}",
    "{% macro f(a, b='d') %}[{{ a }}{{ b }}{{ caller() if caller else '' }}]{% endmacro %}{{ f(1) }}{{ f(1, b=2) }}{% call f(3) %}c{% endcall %}",
    "{% set q %}cap {{ s }}{% endset %}{{ q|upper }}{% filter upper %}filtered{% endfilter %}{% with a=1 %}{{ a }}{% endwith %}",
    "{{ 7 / 2 }}{{ 7 // 2 }}{{ 7 % 3 }}{{ 2 ** 5 }}{{ -7 // 2 }}{{ 1 + 1.0 }}{{ 3 * 'ab' }}{{ 1 ~ 'a' ~ none ~ 1.5 }}{{ 6 / 3 }}",
    "{{ x + [3] }}{{ 'a' + 'b' }}{{ 1 < 2 <= 2 }}{{ not t }}{{ t and 'yes' or 'no' }}{{ e or 'fallback' }}{{ 'y' if e }}{{ 'y' if e else 'z' }}",
    "{{ x|length }}{{ s|length }}{{ d|length }}{{ x|first }}{{ x|last }}{{ [3,1,2]|sort }}{{ [1,2]|sum }}{{ [1,1,2]|unique|list }}{{ [1,2,3]|max }}",
    "{{ ts|map(attribute='name')|list }}{{ ts|map(attribute='name')|join(', ') }}{{ ts|selectattr('name', 'equalto', 't')|list|length }}",
    "{{ x|select('string')|list }}{{ x|reject('none')|list }}{{ ['a','b']|map('upper')|join }}{{ ts|rejectattr('name')|list }}{{ [[1,2],[3]]|sum(start=[]) }}",
    "{{ n|default('dn') }}{{ zz|default('dz') }}{{ e|default('de', true) }}{{ s|d('x') }}{{ i|string + 'x' }}{{ '12'|int + 1 }}{{ '1.5'|float }}{{ 2.567|round(1) }}",
    "{{ s|indent(2) }}{{ 'a\nb\n\nc'|indent(4) }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\nb'|indent(width=3, first=False) }}{{ s|e }}{{ '<b>' | escape }}{{ '<b>'|safe }}",
    "{{ range(3)|list }}{% for j in range(4, 0, -2) %}{{ j }}{% endfor %}{{ dict(a=1, b='x') }}{{ x|batch(2)|list }}{{ {'a': (1,), 'b': ()} }}",
    "a  {%- if t %}  b  {%- endif %}  c\n  {% if t %}\n d\n  {% endif %}\n e {% raw %}{{ not }} {% generation %}{% endraw %} f {{- ' g ' -}}   h\n",
    "{#- comment -#}  x {# {% generation %} #}\n  {#- y -#}\n z\n\n",
    "  {%+ if t %}kept{% endif +%}\n next\n\t{% set a = 1 %}\n{{ a }}\n",
    "{% generation %}  in {% endgeneration %} out {%- generation -%}  both  {%- endgeneration -%}  end {{ '{% generation %}' }}",
    "{% for v in [1, 2] %}\n  {% generation %}\n  v{{ v }}\n  {% endgeneration %}\n{% endfor %}",
    "{% generation %}{% set q = 5 %}{{ q }}{% endgeneration %}{{ q is defined }}",
    "{{ raise_exception('no ' + s) }}",
    "{{ zz.attr }}", "{{ zz['a']['b'] }}", "{{ x.append(1) }}", "{{ 'a' + 1 }}", "{{ 'a' + n }}", "{{ nofunction() }}",
    "{{ s.nomethod() }}", "{{ x|nofilter }}", "{{ zz + 'a' }}", "{{ zz|tojson }}", "{% for v in i %}{% endfor %}", "{{ i[0] }}|",
    "{{ zz }}{{ d.zz }}{{ d['zz'] is defined }}{{ x[99] is defined }}{{ d.zz is none }}{% for v in zz %}{% endfor %}{{ zz|length }}{{ zz|list }}{{ not zz }}",
    "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%Y-%m-%d %H:%M:%S %A %B %j %-d %p %I') }}{{ strftime_now is defined }}{{ strftime_now is callable }}",
    "{{ 'it''s' }}{{ \"a\\tb\\n\\\\\\\"\\'\" }}{{ '\\u00e9\\x41' }}{{ 'x' 'y' }}{{ true }}{{ True }}{{ none }}{{ None }}{{ [true, none] }}{{ 1_000 }}",
    "{{ ['a', \"b'c\", 'd\"e', 'f\\\\g\\n\u00e9'] }}{{ ('t', 1) }}{{ ('one',) }}{{ {'a': {'b': none}} }}",
    "{%- set content = s if s is string else '' -%}{{- content + '\\n' -}}{%- if not x or i > 3 and not n -%} yes {%- endif -%}",
    "{{ d['z'][1]['q'] }}{{ d.z[0] }}{{ (d.z|last).q }}{{ x|join('-') }}{{ x|list|string }}{{ s|upper|lower|title|capitalize }}{{ s|reverse }}{{ x|reverse|list }}",
    "{{ loop is defined }}{% for a in [1,2,3] %}{{ loop.previtem is defined }}{{ loop.nextitem }}{{ loop.cycle('o','e') }}{{ loop.depth }}{% endfor %}",
    "{% for a in [[1,[2]],[3,[]]] recursive %}{{ a }}{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{{ messages|length }}{{ add_generation_prompt }}{{ tools is none }}{{ documents is none }}{{ documents is defined }}{{ bos_token }}",
    "{{ 'äöü'|upper }}{{ 'ß'.upper() }}{{ 'İ'.lower()|length }}{{ 'Straße'.casefold() }}{{ 'é'|length }}{{ '👩‍👩‍👧'|length }}{{ '👍a'[1] }}",
]

# A template that marks what the assistant writes, in the shapes that real ones have.
GENERATION = (
    "{%- for message in messages %}\n"
    "    {%- if message.role == 'assistant' %}\n"
    "        {{- '<|im_start|>assistant\\n' }}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}\n"
    "    {%- else %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def fnv(data: bytes) -> str:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) % (1 << 64)
    return f"{value:016x}"


def text_digest(text):
    data = text.encode("utf-8")
    return [len(data), fnv(data)]


def ids_digest(ids):
    return [len(ids), fnv(struct.pack(f"<{len(ids)}I", *ids))]


def render(template, conversation, variables):
    arguments = {**variables, **conversation.get("template_kwargs", {})}
    messages = [{k: v for k, v in message.items() if v is not None} for message in conversation["messages"]]
    texts, _ = chat_template_utils.render_jinja_template(
        conversations=[messages], tools=conversation.get("tools"), chat_template=template,
        add_generation_prompt=conversation.get("add_generation_prompt", False), **arguments,
    )
    return texts[0]


def outcome(template, conversation, variables):
    """Digest of the text, or why there is none."""
    try:
        return text_digest(render(template, conversation, variables))
    except Exception as error:  # the engine raises whatever Python raises
        return f"{type(error).__name__}: {error}"[:120]


def train(kind):
    corpus = [LONG] + [json.dumps(c, ensure_ascii=False) for c in CONVERSATIONS.values()] + DIALECT
    tokenizer = Tokenizer(models.BPE(byte_fallback=kind == "spaces", unk_token="<unk>" if kind == "spaces" else None))
    if kind == "bytes":
        # As GPT-2, Llama 3 and Qwen.
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet, extra = pre_tokenizers.ByteLevel.alphabet(), []
    else:
        # As Llama 2: a space before the first word only, bytes for what the vocabulary lacks.
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
        ])
        alphabet, extra = list("▁abcdefghijklmnopqrstuvwxyz"), ["<unk>"] + [f"<0x{b:02X}>" for b in range(256)]
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + len(extra) + 160, initial_alphabet=alphabet, limit_alphabet=len(alphabet) + 40,
        special_tokens=extra + special, show_progress=False, max_token_length=12,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    state = json.loads(tokenizer.to_str())
    # Bytes are words of the vocabulary, not special tokens.
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ["<think>", "</think>", "<tool_call>", "</tool_call>"]])
    # One whose flags reach beyond its own text, as in Phi-3.
    tokenizer.add_special_tokens([AddedToken("<|sep|>", rstrip=True, lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A" if kind == "bytes" else "<s> $A </s>", special_tokens=[
            (t, tokenizer.token_to_id(t)) for t in ["<s>", "</s>"]
        ])
    # What tunesmith must switch off.
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(32)
    return tokenizer


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, indent=None, separators=(",", ":"))
    # One entry per line, so that a changed expectation is a changed line.
    if isinstance(value, (dict, list)):
        if isinstance(value, dict):
            rows = [json.dumps(k, ensure_ascii=False) + ":" + json.dumps(v, ensure_ascii=False) for k, v in value.items()]
            text = "{\n" + ",\n".join(rows) + "\n}"
        else:
            text = "[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in value) + "\n]"
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", type=pathlib.Path, required=True)
    parts = parser.parse_args().parts

    write("conversations.json", CONVERSATIONS)

    renders, with_tokenizer = {}, {}
    for path in sorted((parts / "templates/templates").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        renders[path.stem] = {name: outcome(source, c, VARIABLES) for name, c in CONVERSATIONS.items()}
    for name in ["smollm2-135m-instruct", "tokenizers/llama3", "tokenizers/qwen2_5", "tokenizers/qwen3"]:
        # tokenizer.json as it is: AutoTokenizer would rebuild SmolLM2's from vocabulary and merges alone, as GPT-2's, and
        # lose its splitting of digits.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(parts / name)
        rows = {}
        for key, c in CONVERSATIONS.items():
            row = {"text": outcome(tokenizer.chat_template, c, tokenizer.special_tokens_map)}
            # Special tokens that messages spell are tokens for transformers and text for tunesmith.
            if not isinstance(row["text"], str) and key != "special":
                row["ids"] = ids_digest(tokenizer.apply_chat_template(
                    c["messages"], tools=c.get("tools"), return_dict=False,
                    add_generation_prompt=c.get("add_generation_prompt", False), **c.get("template_kwargs", {})))
            rows[key] = row
        texts = {key: c["messages"][0]["content"] for key, c in CONVERSATIONS.items()}
        tokenizer.backend_tokenizer.encode_special_tokens = True
        plain = {key: ids_digest(tokenizer.backend_tokenizer.encode(t, add_special_tokens=False).ids) for key, t in texts.items()}
        with_tokenizer[name] = {"chat": rows, "plain": plain}
    write("templates.json", renders)
    write("parts_tokens.json", with_tokenizer)
    full = {name: (parts / "templates/templates" / f"{name}.jinja").read_text(encoding="utf-8")
            for name in ["Qwen-Qwen3-0.6B", "mistralai-Mistral-Nemo-Instruct-2407"]}
    write("full_texts.json", {
        name: {key: render(source, CONVERSATIONS[key], VARIABLES) for key in ["multi_turn", "thinking"]
               if not isinstance(outcome(source, CONVERSATIONS[key], VARIABLES), str)}
        for name, source in full.items()
    })

    dialect = []
    for source in DIALECT:
        try:
            expected = {"text": render(source, {"messages": [m("user", "u")], "template_kwargs": X}, VARIABLES)}
        except Exception as error:
            expected = {"error": f"{type(error).__name__}: {error}"[:120]}
        dialect.append({"source": source, **expected})
    write("dialect.json", {"variables": X, "cases": dialect})

    (HERE / "tokenizers").mkdir(exist_ok=True)
    tokens = {}
    for kind in ["bytes", "spaces"]:
        path = HERE / "tokenizers" / f"{kind}.json"
        # Training breaks ties by chance, so what is there stays.
        if not path.exists():
            state = json.loads(train(kind).to_str())
            path.write_text(json.dumps(state, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
        trained = Tokenizer.from_file(str(path))
        trained.no_padding()
        trained.no_truncation()
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=trained, bos_token="<s>", eos_token="</s>", chat_template=GENERATION,
        )
        rows = {}
        for key, c in CONVERSATIONS.items():
            if key in ("long", "special"):
                continue
            text = "\n".join(message["content"] for message in c["messages"])
            out = wrapped.apply_chat_template(
                c["messages"], add_generation_prompt=c.get("add_generation_prompt", False), return_dict=True,
                return_assistant_tokens_mask=True)
            rows[key] = {
                "chat": list(out["input_ids"]), "mask": "".join(map(str, out["assistant_masks"])),
                "text": trained.encode(text).ids, "bare": trained.encode(text, add_special_tokens=False).ids,
                "decoded": trained.decode(trained.encode(text).ids, skip_special_tokens=True),
            }
        plain = {}
        trained.encode_special_tokens = True
        for text in ["<|im_end|>", "a <|im_end|> b</s>", " <|sep|> x", "<think>x</think><s>", "no special"]:
            plain[text] = trained.encode(text, add_special_tokens=False).ids
        tokens[kind] = {"rows": rows, "plain": plain}
    write("tokens.json", {"template": GENERATION, **tokens})
    print("transformers", transformers.__version__, "jinja2", jinja2.__version__)


main()
