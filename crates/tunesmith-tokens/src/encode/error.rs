//! Why a sample could not be encoded.

use crate::template::TemplateError;
use crate::tokenizer::TokenizerError;

/// Why a sample could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The chat template refused or failed.
    #[error("row {row}: {source}")]
    Template {
        /// The row.
        row: u64,
        /// What the template said.
        source: TemplateError,
    },
    /// The tokenizer failed.
    #[error("row {row}: {source}")]
    Tokenizer {
        /// The row.
        row: u64,
        /// What the tokenizer said.
        source: TokenizerError,
    },
    /// The sample is text, and there is no tokenizer.
    #[error(
        "row {row} is text, and the model has no tokenizer\nhelp: give rows of token ids (input_ids)"
    )]
    NoTokenizer {
        /// The row.
        row: u64,
    },
    /// The sample is a conversation, and there is no chat template.
    #[error(
        "row {row} is a conversation, and the model has no chat template\n\
         help: set template = \"chat\" or \"alpaca\", or a path to a Jinja file"
    )]
    NoTemplate {
        /// The row.
        row: u64,
    },
    /// The text should end with EOS, and the tokenizer names none.
    #[error(
        "row {row} should end with EOS, and the tokenizer names no such token\n\
         help: set eos_token in tokenizer_config.json, or eos_token_id in config.json"
    )]
    NoEos {
        /// The row.
        row: u64,
    },
    /// A conversation without messages.
    #[error("row {row}: a conversation without messages")]
    Empty {
        /// The row.
        row: u64,
    },
    /// `trained` has another length than `ids`.
    #[error("row {row}: {n_ids} token ids, but {n_trained} labels")]
    Lengths {
        /// The row.
        row: u64,
        /// How many ids there are.
        n_ids: usize,
        /// How many marks there are.
        n_trained: usize,
    },
    /// The template does not show a turn of the assistant, so that nothing can be trained there.
    #[error(
        "row {row}: the chat template does not show message {turn}, which the assistant wrote\n\
         help: drop the message, or mark what is trained in the template by {{% generation %}} … {{% endgeneration %}}"
    )]
    TurnNotFound {
        /// The row.
        row: u64,
        /// Index of the message.
        turn: usize,
    },
    /// A message spells a special token, and the template's output depends on it in a way that cannot be followed.
    #[error(
        "row {row}: a message spells a special token, and the chat template rewrites it beyond recognition\n\
         help: remove the special token from the text of the row"
    )]
    SpecialText {
        /// The row.
        row: u64,
    },
    /// What sampling would feed is not what training shows.
    #[error(
        "row {row}, message {turn}: the prompt that asks for this message is not the beginning of the conversation: \
         after {before:?} the prompt has {prompt:?}, the conversation {conversation:?}\n\
         help: the model will be sampled with another text than it is trained on; use a template whose history does not \
         change as turns are added"
    )]
    PrefixBroken {
        /// The row.
        row: u64,
        /// Index of the message that the prompt asks for.
        turn: usize,
        /// How many tokens of both are equal.
        n_equal: usize,
        /// The end of what both have in common.
        before: String,
        /// The first differing token of the prompt, or nothing where it is too short.
        prompt: String,
        /// The token at this place in the conversation.
        conversation: String,
    },
    /// The template takes the conversation, and refuses the prompt that asks for one of its messages.
    #[error(
        "row {row}, message {turn}: {source}, when it renders the prompt that asks for this message"
    )]
    PromptRefused {
        /// The row.
        row: u64,
        /// Index of the message that the prompt asks for.
        turn: usize,
        /// What the template said.
        source: TemplateError,
    },
    /// `weights` has another length than `messages`.
    #[error("row {row}: {n_messages} messages, but {n_weights} weights")]
    Weights {
        /// The row.
        row: u64,
        /// How many messages there are.
        n_messages: usize,
        /// How many weights there are.
        n_weights: usize,
    },
    /// Tied samples that are the same: nothing is to be learned from choosing between them.
    #[error(
        "row {row}: the answers are the same, {n_tokens} tokens\n\
         help: drop the row, or look why chosen and rejected are equal"
    )]
    Alike {
        /// The row.
        row: u64,
        /// How many tokens they have.
        n_tokens: usize,
    },
    /// Tied samples inside tied samples, which no batch can express.
    #[error("row {row}: a sample in a group is a group itself")]
    Nested {
        /// The row.
        row: u64,
    },
}
