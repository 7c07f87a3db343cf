//! Writes a GGUF file, a tensor at a time.

use super::{ALIGNMENT, GgufType, GgufValue, MAGIC, value::write_string};
use crate::ModelError;
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};
use tch::{Kind, Tensor};

/// A tensor to be written, already in GGUF's layout.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) tensor: Tensor,
    pub(super) kind: GgufType,
}

impl Entry {
    fn n_bytes(&self) -> u64 {
        (self.tensor.numel() / self.kind.block_len() * self.kind.block_bytes()) as u64
    }
}

/// Writes metadata and tensors to `path`, in the order given; the file has its name only once it is whole.
pub(super) fn write(
    path: &Path,
    metadata: &[(String, GgufValue)],
    entries: &[Entry],
) -> Result<(), ModelError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let written = write_all(partial, metadata, entries);
    let written =
        written.and_then(|()| std::fs::rename(partial, path).map_err(ModelError::io(path)));
    written.inspect_err(|_| _ = std::fs::remove_file(partial)) // what is half-written helps nobody
}

fn write_all(
    path: &Path,
    metadata: &[(String, GgufValue)],
    entries: &[Entry],
) -> Result<(), ModelError> {
    let file = File::create(path).map_err(ModelError::io(path))?;
    let mut out = BufWriter::new(file);
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(ModelError::io(path));
    put(&header(metadata, entries))?;
    for entry in entries {
        let tensor = entry.tensor.detach().to_kind(Kind::Float).contiguous().view(-1);
        let numbers = Vec::<f32>::try_from(&tensor)?;
        let mut bytes = entry.kind.quantise(&numbers);
        bytes.resize((bytes.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
        put(&bytes)?;
    }
    let file = out.into_inner().map_err(|error| ModelError::io(path)(error.into_error()))?;
    file.sync_all().map_err(ModelError::io(path))
}

/// Everything before the first tensor's bytes, padded.
fn header(metadata: &[(String, GgufValue)], entries: &[Entry]) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend(3_u32.to_le_bytes());
    header.extend((entries.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_string(key, &mut header);
        value.write(&mut header);
    }
    let mut offset = 0_u64;
    for entry in entries {
        write_string(&entry.name, &mut header);
        let shape = entry.tensor.size();
        header.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&size| header.extend((size as u64).to_le_bytes()));
        header.extend(entry.kind.number().to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += entry.n_bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize((header.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
    header
}
