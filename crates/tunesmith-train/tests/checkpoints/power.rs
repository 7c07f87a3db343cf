//! Power cuts: every beginning of a record of operations, with what was not yet on the disk lost, torn or out of order.

use super::*;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// A recorded operation; paths are those below the run directory.
#[derive(Debug, Clone)]
enum Done {
    MakeDir(String),
    Create(String),
    Write(String, Vec<u8>),
    Sync(String),
    Rename(String, String),
    Remove(String),
    /// A save has returned: this step is promised from here on.
    Promised(u64),
}

/// Records the saves of three runs into a folder that is not there yet.
fn record(runs: &[At]) -> Vec<Done> {
    let dir = folder();
    let run = dir.path().to_owned();
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = log.clone();
    let disk = Disk::watched(move |op| {
        let name = |path: &Path| {
            let inside = path.strip_prefix(&run).expect("inside of the run directory");
            inside.to_string_lossy().into_owned()
        };
        let done = match op {
            Op::MakeDir(path) => Done::MakeDir(name(path)),
            Op::Create(path) => Done::Create(name(path)),
            Op::Write(path, bytes) => Done::Write(name(path), bytes.to_vec()),
            Op::Sync(path) => Done::Sync(name(path)),
            Op::Rename(from, to) => Done::Rename(name(from), name(to)),
            Op::Unlink(path) | Op::RemoveDir(path) => Done::Remove(name(path)),
            Op::Reserve(_) | Op::Open(_) | Op::Read(_) | Op::List(_) => return Verdict::Go,
        };
        writer.lock().unwrap().push(done);
        Verdict::Go
    });
    for run in runs {
        run.snapshot().commit(&disk, &dir.path().join("checkpoints"), &KEEP).unwrap();
        log.lock().unwrap().push(Done::Promised(run.state.step));
    }
    Arc::try_unwrap(log)
        .map_or_else(|log| log.lock().unwrap().clone(), |log| log.into_inner().unwrap())
}

/// What a name in a folder stands for.
#[derive(Debug, Clone)]
enum Node {
    /// Its content now, and what of it is on the disk.
    File { now: Vec<u8>, safe: Vec<u8> },
    /// All states of its names since the last that is on the disk, oldest first: a cut leaves any of them.
    Dir { states: Vec<BTreeMap<String, usize>> },
}

/// A file system that remembers what is on the disk and what is not.
#[derive(Debug, Clone)]
struct Model {
    nodes: Vec<Node>,
}

impl Model {
    fn new() -> Self {
        Self { nodes: vec![Node::Dir { states: vec![BTreeMap::new()] }] }
    }

    fn find(&self, path: &str) -> usize {
        path.split('/').filter(|name| !name.is_empty()).fold(0, |node, name| {
            match &self.nodes[node] {
                Node::Dir { states } => states.last().unwrap()[name],
                Node::File { .. } => panic!("{path} goes through a file"),
            }
        })
    }

    /// Changes the names of the folder that holds `path`; its last name is handed over.
    fn change(&mut self, path: &str, change: impl FnOnce(&mut BTreeMap<String, usize>, String)) {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = self.find(folder);
        let Node::Dir { states } = &mut self.nodes[folder] else { panic!("{path}: no folder") };
        let mut next = states.last().unwrap().clone();
        change(&mut next, name.to_owned());
        states.push(next);
    }

    fn apply(&mut self, done: &Done) {
        match done {
            Done::MakeDir(path) | Done::Create(path) => {
                self.nodes.push(match done {
                    Done::MakeDir(_) => Node::Dir { states: vec![BTreeMap::new()] },
                    _ => Node::File { now: Vec::new(), safe: Vec::new() },
                });
                let node = self.nodes.len() - 1;
                self.change(path, |names, name| _ = names.insert(name, node));
            }
            Done::Write(path, bytes) => {
                let node = self.find(path);
                let Node::File { now, .. } = &mut self.nodes[node] else {
                    panic!("{path}: no file")
                };
                now.extend(bytes);
            }
            Done::Sync(path) => {
                let node = self.find(path);
                match &mut self.nodes[node] {
                    Node::File { now, safe } => safe.clone_from(now),
                    Node::Dir { states } => _ = states.drain(..states.len() - 1),
                }
            }
            Done::Rename(from, to) => {
                let node = self.find(from);
                // Within one folder a rename is one change, which a journal makes whole or not at all.
                assert_eq!(from.rsplit_once('/').unwrap().0, to.rsplit_once('/').unwrap().0);
                let new = to.rsplit_once('/').unwrap().1.to_owned();
                self.change(from, |names, name| {
                    names.remove(&name);
                    names.insert(new, node);
                });
            }
            Done::Remove(path) => self.change(path, |names, name| _ = names.remove(&name)),
            Done::Promised(_) => {}
        }
    }

    /// Writes out what a power cut leaves under `place`.
    fn cut(&self, node: usize, place: &Path, loss: &mut dyn FnMut(Loss<'_>) -> Kept) {
        match &self.nodes[node] {
            Node::Dir { states } => {
                fs::create_dir_all(place).unwrap();
                let Kept::State(state) = loss(Loss::Names(states.len())) else { panic!("a state") };
                for (name, &child) in &states[state] {
                    self.cut(child, &place.join(name), loss);
                }
            }
            Node::File { now, safe } => {
                let Kept::Bytes(bytes) = loss(Loss::Content { now, safe }) else { panic!("bytes") };
                fs::write(place, bytes).unwrap();
            }
        }
    }
}

/// What is asked of a power cut.
enum Loss<'a> {
    /// Which of so many states of a folder's names is left.
    Names(usize),
    /// What is left of a file.
    Content { now: &'a [u8], safe: &'a [u8] },
}

/// Its answer.
enum Kept {
    State(usize),
    Bytes(Vec<u8>),
}

/// Kinds of power cuts; those above the fixed ones choose by chance.
const CUTS: u64 = 12;

fn kept(cut: u64, random: &mut dyn FnMut(usize) -> usize, loss: Loss<'_>) -> Kept {
    match loss {
        Loss::Names(n) => Kept::State(match cut {
            0 | 2 | 3 | 4 => n - 1, // all names made it
            1 => 0,                 // none did
            _ => random(n),
        }),
        Loss::Content { now, safe } => {
            let torn = |at: usize| {
                let at = (safe.len() + (at - safe.len()) / 512 * 512).min(now.len());
                let mut bytes = now[..at].to_vec();
                bytes.resize(now.len(), 0);
                bytes
            };
            Kept::Bytes(match cut {
                0 => now.to_vec(),
                1 | 2 => safe.to_vec(), // names ahead of content, which ext4 calls writeback
                3 => torn(safe.len()),  // the length made it, the content is zeros
                4 => torn(safe.len() + (now.len() - safe.len()) / 2),
                _ => match random(3) {
                    0 => safe.to_vec(),
                    1 => torn(safe.len() + random(now.len() - safe.len() + 1)),
                    _ => now.to_vec(),
                },
            })
        }
    }
}

#[test]
fn every_beginning_of_the_record_recovers_to_the_last_or_the_previous_commit() {
    let runs = three();
    let record = record(&runs);
    let (mut model, mut promised, mut n_cuts) = (Model::new(), 0, 0);
    let mut state = 1u64;
    let mut random = move |n: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for (i, done) in record.iter().enumerate() {
        model.apply(done);
        if let Done::Promised(step) = done {
            promised = *step;
        }
        for cut in 0..CUTS {
            let place = folder();
            model.cut(0, place.path(), &mut |loss| kept(cut, &mut random, loss));
            let root = place.path().join("checkpoints");
            let what = format!("cut {cut} after operation {i} ({done:?})");
            let found = match Checkpoint::newest(&Disk::default(), &root).unwrap() {
                None => 0,
                Some(_) => loads(&root, &runs),
            };
            assert!(
                [promised, promised + 1].contains(&found),
                "{what}: step {found}, promised {promised}"
            );
            let half = root.exists() && names(&root).iter().any(|name| name.starts_with("corrupt"));
            assert!(!half, "{what}: half of a checkpoint showed under its name");
            n_cuts += 1;
        }
    }
    assert_eq!(promised, 3);
    assert!(n_cuts > 500, "{n_cuts} power cuts are too few");
}

/// The model of the disk is one that loses: without one of the waits, a promise is broken.
#[test]
fn without_its_waits_the_protocol_would_lose() {
    let runs = three();
    let record = record(&runs);
    let loses = |forgotten: &dyn Fn(&str) -> bool| {
        let mut model = Model::new();
        for done in &record {
            match done {
                Done::Sync(path) if forgotten(path) => {}
                _ => model.apply(done),
            }
        }
        (0..5).any(|cut| {
            let place = folder();
            model.cut(0, place.path(), &mut |loss| kept(cut, &mut |_| 0, loss));
            let root = place.path().join("checkpoints");
            !matches!(Checkpoint::newest(&Disk::default(), &root), Ok(Some(c)) if c.state.step == 3)
        })
    };
    assert!(!loses(&|_| false));
    assert!(loses(&|path| path.ends_with(".safetensors")), "files");
    assert!(loses(&|path| path.contains(".tmp-") && !path.contains("tensors")), "names of files");
    assert!(loses(&|path| path == "checkpoints"), "names of checkpoints");
    assert!(loses(&|path| path.is_empty()), "the name of their folder");
}
