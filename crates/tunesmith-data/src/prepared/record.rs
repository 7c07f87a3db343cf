//! A row's examples as bytes, and back.

use tunesmith_tokens::Example;

/// A row that has no examples because it could not be encoded.
const MALFORMED: u32 = u32::MAX;
const TIED: u32 = 1;
const LABEL: u32 = 2;
const WEIGHTS: u32 = 4;
const WEIGHT: u32 = 8;

/// The record of a row that could not be encoded.
pub(super) fn malformed() -> Vec<u8> {
    MALFORMED.to_le_bytes().to_vec()
}

/// A row's examples as bytes.
pub(super) fn record(examples: &[Example]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let put = |bytes: &mut Vec<u8>, number: u32| bytes.extend(number.to_le_bytes());
    put(&mut bytes, examples.len() as u32);
    for example in examples {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        put(&mut bytes, example.len() as u32);
        put(&mut bytes, example.truncated);
        put(&mut bytes, example.piece);
        put(
            &mut bytes,
            flag(example.tied, TIED)
                | flag(example.label.is_some(), LABEL)
                | flag(example.weights.is_some(), WEIGHTS)
                | flag(example.weight.is_some(), WEIGHT),
        );
        let of_whole = example.label.iter().chain(&example.weight);
        of_whole.for_each(|number| bytes.extend(number.to_le_bytes()));
        example.ids.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        for eight in example.trained.chunks(8) {
            let bits = eight.iter().enumerate();
            bytes.push(bits.fold(0, |byte, (i, &trained)| byte | u8::from(trained) << i));
        }
        let weights = example.weights.iter().flatten();
        weights.for_each(|weight| bytes.extend(weight.to_le_bytes()));
    }
    bytes
}

/// The inverse: `None` where the bytes are no record, `Some(None)` of a malformed row.
pub(super) fn examples(mut bytes: &[u8], row: u64) -> Option<Option<Vec<Example>>> {
    let n = take_u32(&mut bytes)?;
    if n == MALFORMED {
        return Some(None);
    }
    let mut examples = Vec::with_capacity((n as usize).min(bytes.len()));
    for _ in 0..n {
        let len = take_u32(&mut bytes)? as usize;
        let (truncated, piece) = (take_u32(&mut bytes)?, take_u32(&mut bytes)?);
        let flags = take_u32(&mut bytes)?;
        let mut number = |flag: u32| match flags & flag {
            0 => Some(None),
            _ => Some(Some(f32::from_bits(take_u32(&mut bytes)?))),
        };
        let (label, weight) = (number(LABEL)?, number(WEIGHT)?);
        let ids = take(&mut bytes, len.checked_mul(4)?)?.chunks_exact(4);
        let ids = ids.map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        let bits = take(&mut bytes, len.div_ceil(8))?;
        let trained = (0..len).map(|i| bits[i / 8] >> (i % 8) & 1 == 1).collect();
        let weights = match flags & WEIGHTS {
            0 => None,
            _ => {
                let weights = take(&mut bytes, len.checked_mul(4)?)?.chunks_exact(4);
                Some(weights.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect())
            }
        };
        let (tied, shared) = (flags & TIED != 0, 0); // what is shared is the stream's to say
        examples.push(Example {
            ids,
            trained,
            weights,
            weight,
            label,
            row,
            truncated,
            piece,
            tied,
            shared,
        });
    }
    bytes.is_empty().then_some(Some(examples))
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (first, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(first)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes, 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_damage_is_seen() {
        let plain = Example {
            ids: (0..21).collect(),
            trained: (0..21).map(|i| i % 3 == 0).collect(),
            row: 7,
            ..Example::default()
        };
        let rich = Example {
            weights: Some((0..21).map(|i| i as f32).collect()),
            label: Some(-0.5),
            weight: Some(0.25),
            truncated: 3,
            piece: 2,
            tied: true,
            ..plain.clone()
        };
        let empty = Example { row: 7, ..Example::default() };
        for group in [vec![plain, rich], vec![empty], vec![]] {
            let bytes = record(&group);
            assert_eq!(examples(&bytes, 7), Some(Some(group)));
            for cut in 0..bytes.len() {
                assert_eq!(examples(&bytes[..cut], 7), None);
            }
        }
        assert_eq!(examples(&MALFORMED.to_le_bytes(), 7), Some(None));
    }
}
