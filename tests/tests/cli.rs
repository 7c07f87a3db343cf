//! The command line as people meet it: `--help` of every command, and where each kind of output goes.

use expect_test::{Expect, expect};
use tunesmith_tests::*;

fn check(line: &str, expected: Expect) {
    let ran = Place::new().ok(line);
    assert_eq!(ran.stderr, "", "help that was asked for is data");
    let text: Vec<&str> = ran.stdout.lines().map(str::trim_end).collect();
    expected.assert_eq(&(text.join("\n") + "\n"));
}

#[test]
fn help() {
    check(
        "--help",
        expect![[r#"
            Fine-tune, sample and score language models

            Usage: tunesmith [OPTIONS] <COMMAND>

            Commands:
              finetune  Train a model on a data set
              check     Everything up to the first batch, before any weight is touched: all errors at once
              replay    Make the step that broke a run again, from the file it left
              data      Look at a data set
              score     Log-probabilities and perplexity of a file
              merge     Write a model with its adapter merged into it
              generate  Answer a prompt
              chat      Talk with a model
              export    Write a model or an adapter as one GGUF file
              doctor    What is there, and what to do about what is not
              help      Print this message or the help of the given subcommand(s)

            Options:
              -v, --verbose...  More on stderr: -v for debug, -vv for everything
              -h, --help        Print help
              -V, --version     Print version
        "#]],
    );
}

#[test]
fn help_of_finetune() {
    check(
        "finetune --help",
        expect![[r#"
            Train a model on a data set

            Usage: tunesmith finetune [OPTIONS]

            Options:
                  --dataset <DATASET>
                      A name in configs/datasets, a TOML file, or a data file or folder

                  --model <MODEL>
                      A Hub id, a model directory, or a GGUF file

                  --recipe <RECIPE>
                      A name in configs/recipes, or a TOML file

                  --out <OUT>
                      The run directory [default: runs/<dataset>]

                  --resume [<step-N>]
                      Continue from the newest good checkpoint, or from that of one step; start where there is
                      none yet

                  --allow-change <NAMES>
                      Continue although these have changed, such as schedule.lr, dataset, tokenizer

                  --grace <SECONDS>
                      Seconds between a signal and the end of this process, such as a batch system gives: says
                      whether a save fits

                  --rehearse
                      Before step 0, send the longest batch through step, evaluation, save and reload

                  --job
                      As a batch job: go on where there is something to go on from, check and rehearse before
                      step 0, and never train on a stand-in

                  --print-recipe
                      Print the resolved recipe and stop

                  --from-scratch
                      Start from fresh weights instead of the model's

              -v, --verbose...
                      More on stderr: -v for debug, -vv for everything

                  --source <SOURCE>
                      Where models and data sets come from [default: auto]

                      Possible values:
                      - auto:   The Hub and its cache; where it cannot be reached, the model and the sample that
                        ship in data/
                      - hub:    The Hub and its cache, nothing else
                      - sample: The model and the sample that ship in data/

                  --set <KEY=VALUE>
                      Set any value of the recipe, such as optimizer.weight_decay=0.1

              -h, --help
                      Print help (see a summary with '-h')

            Short for --set:
                  --max-steps <MAX_STEPS>
                      train.max_steps: optimizer steps; wins over epochs

                  --epochs <EPOCHS>
                      train.epochs: passes over the data

                  --lr <LR>
                      schedule.lr: peak learning rate

                  --seq-len <SEQ_LEN>
                      data.seq_len: tokens of a packed row

                  --batch <BATCH>
                      data.batch: packed rows of a micro-batch

                  --accumulate <ACCUMULATE>
                      train.accumulate: micro-batches of a step

                  --dtype <DTYPE>
                      model.dtype: fp32 or bf16

                  --device <DEVICE>
                      model.device: cpu or cuda

                  --recompute <RECOMPUTE>
                      model.recompute: auto, none, mlp or blocks

                  --seed <SEED>
                      seed: names every random choice

                  --no-shuffle
                      data.shuffle = false: rows in the order of the files

                  --packing <PACKING>
                      data.packing: best-fit or none

                  --on-bad-row <ON_BAD_ROW>
                      data.on_bad_row: stop or skip

                  --save-every <SAVE_EVERY>
                      train.save_every: steps between checkpoints

                  --eval-every <EVAL_EVERY>
                      train.eval_every: steps between evaluations; the last step has one, too
        "#]],
    );
}

#[test]
fn check_takes_what_finetune_takes() {
    let place = Place::new();
    // One paragraph per flag; where -v stands among them is up to clap.
    let flags = |command: &str| {
        let help = place.ok(&format!("{command} --help")).stdout;
        let flags = help.split_once("Options:").expect("options").1;
        let mut flags: Vec<String> =
            flags.split("\n\n").map(|flag| flag.trim().to_owned()).collect();
        flags.sort();
        flags
    };
    let mut check = flags("check");
    check.retain(|flag| !flag.starts_with("--deep\n"));
    assert_eq!(check, flags("finetune"));
}

#[test]
fn help_of_data() {
    check(
        "data --help",
        expect![[r#"
        Look at a data set

        Usage: tunesmith data [OPTIONS] <COMMAND>

        Commands:
          show     Rows as text and as tokens, with the trained ones marked
          check    Read and encode all rows: what is malformed, what is odd, and how often
          stats    Lengths, trained tokens, turns, duplicates, labels
          clean    What cleaning would leave out: repetitions, evaluation rows, noise, secrets
          prepare  Write the tokens of all rows into one file, which finetune maps into memory
          help     Print this message or the help of the given subcommand(s)

        Options:
          -v, --verbose...  More on stderr: -v for debug, -vv for everything
          -h, --help        Print help
    "#]],
    );
}

#[test]
fn help_of_data_show() {
    check(
        "data show --help",
        expect![[r#"
            Rows as text and as tokens, with the trained ones marked

            Usage: tunesmith data show [OPTIONS] --dataset <DATASET>

            Options:
                  --dataset <DATASET>
                      A name in configs/datasets, a TOML file, or a data file or folder

                  --model <MODEL>
                      A Hub id, a model directory, or a GGUF file

                  --source <SOURCE>
                      Where models and data sets come from [default: auto]

                      Possible values:
                      - auto:   The Hub and its cache; where it cannot be reached, the model and the sample that
                        ship in data/
                      - hub:    The Hub and its cache, nothing else
                      - sample: The model and the sample that ship in data/

                  --rows <ROWS>
                      How many rows

                      [default: 3]

                  --seq-len <SEQ_LEN>
                      Tokens of a row at most; longer ones are cut

                  --json
                      One JSON object per line: row, ids, trained, text

              -v, --verbose...
                      More on stderr: -v for debug, -vv for everything

              -h, --help
                      Print help (see a summary with '-h')
        "#]],
    );
}

#[test]
fn help_of_score() {
    check(
        "score --help",
        expect![[r#"
            Log-probabilities and perplexity of a file

            Usage: tunesmith score [OPTIONS] --model <MODEL> --data <DATA>

            Options:
                  --model <MODEL>
                      A Hub id, a model directory, or a run directory

                  --adapter <[NAME=]DIR>
                      The directory of an adapter, tunesmith's or PEFT's, or of the run that trained it; may be
                      repeated, and a name may stand before it

                  --storage <STORAGE>
                      dense, nf4 or int8 matrices [default: as the adapter was trained, else dense]

                  --dtype <DTYPE>
                      fp32 or bf16 [default: the dtype of the weights]

                  --device <DEVICE>
                      cpu or cuda

                      [default: cpu]

                  --source <SOURCE>
                      Where models come from [default: auto]

                      Possible values:
                      - auto:   The Hub and its cache; where it cannot be reached, the model and the sample that
                        ship in data/
                      - hub:    The Hub and its cache, nothing else
                      - sample: The model and the sample that ship in data/

                  --data <DATA>
                      A data file or folder, or a name in configs/datasets

                  --rows <ROWS>
                      How many rows [default: all]

                  --seq-len <SEQ_LEN>
                      Tokens of a row at most; longer ones are cut

                  --json
                      One JSON object per line: row, ids, trained, token_logprobs, logprob, trained_tokens; of
                      several adapters, adapter

              -v, --verbose...
                      More on stderr: -v for debug, -vv for everything

              -h, --help
                      Print help (see a summary with '-h')
        "#]],
    );
}

#[test]
fn help_of_generate() {
    check(
        "generate --help",
        expect![[r#"
            Answer a prompt

            Usage: tunesmith generate [OPTIONS] --model <MODEL> <--prompt <PROMPT>|--messages <MESSAGES>|--prompt-ids <PROMPT_IDS>>

            Options:
                  --model <MODEL>
                      A Hub id, a model directory, or a run directory

                  --adapter <[NAME=]DIR>
                      The directory of an adapter, tunesmith's or PEFT's, or of the run that trained it; may be
                      repeated, and a name may stand before it

                  --storage <STORAGE>
                      dense, nf4 or int8 matrices [default: as the adapter was trained, else dense]

                  --dtype <DTYPE>
                      fp32 or bf16 [default: the dtype of the weights]

                  --device <DEVICE>
                      cpu or cuda

                      [default: cpu]

                  --source <SOURCE>
                      Where models come from [default: auto]

                      Possible values:
                      - auto:   The Hub and its cache; where it cannot be reached, the model and the sample that
                        ship in data/
                      - hub:    The Hub and its cache, nothing else
                      - sample: The model and the sample that ship in data/

                  --prompt <PROMPT>
                      Plain text, continued as it stands

                  --messages <MESSAGES>
                      A JSON file: a list of messages, {"messages": […]}, or one of these per line; answered
                      through the chat template, by the adapter that "adapter" beside "messages" names

                  --prompt-ids <PROMPT_IDS>
                      Token ids, such as 1,2,3

              -v, --verbose...
                      More on stderr: -v for debug, -vv for everything

              -h, --help
                      Print help (see a summary with '-h')

            Sampler:
                  --temperature <TEMPERATURE>
                      Divides the scores; 0 is greedy

                      [default: 0]

                  --top-k <TOP_K>
                      Keep the k best tokens; 0 keeps all

                      [default: 0]

                  --top-p <TOP_P>
                      Keep the smallest set of tokens whose probability reaches this

                      [default: 1]

                  --min-p <MIN_P>
                      Keep tokens at least this share as probable as the best

                      [default: 0]

                  --repetition-penalty <REPETITION_PENALTY>
                      Above 1, makes tokens that occurred less likely

                      [default: 1]

                  --max-new-tokens <MAX_NEW_TOKENS>
                      Tokens generated at most

                      [default: 256]

                  --stop <STOP>
                      Text that ends the answer; may be repeated

                  --seed <SEED>
                      Names the draw

                      [default: 0]

                  --json
                      One JSON object per line: prompt_ids, ids, text, finish_reason; of several adapters,
                      adapter
        "#]],
    );
}

#[test]
fn help_of_chat() {
    check(
        "chat --help",
        expect![[r#"
            Talk with a model

            Usage: tunesmith chat [OPTIONS] --model <MODEL>

            Options:
                  --model <MODEL>
                      A Hub id, a model directory, or a run directory

                  --adapter <[NAME=]DIR>
                      The directory of an adapter, tunesmith's or PEFT's, or of the run that trained it; may be
                      repeated, and a name may stand before it

                  --storage <STORAGE>
                      dense, nf4 or int8 matrices [default: as the adapter was trained, else dense]

                  --dtype <DTYPE>
                      fp32 or bf16 [default: the dtype of the weights]

                  --device <DEVICE>
                      cpu or cuda

                      [default: cpu]

                  --source <SOURCE>
                      Where models come from [default: auto]

                      Possible values:
                      - auto:   The Hub and its cache; where it cannot be reached, the model and the sample that
                        ship in data/
                      - hub:    The Hub and its cache, nothing else
                      - sample: The model and the sample that ship in data/

                  --system <SYSTEM>
                      A system message

              -v, --verbose...
                      More on stderr: -v for debug, -vv for everything

              -h, --help
                      Print help (see a summary with '-h')

            Sampler:
                  --temperature <TEMPERATURE>
                      Divides the scores; 0 is greedy

                      [default: 0]

                  --top-k <TOP_K>
                      Keep the k best tokens; 0 keeps all

                      [default: 0]

                  --top-p <TOP_P>
                      Keep the smallest set of tokens whose probability reaches this

                      [default: 1]

                  --min-p <MIN_P>
                      Keep tokens at least this share as probable as the best

                      [default: 0]

                  --repetition-penalty <REPETITION_PENALTY>
                      Above 1, makes tokens that occurred less likely

                      [default: 1]

                  --max-new-tokens <MAX_NEW_TOKENS>
                      Tokens generated at most

                      [default: 256]

                  --stop <STOP>
                      Text that ends the answer; may be repeated

                  --seed <SEED>
                      Names the draw

                      [default: 0]
        "#]],
    );
}

#[test]
fn help_of_doctor() {
    check(
        "doctor --help",
        expect![[r#"
        What is there, and what to do about what is not

        Usage: tunesmith doctor [OPTIONS]

        Options:
          -v, --verbose...  More on stderr: -v for debug, -vv for everything
          -h, --help        Print help
    "#]],
    );
}

#[test]
fn version() {
    let version = Place::new().ok("--version").stdout;
    assert_eq!(version, format!("tunesmith {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn doctor_says_what_is_there() {
    let ran = Place::new().ok("doctor");
    for name in
        ["tunesmith", "libtorch", "processor", "memory", "gpu", "configs", "hub", "run folder"]
    {
        let has = |line: &&str| {
            line.starts_with(&format!("✓ {name} ")) || line.starts_with(&format!("✗ {name} "))
        };
        assert!(ran.stdout.lines().any(|line| has(&line)), "{name} is missing in:\n{}", ran.stdout);
    }
    assert!(ran.stdout.contains(", offline"), "the hub is off in tests:\n{}", ran.stdout);
}
