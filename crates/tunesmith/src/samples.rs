//! The same prompts, answered before and after training.

use crate::{exit::ConfigError, prepare::Prepared};
use anyhow::{Context, Result};
use tunesmith_data::Dataset;
use tunesmith_model::Transformer;
use tunesmith_report::html::{Answer, Exchange, Turn};
use tunesmith_sample::{FinishReason, Generation, SamplerKnobs, generate};
use tunesmith_tokens::{Conversation, Encoder, Message, Sample};

/// A prompt as people and as models see it.
pub(crate) struct Prompt {
    turns: Vec<Turn>,
    ids: Vec<u32>,
}

/// Rows searched for prompts: they stand at the start, or nowhere.
const SEARCHED_ROWS: u64 = 1000;

/// The recipe's prompts; else those that come with the sample; else the first questions of the evaluation split, or
/// of the training rows where there is none. All of them leave the model room to answer.
pub(crate) fn prompts(prepared: &Prepared) -> Result<Vec<Prompt>> {
    let knobs = &prepared.recipe.samples;
    let encoder = &prepared.encoder;
    let answers = prepared.config.n_labels.is_none(); // a classifier says nothing
    if encoder.tokenizer().is_none() || knobs.count == 0 || !answers {
        return Ok(Vec::new());
    }
    let max = prepared.config.max_position_embeddings as usize;
    let fits = |prompt: &Prompt| prompt.ids.len() + knobs.max_new_tokens <= max;
    if !knobs.prompts.is_empty() {
        let ask = |text: &String| {
            let prompt = prompt(encoder, vec![Message::new("user", text.clone())])
                .map_err(|e| ConfigError::new("samples.prompts", format!("{text:?}: {e}"), ""))?;
            if fits(&prompt) {
                return Ok(prompt);
            }
            let problem = format!("{text:?}: {} tokens leave no room in {max}", prompt.ids.len());
            Err(ConfigError::new("samples.prompts", problem, "shorten it").into())
        };
        return knobs.prompts.iter().take(knobs.count).map(ask).collect();
    }
    if let (Some(_), Some(path)) = (&prepared.data.fallback, &prepared.data.config.sample_prompts) {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let conversations = text.lines().map(serde_json::from_str::<Conversation>);
        let prompts = conversations.map(|conversation| prompt(encoder, conversation?.messages));
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        return Ok(prompts.into_iter().filter(fits).take(knobs.count).collect());
    }
    let rows: &Dataset = prepared.held_out_rows.as_deref().unwrap_or(&prepared.dataset);
    let searched = 0..rows.len().min(SEARCHED_ROWS);
    let found = searched.filter_map(|row| from_row(encoder, rows.sample(row).ok()?));
    Ok(found.filter(fits).take(knobs.count).collect())
}

fn prompt(encoder: &Encoder, messages: Vec<Message>) -> Result<Prompt> {
    let turns = messages
        .iter()
        .map(|m| Turn { role: m.role.clone(), content: m.content.clone() })
        .collect();
    let ids = encoder.prompt(&Conversation { messages, ..Conversation::default() })?;
    Ok(Prompt { turns, ids })
}

/// What a row asks, without its answer.
fn from_row(encoder: &Encoder, sample: Sample) -> Option<Prompt> {
    match sample {
        Sample::Chat(conversation) => {
            let question =
                conversation.messages.into_iter().take_while(|m| m.role != "assistant").collect();
            prompt(encoder, question).ok()
        }
        Sample::PromptCompletion { prompt, .. } => plain(encoder, &prompt),
        Sample::Text(text) => {
            let end = text.char_indices().nth(80).map_or(text.len(), |(i, _)| i);
            plain(encoder, &text[..end])
        }
        Sample::Prompt(conversation) => prompt(encoder, conversation.messages).ok(),
        Sample::Labelled(inner, _) | Sample::Weighted(inner, _) => from_row(encoder, *inner),
        Sample::Tied(members) => from_row(encoder, members.into_iter().next()?),
        Sample::Tokens { .. } | Sample::Classified { .. } => None,
    }
}

fn plain(encoder: &Encoder, text: &str) -> Option<Prompt> {
    let ids = encoder.tokenizer()?.encode_with_special(text).ok()?;
    Some(Prompt { turns: vec![Turn { role: "text".into(), content: text.to_owned() }], ids })
}

/// Answers all prompts, greedily.
pub(crate) fn answer(
    model: &Transformer,
    encoder: &Encoder,
    prompts: &[Prompt],
    max_new_tokens: usize,
) -> Result<Vec<Generation>> {
    let knobs = SamplerKnobs { max_new_tokens, ..SamplerKnobs::default() };
    let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
    let tokenizer = encoder.tokenizer().map(AsRef::as_ref);
    Ok(generate(model, tokenizer, &ids, &encoder.stop_ids(), &knobs, &mut |_, _| {})?)
}

/// Prompts with their answers, for the report.
pub(crate) fn exchanges(
    prompts: &[Prompt],
    before: Option<&[Generation]>,
    after: &[Generation],
) -> Vec<Exchange> {
    let answer = |generation: &Generation| Answer {
        text: generation.text.clone(),
        n_tokens: generation.ids.len(),
        stopped: generation.finish_reason == FinishReason::Stop,
    };
    let pairs = prompts.iter().zip(after).enumerate();
    pairs
        .map(|(i, (prompt, after))| Exchange {
            prompt: prompt.turns.clone(),
            before: before.and_then(|before| before.get(i)).map(answer),
            after: answer(after),
        })
        .collect()
}
