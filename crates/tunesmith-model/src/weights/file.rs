//! One safetensors file, read or written: the only place that parses its header, and the one that maps files of weights.

use crate::ModelError;
use safetensors::{
    Dtype, SafeTensors, View,
    tensor::{Metadata, TensorInfo},
};
use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};
use tch::{Kind, Tensor};

/// An open safetensors file.
pub struct TensorFile {
    path: PathBuf,
    map: memmap2::Mmap,
    header: Metadata,
    data_start: usize,
}

impl TensorFile {
    /// Maps `path` and checks its header against its size.
    ///
    /// # Errors
    /// A missing, truncated or malformed file; a git-LFS pointer in its place.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let map = map_file(path)?;
        let bad = |reason: String| ModelError::BadWeights { path: path.into(), reason };
        let (header_len, header) =
            SafeTensors::read_metadata(&map).map_err(|e| bad(explain(&map, &e)))?;
        Ok(Self { path: path.into(), data_start: header_len + 8, map, header })
    }

    /// Names in the file, in no particular order.
    pub fn names(&self) -> Vec<String> {
        self.header.tensors().into_keys().collect()
    }

    /// Shape of a tensor, `None` if the file does not have it.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.header.info(name).map(|info| info.shape.iter().map(|&n| n as i64).collect())
    }

    /// Its dtype, `None` where no weight has it, or the file does not have the tensor.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        KINDS
            .iter()
            .find(|(_, dtype)| Some(*dtype) == self.header.info(name).map(|info| info.dtype))
            .map(|(kind, _)| *kind)
    }

    /// The bytes of a tensor as stored.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (start, end) = self.header.info(name)?.data_offsets;
        self.map.get(self.data_start + start..self.data_start + end)
    }

    /// A copy of a weight, in the dtype of the file.
    ///
    /// # Errors
    /// A name that is not there, or a dtype that no weight has.
    pub fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        match self.kind(name) {
            Some(Kind::Uint8) => Err(self.other_dtype(name)), // codes, and nobody knows of what
            _ => self.stored(name),
        }
    }

    fn other_dtype(&self, name: &str) -> ModelError {
        let dtype = self.header.info(name).map(|info| info.dtype);
        let reason = format!(
            "{name} is stored as {}\nhelp: tunesmith reads fp32, fp16 and bf16 weights; use the unquantised model",
            dtype.map_or_else(String::new, |dtype| format!("{dtype:?}"))
        );
        ModelError::BadWeights { path: self.path.clone(), reason }
    }

    /// A copy of whatever [`write_tensors`] wrote, codes in 8 bits among it.
    ///
    /// # Errors
    /// A name that is not there, or a dtype that is never written.
    pub fn stored(&self, name: &str) -> Result<Tensor, ModelError> {
        let bad = |reason: String| ModelError::BadWeights { path: self.path.clone(), reason };
        let (Some(info), Some(bytes)) = (self.header.info(name), self.bytes(name)) else {
            return Err(bad(format!("no tensor named {name}")));
        };
        let Some(kind) = self.kind(name) else {
            return Err(self.other_dtype(name));
        };
        let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        let tensor = Tensor::f_from_data_size(bytes, &shape, kind)?;
        self.forget(name);
        Ok(tensor)
    }

    /// Gives the pages of a tensor back: read once, they would count as this process's memory until the file is closed.
    pub(crate) fn forget(&self, name: &str) {
        let Some(info) = self.header.info(name) else { return };
        let (start, end) = info.data_offsets;
        #[expect(unsafe_code, reason = "memmap2 counts advice that may lose data as unsafe")]
        // SAFETY: the map is read-only, so there is nothing to lose: pages that are read again come from the file.
        let advised = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.map.unchecked_advise_range(advice, self.data_start + start, end - start)
        };
        if let Err(error) = advised {
            tracing::debug!("{}: pages stay in memory: {error}", self.path.display());
        }
    }
}

/// Maps a file of weights: the one place that does.
pub(crate) fn map_file(path: &Path) -> Result<memmap2::Mmap, ModelError> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    #[expect(
        unsafe_code,
        reason = "a memory map is the only way to read weights without a second copy"
    )]
    // SAFETY: the map is read-only and private; a file changed by another process while it is mapped may yield
    // other numbers or a bus error, as for every program that maps its input.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(ModelError::io(path))?;
    if map.starts_with(b"version https://git-lfs") {
        let reason = format!(
            "a git-LFS pointer of {} bytes, not the weights\nhelp: run `git lfs pull` where the model was cloned",
            map.len()
        );
        return Err(ModelError::BadWeights { path: path.into(), reason });
    }
    Ok(map)
}

/// What a header error means to the person who has the file.
fn explain(map: &[u8], error: &safetensors::SafeTensorError) -> String {
    use safetensors::SafeTensorError as E;
    let have = map.len() as u64;
    let declared = map.first_chunk().map(|b| u64::from_le_bytes(*b));
    match error {
        E::MetadataIncompleteBuffer => {
            let end = declared.and_then(|n| {
                let header: serde_json::Value =
                    serde_json::from_slice(map.get(8..8 + n as usize)?).ok()?;
                let ends = header
                    .as_object()?
                    .values()
                    .filter_map(|t| t.get("data_offsets")?.get(1)?.as_u64());
                Some(8 + n + ends.max()?)
            });
            match end {
                Some(end) if end > have => format!(
                    "truncated: {have} of {end} bytes\nhelp: the download or the copy broke off; fetch the file again"
                ),
                _ => {
                    format!("the header describes other data than the {have} bytes that are there")
                }
            }
        }
        E::HeaderTooSmall => {
            format!("{have} bytes are too few for a safetensors file\nhelp: fetch the file again")
        }
        E::HeaderTooLarge | E::InvalidHeaderLength => format!(
            "not a safetensors file, or truncated: its first 8 bytes announce a header of {} bytes, the file has {have}",
            declared.unwrap_or(0)
        ),
        other => format!("not a sound safetensors file: {other}"),
    }
}

/// Writes tensors as a safetensors file with the metadata `format: pt` alone. Bytes depend on the tensors only.
///
/// # Errors
/// What the operating system says.
pub fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
) -> Result<(), ModelError> {
    let mut file = File::create(path).map_err(ModelError::io(path))?;
    write_tensors_into(&mut file, path, tensors)
}

/// The same to whatever writes; `path` names it in errors. One tensor at a time is in the host's memory.
///
/// # Errors
/// What the writer says.
pub fn write_tensors_into<'a>(
    out: &mut dyn Write,
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
) -> Result<(), ModelError> {
    let bad = |reason: String| ModelError::BadWeights { path: path.into(), reason };
    let views = tensors.into_iter().map(|(name, tensor)| match dtype_of(tensor.kind()) {
        Some(dtype) => Ok((name, OnDisk::new(tensor, dtype))),
        None => Err(bad(format!("{name}: {:?} is not a dtype of weights", tensor.kind()))),
    });
    let mut views = views.collect::<Result<Vec<_>, _>>()?;
    // The order of the safetensors crate: large alignments first, then by name.
    views.sort_by(|(a, x), (b, y)| y.dtype.cmp(&x.dtype).then_with(|| a.cmp(b)));
    let mut end = 0;
    let infos = views.iter().map(|(name, view)| {
        let (dtype, start) = (view.dtype, end);
        end += view.data_len();
        (name.clone(), TensorInfo { dtype, shape: view.shape.clone(), data_offsets: (start, end) })
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(metadata), infos.collect()).map_err(|e| bad(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| bad(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(ModelError::io(path));
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    views.iter().try_for_each(|(_, view)| put(&view.data()))
}

/// Kinds of tensors that are stored: weights, and the codes of moments in 8 bits.
const KINDS: [(Kind, Dtype); 6] = [
    (Kind::Float, Dtype::F32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Double, Dtype::F64),
    (Kind::Int64, Dtype::I64),
    (Kind::Uint8, Dtype::U8),
];

/// How a kind of tensor is stored; `None` for one that is not.
fn dtype_of(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(known, _)| *known == kind).map(|(_, dtype)| *dtype)
}

/// A tensor whose bytes are copied to the host only while it is written.
struct OnDisk<'a> {
    tensor: &'a Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl<'a> OnDisk<'a> {
    fn new(tensor: &'a Tensor, dtype: Dtype) -> Self {
        let shape = tensor.size().into_iter().map(|n| n as usize).collect();
        Self { tensor, dtype, shape }
    }
}

impl View for OnDisk<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let host = self.tensor.detach().to_device(tch::Device::Cpu).contiguous();
        let mut bytes = vec![0; self.data_len()];
        host.copy_data_u8(&mut bytes, host.numel());
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.dtype.bitsize() / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_safetensors_crate() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("a.safetensors"), dir.path().join("b.safetensors"));
        let tensors = [
            ("z", Tensor::from_slice(&[1i64, 2])),
            ("b.weight", Tensor::from_slice(&[0.5f32, 1.5, -2.0]).view([3, 1])),
            ("a.weight", Tensor::from_slice(&[0.25f32; 6]).view([2, 3])),
            ("half", Tensor::from_slice(&[1f32]).to_kind(Kind::BFloat16)),
        ];
        let named = || tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor));
        write_tensors(&ours, named()).unwrap();
        let views = named().map(|(n, t)| (n, OnDisk::new(t, dtype_of(t.kind()).unwrap())));
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views, Some(metadata), &theirs).unwrap();
        assert_eq!(std::fs::read(ours).unwrap(), std::fs::read(theirs).unwrap());
    }

    #[test]
    fn what_is_written_is_read_and_no_dtype_is_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        for (kind, _) in KINDS {
            let tensor = Tensor::from_slice(&[1i64, 254, 3]).to_kind(kind);
            write_tensors(&path, [("x".to_owned(), &tensor)]).unwrap();
            let read = TensorFile::open(&path).unwrap().stored("x").unwrap();
            assert_eq!((read.kind(), read == tensor), (kind, true));
        }
        let error = TensorFile::open(&path).unwrap().tensor("x").unwrap_err().to_string();
        assert!(error.contains("x is stored as U8\nhelp: tunesmith reads fp32"), "{error}");
        let tensor = Tensor::from_slice(&[true]);
        let error = write_tensors(&path, [("mask".to_owned(), &tensor)]).unwrap_err().to_string();
        assert!(error.contains("mask: Bool is not a dtype of weights"), "{error}");
    }
}
