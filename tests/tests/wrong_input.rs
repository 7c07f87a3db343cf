//! Wrong input, one thing at a time: the whole message, the exit code, and nothing half-written.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use expect_test::{Expect, expect};
use std::fs;
use tunesmith_tests::*;

/// Runs a command that must fail; what it says on stderr, and on stdout nothing, is `expected`.
fn check(place: &Place, line: &str, code: i32, expected: Expect) {
    let ran = place.fails(code, line);
    expected.assert_eq(&said(place, &ran.stderr));
    assert_eq!(ran.stdout, "", "stdout is data");
    assert!(!place.path("out").exists(), "a run that could not start leaves no directory");
    assert!(!place.path("runs").join("rows").exists());
}

/// A message without what differs between machines.
fn said(place: &Place, stderr: &str) -> String {
    let home =
        golden("").parent().and_then(|tests| tests.parent()).expect("the checkout").to_owned();
    let folder = |path: &std::path::Path| format!("{}/", path.display());
    stderr
        .replace(&folder(&place.path("")), "")
        .replace(&folder(&place.path("").canonicalize().unwrap()), "")
        .replace(&folder(&home), "")
}

fn place() -> Place {
    let place = Place::new();
    place.write_rows("rows.jsonl", 6);
    place
}

const TRAIN: &str = "finetune --model llama3 --dataset rows.jsonl --max-steps 2 --out out";
const CHAT: &str =
    "finetune --model tiny --from-scratch --dataset rows.jsonl --max-steps 2 --out out";

/// Training on a file of these bytes fails.
fn check_rows(command: &str, rows: impl AsRef<[u8]>, code: i32, expected: Expect) {
    let place = Place::new();
    place.write("rows.jsonl", rows);
    check(&place, command, code, expected);
}

#[test]
fn missing_column() {
    check_rows(
        TRAIN,
        "{\"inputs_ids\": [1, 2, 3]}\n",
        65,
        expect![[r#"
        error: rows.jsonl: the columns fit no row shape: found `inputs_ids`
        help: shape tokens is nearest and lacks `input_ids`; in the data set's TOML: columns = { input_ids = "inputs_ids" }
    "#]],
    );
}

#[test]
fn empty_messages() {
    check_rows(
        CHAT,
        "{\"messages\": []}\n",
        65,
        expect![[r#"
        error: rows.jsonl: row 0 (line 1) /messages: expected at least one message, found an empty list
        help: `--on-bad-row skip` leaves such rows out and counts them
    "#]],
    );
}

#[test]
fn null_content() {
    let rows = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null}]}"#;
    check_rows(
        CHAT,
        rows,
        65,
        expect![[r#"
        error: rows.jsonl: row 0 (line 1) /messages/1/content: expected text, found null
        help: `--on-bad-row skip` leaves such rows out and counts them
    "#]],
    );
}

#[test]
fn empty_file() {
    check_rows(
        TRAIN,
        "",
        65,
        expect![[r#"
        error: rows.jsonl: expected at least one row, found 0 in 1 file(s)
    "#]],
    );
}

#[test]
fn conversations_for_a_model_without_tokenizer() {
    let rows = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    check_rows(
        TRAIN,
        rows,
        78,
        expect![[r#"
             WARN the model has no tokenizer.json: rows must be token ids, and there is no text to show
            error: row 0 is text, and the model has no tokenizer
            help: give rows of token ids (input_ids)
        "#]],
    );
}

#[test]
fn token_outside_the_vocabulary() {
    check_rows(
        TRAIN,
        "{\"input_ids\": [1, 96, 3]}\n",
        65,
        expect![[r#"
             WARN the model has no tokenizer.json: rows must be token ids, and there is no text to show
            error: row 0: token id 96 is outside the model's vocabulary of 96
            help: the tokenizer and the model do not belong together
        "#]],
    );
    let place = Place::new();
    check(
        &place,
        "generate --model llama3 --prompt-ids 96",
        65,
        expect![[r#"
             INFO the model has no tokenizer.json: rows must be token ids, and there is no text to show
            error: token id 96 is outside the vocabulary of 96
            help: the tokenizer and the model do not belong together
        "#]],
    );
}

#[test]
fn nothing_trained() {
    check_rows(
        TRAIN,
        "{\"input_ids\": [1, 2], \"labels\": [-100, -100]}\n",
        65,
        expect![[r#"
             WARN the model has no tokenizer.json: rows must be token ids, and there is no text to show
            error: expected at least one row with a trained token, found none in 1 rows
            help: `tunesmith data show` marks what is trained in a row; a larger seq_len cuts less off
        "#]],
    );
}

#[test]
fn truncated_parquet() {
    let place = Place::new();
    let whole = fs::read(golden("../../crates/tunesmith-data/tests/golden/chats.parquet")).unwrap();
    place.write("rows.parquet", &whole[..whole.len() / 2]);
    check(
        &place,
        &CHAT.replace("rows.jsonl", "rows.parquet"),
        65,
        expect![[r#"
        error: rows.parquet: expected a parquet file, which ends in its footer and `PAR1`, found 7248 bytes that end in `\xe8\xdar\xd5`
        help: the file was cut off or is no parquet; fetch or write it again
    "#]],
    );
}

#[test]
fn missing_shard() {
    let place = place();
    place.copy_model("llama-sharded", "sharded");
    fs::remove_file(place.path("sharded/model-00002-of-00004.safetensors")).unwrap();
    check(
        &place,
        &TRAIN.replace("llama3", "sharded"),
        66,
        expect![[r#"
             WARN the model has no tokenizer.json: rows must be token ids, and there is no text to show
            error: sharded: 1 of 4 weight shards are missing: model-00002-of-00004.safetensors
            help: download the model again
        "#]],
    );
    check(
        &place,
        "score --model sharded --data rows.jsonl",
        66,
        expect![[r#"
            error: sharded: 1 of 4 weight shards are missing: model-00002-of-00004.safetensors
            help: download the model again
        "#]],
    );
}

#[test]
fn truncated_safetensors() {
    let place = place();
    place.copy_model("llama3", "cut");
    let whole = place.bytes("cut/model.safetensors");
    place.write("cut/model.safetensors", &whole[..whole.len() - 100]);
    check(
        &place,
        &TRAIN.replace("llama3", "cut"),
        65,
        expect![[r#"
             WARN the model has no tokenizer.json: rows must be token ids, and there is no text to show
            error: cut/model.safetensors: truncated: 88660 of 88760 bytes
            help: the download or the copy broke off; fetch the file again
        "#]],
    );
    check(
        &place,
        "generate --model cut --prompt-ids 1",
        65,
        expect![[r#"
        error: cut/model.safetensors: truncated: 88660 of 88760 bytes
        help: the download or the copy broke off; fetch the file again
    "#]],
    );
}

#[test]
fn weights_of_another_model() {
    let place = place();
    place.copy_model("llama3", "mixed");
    let config = place
        .text("mixed/config.json")
        .replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    place.write("mixed/config.json", config);
    check(
        &place,
        &TRAIN.replace("llama3", "mixed"),
        65,
        expect![[r#"
             WARN the model has no tokenizer.json: rows must be token ids, and there is no text to show
            error: mixed: 9 tensors missing from the weights: model.layers.2.input_layernorm.weight, model.layers.2.self_attn.q_proj.weight, model.layers.2.self_attn.k_proj.weight, model.layers.2.self_attn.v_proj.weight, model.layers.2.self_attn.o_proj.weight and 4 more
            help: config.json and the weights do not belong together, or the download is not complete
        "#]],
    );
}

#[test]
fn unsupported_architecture() {
    let place = place();
    place.copy_model("llama3", "other");
    let config = place
        .text("other/config.json")
        .replace("\"llama\"", "\"mamba\"")
        .replace("LlamaForCausalLM", "MambaForCausalLM");
    place.write("other/config.json", config);
    check(
        &place,
        &TRAIN.replace("llama3", "other"),
        78,
        expect![[r#"
        error: other/config.json: model_type "mamba" is not supported
        help: supported: llama, mistral, qwen2, qwen3, gpt2
    "#]],
    );
    check(
        &place,
        "check --model other --dataset rows.jsonl",
        78,
        expect![[r#"
        error: other/config.json: model_type "mamba" is not supported
        help: supported: llama, mistral, qwen2, qwen3, gpt2
    "#]],
    );
}

#[test]
fn no_such_model() {
    let place = place();
    check(
        &place,
        &TRAIN.replace("llama3", "./llama33"),
        66,
        expect![[r#"
        error: ./llama33: no such directory, and no Hub id
        help: a model is a directory with config.json, a .gguf file, or an id such as owner/name
    "#]],
    );
    place.write("folder/readme.txt", "nothing");
    check(
        &place,
        &TRAIN.replace("llama3", "folder"),
        66,
        expect![[r#"
        error: folder: no config.json in this directory
        help: a model is a directory with config.json, a .gguf file, or an id such as owner/name
    "#]],
    );
}

#[test]
fn no_such_model_on_a_hub_that_cannot_be_reached() {
    let place = place();
    check(
        &place,
        &TRAIN.replace("llama3", "owner/name"),
        66,
        expect![[r#"
        error: model owner/name: owner/name at revision main is not in the cache hub/hub: the revision was never downloaded, and HF_HUB_OFFLINE is set
        help: unset HF_HUB_OFFLINE once to download it
    "#]],
    );
}

#[test]
fn no_such_data_set() {
    let place = place();
    // The names of the data sets change with the checkout.
    let ran = place.fails(66, &TRAIN.replace("rows.jsonl", "ultrchat"));
    let text = said(&place, &ran.stderr);
    let expected = "error: `ultrchat`: no data set of this name in configs/datasets, found `";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.ends_with("\nhelp: did you mean `ultrachat`?\n"), "{text}");
    assert!(!place.path("out").exists());
    check(
        &place,
        &TRAIN.replace("rows.jsonl", "row.jsonl"),
        66,
        expect![[r#"
        error: row.jsonl: no such file or folder
        help: did you mean ./rows.jsonl
    "#]],
    );
    check(
        &place,
        "finetune --model llama3 --out out",
        64,
        expect![[r#"
        error: no data set given
        help: --dataset takes a name in configs/datasets, a TOML file, or a data file or folder
    "#]],
    );
}

#[test]
fn no_such_recipe() {
    // The names of the recipes change with the checkout.
    let ran = place().fails(66, &format!("{TRAIN} --recipe sft-ful"));
    let expected =
        "error: no recipe `sft-ful` in configs/recipes, and no such file\nhelp: recipes are ";
    assert!(ran.stderr.starts_with(expected) && ran.stderr.contains("sft-full"), "{}", ran.stderr);
}

#[test]
fn unknown_recipe_key() {
    let place = place();
    place.write("r.toml", "[schedule]\nlearning_rte = 1e-4\n");
    check(
        &place,
        &format!("{TRAIN} --recipe r.toml"),
        78,
        expect![[r#"
        error: recipe r.toml: unknown key `schedule.learning_rte`
        help: did you mean `schedule.lr`?
    "#]],
    );
    place.write("r.toml", "[optimiser]\nweight_decay = 0.1\n");
    check(
        &place,
        &format!("{TRAIN} --recipe r.toml"),
        78,
        expect![[r#"
        error: recipe r.toml: unknown key `optimiser.weight_decay`
        help: did you mean `optimizer.weight_decay`?
    "#]],
    );
    check(
        &place,
        &format!("{TRAIN} --set train.max_step=3"),
        78,
        expect![[r#"
        error: flag --set train.max_step=3: unknown key `train.max_step`
        help: did you mean `train.max_steps`?
    "#]],
    );
}

#[test]
fn recipe_that_is_no_toml() {
    let place = place();
    place.write("r.toml", "[schedule\nlr = 1e-4\n");
    check(
        &place,
        &format!("{TRAIN} --recipe r.toml"),
        78,
        expect![[r#"
        error: r.toml: TOML parse error at line 1, column 10
          |
        1 | [schedule
          |          ^
        unclosed table, expected `]`
        help: recipes are TOML files
    "#]],
    );
}

#[test]
fn values_out_of_range() {
    let place = place();
    check(
        &place,
        &format!("{TRAIN} --lr -1e-4"),
        78,
        expect![[r#"
        error: recipe: `schedule.lr`: expected a number above 0 and below 1, found -0.0001 (flag --lr)
    "#]],
    );
    place.write("r.toml", "[schedule]\nlr = -1\n[data]\nseq_len = 1\n");
    check(
        &place,
        &format!("{TRAIN} --recipe r.toml"),
        78,
        expect![[r#"
        error: recipe: `schedule.lr`: expected a number above 0 and below 1, found -1 (recipe r.toml)
          `data.seq_len`: expected at least 2 tokens, found 1 (recipe r.toml)
    "#]],
    );
    check(
        &place,
        "generate --model llama3 --prompt-ids 1 --temperature=-1",
        64,
        expect![[r#"
        error: `temperature`: expected a number at least 0, found -1
    "#]],
    );
}

#[test]
fn values_of_another_kind() {
    let place = place();
    check(
        &place,
        &format!("{TRAIN} --lr abc"),
        78,
        expect![[r#"
        error: flag --lr: `schedule.lr`: expected a number, found "abc"
    "#]],
    );
    check(
        &place,
        &format!("{TRAIN} --set data.packing=tight"),
        78,
        expect![[r#"
        error: flag --set data.packing=tight: `data.packing`: expected `best-fit` or `none`, found "tight"
    "#]],
    );
    check(
        &place,
        &format!("{TRAIN} --set schedule.lr"),
        78,
        expect![[r#"
        error: --set: expected KEY=VALUE, found `schedule.lr`
        help: such as --set schedule.lr=1e-4
    "#]],
    );
    check(
        &place,
        &format!("{TRAIN} --dtype fp8"),
        78,
        expect![[r#"
        error: flag --dtype: `model.dtype`: expected `fp32` or `bf16`, found "fp8"
    "#]],
    );
}

#[test]
fn unknown_flag() {
    let place = place();
    check(
        &place,
        &format!("{TRAIN} --learning-rate 1e-4"),
        64,
        expect![[r#"
        error: unexpected argument '--learning-rate' found

          tip: a similar argument exists: '--lr'

        Usage: tunesmith finetune --model <MODEL> --dataset <DATASET> --max-steps <MAX_STEPS> --out <OUT> --lr <LR>

        For more information, try '--help'.
    "#]],
    );
    check(
        &place,
        "finetun --dataset rows.jsonl",
        64,
        expect![[r#"
        error: unrecognized subcommand 'finetun'

          tip: a similar subcommand exists: 'finetune'

        Usage: tunesmith [OPTIONS] <COMMAND>

        For more information, try '--help'.
    "#]],
    );
    check(
        &place,
        "generate --model llama3",
        64,
        expect![[r#"
        error: the following required arguments were not provided:
          <--prompt <PROMPT>|--messages <MESSAGES>|--prompt-ids <PROMPT_IDS>>

        Usage: tunesmith generate --model <MODEL> <--prompt <PROMPT>|--messages <MESSAGES>|--prompt-ids <PROMPT_IDS>>

        For more information, try '--help'.
    "#]],
    );
}

#[test]
fn output_that_cannot_be_created() {
    let place = place();
    check(
        &place,
        &TRAIN.replace("--out out", "--out rows.jsonl/x"),
        73,
        expect![[r#"
        error: rows.jsonl/x: Not a directory (os error 20)
        help: choose another place with --out
    "#]],
    );
    check(
        &place,
        &TRAIN.replace("--out out", "--out rows.jsonl"),
        73,
        expect![[r#"
        error: rows.jsonl: File exists (os error 17)
        help: choose another place with --out
    "#]],
    );
    check(
        &place,
        &TRAIN.replace("--out out", "--out /proc/x"),
        73,
        expect![[r#"
        error: /proc/x: No such file or directory (os error 2)
        help: choose another place with --out
    "#]],
    );
    assert_eq!(place.text("rows.jsonl").lines().count(), 6);
}

#[test]
fn a_directory_that_is_in_use() {
    let place = place();
    place.ok(&TRAIN.replace("--out out", "--out used"));
    let before = place.names("used");
    check(
        &place,
        &TRAIN.replace("--out out", "--out used"),
        73,
        expect![[r#"
        error: used: the directory already holds a run
        help: continue it with --resume, or choose another place with --out
    "#]],
    );
    place.write("mine/letter.txt", "dear");
    check(
        &place,
        &TRAIN.replace("--out out", "--out mine"),
        73,
        expect![[r#"
            error: mine: the directory already holds other files
            help: choose another place with --out
        "#]],
    );
    check(
        &place,
        &format!("{} --resume", TRAIN.replace("--out out", "--out mine")),
        73,
        expect![[r#"
            error: mine: the directory already holds other files
            help: choose another place with --out
        "#]],
    );
    assert_eq!((place.names("used"), place.names("mine")), (before, vec!["letter.txt".to_owned()]));
    // Without --out, a second run gets a directory of its own.
    let train = TRAIN.replace(" --out out", "");
    place.ok(&train);
    place.ok(&train);
    assert_eq!(place.names("runs"), ["rows", "rows-2"]);
}

#[test]
fn a_directory_that_another_process_uses() {
    let place = place();
    let train = TRAIN.replace("--out out", "--out used");
    let endless = train.replace("--max-steps 2", "--max-steps 1000000");
    let mut first = place.command(&endless).stderr(std::process::Stdio::null()).spawn().unwrap();
    while !place.path("used/metrics.jsonl").exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first run ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let second = place.fails(73, &format!("{endless} --resume"));
    let owner = format!("pid {}, since ", first.id());
    first.kill().unwrap();
    first.wait().unwrap();
    for part in [
        "used: another process runs here: host ",
        &owner,
        "\nhelp: wait for it, or choose another place with --out",
    ] {
        assert!(second.stderr.contains(part), "{part:?} is missing in: {}", second.stderr);
    }
    // The lock went with its owner, however it ended.
    place.ok(&format!("{train} --resume"));
}

/// A copy of the model that ships in `data/` with one of its files replaced.
fn broken_model(file: &str, content: &str) -> Place {
    let place = Place::new();
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    place.write("rows.jsonl", row);
    for name in place.names("tiny").iter().filter(|name| !name.ends_with(".safetensors")) {
        place.write(&format!("broken/{name}"), place.bytes(&format!("tiny/{name}")));
    }
    place.write(&format!("broken/{file}"), content);
    place
}

#[test]
fn broken_files_of_a_model() {
    let command = CHAT.replace("tiny", "broken");
    let check = |file: &str, content: &str, code: i32, expected: Expect| {
        check(&broken_model(file, content), &command, code, expected);
    };
    check(
        "tokenizer.json",
        "{",
        65,
        expect![[r#"
        error: broken/tokenizer.json is not a usable tokenizer: EOF while parsing an object at line 1 column 1
    "#]],
    );
    check(
        "chat_template.jinja",
        "{% for message in %}",
        65,
        expect![[r#"
        error: broken: chat template does not compile: line 1: unexpected end of input, expected end of block
    "#]],
    );
    check(
        "chat_template.jinja",
        "{{ raise_exception('no system message') }}",
        65,
        expect![[r#"
            error: rows.jsonl: row 0 (line 1): the chat template refuses this conversation: no system message (roles: user, assistant)
            help: `--on-bad-row skip` leaves such rows out and counts them
        "#]],
    );
    check(
        "config.json",
        "{\"model_type\": ",
        78,
        expect![[r#"
        error: broken/config.json: `config.json`: expected a JSON object, found EOF while parsing a value at line 1 column 15
    "#]],
    );
    check(
        "config.json",
        "{\"model_type\": \"llama\"}",
        78,
        expect![[r#"
        error: broken/config.json: `vocab_size`: expected a positive whole number, found nothing
    "#]],
    );
}

/// The small golden model with one weight that is no number.
fn spoil(place: &Place, tensor: &str) {
    place.copy_model("llama3", "spoilt");
    let mut bytes = place.bytes("spoilt/model.safetensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    assert_eq!(header[tensor]["dtype"], "F32");
    let at = 8 + length + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    place.write("spoilt/model.safetensors", bytes);
}

#[test]
fn a_weight_that_is_no_number() {
    let (place, tensor) = (Place::new(), "model.layers.1.mlp.up_proj.weight");
    place.write_rows("rows.jsonl", 20);
    spoil(&place, tensor);
    let told = |stderr: &str| stderr.split("error: ").last().unwrap().to_owned();
    let ran = place.fails(
        65,
        "finetune --model spoilt --dataset rows.jsonl --seq-len 32 --max-steps 3 --out run",
    );
    let error = told(&ran.stderr);
    assert!(error.starts_with(&format!("step 1: loss is NaN, first in {tensor};")), "{error}");
    assert!(ran.stderr.contains("replay-step-000000001.json"), "{}", ran.stderr);
    let again = place.fails(65, "replay run/replay-step-000000001.json");
    assert_eq!(told(&again.stderr), error, "the same step meets the same");
    assert!(again.stdout.starts_with("step 1 of run, 1 micro-batches"), "{}", again.stdout);
    assert!(!place.path("run/final").exists());
}

#[test]
fn broken_messages() {
    let place = Place::new();
    place.ok("finetune --model tiny --from-scratch --source sample --dataset ultrachat --recipe sft-tiny --max-steps 1 --seq-len 32 --batch 1 --eval-every 0 --set samples.count=0 --out made");
    check(
        &place,
        "generate --model made --messages ask.json",
        66,
        expect![[r#"
        error: ask.json: No such file or directory (os error 2)
    "#]],
    );
    place.write("ask.json", "[{\"role\": \"user\"}]");
    check(
        &place,
        "generate --model made --messages ask.json",
        65,
        expect![[r#"
        error: ask.json: missing field `content`
        help: expected a list of {"role", "content"}, an object with such a list as `messages`, or one of these per line
    "#]],
    );
    place.write("ask.json", "Who are you?");
    check(
        &place,
        "generate --model made --messages ask.json",
        65,
        expect![[r#"
        error: ask.json: line 1: expected value at column 1
        help: expected a list of {"role", "content"}, an object with such a list as `messages`, or one of these per line
    "#]],
    );
    check(
        &place,
        "generate --model llama3 --prompt hello",
        66,
        expect![[r#"
             INFO the model has no tokenizer.json: rows must be token ids, and there is no text to show
            error: the model has no tokenizer.json
            help: give token ids with --prompt-ids
        "#]],
    );
}

#[test]
fn skipped_rows_are_counted() {
    let place = place();
    let rows = place.text("rows.jsonl")
        + "{\"input_ids\": [1, \"two\"]}\n{\"input_ids\": [1, 2], \"labels\": [1]}\n";
    place.write("rows.jsonl", rows);
    check(
        &place,
        TRAIN,
        65,
        expect![[r#"
             WARN the model has no tokenizer.json: rows must be token ids, and there is no text to show
            error: rows.jsonl: row 6 (line 7) /input_ids/1: expected a token id, found text: "two"
            help: `--on-bad-row skip` leaves such rows out and counts them
        "#]],
    );
    let check_all = place.fails(65, "check --model llama3 --dataset rows.jsonl");
    expect![[r#"
        error[wrong-type]: rows.jsonl: row 6 (line 7) /input_ids/1: expected a token id, found text: "two"
        help: `--on-bad-row skip` leaves such rows out and counts them
        error[labels-do-not-fit]: rows.jsonl: row 7 (line 8) /labels: expected 2 labels, one for each of `input_ids`, found 1
        help: `--on-bad-row skip` leaves such rows out and counts them
        2 of 8 rows are malformed
    "#]].assert_eq(&said(&place, &check_all.stderr));
    let train = TRAIN.replace("--max-steps 2", "--epochs 1").replace("--out out", "--out skipped");
    place.ok(&format!("{train} --on-bad-row skip"));
    let ledger = place.json("skipped/ledger.json");
    assert_eq!(ledger["rows"], 8);
    assert_eq!(ledger["trained"], 6);
    assert_eq!(ledger["dropped"], serde_json::json!({"labels do not fit": 1, "wrong type": 1}));
}
