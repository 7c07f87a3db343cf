//! The k-th operation fails, for every k.

use super::*;
use rustix::io::Errno;
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// With this error, once.
    Once(Errno),
    /// It and all after it, with this error: a disk that stays full, or gone.
    FromThenOn(Errno),
    /// A write is cut in half; what comes after fails.
    Short,
}

const FAULTS: [Fault; 7] = [
    Fault::Once(Errno::NOSPC),
    Fault::Once(Errno::IO),
    Fault::Once(Errno::ROFS),
    Fault::FromThenOn(Errno::NOSPC),
    Fault::FromThenOn(Errno::IO),
    Fault::FromThenOn(Errno::ROFS),
    Fault::Short,
];

/// A disk whose `k`-th operation, from 0, fails; and the count of those that were asked for.
fn failing(k: usize, fault: Fault) -> (Disk, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let disk = Disk::watched(move |op| {
        let n = counter.fetch_add(1, Ordering::Relaxed);
        let fail = |errno: Errno| Verdict::Fail(io::Error::from(errno));
        match fault {
            Fault::Once(errno) if n == k => fail(errno),
            Fault::FromThenOn(errno) if n >= k => fail(errno),
            Fault::Short if n == k && matches!(op, Op::Write(..)) => Verdict::Short,
            Fault::Short if n == k + 1 => fail(Errno::NOSPC),
            _ => Verdict::Go,
        }
    });
    (disk, count)
}

/// A folder with checkpoints 1 and 2, and what a killed process left behind.
fn template(runs: &[At]) -> TempDir {
    let dir = folder();
    let root = dir.path();
    for run in &runs[..2] {
        run.snapshot().commit(&Disk::default(), root, &KEEP).unwrap();
    }
    for left in ["step-000000003.tmp-1", ".trash-step-000000000"] {
        copy(&root.join("step-000000001"), &root.join(left));
    }
    dir
}

/// Runs `act` with every fault at every operation; returns how many operations there are.
fn each_fault(template: &Path, act: impl Fn(&Disk, PathBuf, &str)) -> usize {
    let n = {
        let (place, (disk, count)) = (folder(), failing(usize::MAX - 1, Fault::Short));
        copy(template, place.path());
        act(&disk, place.path().into(), "no fault");
        count.load(Ordering::Relaxed)
    };
    for k in 0..n {
        for fault in FAULTS {
            let place = folder();
            copy(template, place.path());
            let (disk, count) = failing(k, fault);
            act(&disk, place.path().into(), &format!("{fault:?} at operation {k} of {n}"));
            assert!(count.load(Ordering::Relaxed) > k, "operation {k} of {n} was never asked for");
        }
    }
    n
}

#[test]
fn every_operation_of_a_save_may_fail() {
    let runs = three();
    let template = template(&runs);
    let snapshot = runs[2].snapshot();
    let n = each_fault(template.path(), |disk, root, what| {
        let saved = snapshot.commit(disk, &root, &KEEP);
        let is_there = root.join("step-000000003").exists();
        if let Err(error) = &saved {
            let text = error.to_string();
            assert!(text.contains(root.to_str().unwrap()), "{what}: no path in {text}");
            let numbers = ["bytes needed", " free"].iter().all(|said| text.contains(said));
            assert!(is_there || numbers, "{what}: no numbers in {text}");
        } else {
            assert!(is_there, "{what}: said to be saved");
        }
        assert_eq!(loads(&root, &runs), if is_there { 3 } else { 2 }, "{what}");
        assert!(
            !names(&root).iter().any(|name| name.starts_with("corrupt")),
            "{what}: half of one showed"
        );
        // What is wrong with the disk passes, and the next save finds nothing in its way.
        if !is_there {
            snapshot.commit(&Disk::default(), &root, &KEEP).unwrap();
            assert_eq!(names(&root), ["step-000000002", "step-000000003"], "{what}");
        }
        assert_eq!(loads(&root, &runs), 3, "{what}");
    });
    assert!(n > 60, "{n} operations are too few for a save with two leftovers and a removal");
}

#[test]
fn every_operation_of_a_resume_may_fail() {
    let runs = three();
    let template = template(&runs);
    let newest = template.path().join("step-000000003");
    copy(&template.path().join("step-000000002"), &newest);
    fs::write(newest.join("optimizer.safetensors"), "cut").unwrap();
    let n = each_fault(template.path(), |disk, root, what| {
        let restored = Checkpoint::newest(disk, &root).and_then(|checkpoint| {
            let mut back = At::start();
            checkpoint.expect("never none").restore(&back.model, &mut back.optimizer)?;
            KEEP.tidy(disk, &root)?;
            Ok(back)
        });
        match restored {
            Ok(back) => {
                assert!(back.bits() == runs[1].bits(), "{what}: other bits");
                let left = names(&root);
                assert!(
                    !left.iter().any(|name| name.contains("tmp") || name.contains("trash")),
                    "{what}: {left:?}"
                );
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(root.to_str().unwrap()), "{what}: no path in {text}");
            }
        }
        // A good one is never set aside because it could not be read for a moment.
        assert!(
            root.join("step-000000002").exists() && root.join("step-000000001").exists(),
            "{what}"
        );
        assert_eq!(loads(&root, &runs), 2, "{what}");
    });
    assert!(n > 35, "{n} operations are too few for a resume with two leftovers");
}
