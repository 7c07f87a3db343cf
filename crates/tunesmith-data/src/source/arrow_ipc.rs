//! Arrow's own files, of both kinds: the file with a footer, and the stream that `datasets` writes.
//!
//! Both are a chain of messages: a schema, dictionaries, record batches. The index holds where each stands; a batch is
//! decoded alone, behind the schema and its dictionaries, and kept in the cache that parquet's slices use too. Memory
//! is therefore bounded by the batches of the file (1,000 rows where `datasets` wrote it).

use super::cache::{Cache, Key};
use super::{Faulty, Row, arrow_json, guarded, read_at};
use crate::DataError;
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::{MessageHeader, root_as_footer, root_as_message};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The first bytes of a file with a footer; its last six, too.
pub(super) const MAGIC: &[u8] = b"ARROW1";
/// A message's description is a few bytes for each column.
const MAX_DESCRIPTION: u64 = 64 << 20;
const CONTINUES: u32 = u32::MAX;

/// An Arrow file with the place of each record batch.
#[derive(Debug)]
pub(super) struct ArrowFile {
    path: PathBuf,
    file: File,
    schema: Schema,
    schema_message: Span,
    dictionaries: Vec<Span>,
    batches: Vec<Batch>,
    n_rows: u64,
    /// Whether dictionaries may stand behind the batches that use them.
    has_footer: bool,
    id: usize,
    cache: Cache,
}

/// Bytes of the file.
#[derive(Debug, Clone, Copy)]
struct Span {
    offset: u64,
    len: u64,
}

#[derive(Debug, Clone, Copy)]
struct Batch {
    span: Span,
    /// The first row.
    start: u64,
    len: u64,
}

/// What a message is.
enum Kind {
    Schema(Box<Schema>),
    Dictionary,
    Batch { rows: u64 },
    Other,
}

impl ArrowFile {
    pub(super) fn open(path: &Path, file: File, cache: &Cache) -> Result<Self, DataError> {
        let size = file.metadata().map_err(|error| DataError::io(path, error))?.len();
        let reader = Messages { path, file: &file, size };
        guarded(path, || {
            let has_footer = reader.bytes(Span { offset: 0, len: 6 }).is_ok_and(|m| m == MAGIC);
            let first = if has_footer { 8 } else { 0 };
            let Some((schema_message, Kind::Schema(schema))) = reader.message(first)? else {
                return Err(reader.bad("no schema at the start".into()));
            };
            let (dictionaries, batches) = match has_footer {
                true => reader.footer()?,
                false => reader.follow(schema_message.offset + schema_message.len)?,
            };
            let n_rows = batches.last().map_or(0, |batch| batch.start + batch.len);
            let (id, cache) = (cache.new_file(), cache.clone());
            Ok(Self {
                path: path.into(),
                file: file.try_clone().map_err(|error| DataError::io(path, error))?,
                schema: *schema,
                schema_message,
                dictionaries,
                batches,
                n_rows,
                has_footer,
                id,
                cache,
            })
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.n_rows
    }

    pub(super) fn columns(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The wanted columns of a row.
    pub(super) fn row(
        &self,
        row: u64,
        wanted: Option<&[String]>,
    ) -> Result<Faulty<Row>, DataError> {
        let slice = self.batches.partition_point(|batch| batch.start <= row).saturating_sub(1);
        let columns = arrow_json::wanted(&self.schema, wanted);
        let key = Key { file: self.id, slice, columns };
        let batch = self.cache.get(&key, || self.decode(self.batches[slice], &key.columns))?;
        Ok(arrow_json::row(&batch, (row - self.batches[slice].start) as usize))
    }

    fn decode(&self, batch: Batch, columns: &[usize]) -> Result<RecordBatch, DataError> {
        let size = self.file.metadata().map_err(|error| DataError::io(&self.path, error))?.len();
        let reader = Messages { path: &self.path, file: &self.file, size };
        let needed = |span: &&Span| self.has_footer || span.offset < batch.span.offset;
        let mut bytes = reader.bytes(self.schema_message)?;
        for &span in self.dictionaries.iter().filter(needed) {
            bytes.extend(reader.bytes(span)?);
        }
        let body = reader.bytes(batch.span)?;
        guarded(&self.path, || {
            let bad = |error: arrow::error::ArrowError| reader.bad(error.to_string());
            let messages = bytes.as_slice().chain(body.as_slice());
            let mut stream =
                StreamReader::try_new(messages, Some(columns.to_vec())).map_err(bad)?;
            match stream.next().transpose().map_err(bad)? {
                Some(decoded) if decoded.num_rows() as u64 == batch.len => Ok(decoded),
                other => {
                    let found = other.map_or(0, |batch| batch.num_rows());
                    Err(reader.bad(format!("{found} rows in a batch of {}", batch.len)))
                }
            }
        })
    }
}

/// The messages of a file.
struct Messages<'a> {
    path: &'a Path,
    file: &'a File,
    size: u64,
}

impl Messages<'_> {
    /// The messages of a stream from `at` to its end.
    fn follow(&self, mut at: u64) -> Result<(Vec<Span>, Vec<Batch>), DataError> {
        let (mut dictionaries, mut batches, mut start) = (Vec::new(), Vec::new(), 0);
        while let Some((span, kind)) = self.message(at)? {
            match kind {
                Kind::Dictionary => dictionaries.push(span),
                Kind::Batch { rows } => {
                    batches.push(Batch { span, start, len: rows });
                    start += rows;
                }
                Kind::Schema(_) | Kind::Other => {}
            }
            at = span.offset + span.len;
        }
        Ok((dictionaries, batches))
    }

    /// The messages that the footer names.
    fn footer(&self) -> Result<(Vec<Span>, Vec<Batch>), DataError> {
        let end = self.bytes(Span { offset: self.size.saturating_sub(10), len: 10 })?;
        let (len, magic) = end.split_at(4);
        if magic != MAGIC {
            return Err(self.bad(format!("{} bytes that end in no footer", self.size)));
        }
        let len = u64::from(u32::from_le_bytes([len[0], len[1], len[2], len[3]]));
        let Some(offset) = self.size.checked_sub(10 + len).filter(|_| len <= MAX_DESCRIPTION)
        else {
            return Err(self.bad(format!("a footer of {len} bytes in a file of {}", self.size)));
        };
        let bytes = self.bytes(Span { offset, len })?;
        let footer = root_as_footer(&bytes).map_err(|error| self.bad(error.to_string()))?;
        let (mut dictionaries, mut batches, mut start) = (Vec::new(), Vec::new(), 0);
        let dictionary_blocks = footer.dictionaries().into_iter().flatten();
        let blocks = dictionary_blocks.chain(footer.recordBatches().into_iter().flatten());
        for block in blocks {
            match self.message(block.offset().try_into().unwrap_or(self.size))? {
                Some((span, Kind::Dictionary)) => dictionaries.push(span),
                Some((span, Kind::Batch { rows })) => {
                    batches.push(Batch { span, start, len: rows });
                    start += rows;
                }
                _ => return Err(self.bad("a footer that names no record batch".into())),
            }
        }
        Ok((dictionaries, batches))
    }

    /// The message at `at`; `None` where the stream ends.
    fn message(&self, at: u64) -> Result<Option<(Span, Kind)>, DataError> {
        if at >= self.size {
            return Ok(None);
        }
        let word = |at| -> Result<u32, DataError> {
            let word = self.bytes(Span { offset: at, len: 4 })?;
            Ok(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        };
        // files from before 2019 lack the first word
        let (first, mut prefix) = (word(at)?, 4);
        let described = match first {
            CONTINUES => {
                prefix = 8;
                word(at + 4)?
            }
            len => len,
        };
        let described = u64::from(described);
        if described == 0 {
            return Ok(None);
        }
        if described > MAX_DESCRIPTION {
            return Err(self.bad(format!("a message description of {described} bytes")));
        }
        let description = self.bytes(Span { offset: at + prefix, len: described })?;
        let message = root_as_message(&description).map_err(|error| self.bad(error.to_string()))?;
        let body = u64::try_from(message.bodyLength()).unwrap_or(u64::MAX);
        let len = body.saturating_add(prefix + described);
        if len > self.size - at {
            let found = format!("{} bytes that end inside the message at byte {at}", self.size);
            return Err(self.bad(found));
        }
        let kind = match message.header_type() {
            MessageHeader::Schema => {
                let schema = message.header_as_schema().map(arrow::ipc::convert::try_fb_to_schema);
                match schema {
                    Some(Ok(schema)) => Kind::Schema(Box::new(schema)),
                    Some(Err(error)) => return Err(self.bad(error.to_string())),
                    None => return Err(self.bad("a schema that is none".into())),
                }
            }
            MessageHeader::DictionaryBatch => Kind::Dictionary,
            MessageHeader::RecordBatch => {
                let rows = message.header_as_record_batch().map_or(-1, |batch| batch.length());
                let rows =
                    u64::try_from(rows).map_err(|_| self.bad(format!("a batch of {rows} rows")))?;
                Kind::Batch { rows }
            }
            _ => Kind::Other,
        };
        Ok(Some((Span { offset: at, len }, kind)))
    }

    fn bytes(&self, span: Span) -> Result<Vec<u8>, DataError> {
        if span.len > self.size || span.offset > self.size - span.len {
            return Err(self.bad(format!("{} bytes that end too early", self.size)));
        }
        let mut bytes = vec![0; span.len as usize];
        let read = read_at(self.file, &mut bytes, span.offset)
            .map_err(|error| DataError::io(self.path, error))?;
        if read < bytes.len() {
            return Err(self.bad(format!("{} bytes that end too early", self.size)));
        }
        Ok(bytes)
    }

    fn bad(&self, found: String) -> DataError {
        DataError::BadFile {
            path: self.path.into(),
            expected: "a sound Arrow file or stream".into(),
            found,
            help: Some("fetch or write the file again".into()),
        }
    }
}
