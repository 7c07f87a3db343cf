//! Whether the prompts that sampling feeds are the beginnings of what is trained.

use super::{EncodeError, Encoder, tokenise};
use crate::{Conversation, mask};

impl Encoder {
    /// Checks that every answer of the conversation is trained behind the very tokens that sampling would feed: the
    /// prompt for message k is the beginning of the conversation, as text and as tokens.
    ///
    /// # Errors
    /// [`EncodeError::PrefixBroken`] with the first difference; [`EncodeError::PromptRefused`]; or the template or
    /// tokenizer fails.
    pub fn check_prefix(&self, conversation: &Conversation, row: u64) -> Result<(), EncodeError> {
        let full_ids = self.whole_ids(conversation, row)?;
        prompts(conversation)
            .try_for_each(|turn| self.check_prompt(conversation, turn, &full_ids, row))
    }

    /// The ids of the whole conversation.
    pub(super) fn whole_ids(
        &self,
        conversation: &Conversation,
        row: u64,
    ) -> Result<Vec<u32>, EncodeError> {
        let (tokenizer, template) = self.parts(row)?;
        let full = template
            .render_marked(conversation, false)
            .map_err(|source| EncodeError::Template { row, source })?;
        Ok(tokenise(tokenizer, template, conversation, &full, false, row)?.ids)
    }

    /// The same for the prompt that asks for message `turn`.
    pub(super) fn check_prompt(
        &self,
        conversation: &Conversation,
        turn: usize,
        full_ids: &[u32],
        row: u64,
    ) -> Result<(), EncodeError> {
        let (tokenizer, template) = self.parts(row)?;
        let before = Conversation {
            messages: conversation.messages[..turn].to_vec(),
            ..conversation.clone()
        };
        let prompt = template
            .render_marked(&before, true)
            .map_err(|source| EncodeError::PromptRefused { row, turn, source })?;
        let ids = tokenise(tokenizer, template, &before, &prompt, true, row)?.ids;
        let n_equal = ids.iter().zip(full_ids).take_while(|(left, right)| left == right).count();
        if n_equal == ids.len() {
            return Ok(());
        }
        let token = |ids: &[u32]| match ids.get(n_equal) {
            Some(&id) => tokenizer.id_to_token(id).unwrap_or_default(),
            None => String::new(),
        };
        let shown = &ids[n_equal.saturating_sub(8)..n_equal];
        let before = tokenizer
            .decode(shown, false)
            .map_err(|source| EncodeError::Tokenizer { row, source })?;
        let (prompt, conversation) = (token(&ids), token(full_ids));
        Err(EncodeError::PrefixBroken { row, turn, n_equal, before, prompt, conversation })
    }
}

/// The messages of the assistant that something asks for.
pub(super) fn prompts(conversation: &Conversation) -> impl Iterator<Item = usize> {
    let messages = &conversation.messages;
    (1..messages.len()).filter(|&turn| messages[turn].role == mask::ASSISTANT)
}
