//! `tunesmith doctor`: what is there, and what to do about what is not.

use crate::{exit::Exit, locate, report::LIBTORCH};
use anyhow::Result;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tunesmith_hub::HubConfig;
use tunesmith_report::{Machine, format};

pub(crate) fn run() -> Result<ExitCode> {
    let machine = Machine::read();
    let mut lines = vec![
        Line::good("tunesmith", env!("CARGO_PKG_VERSION").to_owned()),
        Line::good("libtorch", format!("{LIBTORCH}, {} threads", tch::get_num_threads())),
        Line::good("processor", machine.cpu.unwrap_or_else(|| "unknown".into())),
        Line::good("memory", machine.memory.map_or("unknown".into(), format::bytes)),
        gpu(),
    ];
    lines.push(match locate::home() {
        Ok(home) => Line::good("configs", home.join("configs").display().to_string()),
        Err(error) => Line::bad(
            "configs",
            error.to_string(),
            "run inside the checkout, or set TUNESMITH_HOME",
        ),
    });
    lines.extend(hub());
    lines.push(writable("run folder", Path::new(".")));
    let mut out = std::io::stdout().lock();
    for line in &lines {
        writeln!(
            out,
            "{} {:<11} {}",
            if line.help.is_none() { "✓" } else { "✗" },
            line.name,
            line.found
        )?;
        if let Some(help) = &line.help {
            writeln!(out, "  help: {help}")?;
        }
    }
    let sound = lines.iter().all(|line| line.help.is_none());
    Ok(if sound { ExitCode::SUCCESS } else { Exit::BadConfig.into() })
}

struct Line {
    name: &'static str,
    found: String,
    help: Option<String>,
}

impl Line {
    fn good(name: &'static str, found: String) -> Self {
        Self { name, found, help: None }
    }

    fn bad(name: &'static str, found: String, help: impl Into<String>) -> Self {
        Self { name, found, help: Some(help.into()) }
    }
}

fn gpu() -> Line {
    let driver = Path::new("/proc/driver/nvidia/version").exists();
    // What keeps the CUDA side from loading is what the last arm is about.
    match (tunesmith_kernels::cuda::load().unwrap_or(false), driver) {
        (true, _) => Line::good("gpu", format!("{} CUDA devices", tch::Cuda::device_count())),
        (false, false) => Line::good("gpu", "none, the CPU is used".into()),
        (false, true) => Line::bad(
            "gpu",
            "an NVIDIA driver, but this libtorch has no CUDA side".into(),
            "`cargo xtask setup --cuda`, then build again",
        ),
    }
}

fn hub() -> Vec<Line> {
    match HubConfig::from_env() {
        Ok(config) => {
            let token = if config.token.is_some() { "with a token" } else { "without a token" };
            let mode = if config.offline { ", offline" } else { "" };
            vec![
                Line::good("hub", format!("{} {token}{mode}", config.endpoint)),
                writable("hub cache", &config.cache),
            ]
        }
        Err(error) => {
            vec![Line::bad("hub", error.to_string(), "mend the variable that the message names")]
        }
    }
}

/// A folder, or the nearest one above it that exists: whether it can be written, and how much fits.
fn writable(name: &'static str, folder: &Path) -> Line {
    let existing = folder
        .ancestors()
        .find(|dir| dir.is_dir())
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let free = tunesmith_train::free_bytes(&existing).map_or("unknown".into(), format::bytes);
    let found = format!("{}, {free} free", folder.display());
    match tunesmith_train::is_writable(&existing) {
        true => Line::good(name, found),
        false => Line::bad(
            name,
            format!("{found}, not writable"),
            "choose another folder, or mend its rights",
        ),
    }
}
