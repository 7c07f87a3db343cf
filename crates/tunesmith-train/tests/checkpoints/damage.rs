//! Bits that flip, files that end early, and files of other checkpoints.

use super::*;
use std::{fs::OpenOptions, os::unix::fs::FileExt};

const FILES: [&str; 4] =
    ["MANIFEST.json", "model.safetensors", "optimizer.safetensors", "state.json"];

/// Checkpoints 1 and 2.
fn two(runs: &[At]) -> TempDir {
    let dir = folder();
    for run in &runs[..2] {
        run.snapshot().commit(&Disk::default(), dir.path(), &KEEP).unwrap();
    }
    dir
}

/// The damage to checkpoint 2 is noticed, and checkpoint 1 read; then checkpoint 2 lies in its place again.
fn noticed(root: &Path, what: &str) {
    let newest = Checkpoint::newest(&Disk::default(), root).unwrap().expect(what);
    assert_eq!(newest.state.step, 1, "{what} was not noticed");
    fs::rename(root.join("corrupt-step-000000002"), root.join("step-000000002")).unwrap();
}

#[test]
fn each_of_ten_thousand_bits_that_flip_is_noticed() {
    let runs = three();
    let dir = two(&runs);
    let root = dir.path();
    let paths = FILES.map(|name| root.join("step-000000002").join(name));
    let sizes = paths.clone().map(|path| fs::metadata(path).unwrap().len());
    let mut state = 7u64;
    for i in 0..10_000u64 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Every second one anywhere, the others in the small files, each of whose bytes has a meaning of its own.
        let of = if i.is_multiple_of(2) { 0..4 } else { [0..1, 3..4][i as usize / 2 % 2].clone() };
        let mut at = (state >> 20) % sizes[of.clone()].iter().sum::<u64>();
        let mut file = of.start;
        while at >= sizes[file] {
            at -= sizes[file];
            file += 1;
        }
        let handle = OpenOptions::new().read(true).write(true).open(&paths[file]).unwrap();
        let mut byte = [0];
        handle.read_exact_at(&mut byte, at).unwrap();
        let bit = 1 << (i % 8);
        handle.write_all_at(&[byte[0] ^ bit], at).unwrap();
        noticed(root, &format!("bit {bit:#04x} of byte {at} of {}", FILES[file]));
        handle.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(loads(root, &runs), 2, "all is as it was");
}

#[test]
fn a_file_that_ends_early_is_noticed_wherever_it_ends() {
    let runs = three();
    let dir = two(&runs);
    for name in FILES {
        let path = dir.path().join("step-000000002").join(name);
        let whole = fs::read(&path).unwrap();
        let every = (0..whole.len()).step_by(4096).chain([1, whole.len() - 1]);
        for end in every {
            fs::write(&path, &whole[..end]).unwrap();
            noticed(dir.path(), &format!("{name} cut at {end}"));
        }
        fs::write(&path, [&whole[..], b" "].concat()).unwrap();
        noticed(dir.path(), &format!("{name} with a byte too many"));
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(loads(dir.path(), &runs), 2);
}

#[test]
fn a_file_of_another_checkpoint_is_noticed() {
    let runs = three();
    let dir = two(&runs);
    let (older, newer) = (dir.path().join("step-000000001"), dir.path().join("step-000000002"));
    // Every choice of stale files but that of none; with all four of them, only the folder's name tells.
    for stale in 1u32..16 {
        let chosen: Vec<_> = (0..4).filter(|i| stale >> i & 1 == 1).map(|i| FILES[i]).collect();
        let kept: Vec<_> = chosen.iter().map(|name| fs::read(newer.join(name)).unwrap()).collect();
        chosen.iter().for_each(|name| _ = fs::copy(older.join(name), newer.join(name)).unwrap());
        noticed(dir.path(), &format!("{chosen:?} of an older step"));
        chosen
            .iter()
            .zip(kept)
            .for_each(|(name, bytes)| fs::write(newer.join(name), bytes).unwrap());
    }
    let swap = |a: &str, b: &str| {
        fs::rename(newer.join(a), newer.join("c")).unwrap();
        fs::rename(newer.join(b), newer.join(a)).unwrap();
        fs::rename(newer.join("c"), newer.join(b)).unwrap();
    };
    for (a, b) in [(FILES[1], FILES[2]), (FILES[2], FILES[3]), (FILES[0], FILES[3])] {
        swap(a, b);
        noticed(dir.path(), &format!("{a} and {b} swapped"));
        swap(a, b);
    }
    fs::copy(newer.join(FILES[1]), newer.join(FILES[2])).unwrap();
    noticed(dir.path(), "the same file twice");
}
