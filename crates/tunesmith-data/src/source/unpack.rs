//! gzip and zstd: a compressed file is unpacked once, into the cache folder, and read from there.
//!
//! # Why not in place
//! Rows are read in an order of chance, and neither format can start in its middle. Unpacked, a row costs one `pread`
//! and no memory; the price is the disk space, and one pass over each file, at the first opening only. The unpacked
//! file is named after the compressed one's path, size and time, so that a changed file is unpacked anew.

use crate::DataError;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Text shrinks to a tenth. Beyond this ratio, and this many bytes, a file was made to fill a disk.
const MAX_RATIO: u64 = 200;
const FREE_BYTES: u64 = 256 << 20;

/// A compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    /// Which one a file's first bytes tell of.
    pub(super) fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// The unpacked twin of `path` in the folder `cache`, made if it is not there.
pub(super) fn unpack(path: &Path, packing: Packing, cache: &Path) -> Result<PathBuf, DataError> {
    let io = |error| DataError::io(path, error);
    let file = File::open(path).map_err(io)?;
    let packed_size = file.metadata().map_err(io)?.len();
    let folder = cache.join("unpacked");
    let target = folder.join(name_of(path).map_err(io)?);
    if target.is_file() {
        return Ok(target);
    }
    let at_target = |error| DataError::io(&folder, error);
    std::fs::create_dir_all(&folder).map_err(at_target)?;
    tracing::info!("unpacking {} into {}, once", path.display(), folder.display());
    let reader = BufReader::with_capacity(1 << 20, file);
    let unpacked: Box<dyn Read> = match packing {
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(reader).map_err(io)?),
    };
    // Several processes may unpack the same file: each into its own, and the last rename wins over equal bytes.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nonce = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = target.with_extension(format!("{}-{nonce}.tmp", std::process::id()));
    let result = write(path, packing, unpacked, packed_size, &temporary)
        .and_then(|()| std::fs::rename(&temporary, &target).map_err(at_target));
    if result.is_err() {
        _ = std::fs::remove_file(&temporary); // what is left of it serves nobody, and the first error counts
    }
    result.map(|()| target)
}

fn write(
    path: &Path,
    packing: Packing,
    mut unpacked: Box<dyn Read>,
    packed_size: u64,
    temporary: &Path,
) -> Result<(), DataError> {
    let at_temporary = |error| DataError::io(temporary, error);
    let mut out = File::create(temporary).map_err(at_temporary)?;
    let mut block = vec![0; 1 << 20];
    let mut written = 0;
    let bad = |expected: String, found: String, help: &str| DataError::BadFile {
        path: path.into(),
        expected,
        found,
        help: Some(help.into()),
    };
    loop {
        let n = unpacked.read(&mut block).map_err(|error| {
            let expected = format!("a sound {} stream", packing.name());
            let found = format!("after {written} unpacked bytes: {error}");
            bad(expected, found, "the file was cut off or is damaged; fetch or write it again")
        })?;
        if n == 0 {
            return out.sync_all().map_err(at_temporary);
        }
        written += n as u64;
        if written > FREE_BYTES && written / MAX_RATIO > packed_size {
            return Err(bad(
                format!("a file that {} shrinks to no less than 1/{MAX_RATIO}", packing.name()),
                format!("{written} bytes and more out of {packed_size}"),
                "unpack it yourself if it is what it should be",
            ));
        }
        out.write_all(&block[..n]).map_err(at_temporary)?;
    }
}

/// A name for this content at this place.
fn name_of(path: &Path) -> std::io::Result<String> {
    let (whole, metadata) = (path.canonicalize()?, path.metadata()?);
    let time = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(whole.as_os_str().as_encoded_bytes());
    hasher.update(&metadata.len().to_le_bytes());
    hasher.update(&time.as_nanos().to_le_bytes());
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}
