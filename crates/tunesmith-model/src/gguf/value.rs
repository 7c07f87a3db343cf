//! Metadata values of a GGUF file, and the reader that never runs past the end.

use std::fmt;

/// Elements of arrays, all in all, that a header may hold: a vocabulary of a million tokens with scores and merges.
const MAX_STRING: u64 = 1 << 30;

/// A metadata value. The integer types of the file become two.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// u8, u16, u32, u64.
    Unsigned(u64),
    /// i8, i16, i32, i64.
    Signed(i64),
    /// f32.
    F32(f32),
    /// f64.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Values of one type.
    Array(Vec<GgufValue>),
}

impl GgufValue {
    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(n) => Some(n),
            Self::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// Any number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Unsigned(n) => Some(n as f64),
            Self::Signed(n) => Some(n as f64),
            // What was written as 1e-5 shall be 1e-5 again, not the nearest fp32's many digits.
            Self::F32(x) => x.to_string().parse().ok(),
            Self::F64(x) => Some(x),
            _ => None,
        }
    }

    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A list.
    pub fn as_array(&self) -> Option<&[GgufValue]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    /// A list of texts.
    pub fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Array(texts.into_iter().map(Self::from).collect())
    }

    /// The number of its type in the file. Integers are 32 bits wide wherever they fit, as writers of the field do.
    fn number(&self) -> u32 {
        match self {
            Self::Unsigned(n) if u32::try_from(*n).is_ok() => 4,
            Self::Unsigned(_) => 10,
            Self::Signed(n) if i32::try_from(*n).is_ok() => 5,
            Self::Signed(_) => 11,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::F64(_) => 12,
        }
    }

    /// Type and value as they stand in a file.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.number().to_le_bytes());
        self.write_bare(out);
    }

    fn write_bare(&self, out: &mut Vec<u8>) {
        match self {
            Self::Unsigned(n) => match u32::try_from(*n) {
                Ok(n) => out.extend(n.to_le_bytes()),
                Err(_) => out.extend(n.to_le_bytes()),
            },
            Self::Signed(n) => match i32::try_from(*n) {
                Ok(n) => out.extend(n.to_le_bytes()),
                Err(_) => out.extend(n.to_le_bytes()),
            },
            Self::F32(x) => out.extend(x.to_le_bytes()),
            Self::F64(x) => out.extend(x.to_le_bytes()),
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::String(text) => write_string(text, out),
            Self::Array(values) => {
                out.extend(values.first().map_or(4, Self::number).to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| value.write_bare(out));
            }
        }
    }
}

impl From<&str> for GgufValue {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl fmt::Display for GgufValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(n) => n.fmt(f),
            Self::Signed(n) => n.fmt(f),
            Self::F32(x) => x.fmt(f),
            Self::F64(x) => x.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::String(text) => write!(f, "{text:?}"),
            Self::Array(values) => write!(f, "a list of {}", values.len()),
        }
    }
}

/// A length and the bytes.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Reads a header from its start.
pub(super) struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a [u8]) -> Self {
        Self { file, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.file.len());
        let end = end.ok_or_else(|| {
            format!(
                "truncated: the header goes on behind byte {}, where the file ends\n\
                 help: the download or the copy broke off; fetch the file again",
                self.file.len()
            )
        })?;
        let bytes = &self.file[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| "truncated".to_owned())
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// How many things follow, each of at least `size` bytes: no more than there is room for.
    pub(super) fn count(&mut self, size: usize) -> Result<u64, String> {
        let count = self.u64()?;
        let left = (self.file.len() - self.at) / size.max(1);
        match count <= left as u64 {
            true => Ok(count),
            false => Err(format!("{count} entries are announced, and there is room for {left}")),
        }
    }

    pub(super) fn string(&mut self) -> Result<String, String> {
        let length = self.count(1)?;
        if length > MAX_STRING {
            return Err(format!("a text of {length} bytes"));
        }
        let bytes = self.take(length as usize)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| "a text that is not UTF-8".into())
    }

    pub(super) fn value(&mut self) -> Result<GgufValue, String> {
        let kind = self.u32()?;
        if kind != 9 {
            return self.scalar(kind);
        }
        let kind = self.u32()?;
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err("a list of lists".into()),
            other => return Err(format!("type {other} of a list's values")),
        };
        let n = self.count(size)?;
        (0..n).map(|_| self.scalar(kind)).collect::<Result<_, _>>().map(GgufValue::Array)
    }

    fn scalar(&mut self, kind: u32) -> Result<GgufValue, String> {
        Ok(match kind {
            0 => GgufValue::Unsigned(u8::from_le_bytes(self.array()?).into()),
            1 => GgufValue::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => GgufValue::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => GgufValue::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => GgufValue::Unsigned(self.u32()?.into()),
            5 => GgufValue::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => GgufValue::F32(f32::from_le_bytes(self.array()?)),
            7 => GgufValue::Bool(self.array::<1>()?[0] != 0),
            8 => GgufValue::String(self.string()?),
            10 => GgufValue::Unsigned(self.u64()?),
            11 => GgufValue::Signed(i64::from_le_bytes(self.array()?)),
            12 => GgufValue::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("a value of type {other}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_a_round_trip() {
        let values = [
            GgufValue::Unsigned(7),
            GgufValue::Unsigned(1 << 40),
            GgufValue::Signed(-3),
            GgufValue::F32(1e-5),
            GgufValue::F64(0.1),
            GgufValue::Bool(true),
            GgufValue::from("ä"),
            GgufValue::strings(["a", "b"]),
            GgufValue::Array(vec![]),
        ];
        for value in values {
            let mut bytes = Vec::new();
            value.write(&mut bytes);
            assert_eq!(Reader::new(&bytes).value().unwrap(), value);
            for end in 0..bytes.len() {
                assert!(Reader::new(&bytes[..end]).value().is_err(), "{value} cut at {end}");
            }
        }
        assert_eq!(GgufValue::F32(1e-5).as_f64(), Some(1e-5));
    }

    #[test]
    fn lengths_that_lie_are_refused_before_anything_is_allocated() {
        let mut bytes = 8_u32.to_le_bytes().to_vec();
        bytes.extend(u64::MAX.to_le_bytes());
        assert!(Reader::new(&bytes).value().unwrap_err().contains("room for 0"));
        let mut list = [9_u32, 4].map(u32::to_le_bytes).concat();
        list.extend((1_u64 << 60).to_le_bytes());
        assert!(Reader::new(&list).value().unwrap_err().contains("are announced"));
    }
}
