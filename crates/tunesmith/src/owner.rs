//! One owner per run directory, on local disks and on NFS.
//!
//! The owner holds a lock of the operating system on `.lock`, which ends with the process, however it ends. Some NFS
//! mounts keep such locks to one machine. So the owner also writes its name into the file, and a beat that counts up:
//! whoever gets the lock and finds another machine's name there watches for a while whether the beat goes on. Beats are
//! compared with beats, never with a clock.

use crate::exit::{Exit, Failure};
use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The file that names the owner.
pub(crate) const LOCK: &str = ".lock";
/// How long the one that gets no lock waits for the owner to write its name.
const NAMING: Duration = Duration::from_secs(1);

/// How often an owner shows that it lives, and how long a newcomer from another machine watches.
#[derive(Clone, Copy)]
struct Pace {
    beat: Duration,
    watch: Duration,
}

const PACE: Pace = Pace { beat: Duration::from_secs(4), watch: Duration::from_secs(13) };

/// The right to write into a run directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Owner {
    file: File,
    /// Whether this process made the lock file.
    pub(crate) made: bool,
    beats: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Owner {
    /// Takes the directory, or says who has it.
    pub(crate) fn take(root: &Path) -> Result<Self, Failure> {
        let host = tunesmith_report::Machine::read().hostname;
        Self::take_as(root, &host, PACE)
    }

    fn take_as(root: &Path, host: &str, pace: Pace) -> Result<Self, Failure> {
        let path = root.join(LOCK);
        let cannot = |e: io::Error| {
            let text = format!("{}: {e}\nhelp: choose another place with --out", path.display());
            Failure(Exit::CannotCreate, text)
        };
        let made = !path.exists();
        let mut options = File::options();
        let file = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(cannot)?;
        match file.try_lock() {
            // An owner that wrote nothing removed the file after we had opened it.
            Ok(()) if inode(fs::metadata(&path)) != inode(file.metadata()) => {
                return Self::take_as(root, host, pace);
            }
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(root, &named(&path))),
            Err(TryLockError::Error(e)) => {
                let text = format!(
                    "{}: cannot be locked: {e}\nhelp: choose a place with --out whose file system has locks",
                    path.display()
                );
                return Err(Failure(Exit::CannotCreate, text));
            }
        }
        let before = fs::read_to_string(&path).unwrap_or_default();
        if !before.trim().is_empty() && !before.starts_with(&format!("host {host}, ")) {
            tracing::info!(
                "{}: last owned by {}; watching whether it lives",
                root.display(),
                name(&before)
            );
            if still_beats(&path, &before, pace.watch) {
                return Err(taken(root, &name(&before)));
            }
        }
        let started = tunesmith_report::format::utc(std::time::SystemTime::now());
        let me = format!("host {host}, pid {}, since {started}", std::process::id());
        let write = move |file: &File, beat: u64| {
            file.write_all_at(format!("{me}, beat {beat:010}\n").as_bytes(), 0)
        };
        file.set_len(0).and_then(|()| write(&file, 0)).map_err(cannot)?;
        let (stop, stopped) = channel();
        let mine = file.try_clone().map_err(cannot)?;
        let thread = std::thread::Builder::new().name("owner".into()).spawn(move || {
            for beat in 1u64.. {
                match stopped.recv_timeout(pace.beat) {
                    Err(RecvTimeoutError::Timeout) => {
                        // A beat that fails is one that nobody sees; the next may come through.
                        let _ = write(&mine, beat).and_then(|()| mine.sync_data());
                    }
                    _ => return,
                }
            }
        });
        Ok(Self { file, made, beats: Some((stop, thread.map_err(cannot)?)) })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.beats.take() {
            drop(stop);
            let _ = thread.join();
        }
        let _ = self.file.set_len(0); // whoever comes next need not watch for us
    }
}

fn taken(root: &Path, owner: &str) -> Failure {
    let text = format!(
        "{}: another process runs here: {owner}\nhelp: wait for it, or choose another place with --out",
        root.display()
    );
    Failure(Exit::CannotCreate, text)
}

/// The owner of a locked file, which may be just about to write its name.
fn named(path: &PathBuf) -> String {
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default(); // an unreadable owner is still an owner
        if !text.trim().is_empty() || began.elapsed() > NAMING {
            return name(&text);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Who stands in a lock file.
fn name(text: &str) -> String {
    let text = text.trim();
    text.split_once(", beat ").map_or(text, |(name, _)| name).to_owned()
}

/// Whether a lock file changes while it is watched. It is opened anew for each look: that makes NFS ask the server.
fn still_beats(path: &Path, before: &str, watch: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < watch {
        std::thread::sleep(watch / 13);
        if fs::read_to_string(path).is_ok_and(|now| now != before) {
            return true;
        }
    }
    false
}

fn inode(metadata: io::Result<fs::Metadata>) -> Option<u64> {
    metadata.ok().map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    const QUICK: Pace = Pace { beat: Duration::from_millis(20), watch: Duration::from_millis(130) };

    #[test]
    fn of_eight_that_come_at_once_one_owns() {
        let root = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let barrier = Barrier::new(8);
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let take = || {
                    barrier.wait();
                    let taken = Owner::take_as(root.path(), "here", QUICK);
                    barrier.wait(); // nobody leaves before all have tried
                    taken.map(drop).map_err(|failure| failure.1)
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{round}");
            for refused in outcomes.into_iter().filter_map(Result::err) {
                let pid = std::process::id();
                for said in [&format!("host here, pid {pid}, since "), "another process"] {
                    assert!(refused.contains(said), "{refused}");
                }
            }
        }
    }

    #[test]
    fn another_machine_that_lives_is_believed_without_a_lock() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(LOCK);
        // As on a mount that keeps locks to one machine: a name and beats, and no lock to be seen.
        let there = "host there, pid 7, since yesterday";
        fs::write(&path, format!("{there}, beat 0000000001\n")).unwrap();
        let alive = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(QUICK.watch / 3);
                fs::write(&path, format!("{there}, beat 0000000002\n")).unwrap();
            });
            Owner::take_as(root.path(), "here", QUICK)
        });
        let refused = alive.expect_err("it lives").1;
        assert!(refused.contains(there) && !refused.contains("beat"), "{refused}");
        let dead = Owner::take_as(root.path(), "here", QUICK).expect("it does not live");
        assert!(fs::read_to_string(&path).unwrap().starts_with("host here, "));
        drop(dead);
        assert_eq!(fs::read_to_string(&path).unwrap(), "", "a good-bye");
    }

    #[test]
    fn an_owner_beats() {
        let root = tempfile::tempdir().unwrap();
        let owner = Owner::take_as(root.path(), "here", QUICK).expect("it is free");
        let path = root.path().join(LOCK);
        let before = fs::read_to_string(&path).unwrap();
        assert!(still_beats(&path, &before, Duration::from_secs(5)));
        drop(owner);
    }
}
