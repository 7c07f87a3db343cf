//! Runs the real binary in a folder of its own, without network, and reads what it left there.

use serde_json::Value;
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// The binary beside the tests: both come out of one build.
///
/// # Panics
/// If it is not there.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let binary = folder.join("tunesmith");
    assert!(
        binary.is_file(),
        "{} is not built\nhelp: `cargo xtask test` builds it first; alone: cargo build --release -p tunesmith",
        binary.display()
    );
    binary
}

/// A folder with a few small models in it, where commands run.
pub struct Place {
    dir: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A folder with links to `llama3` and `gpt2` (without tokenizer) and to `tiny`, the model that ships in `data/`.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        for name in ["llama3", "gpt2"] {
            place.link(&crate::golden(&format!("models/{name}")), name);
        }
        place.link(&checkout().join("data/tunesmith-tiny"), "tiny");
        place
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect(name);
    }

    /// A file's bytes.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A file's text.
    ///
    /// # Panics
    /// If it cannot be read, or is not UTF-8.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).expect(name)
    }

    /// A file's JSON.
    ///
    /// # Panics
    /// If it cannot be read, or is not JSON.
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).expect(name)
    }

    /// Copies a model so that it can be damaged.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn copy_model(&self, from: &str, to: &str) {
        fs::create_dir_all(self.path(to)).expect(to);
        for entry in fs::read_dir(crate::golden(&format!("models/{from}"))).expect(from) {
            let entry = entry.expect(from);
            fs::copy(entry.path(), self.path(to).join(entry.file_name())).expect(to);
        }
    }

    /// Writes `rows` pre-tokenised rows for the small models: lengths of 5 to 16, a different half of each trained.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_rows(&self, name: &str, rows: u64) {
        let mut text = String::new();
        for row in 0..rows {
            let length = 5 + row * 7 % 12;
            // Multiples of a number without a common divisor with 93: no two rows alike, no pattern to guess.
            let ids: Vec<u64> = (0..length).map(|i| 3 + (row * 29 + i * i * 17 + i) % 93).collect();
            let labels: Vec<i64> = (0..length)
                .zip(&ids)
                .map(|(i, &id)| if (i + row).is_multiple_of(2) { id as i64 } else { -100 })
                .collect();
            text += &serde_json::json!({"input_ids": ids, "labels": labels}).to_string();
            text.push('\n');
        }
        self.write(name, text);
    }

    /// What lies in a folder, sorted.
    ///
    /// # Panics
    /// If it is not there.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect(folder).file_name();
        let mut names: Vec<String> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The records of a run.
    ///
    /// # Panics
    /// If there are none.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = self.text(&format!("{run}/metrics.jsonl"));
        text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    /// The records of a run without what a clock measured, byte for byte.
    ///
    /// # Panics
    /// If there are none.
    pub fn untimed(&self, run: &str) -> Vec<String> {
        let strip = |mut record: Value| {
            let object = record.as_object_mut().expect("an object");
            object.retain(|name, _| name != "tokens_per_second" && name != "eval_runtime");
            record.to_string()
        };
        self.metrics(run).into_iter().map(strip).collect()
    }

    /// The losses of a run.
    ///
    /// # Panics
    /// If there are none.
    pub fn losses(&self, run: &str) -> Vec<f64> {
        self.metrics(run).iter().filter_map(|record| record["loss"].as_f64()).collect()
    }

    /// A command that runs here. `line` is split at spaces.
    pub fn command(&self, line: &str) -> Command {
        self.command_of(line.split_whitespace())
    }

    /// A command that runs here.
    pub fn command_of<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(binary());
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("TUNESMITH_HOME", checkout())
            .env("HF_HOME", self.path("hub"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("HF_HUB_OFFLINE", "1")
            .env("COLUMNS", "100")
            // Tests run beside each other: threads that spin long while they wait take each other's cores.
            .env("GOMP_SPINCOUNT", "1000")
            .env_remove("TUNESMITH_LOG")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end. `line` is split at spaces.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, line: &str) -> Ran {
        run(self.command(line))
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    /// If it does not.
    pub fn ok(&self, line: &str) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(0), "tunesmith {line}\n{}", ran.stderr);
        ran
    }

    /// Runs a command that must end with `code`.
    ///
    /// # Panics
    /// If it does not.
    pub fn fails(&self, code: i32, line: &str) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(code), "tunesmith {line}\n{}", ran.stderr);
        ran
    }

    fn link(&self, target: &Path, name: &str) {
        std::os::unix::fs::symlink(target, self.path(name)).expect(name);
    }
}

impl Ran {
    /// stdout as one JSON object per line.
    ///
    /// # Panics
    /// If it is anything else.
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

fn run(mut command: Command) -> Ran {
    let output = command.output().expect("tunesmith starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout").to_owned()
}
