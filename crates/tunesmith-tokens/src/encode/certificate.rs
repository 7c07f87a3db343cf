//! The proof that training and serving agree, as something that can be kept beside a model.
//!
//! Three things go wrong between training and sampling, and none of them is seen in a loss: the prompt that is sampled is
//! not the beginning of what was trained; a turn ends without a trained token that stops the sampler; BOS stands twice.
//! [`Encoder::certify`] looks for them in the samples themselves. What it finds, and the token ids of a few fixed prompts,
//! make a [`Certificate`]; whoever serves the model later compares their own prompts with those.

use super::prefix::prompts;
use super::{EncodeError, Encoder, tokenise};
use crate::mask;
use crate::tokenizer::Tokens;
use crate::{Conversation, Message, Sample, Tokenizer};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Counts changes of what a certificate holds.
const FORMAT: u32 = 1;

/// Whether samples are trained as they will be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The version of this structure.
    pub format: u32,
    /// Prompts that are the beginning of what is trained, token by token.
    pub prefix: Finding,
    /// Prompts that the template renders: one that it refuses is never served, so that training it otherwise does no harm,
    /// but whoever asks so gets an error.
    #[serde(default)]
    pub served: Finding,
    /// Turns of the assistant, and completions, whose last trained token stops the sampler.
    pub stop: Finding,
    /// Samples that begin with at most one BOS.
    pub bos: Finding,
    /// Samples that could not be encoded; their errors are the data's to report.
    pub skipped: u64,
    /// The tokens that end a generation.
    pub stop_ids: Vec<u32>,
    /// The token that begins a text.
    pub bos_id: Option<u32>,
    /// Token ids of the prompts for fixed conversations; none where the template refuses one.
    pub probes: Vec<Option<Vec<u32>>>,
}

/// What came of one kind of check.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// How many were looked at.
    pub checked: u64,
    /// How many of them were not as they should be.
    pub failed: u64,
    /// The first of those, with its row and the tokens in question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
}

/// Why a model should not be trained, or served, like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Training and serving differ in the samples themselves.
    #[error("{failed} of {checked} {what}: {first}")]
    Broken {
        /// What should be otherwise.
        what: &'static str,
        /// How many were looked at.
        checked: u64,
        /// How many failed.
        failed: u64,
        /// The first of them.
        first: String,
    },
    /// A certificate of another version.
    #[error("the certificate has format {found}, and this is for format {FORMAT}")]
    Format {
        /// What was found.
        found: u32,
    },
    /// Another token ends a generation than when the model was trained.
    #[error(
        "the model was trained to stop at {trained:?}, and would be sampled until {served:?}\n\
         help: use the tokenizer and the template that were saved with the model"
    )]
    Stop {
        /// Ids that ended a turn in training.
        trained: Vec<u32>,
        /// Ids that end a generation now.
        served: Vec<u32>,
    },
    /// A prompt has other tokens than when the model was trained.
    #[error(
        "prompts have other tokens than in training: probe {probe} differs after {n_equal} tokens: \
         {trained} in training, {served} now\n\
         help: use the tokenizer and the template that were saved with the model"
    )]
    Probe {
        /// Which of the fixed conversations.
        probe: usize,
        /// How many tokens are equal.
        n_equal: usize,
        /// The token of training at the first difference.
        trained: String,
        /// The token that would be served.
        served: String,
    },
}

impl Finding {
    fn add(&mut self, problem: Option<String>) {
        self.checked += 1;
        if let Some(problem) = problem {
            self.failed += 1;
            self.first.get_or_insert(problem);
        }
    }
}

impl Certificate {
    /// Whether training and serving agree. What the template refuses to serve is no disagreement; see `served`.
    ///
    /// # Errors
    /// The first kind of check that failed, with its first case.
    pub fn holds(&self) -> Result<(), CertificateError> {
        let kinds = [
            (&self.prefix, "prompts are not the beginning of what is trained"),
            (&self.stop, "turns end without a trained token that stops the sampler"),
            (&self.bos, "samples begin with BOS twice"),
        ];
        match kinds.into_iter().find(|(finding, _)| finding.failed > 0) {
            None => Ok(()),
            Some((finding, what)) => Err(CertificateError::Broken {
                what,
                checked: finding.checked,
                failed: finding.failed,
                first: finding.first.clone().unwrap_or_default(),
            }),
        }
    }

    /// Whether `encoder` makes the prompts, and stops at the tokens, that the model was trained with.
    ///
    /// # Errors
    /// The first difference.
    pub fn fits(&self, encoder: &Encoder) -> Result<(), CertificateError> {
        if self.format != FORMAT {
            return Err(CertificateError::Format { found: self.format });
        }
        let served = encoder.stop_ids();
        if served != self.stop_ids {
            return Err(CertificateError::Stop { trained: self.stop_ids.clone(), served });
        }
        for (probe, (trained, served)) in self.probes.iter().zip(encoder.probes()).enumerate() {
            if *trained == served {
                continue;
            }
            let (trained, served) = (trained.as_deref(), served.as_deref());
            let (left, right) = (trained.unwrap_or_default(), served.unwrap_or_default());
            let n_equal = left.iter().zip(right).take_while(|(left, right)| left == right).count();
            let token = |ids: Option<&[u32]>| match ids {
                None => "refused".to_owned(),
                Some(ids) => ids.get(n_equal).map_or("the end".to_owned(), |&id| {
                    let token = encoder.tokenizer().and_then(|known| known.id_to_token(id));
                    format!("{id} {:?}", token.unwrap_or_default())
                }),
            };
            let (trained, served) = (token(trained), token(served));
            return Err(CertificateError::Probe { probe, n_equal, trained, served });
        }
        Ok(())
    }
}

impl Encoder {
    /// Checks samples, each with its row, as they would be trained and served. Knobs do not matter: every turn of the
    /// assistant is looked at, and nothing is truncated.
    pub fn certify(&self, samples: impl IntoIterator<Item = (u64, Sample)>) -> Certificate {
        let mut certificate = Certificate {
            format: FORMAT,
            prefix: Finding::default(),
            served: Finding::default(),
            stop: Finding::default(),
            bos: Finding::default(),
            skipped: 0,
            stop_ids: self.stop_ids(),
            bos_id: self.tokenizer().and_then(|tokenizer| tokenizer.bos_id()),
            probes: self.probes(),
        };
        for (row, sample) in samples {
            self.certify_one(&sample, row, &mut certificate);
        }
        certificate
    }

    fn certify_one(&self, sample: &Sample, row: u64, certificate: &mut Certificate) {
        let looked_at = match sample {
            Sample::Labelled(inner, _) | Sample::Weighted(inner, _) => {
                return self.certify_one(inner, row, certificate);
            }
            Sample::Tied(members) => {
                return members
                    .iter()
                    .for_each(|member| self.certify_one(member, row, certificate));
            }
            Sample::Chat(conversation) => self.certify_chat(conversation, row, certificate),
            Sample::PromptCompletion { prompt, completion } => {
                self.certify_completion(prompt, completion, row, certificate)
            }
            Sample::Text(_)
            | Sample::Tokens { .. }
            | Sample::Classified { .. }
            | Sample::Prompt(_) => self.example(sample, row).ok().map(|example| example.ids),
        };
        match looked_at {
            Some(ids) => certificate.bos.add(self.doubled_bos(&ids, row)),
            None => certificate.skipped += 1,
        }
    }

    fn certify_chat(
        &self,
        conversation: &Conversation,
        row: u64,
        certificate: &mut Certificate,
    ) -> Option<Vec<u32>> {
        let (tokenizer, template) = self.parts(row).ok()?;
        let rendered = template.render_marked(conversation, false).ok()?;
        let tokens = tokenise(tokenizer, template, conversation, &rendered, false, row).ok()?;
        let spans: Vec<Range<usize>> = if template.has_generation() {
            rendered.generated.clone()
        } else {
            let turns = self.turns(template, tokenizer, conversation, &rendered.text).into_iter();
            turns.map(|turn| turn.span).collect::<Option<_>>()?
        };
        let whole = self.whole_ids(conversation, row).ok()?;
        for turn in prompts(conversation) {
            let refused = match self.check_prompt(conversation, turn, &whole, row) {
                Err(error @ EncodeError::PromptRefused { .. }) => Some(error.to_string()),
                other => {
                    certificate.prefix.add(other.err().map(|error| error.to_string()));
                    None
                }
            };
            certificate.served.add(refused);
        }
        for (turn, span) in spans.iter().enumerate() {
            certificate.stop.add(self.missing_stop(tokenizer, &tokens, span, turn, row));
        }
        Some(tokens.ids)
    }

    /// What is wrong with the end of the assistant's turn `turn`.
    fn missing_stop(
        &self,
        tokenizer: &Tokenizer,
        tokens: &Tokens,
        span: &Range<usize>,
        turn: usize,
        row: u64,
    ) -> Option<String> {
        let trained = mask::tokens_in(&tokens.spans, std::slice::from_ref(span));
        match trained.iter().rposition(|&trained| trained).map(|last| tokens.ids[last]) {
            Some(id) if self.stop_ids.contains(&id) => None,
            Some(id) => Some(format!(
                "row {row}, answer {turn}: its last trained token is {id} {:?}, which stops no generation; \
                 tokens that do: {:?}\n\
                 help: put the end of the turn inside {{% generation %}}, or name the token that ends a turn as eos_token",
                tokenizer.id_to_token(id).unwrap_or_default(),
                self.stop_ids
            )),
            None => Some(format!("row {row}, answer {turn}: nothing of it is trained")),
        }
    }

    fn certify_completion(
        &self,
        prompt: &str,
        completion: &str,
        row: u64,
        certificate: &mut Certificate,
    ) -> Option<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        let whole = tokenizer.encode_text_with_special(&[prompt, completion].concat()).ok()?;
        let (ids, trained) = self.prompt_completion(prompt, completion, row).ok()?;
        let served = tokenizer.encode_text_with_special(prompt).ok()?;
        // What the post-processor puts behind a text stands for none of it.
        let n_own =
            served.spans.iter().rposition(|span| !span.is_empty()).map_or(0, |last| last + 1);
        let served = &served.ids[..n_own];
        let n_equal =
            served.iter().zip(&whole.ids).take_while(|(left, right)| left == right).count();
        let token = |ids: &[u32]| {
            ids.get(n_equal).and_then(|&id| tokenizer.id_to_token(id)).unwrap_or_default()
        };
        certificate.prefix.add((n_equal < n_own).then(|| {
            format!(
                "row {row}: the prompt's tokens change when the completion follows: after {n_equal} equal ones the \
                 prompt has {:?}, the whole text {:?}\n\
                 help: end prompts where a token ends, for example before a space and not behind it",
                token(served),
                token(&whole.ids)
            )
        }));
        let stops = trained.last() == Some(&true)
            && ids.last().is_some_and(|id| self.stop_ids.contains(id));
        certificate.stop.add(
            (!stops)
                .then(|| format!("row {row}: the completion ends without a trained stop token")),
        );
        Some(ids)
    }

    fn doubled_bos(&self, ids: &[u32], row: u64) -> Option<String> {
        let tokenizer = self.tokenizer()?;
        let bos = tokenizer.bos_id()?;
        ids.starts_with(&[bos, bos]).then(|| {
            let token = tokenizer.id_to_token(bos).unwrap_or_default();
            format!(
                "row {row} begins with {token:?} twice\n\
                 help: the text or the template writes it, and the tokenizer adds it; leave it to one of them"
            )
        })
    }

    /// The prompts of fixed conversations on a fixed day.
    fn probes(&self) -> Vec<Option<Vec<u32>>> {
        let template = self.template.clone().map(|template| template.at(0));
        let encoder = Self { template, ..self.clone() };
        let chat = |messages: &[(&str, &str)]| Conversation {
            messages: messages.iter().map(|&(role, text)| Message::new(role, text)).collect(),
            ..Conversation::default()
        };
        let conversations = [
            chat(&[("user", "Good morning! Name 3 colours.")]),
            chat(&[
                ("system", "You know llamas."),
                ("user", "  What's 1234 + 5?\n\n"),
                ("assistant", "1239."),
                ("user", "def f(x):\n\treturn x ** 2  # été, ½, 日本語 🦙"),
            ]),
        ];
        conversations.iter().map(|conversation| encoder.prompt(conversation).ok()).collect()
    }
}
