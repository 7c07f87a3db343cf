//! Text to token ids and back, with what a directory says about special tokens.
//!
//! Hugging Face's `tokenizers` crate reads every file and defines what is right. BPE in its usual forms, which most models
//! have, is encoded by `bpe` instead: the same ids and spans, an order of magnitude faster.

mod added;
mod bpe;
#[cfg(test)]
mod exact;
mod guard;
mod ids;
mod stream;

pub use stream::DecodeStream;

use bpe::Later;
use guard::Guard;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper};

/// What loading or using a tokenizer can fail with.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no tokenizer, or a damaged one.
    #[error("{path} is not a usable tokenizer: {reason}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The directory carries no `tokenizer.json`.
    #[error(
        "no tokenizer.json in {dir}\nhelp: convert an older tokenizer with transformers: \
         AutoTokenizer.from_pretrained(dir).save_pretrained(dir)", dir = dir.display()
    )]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// The tokenizer could not turn this text into ids.
    #[error("cannot tokenise: {0}")]
    Encode(String),
    /// The tokenizer could not turn these ids into text.
    #[error("cannot decode: {0}")]
    Decode(String),
}

/// Token ids with the bytes of the text that each stands for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// `spans[i]` is the byte range of `ids[i]`. A character of several tokens is the range of each of them; a token
    /// that the tokenizer adds has an empty range.
    pub spans: Vec<Range<usize>>,
}

/// A tokenizer that neither pads nor truncates, whatever its file says.
#[derive(Debug)]
pub struct Tokenizer {
    /// Without post-processor: that would shift offsets (`trim_offsets`) and add tokens.
    inner: tokenizers::Tokenizer,
    post_processor: Option<PostProcessorWrapper>,
    /// Encodes in place of `inner`, where the file is of a kind that it knows.
    own: Later,
    /// What the post-processor puts before and behind every text, where it does nothing else.
    around: Option<(Vec<u32>, Vec<u32>)>,
    /// The same tokenizer, blind for special tokens spelled in text; made when it is first needed.
    guard: OnceLock<Result<Guard, String>>,
    /// Special tokens: what content may spell and not become.
    special: guard::SpecialTexts,
    /// All added tokens but those of white space: what may end a turn.
    added: guard::SpecialTexts,
    eos_ids: Vec<u32>,
    bos_id: Option<u32>,
}

impl Tokenizer {
    /// Loads `path` (a `tokenizer.json`) and, for EOS and BOS, the configuration files beside it.
    ///
    /// # Errors
    /// A file that cannot be read, or that is no tokenizer.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let bytes = std::fs::read(path)
            .map_err(|source| TokenizerError::Read { path: path.to_owned(), source })?;
        let mut tokenizer = Self::from_bytes(&bytes)
            .map_err(|reason| TokenizerError::Invalid { path: path.to_owned(), reason })?;
        let dir = path.parent().unwrap_or(Path::new("."));
        let found = ids::find(dir, &tokenizer)?;
        (tokenizer.eos_ids, tokenizer.bos_id) = (found.eos, found.bos);
        Ok(tokenizer)
    }

    /// Loads the `tokenizer.json` of a model directory.
    ///
    /// # Errors
    /// No such file, or one that is no tokenizer.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = dir.as_ref().join("tokenizer.json");
        if !path.exists() {
            return Err(TokenizerError::Missing { dir: dir.as_ref().to_owned() });
        }
        Self::from_file(&path)
    }

    /// Loads the text of a `tokenizer.json`, which knows neither EOS nor BOS by name.
    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        // Files that are JSON of the right shape but contradict themselves make the tokenizers crate panic.
        let loaded = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(bytes)));
        let mut inner = match loaded {
            Ok(Ok(inner)) => inner,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the tokenizers library panicked while reading it".to_owned()),
        };
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        inner.with_padding(None);
        let post_processor = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let special = guard::SpecialTexts::new(&inner, |token| token.special);
        let added = guard::SpecialTexts::new(&inner, |token| !token.content.trim().is_empty());
        let mut tokenizer = Self {
            inner,
            post_processor,
            own: Later::new(bytes),
            around: None,
            guard: OnceLock::new(),
            special,
            added,
            eos_ids: Vec::new(),
            bos_id: None,
        };
        tokenizer.around = tokenizer.find_around();
        Ok(tokenizer)
    }

    /// Ids of `text` as it stands: special tokens in it are recognised, none is added. What transformers does to a
    /// rendered chat template.
    ///
    /// # Errors
    /// Text that the tokenizer has no tokens for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if let Some(own) = self.own.get(text) {
            let mut ids = Vec::with_capacity(text.len() / 4);
            if own.encode(text, |id, _, _| ids.push(id)) {
                return Ok(ids);
            }
        }
        Ok(self.inner.encode_fast(text, false).map_err(encode_error)?.get_ids().to_vec())
    }

    /// As [`encode`](Self::encode), with the bytes of each token.
    ///
    /// # Errors
    /// Text that the tokenizer has no tokens for.
    pub fn encode_spans(&self, text: &str) -> Result<Tokens, TokenizerError> {
        match self.own_spans(text) {
            Some(tokens) => Ok(tokens),
            None => Ok(tokens(&self.inner.encode(text, false).map_err(encode_error)?)),
        }
    }

    /// As [`encode_spans`](Self::encode_spans), if `own` can.
    fn own_spans(&self, text: &str) -> Option<Tokens> {
        let own = self.own.get(text)?;
        let n_likely = text.len() / 4;
        let mut tokens =
            Tokens { ids: Vec::with_capacity(n_likely), spans: Vec::with_capacity(n_likely) };
        let known = own.encode(text, |id, start, end| {
            tokens.ids.push(id);
            tokens.spans.push(start..end);
        });
        known.then_some(tokens)
    }

    /// Ids of `text` with what the tokenizer's post-processor adds (BOS, EOS …); special tokens in it are recognised.
    ///
    /// # Errors
    /// Text that the tokenizer has no tokens for.
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if let Some((before, behind)) = &self.around {
            return Ok([before.as_slice(), &self.encode(text)?, behind].concat());
        }
        let encoding = self.inner.encode_fast(text, false).map_err(encode_error)?;
        Ok(self.post_process(encoding)?.get_ids().to_vec())
    }

    /// Ids of two texts with what the post-processor adds around and between them, as for sentence pairs.
    ///
    /// # Errors
    /// Text that the tokenizer has no tokens for.
    pub fn encode_pair_with_special(
        &self,
        text: &str,
        pair: &str,
    ) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast((text, pair), true).map_err(encode_error)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of `text` in which special tokens are nothing but text; none is added.
    ///
    /// # Errors
    /// Text that the tokenizer has no tokens for, or cannot keep from becoming a special token.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if !self.spells_special(text) {
            return self.encode(text);
        }
        Ok(self.guard()?.encode(text, &[], &self.special)?.ids)
    }

    /// Ids and bytes of `text`, whose special tokens count as text inside the ranges of `as_text` and as tokens
    /// elsewhere. `as_text` is ordered and its ranges do not overlap.
    ///
    /// # Errors
    /// Text that the tokenizer has no tokens for, or cannot keep from becoming a special token.
    pub fn encode_guarded(
        &self,
        text: &str,
        as_text: &[Range<usize>],
    ) -> Result<Tokens, TokenizerError> {
        if as_text.iter().all(|range| !self.spells_special(&text[range.clone()])) {
            return self.encode_spans(text);
        }
        let genuine = self.special.find(text, as_text);
        self.guard()?.encode(text, &genuine, &self.special)
    }

    /// As [`encode_guarded`](Self::encode_guarded) with everything as text, then with what the post-processor adds.
    pub(crate) fn encode_text_with_special(&self, text: &str) -> Result<Tokens, TokenizerError> {
        if !self.spells_special(text) {
            if let Some((before, behind)) = &self.around
                && let Some(tokens) = self.own_spans(text)
            {
                return Ok(between(before, tokens, behind));
            }
            return self.surround(self.inner.encode(text, false).map_err(encode_error)?, tokens);
        }
        let guard = self.guard()?;
        let (respelled, borders) = guard::respell(text, &[])?;
        let encoding = guard.encode_respelled(respelled)?;
        self.surround(encoding, |encoding| guard.original(encoding, &borders)).and_then(|tokens| {
            self.special.check(&tokens, &[])?;
            Ok(tokens)
        })
    }

    /// Whether `text` spells a special token.
    pub fn spells_special(&self, text: &str) -> bool {
        self.special.first(text, 0).is_some()
    }

    /// Whether `text` spells an added token, special or not, other than white space.
    pub(crate) fn spells_added(&self, text: &str) -> bool {
        self.added.first(text, 0).is_some()
    }

    /// Where `text` spells special tokens, leftmost and longest first, outside the ranges of `except`.
    pub(crate) fn find_special(&self, text: &str, except: &[Range<usize>]) -> Vec<Range<usize>> {
        self.special.find(text, except).into_iter().map(|(range, _)| range).collect()
    }

    /// Where `text` spells added tokens, special or not, other than white space.
    pub(crate) fn find_added(&self, text: &str) -> Vec<Range<usize>> {
        self.added.find(text, &[]).into_iter().map(|(range, _)| range).collect()
    }

    /// Whether the id is one of the tokens added to the vocabulary: the special ones, and markers such as `<think>`.
    pub fn is_added(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id)
    }

    /// Whether the id is a special token: one that `decode` may skip and that stays text where content spells it.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner
            .get_added_vocabulary()
            .get_added_tokens_decoder()
            .get(&id)
            .is_some_and(|token| token.special)
    }

    /// Text of `ids`; `skip_special` leaves special tokens out.
    ///
    /// # Errors
    /// Ids that the tokenizer's decoder refuses.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| TokenizerError::Decode(error.to_string()))
    }

    /// Turns ids into text as they come.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special)
    }

    /// The id of a token, added or of the model's vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// How many tokens there are, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_ids.first().copied()
    }

    /// [`eos_id`](Self::eos_id) and the further ones that `generation_config.json` or `config.json` lists.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    fn guard(&self) -> Result<&Guard, TokenizerError> {
        let guard = self.guard.get_or_init(|| Guard::new(&self.inner));
        guard.as_ref().map_err(|reason| TokenizerError::Encode(reason.clone()))
    }

    /// What the post-processor makes of `encoding`, whose own tokens `read` reads. Its offsets are taken before, since
    /// some post-processors trim white space off them.
    fn surround(
        &self,
        encoding: Encoding,
        read: impl Fn(&Encoding) -> Tokens,
    ) -> Result<Tokens, TokenizerError> {
        let own = read(&encoding);
        let mut own = own.ids.into_iter().zip(own.spans);
        let processed = self.post_process(encoding)?;
        let mut tokens = Tokens::default();
        let mut at = 0;
        for (&id, &added) in processed.get_ids().iter().zip(processed.get_special_tokens_mask()) {
            let (id, span) =
                if added == 1 { (id, at..at) } else { own.next().unwrap_or((id, at..at)) };
            at = span.end;
            tokens.ids.push(id);
            tokens.spans.push(span);
        }
        Ok(tokens)
    }

    /// What the post-processor adds, from what it makes of two texts.
    fn find_around(&self) -> Option<(Vec<u32>, Vec<u32>)> {
        let around = |text: &str| {
            let own = self.inner.encode_fast(text, false).ok()?;
            let n_own = own.get_ids().len();
            let all = self.post_process(own).ok()?;
            let (ids, added) = (all.get_ids(), all.get_special_tokens_mask());
            let n_before = added.iter().take_while(|&&added| added == 1).count();
            let behind = n_before + n_own;
            let is_around = added.get(n_before..behind)?.iter().all(|&added| added == 0)
                && added[behind..].iter().all(|&added| added == 1);
            is_around.then(|| (ids[..n_before].to_vec(), ids[behind..].to_vec()))
        };
        let (short, long) = (around("a")?, around("two words, and more")?);
        (short == long).then_some(short)
    }

    fn post_process(&self, encoding: Encoding) -> Result<Encoding, TokenizerError> {
        match &self.post_processor {
            Some(processor) => processor.process(encoding, None, true).map_err(encode_error),
            None => Ok(encoding),
        }
    }
}

/// `tokens` between ids that stand for no text.
fn between(before: &[u32], tokens: Tokens, behind: &[u32]) -> Tokens {
    let end = tokens.spans.last().map_or(0, |span| span.end);
    let empty = |ids: &[u32], at: usize| vec![at..at; ids.len()];
    Tokens {
        ids: [before, &tokens.ids, behind].concat(),
        spans: [empty(before, 0), tokens.spans, empty(behind, end)].concat(),
    }
}

fn encode_error(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Encode(error.to_string())
}

fn tokens(encoding: &Encoding) -> Tokens {
    Tokens {
        ids: encoding.get_ids().to_vec(),
        spans: encoding.get_offsets().iter().map(|&(start, end)| start..end).collect(),
    }
}
