//! What decides which tokens a data set becomes: a prepared file is named after it, and refused by whoever wants others.

use crate::{DataError, Dataset, fingerprint};
use tunesmith_tokens::EncodeKnobs;

/// Counts changes of the file's format. How rows become tokens changes with tunesmith's own version, and is looked at
/// in some rows besides.
pub(super) const VERSION: u64 = 3;
/// Bytes of a key in a file.
pub(super) const BYTES: usize = 32 * PARTS.len();
/// What messages call the parts of a key, in their order.
const PARTS: [&str; 4] =
    ["data files", "rules for reading rows", "tokenizer or template", "options of the encoder"];

/// The data files, how their rows are read, the model's tokenizer and template, and the encoder's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedKey {
    parts: [blake3::Hash; PARTS.len()],
    pub(super) knobs: EncodeKnobs,
}

impl Dataset {
    /// The key of this data set's tokens. `model` stands for the tokenizer and the template: a hash of their files.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn prepared_key(&self, model: &str, knobs: EncodeKnobs) -> Result<PreparedKey, DataError> {
        let data = format!("{} {}", self.fingerprint()?, fingerprint::times(self.files())?);
        let version = env!("CARGO_PKG_VERSION");
        let reading = format!("{VERSION} {version} {} {}", self.len(), self.reading());
        let options = format!("{knobs:?}");
        let parts =
            [&data, &reading, model, &options].map(|part: &str| blake3::hash(part.as_bytes()));
        Ok(PreparedKey { parts, knobs })
    }
}

impl PreparedKey {
    /// The name of a file of these tokens; the whole key stands in the file.
    pub fn file_name(&self) -> String {
        format!("{}.tokens", &blake3::hash(&self.to_bytes()).to_hex()[..32])
    }

    pub(super) fn to_bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let places = bytes.chunks_exact_mut(32);
        places.zip(&self.parts).for_each(|(place, part)| place.copy_from_slice(part.as_bytes()));
        bytes
    }

    /// What of the key in a file is another: `other data files and another …`; `None` where nothing is.
    pub(super) fn differs(&self, found: &[u8]) -> Option<String> {
        let parts = self.parts.iter().zip(found.chunks_exact(32)).zip(PARTS);
        let other = parts.filter(|((own, found), _)| own.as_bytes() != *found);
        let names: Vec<_> = other.map(|(_, name)| format!("other {name}")).collect();
        (!names.is_empty()).then(|| names.join(" and "))
    }
}
