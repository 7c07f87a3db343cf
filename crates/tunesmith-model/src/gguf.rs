//! GGUF, the file format of llama.cpp: one file with weights, configuration and tokenizer.
//!
//! ```text
//! "GGUF"  version 3  n_tensors  n_metadata
//! metadata      key, type, value                   `llama.block_count` = 30 …
//! tensor infos  name, shape (innermost first), type, offset
//! padding to `general.alignment` (32)
//! tensor data   each padded to the alignment
//! ```
//!
//! All numbers are little-endian. A file is data from a stranger: every length is checked against the bytes that are
//! there before anything is allocated. Source: the format's specification in ggml's repository (docs/gguf.md).

mod block;
mod config;
mod export;
mod lora;
mod names;
mod value;
mod weights;
mod write;

pub use block::GgufType;
pub use export::export_gguf;
pub use value::GgufValue;
pub(crate) use weights::GgufWeights;

use crate::{ModelError, weights::map_file};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use tch::{Kind, Tensor};
use value::Reader;

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT: u64 = 32;
/// More dimensions than any weight has.
const MAX_DIMS: u32 = 4;

/// Keys and values in the order in which a file has them.
pub type Metadata = Vec<(String, GgufValue)>;

/// An open GGUF file.
pub struct Gguf {
    path: PathBuf,
    map: memmap2::Mmap,
    metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, Info>,
}

/// Where a tensor lies, and what it is.
#[derive(Debug, Clone)]
struct Info {
    /// Outermost first, as everywhere else in this crate.
    shape: Vec<i64>,
    kind: GgufType,
    /// Bytes in the file.
    start: usize,
    end: usize,
}

impl Gguf {
    /// Maps `path`, reads its header, and checks every tensor's place against the size of the file.
    ///
    /// # Errors
    /// A file that is missing, truncated, no GGUF, of another version, or holds a type that tunesmith does not read.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let map = map_file(path)?;
        let bad = |reason: String| ModelError::BadWeights { path: path.into(), reason };
        let (metadata, tensors) = header(&map).map_err(bad)?;
        Ok(Self { path: path.into(), map, metadata, tensors })
    }

    /// Everything that the file says about itself.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }

    /// Names of the tensors, as the file has them (`blk.0.attn_q.weight`).
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, outermost dimension first.
    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        self.tensors.get(name).map(|info| info.shape.as_slice())
    }

    /// How a tensor is stored.
    pub fn kind(&self, name: &str) -> Option<GgufType> {
        self.tensors.get(name).map(|info| info.kind)
    }

    /// A tensor under the file's name of it: fp32, fp16 and bf16 as stored, blocks dequantised to fp32.
    ///
    /// # Errors
    /// A name that is not there.
    pub fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        let bad = |reason: String| ModelError::BadWeights { path: self.path.clone(), reason };
        let Some(info) = self.tensors.get(name) else {
            return Err(bad(format!("no tensor named {name}")));
        };
        let bytes = self.map.get(info.start..info.end).unwrap_or_default();
        let plain = |kind| Ok(Tensor::f_from_data_size(bytes, &info.shape, kind)?);
        match info.kind {
            GgufType::F32 => plain(Kind::Float),
            GgufType::F16 => plain(Kind::Half),
            GgufType::BF16 => plain(Kind::BFloat16),
            blocks => Ok(Tensor::f_from_slice(&blocks.dequantise(bytes))?.f_view(&info.shape[..])?),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn bad(&self, reason: String) -> ModelError {
        ModelError::BadWeights { path: self.path.clone(), reason }
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n_tensors = self.tensors.len();
        f.debug_struct("Gguf").field("path", &self.path).field("n_tensors", &n_tensors).finish()
    }
}

type Header = (BTreeMap<String, GgufValue>, BTreeMap<String, Info>);

/// The header of a file, every place in it checked.
fn header(file: &[u8]) -> Result<Header, String> {
    let mut reader = Reader::new(file);
    if reader.take(4)? != MAGIC {
        return Err("not a GGUF file: it does not begin with \"GGUF\"".into());
    }
    match reader.u32()? {
        2 | 3 => {}
        other => return Err(format!("GGUF version {other}; tunesmith reads versions 2 and 3")),
    }
    let (n_tensors, n_metadata) = (reader.count(24)?, reader.count(13)?);
    let mut metadata = BTreeMap::new();
    for _ in 0..n_metadata {
        let key = reader.string()?;
        let value = reader.value().map_err(|problem| format!("metadata {key}: {problem}"))?;
        metadata.insert(key, value);
    }
    let mut infos = Vec::new();
    for _ in 0..n_tensors {
        let name = reader.string()?;
        let info = info(&mut reader).map_err(|problem| format!("tensor {name}: {problem}"))?;
        infos.push((name, info));
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(value) => value
            .as_u64()
            .filter(|n| n.is_power_of_two() && *n <= 1 << 20)
            .ok_or("general.alignment: expected a power of two")?,
    };
    let data = (reader.position() as u64).next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, (shape, kind, offset, n_bytes)) in infos {
        let start = data.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(n_bytes));
        let (Some(start), Some(end)) = (start, end.filter(|&end| end <= file.len() as u64)) else {
            let have = file.len();
            return Err(format!(
                "truncated: tensor {name} ends at byte {}, the file has {have}\n\
                 help: the download or the copy broke off; fetch the file again",
                end.map_or("2^64".into(), |end| end.to_string())
            ));
        };
        let info = Info { shape, kind, start: start as usize, end: end as usize };
        if tensors.insert(name.clone(), info).is_some() {
            return Err(format!("two tensors named {name}"));
        }
    }
    Ok((metadata, tensors))
}

/// Shape, type, offset and size in bytes of the next tensor.
fn info(reader: &mut Reader) -> Result<(Vec<i64>, GgufType, u64, u64), String> {
    let n_dims = reader.u32()?;
    if n_dims > MAX_DIMS {
        return Err(format!("{n_dims} dimensions"));
    }
    let mut shape = Vec::new();
    let mut n_elements = 1_u64;
    for _ in 0..n_dims {
        let size = reader.u64()?;
        n_elements = n_elements
            .checked_mul(size)
            .filter(|&n| n < 1 << 48)
            .ok_or_else(|| format!("a dimension of {size}"))?;
        shape.insert(0, size as i64);
    }
    let number = reader.u32()?;
    let kind = GgufType::from_number(number).ok_or_else(|| {
        format!(
            "type {number} is not read\n\
             help: tunesmith reads F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K and Q6_K"
        )
    })?;
    let (row, block) = (shape.last().copied().unwrap_or(1), kind.block_len() as i64);
    if row % block != 0 {
        return Err(format!("rows of {row} are not whole blocks of {block}"));
    }
    let n_bytes = n_elements / kind.block_len() as u64 * kind.block_bytes() as u64;
    Ok((shape, kind, reader.u64()?, n_bytes))
}
