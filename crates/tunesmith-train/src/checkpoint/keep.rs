//! Which checkpoints stay.

use super::{commit, disk::Disk};
use crate::TrainError;
use std::path::Path;

/// Which checkpoints outlive the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The newest, this many; at least 2, so that one survives a damaged one.
    pub last: usize,
    /// And those whose step is a multiple of this. 0: none.
    pub every: u64,
    /// And that of this step, the best so far.
    pub best: Option<u64>,
}

impl Keep {
    /// The steps, of those in ascending order, that nothing keeps.
    fn dropped(&self, steps: &[u64]) -> Vec<u64> {
        let older = &steps[..steps.len().saturating_sub(self.last.max(2))];
        let kept = |step: u64| {
            self.best == Some(step) || (self.every > 0 && step.is_multiple_of(self.every))
        };
        older.iter().copied().filter(|&step| !kept(step)).collect()
    }

    /// Removes the others under `root`, and what broken-off saves and removals left there: a run that goes on may have
    /// nothing more to save.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn tidy(&self, disk: &Disk, root: &Path) -> Result<(), TrainError> {
        commit::sweep(disk, root)?;
        self.prune(disk, root)
    }

    /// Removes the others under `root`, and what a run that went on from an earlier step had set aside, once it has a
    /// checkpoint of its own that is as far: until then they are the farthest that there is.
    pub(super) fn prune(&self, disk: &Disk, root: &Path) -> Result<(), TrainError> {
        let committed = commit::committed(disk, root)?;
        let steps: Vec<u64> = committed.iter().map(|(step, _)| *step).collect();
        for (step, dir) in commit::later(disk, root)? {
            if steps.last().is_some_and(|newest| *newest >= step) {
                commit::discard(disk, &dir)?;
            }
        }
        let dropped = self.dropped(&steps);
        let gone = committed.iter().filter(|(step, _)| dropped.contains(step));
        gone.into_iter().try_for_each(|(_, dir)| commit::discard(disk, dir))
    }

    /// How many checkpoints lie on the disk at most, one in the making included, in a run of `n_steps` that saves every
    /// `save_every` steps (`None`: nobody knows how long it is).
    pub fn at_most(&self, n_steps: Option<u64>, save_every: u64, best: bool) -> u64 {
        let every = match (self.every, n_steps, save_every) {
            (0, ..) | (_, None, _) | (_, _, 0) => 0,
            (every, Some(n_steps), save_every) => n_steps / lcm(every, save_every),
        };
        self.last.max(2) as u64 + 1 + every + u64::from(best)
    }
}

/// Saves lie at multiples of `b`, so that only every lcm(a, b)-th step is both saved and kept.
fn lcm(a: u64, b: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (a / gcd(a, b)).saturating_mul(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_the_best_and_every_nth_stay() {
        let check = |keep: Keep, expected: &[u64]| {
            assert_eq!(keep.dropped(&[5, 9, 10, 15, 20, 100]), expected, "{keep:?}");
        };
        let last = |last| Keep { last, every: 0, best: None };
        check(last(2), &[5, 9, 10, 15]);
        check(last(0), &[5, 9, 10, 15]);
        check(last(4), &[5, 9]);
        check(last(9), &[]);
        check(Keep { every: 10, ..last(2) }, &[5, 9, 15]);
        check(Keep { best: Some(9), ..last(2) }, &[5, 10, 15]);
        check(Keep { best: Some(20), every: 5, ..last(3) }, &[9]);
    }

    #[test]
    fn what_lies_there_at_most_is_known_before_the_first() {
        let keep = Keep { last: 2, every: 0, best: None };
        assert_eq!(keep.at_most(Some(1000), 100, false), 3);
        assert_eq!(keep.at_most(None, 100, true), 4);
        assert_eq!(Keep { every: 250, ..keep }.at_most(Some(1000), 100, false), 5);
    }

    #[test]
    fn what_was_set_aside_goes_when_a_checkpoint_is_as_far() {
        let (root, keep) = (tempfile::tempdir().unwrap(), Keep { last: 2, every: 0, best: None });
        let add = |name: &str| std::fs::create_dir(root.path().join(name)).unwrap();
        let left = |prefix: &str| {
            keep.prune(&Disk::default(), root.path()).unwrap();
            let entries = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name());
            let names = entries.map(|name| name.to_string_lossy().into_owned());
            let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
            names.sort();
            names
        };
        let aside = ["later-2-step-000000006", "later-step-000000006", "later-step-000000008"];
        aside.into_iter().for_each(add);
        add("corrupt-step-000000001");
        add("step-000000004");
        assert_eq!(left("later-"), aside);
        add("step-000000007");
        assert_eq!(left("later-"), aside[2..]);
        add("step-000000008");
        assert!(left("later-").is_empty());
        assert_eq!(left(""), ["corrupt-step-000000001", "step-000000007", "step-000000008"]);
    }

    #[test]
    fn names_are_ordered_by_step() {
        let (root, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        for name in ["step-000000009", "step-000000010", "step-000000100", "step-000000011.tmp-7"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        Keep { last: 2, every: 0, best: None }.prune(&disk, root.path()).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["step-000000010", "step-000000011.tmp-7", "step-000000100"]);
    }
}
