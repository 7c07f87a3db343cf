//! What the steps of a run will take of memory, told before the first one, and what blocks compute again so that it fits.
//!
//! ```text
//! in use     what is there before step 0: weights, optimizer, a reference model, libtorch
//! gradients  4 bytes per trained weight
//! kept       what a forward pass keeps for the backward pass, by policy (tunesmith-model/src/recompute.rs)
//! work       the widest moment of a backward pass
//! copy       a checkpoint that is written while training goes on
//!
//! peak = in use + copy + work + max(kept + gradient of the head, gradients)
//! ```
//! Gradients arrive while what was kept goes, so that only the larger counts, and that of the head, which comes first. With
//! several micro-batches in a step the gradients of the first are there while the second is read: their sum counts.

use crate::recipe::{Recipe, RecomputeChoice};
use std::{fs, rc::Rc, sync::OnceLock};
use tch::Device;
use tunesmith_kernels::cuda;
use tunesmith_model::{Param, Recompute, Role, Transformer};
use tunesmith_report::{format, system};
use tunesmith_train::{AdamW, RunState, Snapshot};

/// Share of the memory that is left to everything else, and to what the heap holds between its blocks: peaks were 5 to 19 %
/// above the plan (`docs/benchmarks/cpu.md`).
const RESERVE: f64 = 0.2;
/// Bytes of an element of a gradient.
const FP32: u64 = 4;

/// Bytes that a step needs, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) in_use: u64,
    pub(crate) gradients: u64,
    /// That of the head's weight, which is among them.
    pub(crate) head_gradient: u64,
    pub(crate) kept: u64,
    pub(crate) work: u64,
    pub(crate) copy: u64,
    /// Whether a step has more than one micro-batch.
    pub(crate) accumulates: bool,
}

impl Need {
    /// Bytes at the widest moment.
    pub(crate) fn peak(&self) -> u64 {
        let moving = match self.accumulates {
            true => self.kept + self.gradients,
            false => self.gradients.max(self.kept + self.head_gradient),
        };
        self.in_use + self.copy + self.work + moving
    }
}

/// What a run will need under the policy that was chosen for it, and what there is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) recompute: Recompute,
    /// Whether the recipe names the policy.
    asked: bool,
    /// Under `recompute`, and with nothing computed again; `None` where blocks have no fused form, so that nothing is
    /// known and nothing can be computed again.
    needs: Option<[Need; 2]>,
    room: Option<u64>,
    n_tokens: u64,
}

impl Plan {
    /// Looks at what has been loaded for a run.
    pub(crate) fn new(recipe: &Recipe, model: &Transformer, optimizer: &AdamW) -> Self {
        let document = recipe.data.seq_len.min(model.config.max_position_embeddings as usize);
        // Two answers that belong together may each be so long, and are never in two rows.
        let row = if recipe.objective.kind.is_of_pairs() { 2 * document } else { document };
        let n_tokens = (recipe.data.batch * row) as u64;
        let in_use = match model.device() {
            Device::Cuda(index) => cuda::memory(index).map_or(0, |gpu| gpu.total - gpu.free),
            _ => {
                // Of the first job in this process: what a rehearsal leaves in the heap is used again.
                static FIRST: OnceLock<u64> = OnceLock::new();
                *FIRST.get_or_init(|| system::rss().unwrap_or(0))
            }
        };
        let trained = || model.params().iter().filter(|param| param.trainable());
        let numel = |param: &Rc<Param>| param.tensor.numel() as u64;
        let of = |role: Role| trained().find(move |param| param.role == role);
        let head = of(Role::Head).or_else(|| of(Role::Embedding));
        let need = |recompute: Recompute| {
            Some(Need {
                in_use,
                gradients: gradients(model),
                head_gradient: FP32 * head.map_or(0, numel),
                kept: n_tokens * model.kept_per_token(recompute)?,
                work: model.working_bytes(n_tokens, recompute),
                copy: copy(recipe, model, optimizer),
                accumulates: recipe.train.accumulate > 1,
            })
        };
        Self::choose(recipe.model.recompute, need, room(recipe, model.device()), n_tokens)
    }

    /// The first policy that fits, unless one is asked for.
    fn choose(
        asked: RecomputeChoice,
        need: impl Fn(Recompute) -> Option<Need>,
        room: Option<u64>,
        n_tokens: u64,
    ) -> Self {
        let fits = |recompute: &Recompute| {
            need(*recompute).zip(room).is_none_or(|(need, room)| need.peak() <= room)
        };
        let all = Recompute::ALL;
        let chosen = all.into_iter().find(fits).unwrap_or(Recompute::Blocks);
        let recompute = asked.policy().unwrap_or(chosen);
        let needs = need(recompute).zip(need(Recompute::None)).map(|(a, b)| [a, b]);
        Self { recompute, asked: asked.policy().is_some(), needs, room, n_tokens }
    }

    /// Whether the plan knows that it will not be enough.
    pub(crate) fn is_too_small(&self) -> bool {
        self.needs.zip(self.room).is_some_and(|([need, _], room)| need.peak() > room)
    }

    /// The plan in one line.
    pub(crate) fn line(&self) -> String {
        let Some([need, without]) = self.needs else {
            return "memory is not planned: blocks of this family have no fused form".into();
        };
        let room = self.room.map_or(String::new(), |room| format!(" of {}", format::bytes(room)));
        let peak = format::bytes(need.peak());
        let why = if self.asked { ", as asked" } else { "" };
        match self.recompute {
            Recompute::None => {
                format!("about {peak}{room} of memory needed: nothing is computed again{why}")
            }
            policy => format!(
                "about {peak}{room} of memory needed: recompute {}{why}; without it {}",
                policy.name(),
                format::bytes(without.peak())
            ),
        }
    }

    /// The plan as a table.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let Some([need, without]) = self.needs else { return vec![("plan", self.line())] };
        let kept = format!(
            "{} for {} tokens, {} each",
            format::bytes(need.kept),
            self.n_tokens,
            format::bytes(need.kept / self.n_tokens.max(1))
        );
        let mut rows = vec![
            ("recompute", self.recompute.name().to_owned()),
            ("predicted peak", format::bytes(need.peak())),
            ("before step 0", format::bytes(need.in_use)),
            ("gradients", format::bytes(need.gradients)),
            ("kept activations", kept),
            ("work", format::bytes(need.work)),
            ("checkpoint in the making", format::bytes(need.copy)),
        ];
        if self.recompute != Recompute::None {
            rows.push(("peak without recompute", format::bytes(without.peak())));
        }
        rows.extend(self.room.map(|room| ("room", format::bytes(room))));
        rows
    }
}

/// Bytes that a run may take: what its recipe says, or what is there but for a reserve.
pub(crate) fn room(recipe: &Recipe, device: Device) -> Option<u64> {
    let there = match device {
        Device::Cuda(index) => cuda::memory(index).ok().map(|gpu| gpu.total),
        _ => available(),
    };
    match recipe.model.memory_gb {
        0.0 => there.map(|bytes| (bytes as f64 * (1.0 - RESERVE)) as u64),
        gb => Some((gb * 1e9) as u64),
    }
}

/// Bytes of the gradients of a step.
pub(crate) fn gradients(model: &Transformer) -> u64 {
    let trained = model.params().iter().filter(|param| param.trainable());
    FP32 * trained.map(|param| param.tensor.numel() as u64).sum::<u64>()
}

/// Bytes of the checkpoint that is written while training goes on: a second copy of all that it holds.
pub(crate) fn copy(recipe: &Recipe, model: &Transformer, optimizer: &AdamW) -> u64 {
    match recipe.train.save_every > 0 && recipe.train.save_in_background {
        true => Snapshot::view(&RunState::default(), model, optimizer).n_bytes(),
        false => 0,
    }
}

/// Memory that this process may have, in bytes: what is free and what it has, within the limits of its groups.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let free = kib * 1024 + system::rss()?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups)
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()); // "max": none
    Some(limits.fold(free, u64::min))
}

/// Where the limits of a process lie that `/proc/self/cgroup` describes so: of its group and of all above it.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{name}"));
            let Some((above, _)) = path.rsplit_once('/') else { break };
            path = above;
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 bytes in use, 40 of gradients; what is kept shrinks with the policy, and the work grows.
    fn need(recompute: Recompute) -> Option<Need> {
        let (kept, work) = match recompute {
            Recompute::None => (300, 10),
            Recompute::Mlp => (120, 20),
            Recompute::Blocks => (30, 20),
        };
        let (gradients, head_gradient) = (40, 15);
        let accumulates = false;
        Some(Need { in_use: 100, gradients, head_gradient, kept, work, copy: 0, accumulates })
    }

    #[test]
    fn the_first_policy_that_fits_is_taken() {
        let choose = |room: u64| Plan::choose(RecomputeChoice::Auto, need, Some(room), 1);
        for (room, expected, too_small) in [
            (1000, Recompute::None, false),
            (425, Recompute::None, false),
            (424, Recompute::Mlp, false),
            (255, Recompute::Mlp, false),
            (254, Recompute::Blocks, false),
            (165, Recompute::Blocks, false),
            (164, Recompute::Blocks, true),
        ] {
            let plan = choose(room);
            assert_eq!((plan.recompute, plan.is_too_small()), (expected, too_small), "{room}");
        }
        assert!(
            choose(424).line().contains("recompute mlp; without it 425"),
            "{}",
            choose(424).line()
        );
    }

    #[test]
    fn what_is_asked_for_is_taken_and_what_is_not_known_changes_nothing() {
        let asked = Plan::choose(RecomputeChoice::None, need, Some(200), 1);
        assert_eq!((asked.recompute, asked.is_too_small()), (Recompute::None, true));
        let unlimited = Plan::choose(RecomputeChoice::Auto, need, None, 1);
        assert_eq!((unlimited.recompute, unlimited.is_too_small()), (Recompute::None, false));
        let unknown = Plan::choose(RecomputeChoice::Auto, |_| None, Some(1), 1);
        assert_eq!((unknown.recompute, unknown.is_too_small()), (Recompute::None, false));
        assert!(unknown.line().contains("not planned"));
    }

    #[test]
    fn several_micro_batches_keep_gradients_beside_activations() {
        let one = need(Recompute::None).unwrap();
        assert_eq!(one.peak(), 100 + 10 + 300 + 15);
        assert_eq!(Need { kept: 10, ..one }.peak(), 100 + 10 + 40);
        assert_eq!(Need { accumulates: true, ..one }.peak(), 100 + 10 + 300 + 40);
        assert_eq!(Need { copy: 7, ..one }.peak(), 7 + one.peak());
    }

    #[test]
    fn limits_lie_in_every_group_above() {
        assert_eq!(
            limit_files("0::/slurm/job_7/step_0\n"),
            [
                "/sys/fs/cgroup/slurm/job_7/step_0/memory.max",
                "/sys/fs/cgroup/slurm/job_7/memory.max",
                "/sys/fs/cgroup/slurm/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(limit_files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        let old = "12:cpu:/\n4:memory:/docker/1f\n";
        let file = "/sys/fs/cgroup/memory/docker/1f/memory.limit_in_bytes";
        assert_eq!(limit_files(old)[0], file);
        assert!(available().is_none_or(|bytes| bytes > 1 << 20));
    }
}
