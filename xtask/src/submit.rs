//! `cargo xtask submit`: a run as a Slurm job, with the same binary and the same resolved recipe.
//!
//! The job's folder lies beside the run directory and holds all that the job needs: `recipe.toml`, every value of which is
//! resolved here and now; `job.sh`; and the log. Nothing of the submitter's environment travels with it but what the script
//! names, so that no token ends in Slurm's spool or in a file.
//!
//! Slurm warns the step, and so the binary itself, by USR1 some seconds before the time limit, and by TERM before it
//! preempts. The binary saves and ends with 75, and the script asks for another turn: for that exit code alone.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::command::{Cmd, in_root, quoted};

/// What Slurm is asked for.
#[derive(Debug, Clone, PartialEq)]
struct Job {
    name: String,
    time: String,
    grace: u32,
    restarts: u32,
    cpus: u32,
    /// Further options of sbatch, such as `--partition=main`.
    more: Vec<String>,
}

/// Options of sbatch that are passed on as they are.
const PASSED_ON: [&str; 8] = [
    "--gpus",
    "--mem",
    "--partition",
    "--account",
    "--constraint",
    "--qos",
    "--nodelist",
    "--exclude",
];
const USAGE: &str = "cargo xtask submit [--dry-run] [--name NAME] [--time 24:00:00] [--grace 120] [--restarts 20] [--cpus 8] \
                     [--gpus N] [--mem 64G] [--partition P] [--account A] [--constraint C] [--qos Q] [--nodelist L] [--exclude L] \
                     -- <arguments of finetune>";
/// Environment that a job needs and that is no secret.
const CARRIED: [&str; 4] = ["HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "LD_LIBRARY_PATH"];

/// Writes the job's folder, and submits it unless `--dry-run` is given.
///
/// # Errors
/// Arguments that mean nothing, a recipe that does not resolve, a missing `sbatch`.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let (mut job, mut finetune, dry_run) = parse(arguments)?;
    let binary = build::build(job.more.iter().any(|option| option.starts_with("--gpus")), false)?;
    if !finetune.iter().any(|word| word == "--source" || word.starts_with("--source=")) {
        finetune.extend(["--source".into(), "hub".into()]); // a job that trains on a stand-in is a night lost
    }
    let out = take_out(&mut finetune)?;
    if job.name.is_empty() {
        job.name = out.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned());
    }
    let resolved = Cmd::new(&binary).args(["finetune", "--print-recipe"]).args(&finetune);
    let output =
        resolved.to_std().output().with_context(|| format!("cannot start {}", binary.display()))?;
    if !output.status.success() {
        bail!("the recipe does not resolve\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut folder = out.clone().into_os_string();
    folder.push(".job");
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let write = |name: &str, text: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string()).map(|()| path)
    };
    write("recipe.toml", &output.stdout)?;
    let carried = carried(&|name| std::env::var(name).ok())?;
    let text = script(&job, &binary, &out, &folder, &std::env::current_dir()?, carried);
    let path = write("job.sh", text.as_bytes())?;
    let sbatch = Cmd::new("sbatch").args(["--parsable".into(), path.clone().into_os_string()]);
    if dry_run {
        println!("{text}\n# {}\n{}", path.display(), sbatch.display());
        return Ok(());
    }
    if !sbatch
        .succeeds()
        .context("help: submit where Slurm's sbatch is, or look at the script with --dry-run")?
    {
        bail!("sbatch refused {}", path.display());
    }
    Ok(())
}

/// The variables of `environment` that go into the job's script, which others may read.
fn carried(environment: &dyn Fn(&str) -> Option<String>) -> Result<Vec<(String, String)>> {
    let mut carried = Vec::new();
    for name in CARRIED {
        let Some(value) = environment(name) else { continue };
        if value.split_once("://").is_some_and(|(_, rest)| rest.contains('@')) {
            bail!(
                "{name}: an address with a user or a password in it does not go into a job's script\n\
                 help: leave them out of {name}; the Hub's token is read from the file that `hf auth login` writes"
            );
        }
        carried.push((name.to_owned(), value));
    }
    Ok(carried)
}

fn parse(arguments: &[OsString]) -> Result<(Job, Vec<String>, bool)> {
    let mut job = Job {
        name: String::new(),
        time: "24:00:00".into(),
        grace: 120,
        restarts: 20,
        cpus: 8,
        more: Vec::new(),
    };
    let words: Vec<String> =
        arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let end = words.iter().position(|word| word == "--").with_context(|| {
        format!("expected `--` before the arguments of finetune\nhelp: {USAGE}")
    })?;
    let (mut dry_run, mut ours) = (false, words[..end].iter());
    while let Some(word) = ours.next() {
        let (name, glued) =
            word.split_once('=').map_or((word.as_str(), None), |(a, b)| (a, Some(b)));
        if name == "--dry-run" {
            dry_run = true;
            continue;
        }
        let value = glued.map(str::to_owned).or_else(|| ours.next().cloned());
        let value = value.with_context(|| format!("{name}: expected a value\nhelp: {USAGE}"))?;
        if value.chars().any(|c| c.is_control() || c == '"') {
            bail!("{name}: expected one line without quotes, found {value:?}");
        }
        let number =
            || value.parse().with_context(|| format!("{name}: expected a number, found `{value}`"));
        match name {
            "--name" => job.name = value,
            "--time" => job.time = value,
            "--grace" => job.grace = number()?,
            "--restarts" => job.restarts = number()?,
            "--cpus" => job.cpus = number()?,
            _ if PASSED_ON.contains(&name) => job.more.push(format!("{name}={value}")),
            _ => bail!("unexpected argument `{name}`\nhelp: {USAGE}"),
        }
    }
    Ok((job, words[end + 1..].to_vec(), dry_run))
}

/// Takes `--out` out of the arguments of finetune: a job is resumed there, so it must have a name.
fn take_out(finetune: &mut Vec<String>) -> Result<PathBuf> {
    let at = finetune.iter().position(|word| word == "--out" || word.starts_with("--out="));
    let at = at.context(
        "expected --out DIR among the arguments of finetune: a job that is restarted goes on there",
    )?;
    let word = finetune.remove(at);
    let out = match word.strip_prefix("--out=") {
        Some(out) => out.to_owned(),
        None if at < finetune.len() => finetune.remove(at),
        None => bail!("--out: expected a directory"),
    };
    std::path::absolute(&out).with_context(|| out)
}

fn script(
    job: &Job,
    binary: &Path,
    out: &Path,
    folder: &Path,
    here: &Path,
    carried: Vec<(String, String)>,
) -> String {
    let Job { name, time, grace, restarts, cpus, .. } = job;
    let more: String = job.more.iter().map(|option| format!("#SBATCH {option}\n")).collect();
    let shown = |path: &Path| quoted(path.as_os_str());
    let carried: String = carried
        .iter()
        .map(|(name, value)| format!("export {name}={}\n", quoted(value.as_ref())))
        .collect();
    let (log, recipe) = (folder.join("slurm-%j.log"), folder.join("recipe.toml"));
    format!(
        r#"#!/bin/bash
#SBATCH --job-name="{name}"
#SBATCH --output="{log}"
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --signal=USR1@{grace}
#SBATCH --requeue
#SBATCH --export=NONE
{more}
# Nothing of the submitter's environment is here but this. The Hub's token, if one is needed, is read from the file
# that `hf auth login` wrote below HF_HOME.
unset SLURM_EXPORT_ENV
export TUNESMITH_HOME={home}
{carried}export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}"
cd {here} || exit 73

# Signals reach the step itself; this shell only has to live until the step has saved.
trap : USR1 USR2 TERM INT
# While the program is loaded, they wait for it, where env can say so (coreutils 8.31 and later).
hold=(env --block-signal=USR1,USR2,TERM,INT)
"${{hold[@]}}" true 2>/dev/null || hold=()
srun --ntasks="${{SLURM_NTASKS:-1}}" --kill-on-bad-exit=1 \
  "${{hold[@]}}" {binary} finetune --recipe {recipe} --out {out} --job --grace {grace}
code=$?

# 75: interrupted and saved. Anything else is the end, or an error that another turn would only repeat.
if [ "$code" -eq 75 ]; then
  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
    echo "interrupted after a save: restart $((${{SLURM_RESTART_COUNT:-0}} + 1)) of {restarts}"
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60 # this turn ends when Slurm has taken the job back
  else
    echo "interrupted after a save, and restarted {restarts} times: submit it again to go on" >&2
  fi
fi
exit "$code"
"#,
        log = log.display(),
        home = shown(&in_root("")),
        here = shown(here),
        binary = shown(binary),
        recipe = shown(&recipe),
        out = shown(out),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_script_is_bash_and_says_what_was_asked_for() {
        let (job, mut finetune, dry_run) =
            parse(&words("--dry-run --name my_run --gpus=1 --mem 64G --grace 90 -- --dataset x --out runs/y --lr 1e-4")).unwrap();
        assert!(dry_run);
        let out = take_out(&mut finetune).unwrap();
        assert_eq!(finetune, ["--dataset", "x", "--lr", "1e-4"]);
        assert!(out.is_absolute() && out.ends_with("runs/y"));
        let carried = vec![("HF_HOME".to_owned(), "/a b/hub".to_owned())];
        let text = script(
            &job,
            Path::new("/bin/tunesmith"),
            &out,
            Path::new("/j"),
            Path::new("/h"),
            carried,
        );
        for line in [
            "#SBATCH --job-name=\"my_run\"",
            "#SBATCH --signal=USR1@90",
            "#SBATCH --requeue",
            "#SBATCH --export=NONE",
            "#SBATCH --gpus=1",
            "#SBATCH --mem=64G",
            "export HF_HOME='/a b/hub'",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is missing in: {text}");
        }
        assert!(!text.contains("TOKEN="), "{text}");
        // sbatch reads options up to the first command.
        let first = text.lines().position(|l| !l.is_empty() && !l.starts_with('#')).unwrap();
        assert!(text.lines().skip(first).all(|line| !line.starts_with("#SBATCH")), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.sh");
        std::fs::write(&path, &text).unwrap();
        let checked = std::process::Command::new("bash").arg("-n").arg(&path).status().unwrap();
        assert!(checked.success(), "{text}");
    }

    #[test]
    fn no_secret_of_the_submitter_is_in_the_script() {
        let canary = "hf_canary0123456789";
        let environment = |name: &str| match name {
            "HF_HOME" => Some("/hub".to_owned()),
            "HF_HUB_CACHE" | "HF_ENDPOINT" | "LD_LIBRARY_PATH" => None,
            _ => Some(canary.to_owned()), // HF_TOKEN, and whatever else there is
        };
        let (job, ..) = parse(&words("-- x")).unwrap();
        let here = Path::new("/h");
        let text = script(&job, here, here, here, here, carried(&environment).unwrap());
        assert!(text.contains("export HF_HOME='/hub'") || text.contains("export HF_HOME=/hub"));
        assert!(!text.contains(canary), "{text}");
        let with_password = |_: &str| Some(format!("https://me:{canary}@hub.example"));
        let error = carried(&with_password).unwrap_err().to_string();
        assert!(!error.contains(canary) && error.contains("HF_HOME"), "{error}");
    }

    /// The end of the script, with a step that ends with each code, and a Slurm that takes notes.
    #[test]
    fn only_an_interrupted_job_asks_for_another_turn_and_not_for_ever() {
        let (job, ..) = parse(&words("--restarts 3 -- x")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let program = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = place.join(name);
            std::fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        program("srun", "echo \"$@\" > step; exit \"$STEP\"");
        program("scontrol", "echo \"$@\" >> notes");
        program("sleep", "");
        let text = script(&job, Path::new("b"), Path::new("o"), place, place, Vec::new());
        std::fs::write(place.join("job.sh"), text).unwrap();
        for (code, restarts, expected) in [
            (75, 0, true),
            (75, 2, true),
            (75, 3, false),
            (0, 0, false),
            (1, 0, false),
            (74, 0, false),
            (137, 0, false),
        ] {
            let path = format!("{}:/usr/bin:/bin", place.display());
            let ran = std::process::Command::new("bash")
                .arg(place.join("job.sh"))
                .env("PATH", path)
                .env("STEP", code.to_string())
                .env("SLURM_JOB_ID", "17")
                .env("SLURM_RESTART_COUNT", restarts.to_string())
                .output()
                .unwrap();
            assert_eq!(ran.status.code(), Some(code));
            let step = std::fs::read_to_string(place.join("step")).unwrap();
            assert!(step.contains(" b finetune --recipe "), "{step}");
            let notes = std::fs::read_to_string(place.join("notes")).unwrap_or_default();
            assert_eq!(notes == "requeue 17\n", expected, "{code}, {restarts} restarts: {notes}");
            let _ = std::fs::remove_file(place.join("notes"));
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (line, said) in [
            ("--dataset x", "expected `--`"),
            ("--speed 3 -- --dataset x", "unexpected argument `--speed`"),
            ("--grace soon -- x", "--grace: expected a number"),
            ("--grace", "expected `--`"),
        ] {
            let error = format!("{:#}", parse(&words(line)).unwrap_err());
            assert!(error.contains(said), "{line}: {error}");
        }
        assert!(take_out(&mut vec!["--dataset".into()]).is_err());
    }
}
