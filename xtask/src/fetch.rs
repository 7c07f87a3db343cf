//! Brings the pinned wheels here: pip says where they are, a short Python script downloads them, this file checks.
//!
//! # Why
//! Index, proxy, certificates and credentials of a machine live in pip's configuration, so pip resolves the
//! addresses (`pip install --dry-run --report`). pip itself starts a broken download from the beginning, so
//! `fetch.py` does the download and continues with an HTTP Range. Where the server lets only pip through,
//! `pip download` takes over. Python runs here and nowhere else in tunesmith.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::wheels::Wheel;

const FETCH: &str = include_str!("fetch.py");

/// `fetch.py`'s way of saying that pip may get through where it did not.
const LET_PIP_TRY: i32 = 3;

/// The first pip whose dry run reads a wheel's metadata without downloading the wheel.
const PIP_WANTED: (u32, u32) = (23, 2);

/// Downloads what is missing of `wheels` into `folder` and checks every SHA-256.
///
/// # Errors
/// Python or pip is missing, the index cannot be reached, or a file is not the pinned one.
pub(crate) fn fetch(wheels: &[Wheel], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for last in [false, true] {
        let missing: Vec<&Wheel> =
            wheels.iter().filter(|w| length(&folder.join(&w.file)) != Some(w.bytes)).collect();
        if !missing.is_empty() {
            download(&missing, folder)?;
        }
        eprintln!("checking hashes");
        let mut damaged = Vec::new();
        for wheel in wheels {
            let path = folder.join(&wheel.file);
            let found = sha256(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if found != wheel.sha256 {
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
                damaged.push(format!(
                    "{}: expected SHA-256 {}, found {found}",
                    wheel.file, wheel.sha256
                ));
            }
        }
        if damaged.is_empty() {
            return Ok(());
        }
        if last {
            bail!(
                "the package index sends other files than the pinned ones:\n  {}\n\
                 help: `python3 -m pip config list` shows which index answers; a mirror that repacks wheels cannot serve",
                damaged.join("\n  ")
            );
        }
        eprintln!("damaged, fetching once more:\n  {}", damaged.join("\n  "));
    }
    Ok(())
}

/// Length of a file, `None` where there is none.
pub(crate) fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.len())
}

/// The version of pip, or why there is none, in words a person can act on.
pub(crate) fn pip_version() -> Result<(u32, u32)> {
    let output = Command::new("python3").args(["-m", "pip", "--version"]).output().context(
        "python3 does not start; pip, which belongs to it, fetches libtorch\n\
         help: apt-get install python3 python3-pip (or your system's equivalent)",
    )?;
    if !output.status.success() {
        bail!(
            "python3 has no pip: {}\n\
             help: apt-get install python3-pip, or python3 -m ensurepip --upgrade",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_pip_version(&text)
        .with_context(|| format!("`python3 -m pip --version` says `{}`", text.trim()))
}

fn parse_pip_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("pip ")?.split_whitespace().next()?.split('.');
    let minor =
        |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    Some((numbers.next()?.parse().ok()?, numbers.next().and_then(minor).unwrap_or(0)))
}

fn download(missing: &[&Wheel], folder: &Path) -> Result<()> {
    let mut pip = vec!["-m".to_owned(), "pip".to_owned()];
    if pip_version()? < PIP_WANTED {
        pip = vec![newer_pip(folder)?];
    }
    eprintln!("asking the package index for {} files", missing.len());
    let urls = resolve(&pip, missing)?;
    let todo: Vec<Value> = missing
        .iter()
        .zip(&urls)
        .map(|(wheel, url)| json!({"url": url, "path": folder.join(&wheel.file), "bytes": wheel.bytes}))
        .collect();
    let code = run_script(&todo)?;
    if code == Some(LET_PIP_TRY) {
        eprintln!("the server refuses this client; `pip download` takes over");
        let mut command = python(&pip, &["download", "--no-deps", "--dest"]);
        command.arg(folder).args(selectors(missing));
        if !command.status().context("cannot start python3")?.success() {
            bail!(
                "pip could not download libtorch's wheels; its own message is above\n\
                 help: `python3 -m pip config list` shows the index, proxy and certificates in use"
            );
        }
    } else if code != Some(0) {
        bail!(
            "the download broke off; its reason is above\n\
             help: run the same command again: it continues where it stopped (in {})",
            folder.display()
        );
    }
    Ok(())
}

/// Runs `fetch.py` on a list of `{"url", "path", "bytes"}`; its exit code.
fn run_script(todo: &[Value]) -> Result<Option<i32>> {
    let mut child = Command::new("python3")
        .args(["-c", FETCH])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start python3")?;
    let mut stdin = child.stdin.take().context("python3 has no stdin")?;
    writeln!(stdin, "{}", serde_json::to_string(todo)?).context("cannot talk to python3")?;
    let code = child.wait()?.code();
    drop(stdin); // held until here: its end tells the script that this process is gone
    Ok(code)
}

/// `python3 <pip> <arguments>`, with the few settings set aside that do not fit a download.
fn python(pip: &[String], arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(pip).args(arguments);
    command.env("PIP_REQUIRE_VIRTUALENV", "0").env("PIP_USER", "0").env("PIP_NO_INPUT", "1");
    command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    command
}

/// The flags that make pip choose exactly these wheels, whichever Python asks.
fn selectors(wheels: &[&Wheel]) -> Vec<String> {
    let mut platforms: Vec<String> = wheels
        .iter()
        .flat_map(|wheel| wheel.platforms())
        .map(|tag| format!("--platform={tag}"))
        .collect();
    platforms.sort();
    platforms.dedup();
    let fixed =
        ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311"];
    let requirements = wheels.iter().map(|wheel| wheel.requirement());
    fixed.iter().map(|flag| (*flag).to_owned()).chain(platforms).chain(requirements).collect()
}

fn resolve(pip: &[String], wheels: &[&Wheel]) -> Result<Vec<String>> {
    let mut command = python(
        pip,
        &[
            "install",
            "--dry-run",
            "--ignore-installed",
            "--no-deps",
            "--quiet",
            "--report=-",
            "--target=unused",
        ],
    );
    let output = command
        .args(selectors(wheels))
        .stderr(Stdio::piped())
        .output()
        .context("cannot start python3")?;
    if !output.status.success() {
        bail!(
            "pip finds no libtorch on the package index:\n{}\n\
             help: is this machine offline? `python3 -m pip config list` shows the index and proxy in use;\n\
             help: or unpack a libtorch {} from elsewhere and set LIBTORCH to its folder",
            String::from_utf8_lossy(&output.stderr).trim(),
            crate::wheels::TORCH_VERSION
        );
    }
    addresses(&serde_json::from_slice(&output.stdout).context("pip's report is not JSON")?, wheels)
}

/// The address of every wheel in pip's report, in the order of `wheels`.
fn addresses(report: &Value, wheels: &[&Wheel]) -> Result<Vec<String>> {
    let urls: Vec<&str> = report["install"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item["download_info"]["url"].as_str())
        .collect();
    let file_of = |url: &str| {
        let path = url.split(['#', '?']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().replace("%2B", "+")
    };
    wheels
        .iter()
        .map(|wheel| {
            urls.iter()
                .find(|url| file_of(url) == wheel.file)
                .map(|url| (*url).to_owned())
                .with_context(|| {
                    format!(
                        "the package index offers no {}: it offers {}",
                        wheel.file,
                        urls.iter().map(|url| file_of(url)).collect::<Vec<_>>().join(", ")
                    )
                })
        })
        .collect()
}

/// A pip that knows `--report`, fetched through the old one; it runs from its wheel and installs nothing.
fn newer_pip(folder: &Path) -> Result<String> {
    let folder = folder.join("pip");
    let have = || -> Option<PathBuf> {
        let mut files =
            fs::read_dir(&folder).ok()?.filter_map(|entry| entry.ok()).map(|entry| entry.path());
        files.find(|path| path.extension().is_some_and(|ext| ext == "whl"))
    };
    if have().is_none() {
        eprintln!("this pip is older than {}.{}; fetching a newer one", PIP_WANTED.0, PIP_WANTED.1);
        let old = ["-m".to_owned(), "pip".to_owned()];
        let wanted = format!("pip>={}.{}", PIP_WANTED.0, PIP_WANTED.1);
        let mut command = python(
            &old,
            &["download", "--quiet", "--no-deps", "--only-binary=:all:", &wanted, "--dest"],
        );
        if !command.arg(&folder).status().context("cannot start python3")?.success() {
            bail!(
                "pip {}.{} or newer is needed, and the old one could not fetch it; its message is above\n\
                 help: python3 -m pip install --upgrade pip",
                PIP_WANTED.0,
                PIP_WANTED.1
            );
        }
    }
    let wheel = have().with_context(|| format!("pip left no wheel in {}", folder.display()))?;
    Ok(wheel.join("pip").display().to_string())
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..n]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn wheel(file: &str) -> Wheel {
        Wheel { file: file.to_owned(), sha256: String::new(), bytes: 0 }
    }

    #[test]
    fn pip_versions() {
        for (text, expected) in [
            ("pip 23.2.1 from /usr/lib (python 3.11)", Some((23, 2))),
            ("pip 25.0b1 from /usr/lib (python 3.12)", Some((25, 0))),
            ("pip 9 from x", Some((9, 0))),
            ("nothing", None),
        ] {
            assert_eq!(parse_pip_version(text), expected, "{text}");
        }
    }

    #[test]
    fn addresses_come_from_the_report_in_the_order_asked() {
        let (torch, other) = (wheel("torch-2-x.whl"), wheel("nvidia_x-1-x.whl"));
        let item = |url: &str| json!({"download_info": {"url": url}});
        let report = json!({"install": [item("http://a/nvidia_x-1-x.whl#sha256=0"), item("http://a/b/torch-2-x.whl")]});
        let found = addresses(&report, &[&torch, &other]).unwrap();
        assert_eq!(found, ["http://a/b/torch-2-x.whl", "http://a/nvidia_x-1-x.whl#sha256=0"]);
        let message = addresses(&report, &[&wheel("torch-3-x.whl")]).unwrap_err().to_string();
        assert!(
            message.contains("no torch-3-x.whl") && message.contains("torch-2-x.whl"),
            "{message}"
        );
    }

    #[test]
    fn selectors_name_every_platform_once() {
        let (a, b) = (wheel("torch-2-cp311-cp311-p1.whl"), wheel("nvidia_x-1-py3-none-p1.p2.whl"));
        let flags = selectors(&[&a, &b]);
        assert_eq!(flags[4..], ["--platform=p1", "--platform=p2", "torch===2", "nvidia-x===1"]);
    }

    /// A server that breaks off the first reply in the middle and honours `Range` in the second.
    #[test]
    fn a_broken_download_continues_where_it_stopped() {
        if pip_version().is_err() {
            eprintln!("skipped: no python3 with pip here");
            return;
        }
        let body: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/torch-x.whl", listener.local_addr().unwrap());
        let served = body.clone();
        let server = thread::spawn(move || {
            let mut ranges = Vec::new();
            for connection in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let mut from = 0;
                for line in lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty())
                {
                    if let Some(range) = line.strip_prefix("Range: bytes=") {
                        from = range.trim_end_matches('-').parse().unwrap();
                    }
                }
                let (status, to) = if connection == 0 {
                    ("200 OK", 100_000)
                } else {
                    ("206 Partial Content", served.len())
                };
                let header =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", served.len() - from);
                stream.write_all(header.as_bytes()).unwrap();
                stream.write_all(&served[from..to]).unwrap();
                ranges.push(from);
            }
            ranges
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("torch-x.whl");
        let code = run_script(&[json!({"url": url, "path": path, "bytes": body.len()})]).unwrap();
        assert_eq!(code, Some(0));
        assert_eq!(fs::read(&path).unwrap(), body);
        assert_eq!(server.join().unwrap(), [0, 100_000]);
    }

    #[test]
    fn hashes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180-4, example 1
        assert_eq!(sha256(&path).unwrap(), expected);
    }
}
