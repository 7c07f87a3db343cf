//! The bytes of an event: protocol buffer fields, TFRecord frames, crc32c.

/// One `tensorflow.Event`, of which only what scalars need.
#[derive(Debug, Default)]
pub(super) struct Event {
    wall_time: f64,
    step: u64,
    file_version: Option<&'static str>,
    session_start: bool,
    scalars: Vec<(String, f32)>,
}

impl Event {
    pub(super) fn new(wall_time: f64, step: u64) -> Self {
        Self { wall_time, step, ..Self::default() }
    }

    /// The first event of every file.
    pub(super) fn version(wall_time: f64) -> Self {
        Self { file_version: Some("brain.Event:2"), ..Self::new(wall_time, 0) }
    }

    /// Tells readers to forget what they know of `step` and later.
    pub(super) fn session_start(wall_time: f64, step: u64) -> Self {
        Self { session_start: true, ..Self::new(wall_time, step) }
    }

    pub(super) fn scalar(&mut self, tag: &str, value: f32) {
        self.scalars.push((tag.to_owned(), value));
    }

    /// Fields in the order of their numbers; a plain field with its default value is left out, as proto3 does.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 48 * self.scalars.len());
        if self.wall_time != 0.0 {
            key(&mut out, 1, 1);
            out.extend(self.wall_time.to_le_bytes());
        }
        if self.step != 0 {
            key(&mut out, 2, 0);
            varint(&mut out, self.step);
        }
        if let Some(version) = self.file_version {
            bytes(&mut out, 3, version.as_bytes());
        }
        if !self.scalars.is_empty() {
            let mut summary = Vec::new();
            for (tag, x) in &self.scalars {
                let mut value = Vec::with_capacity(tag.len() + 8);
                bytes(&mut value, 1, tag.as_bytes());
                key(&mut value, 2, 5); // simple_value is in a oneof: written even when it is 0
                value.extend(x.to_le_bytes());
                bytes(&mut summary, 1, &value);
            }
            bytes(&mut out, 5, &summary);
        }
        if self.session_start {
            bytes(&mut out, 7, &[0x08, 0x01]); // SessionLog { status: START }
        }
        out
    }
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn bytes(out: &mut Vec<u8>, field: u64, data: &[u8]) {
    key(out, field, 2);
    varint(out, data.len() as u64);
    out.extend(data);
}

fn varint(out: &mut Vec<u8>, mut x: u64) {
    while x >= 0x80 {
        out.push(x as u8 | 0x80);
        x >>= 7;
    }
    out.push(x as u8);
}

/// `data` as one TFRecord.
pub(super) fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc32c(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc32c(data).to_le_bytes());
    out
}

/// Rotated and shifted, so that a checksum stored in data that is itself checksummed does no harm.
fn masked_crc32c(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli): the reflected polynomial 0x82f63b78.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, &b| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ b)])
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 };
            bit += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_published_vectors() {
        // RFC 3720, appendix B.4, and the check value of the CRC catalogues.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn varints() {
        for (x, want) in [(0, vec![0]), (127, vec![127]), (128, vec![128, 1]), (300, vec![172, 2])]
        {
            let mut out = Vec::new();
            varint(&mut out, x);
            assert_eq!(out, want);
        }
    }
}
