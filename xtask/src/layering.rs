//! Which crate may depend on which: the architecture's table, read against `cargo metadata`.
//!
//! A row lists every crate of ours that a crate may reach, directly or through others; a crate without a row is
//! refused until someone decides where it belongs. Development dependencies of a crate count as its own, because
//! `cargo test` must not need libtorch where `cargo build` does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::build::metadata;

/// What binds a crate to libtorch.
const TORCH: [&str; 2] = ["tch", "torch-sys"];

/// Crate, whether it may reach libtorch, the crates of ours that it may reach.
const TABLE: [(&str, bool, &[&str]); 11] = [
    ("tunesmith-tokens", false, &[]),
    ("tunesmith-data", false, &["tunesmith-tokens"]),
    ("tunesmith-hub", false, &[]),
    ("tunesmith-report", false, &[]),
    ("tunesmith-kernels", true, &[]),
    ("tunesmith-model", true, &["tunesmith-kernels"]),
    ("tunesmith-train", true, &["tunesmith-kernels", "tunesmith-model", "tunesmith-tokens"]),
    ("tunesmith-sample", true, &["tunesmith-kernels", "tunesmith-model", "tunesmith-tokens"]),
    ("tunesmith", true, LIBRARIES),
    ("tunesmith-tests", true, LIBRARIES),
    ("xtask", false, &[]),
];

/// Everything but the binary, the tests and xtask, on which nothing depends.
const LIBRARIES: &[&str] = &[
    "tunesmith-tokens",
    "tunesmith-data",
    "tunesmith-hub",
    "tunesmith-report",
    "tunesmith-kernels",
    "tunesmith-model",
    "tunesmith-train",
    "tunesmith-sample",
];

/// The crates of ours that need no libtorch.
pub(crate) fn torch_free() -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(|(_, torch, _)| !torch).map(|(name, ..)| *name)
}

/// The crates of ours that need libtorch, without the end-to-end tests.
pub(crate) fn torch_bound() -> impl Iterator<Item = &'static str> {
    TABLE
        .iter()
        .filter(|(name, torch, _)| *torch && *name != "tunesmith-tests")
        .map(|(name, ..)| *name)
}

/// `cargo xtask layering`: fails where the workspace breaks the table.
///
/// # Errors
/// A dependency that the table does not allow, with the way that leads to it.
pub(crate) fn run() -> Result<()> {
    let found = Graph::of_workspace()?.violations();
    if !found.is_empty() {
        bail!(
            "{}\nhelp: the table is in xtask/src/layering.rs; a seam is usually a trait in the lower crate",
            found.join("\n")
        );
    }
    println!("layering holds");
    Ok(())
}

/// Who depends on whom, by package id.
#[derive(Default)]
struct Graph {
    /// Name by id.
    names: BTreeMap<String, String>,
    /// Ids of the workspace's own packages.
    members: BTreeSet<String>,
    /// What a package builds with.
    builds: BTreeMap<String, Vec<String>>,
    /// What a package tests with, beside that.
    tests: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn of_workspace() -> Result<Self> {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH); // others' crates need not be here
        Ok(Self::parse(&metadata(&["--filter-platform", &host])?))
    }

    fn parse(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut graph = Graph::default();
        for package in list(&metadata["packages"]) {
            graph.names.insert(text(&package["id"]), text(&package["name"]));
        }
        graph.members = list(&metadata["workspace_members"]).iter().map(text).collect();
        for node in list(&metadata["resolve"]["nodes"]) {
            for dependency in list(&node["deps"]) {
                let (from, to) = (text(&node["id"]), text(&dependency["pkg"]));
                let only_tests =
                    list(&dependency["dep_kinds"]).iter().all(|kind| kind["kind"] == "dev");
                let edges = if only_tests { &mut graph.tests } else { &mut graph.builds };
                edges.entry(from).or_default().push(to);
            }
        }
        graph
    }

    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.names.get(id).map_or(id, String::as_str)
    }

    /// Everything that `start` reaches, with the shortest way there.
    fn reached(&self, start: &str) -> BTreeMap<String, Vec<String>> {
        let mut ways = BTreeMap::from([(start.to_owned(), vec![self.name(start).to_owned()])]);
        let mut queue = VecDeque::from([start.to_owned()]);
        while let Some(id) = queue.pop_front() {
            let own_tests = if id == start { self.tests.get(&id) } else { None };
            for next in self.builds.get(&id).into_iter().chain(own_tests).flatten() {
                if !ways.contains_key(next) {
                    let mut way = ways[&id].clone();
                    way.push(self.name(next).to_owned());
                    ways.insert(next.clone(), way);
                    queue.push_back(next.clone());
                }
            }
        }
        ways.remove(start);
        ways
    }

    /// One line for each thing that the table does not allow.
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for member in &self.members {
            let name = self.name(member);
            let Some((_, torch, ours)) = TABLE.iter().find(|(row, ..)| *row == name) else {
                found.push(format!("{name} has no row in the table of layers"));
                continue;
            };
            for (id, way) in self.reached(member) {
                let other = self.name(&id);
                let way = way.join(" → ");
                if TORCH.contains(&other) && !torch {
                    found.push(format!("{name} must not need libtorch: {way}"));
                } else if self.members.contains(&id) && !ours.contains(&other) {
                    found.push(format!("{name} must not know {other}: {way}"));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_keeps_to_the_table() {
        let graph = Graph::of_workspace().unwrap();
        assert_eq!(graph.violations(), Vec::<String>::new());
        let members: BTreeSet<&str> = graph.members.iter().map(|id| graph.name(id)).collect();
        assert_eq!(
            members,
            TABLE.iter().map(|(name, ..)| *name).collect(),
            "a row without a crate"
        );
        let reaches_torch = |name: &str| {
            let id = graph.members.iter().find(|id| graph.name(id) == name).unwrap();
            graph.reached(id).keys().any(|id| graph.name(id) == "tch")
        };
        assert!(
            reaches_torch("tunesmith-kernels"),
            "the test would notice nothing if tch had another name"
        );
    }

    /// The lock file of a user's crate names everything that it builds.
    #[test]
    fn piecemeal_use_needs_no_libtorch() {
        let path = crate::command::in_root("tests/piecemeal/Cargo.lock");
        let lock = std::fs::read_to_string(path).unwrap();
        assert!(lock.contains("name = \"tunesmith-data\""));
        for name in TORCH {
            assert!(!lock.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }

    #[test]
    fn the_build_and_the_table_agree_on_what_plain_cargo_test_covers() {
        let metadata = metadata(&["--no-deps"]).unwrap();
        let ids = metadata["workspace_default_members"].as_array().unwrap();
        let graph = Graph::parse(&metadata);
        let defaults: BTreeSet<&str> =
            ids.iter().map(|id| graph.name(id.as_str().unwrap())).collect();
        assert_eq!(defaults, torch_free().collect());
    }

    /// A workspace of `edges`, written `from > to` or, for a development dependency, `from ~ to`.
    fn graph(edges: &[&str]) -> Graph {
        let mut graph = Graph::default();
        for edge in edges {
            let words: Vec<&str> = edge.split(' ').collect();
            let [from, kind, to] = words[..] else { panic!("{edge}") };
            for name in [from, to] {
                graph.names.insert(name.into(), name.into());
                if name.starts_with("tunesmith") || name == "xtask" {
                    graph.members.insert(name.into());
                }
            }
            let kinds = if kind == ">" { &mut graph.builds } else { &mut graph.tests };
            kinds.entry(from.into()).or_default().push(to.into());
        }
        graph
    }

    #[test]
    fn violations_are_noticed() {
        for (edges, expected) in [
            (&["tunesmith-model > tunesmith-kernels", "tunesmith-kernels > tch"][..], None),
            (
                &["tunesmith-data > tch"],
                Some("tunesmith-data must not need libtorch: tunesmith-data → tch"),
            ),
            (
                &["tunesmith-tokens > helper", "helper > torch-sys"],
                Some(
                    "tunesmith-tokens must not need libtorch: tunesmith-tokens → helper → torch-sys",
                ),
            ),
            (
                &["tunesmith-hub ~ tch"],
                Some("tunesmith-hub must not need libtorch: tunesmith-hub → tch"),
            ),
            (&["tunesmith-tokens > helper", "helper ~ tch"], None),
            (
                &["tunesmith-train > tunesmith-data"],
                Some(
                    "tunesmith-train must not know tunesmith-data: tunesmith-train → tunesmith-data",
                ),
            ),
            (
                &["tunesmith-kernels > tunesmith-tokens"],
                Some(
                    "tunesmith-kernels must not know tunesmith-tokens: tunesmith-kernels → tunesmith-tokens",
                ),
            ),
            (
                &["tunesmith-tests > tunesmith"],
                Some("tunesmith-tests must not know tunesmith: tunesmith-tests → tunesmith"),
            ),
            (&["tunesmith-new > serde"], Some("tunesmith-new has no row in the table of layers")),
        ] {
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(graph(edges).violations(), expected, "{edges:?}");
        }
    }

    #[test]
    fn metadata_is_read_with_its_kinds() {
        let kind = |kind: Value| serde_json::json!([{"kind": kind}]);
        let graph = Graph::parse(&serde_json::json!({
            "packages": [{"id": "1", "name": "tunesmith-data"}, {"id": "2", "name": "tch"}, {"id": "3", "name": "x"}],
            "workspace_members": ["1"],
            "resolve": {"nodes": [
                {"id": "1", "deps": [{"pkg": "3", "dep_kinds": kind(Value::Null)}]},
                {"id": "3", "deps": [{"pkg": "2", "dep_kinds": kind("dev".into())}]},
            ]},
        }));
        assert_eq!(graph.violations(), Vec::<String>::new());
        assert_eq!(graph.builds["1"], ["3"]);
        assert_eq!(graph.tests["3"], ["2"]);
    }
}
