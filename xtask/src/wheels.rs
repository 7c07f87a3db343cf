//! Which wheels make up libtorch, and which of their files belong to which side.
//!
//! `wheels.txt` pins every file by its SHA-256. The CPU side is what `libtorch_cpu.so` loads; the CUDA side adds
//! every NVIDIA wheel that the torch wheel depends on. libtorch is the same in the wheels of every Python version,
//! so one Python version is pinned, whichever the machine has.

use std::fmt;

use anyhow::{Context, Result, bail};

/// The version of libtorch that tch is written against.
pub(crate) const TORCH_VERSION: &str = "2.11.0";

const PINS: &str = include_str!("wheels.txt");

/// Libraries of the torch wheel that only the CUDA side or Python loads.
const NOT_ON_CPU: [&str; 4] =
    ["libtorch_cuda", "libc10_cuda", "libcaffe2_nvrtc", "libtorch_nvshmem"];
const ONLY_PYTHON: [&str; 2] = ["libtorch_python", "libtorch_global_deps"];

/// What setup can assemble: one of two libtorches, or the compiler of GPU kernels alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// 0.6 GB to fetch; runs anywhere.
    Cpu,
    /// 2.5 GB to fetch; also runs on NVIDIA GPUs.
    Cuda,
    /// 0.09 GB to fetch; compiles kernels on machines that have no GPU, which is how they are tested there.
    Nvrtc,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Cpu => "cpu",
            Side::Cuda => "cuda",
            Side::Nvrtc => "nvrtc",
        })
    }
}

/// One pinned wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wheel {
    /// Name of the file on the package index.
    pub(crate) file: String,
    /// SHA-256 of the file, in hex.
    pub(crate) sha256: String,
    /// Length of the file.
    pub(crate) bytes: u64,
}

impl Wheel {
    /// The project and version that pip is asked for.
    ///
    /// `===` takes this very version: `==` would let an extra index offer `2.11.0+cpu` in its place.
    pub(crate) fn requirement(&self) -> String {
        let mut parts = self.file.split('-');
        let name = parts.next().unwrap_or_default().replace('_', "-");
        format!("{name}==={}", parts.next().unwrap_or_default())
    }

    /// The platform tags in the file's name.
    pub(crate) fn platforms(&self) -> impl Iterator<Item = &str> {
        let stem = self.file.strip_suffix(".whl").unwrap_or(&self.file);
        stem.rsplit('-').next().unwrap_or_default().split('.')
    }

    fn is_torch(&self) -> bool {
        self.file.starts_with("torch-")
    }
}

/// The wheels of one side for one machine, torch first.
///
/// # Errors
/// The machine is not one that the list knows, or the list is malformed.
pub(crate) fn pinned(side: Side, os: &str, arch: &str) -> Result<Vec<Wheel>> {
    select(PINS, side, os, arch)
}

fn select(pins: &str, side: Side, os: &str, arch: &str) -> Result<Vec<Wheel>> {
    let mut wheels = Vec::new();
    for line in pins.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [of_arch, of_side, sha256, bytes, file] = fields[..] else {
            bail!("wheels.txt: expected `arch side sha256 bytes file`, found `{line}`");
        };
        let wanted = match side {
            Side::Cpu => of_side == "cpu",
            Side::Cuda => true,
            Side::Nvrtc => file.starts_with("nvidia_cuda_nvrtc-"),
        };
        if of_arch == arch && wanted {
            let bytes =
                bytes.parse().with_context(|| format!("wheels.txt: bad length in `{line}`"))?;
            wheels.push(Wheel { file: file.to_owned(), sha256: sha256.to_owned(), bytes });
        }
    }
    if os != "linux" || wheels.is_empty() {
        bail!(
            "no libtorch {TORCH_VERSION} is pinned for {os} on {arch}: expected linux on x86_64 or aarch64\n\
             help: unpack a libtorch {TORCH_VERSION} for this machine and set LIBTORCH to its folder"
        );
    }
    wheels.sort_by_key(|wheel| !wheel.is_torch());
    Ok(wheels)
}

/// Where a file of a wheel goes below the libtorch folder; `None` for what that side does not need.
pub(crate) fn destination(wheel: &Wheel, entry: &str, side: Side) -> Option<String> {
    let parts: Vec<&str> = entry.split('/').collect();
    let name = *parts.last()?;
    if name.is_empty() || parts.contains(&"..") {
        return None;
    }
    let shared = name.contains(".so");
    if wheel.is_torch() {
        let left_out = |list: &[&str]| list.iter().any(|stem| name.starts_with(stem));
        return match parts[..] {
            ["torch", "lib", _] if left_out(&ONLY_PYTHON) => None,
            ["torch", "lib", _] if side == Side::Cpu && left_out(&NOT_ON_CPU) => None,
            ["torch", "lib", _] if shared => Some(format!("lib/{name}")),
            ["torch", "include", ..] => Some(parts[1..].join("/")),
            _ => None,
        };
    }
    match (side, &parts[..]) {
        (Side::Cpu, ["nvidia", _, "lib", _]) => ["libcudart.so", "libcupti.so"]
            .iter()
            .any(|stem| name.starts_with(stem))
            .then(|| format!("lib/{name}")),
        (Side::Cuda | Side::Nvrtc, ["nvidia", _, "lib", _]) => {
            shared.then(|| format!("lib/{name}"))
        }
        (Side::Cuda, ["nvidia", _, "include", ..]) => Some(parts[2..].join("/")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_is_well_formed() {
        for arch in ["x86_64", "aarch64"] {
            let cuda = pinned(Side::Cuda, "linux", arch).unwrap();
            for wheel in &cuda {
                assert_eq!(wheel.sha256.len(), 64, "{}", wheel.file);
                assert!(wheel.platforms().all(|tag| tag.ends_with(arch)), "{}", wheel.file);
            }
            let cpu = pinned(Side::Cpu, "linux", arch).unwrap();
            let names: Vec<String> = cpu.iter().map(Wheel::requirement).collect();
            assert_eq!(names[0], format!("torch==={TORCH_VERSION}"));
            assert_eq!(
                names[1..],
                ["nvidia-cuda-cupti===13.0.85", "nvidia-cuda-runtime===13.0.96"]
            );
            assert!(cpu.iter().all(|wheel| cuda.contains(wheel)));
            let nvrtc = pinned(Side::Nvrtc, "linux", arch).unwrap();
            let names: Vec<String> = nvrtc.iter().map(Wheel::requirement).collect();
            assert_eq!(names, ["nvidia-cuda-nvrtc===13.0.88"]);
        }
    }

    #[test]
    fn an_unknown_machine_is_refused_with_a_way_out() {
        for (os, arch) in [("macos", "aarch64"), ("linux", "riscv64")] {
            let message = pinned(Side::Cpu, os, arch).unwrap_err().to_string();
            assert!(
                message.contains(&format!("{os} on {arch}")) && message.contains("LIBTORCH"),
                "{message}"
            );
        }
        let message = select("linux x86_64", Side::Cpu, "linux", "x86_64").unwrap_err().to_string();
        assert!(message.contains("found `linux x86_64`"), "{message}");
    }

    #[test]
    fn the_name_of_a_wheel_says_what_to_ask_for() {
        let file = "nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
            .to_owned();
        let wheel = Wheel { file, sha256: String::new(), bytes: 0 };
        assert_eq!(wheel.requirement(), "nvidia-cufft===12.0.0.61");
        assert_eq!(
            wheel.platforms().collect::<Vec<_>>(),
            ["manylinux2014_x86_64", "manylinux_2_17_x86_64"]
        );
    }

    #[test]
    fn each_side_takes_its_own_files() {
        let wheel = |file: &str| Wheel { file: file.to_owned(), sha256: String::new(), bytes: 0 };
        let (torch, nvidia) = (wheel("torch-2.11.0-x.whl"), wheel("nvidia_cublas-1-x.whl"));
        let cases = [
            // wheel, entry, on the CPU side, on the CUDA side
            (
                &torch,
                "torch/lib/libtorch_cpu.so",
                Some("lib/libtorch_cpu.so"),
                Some("lib/libtorch_cpu.so"),
            ),
            (&torch, "torch/lib/libgomp.so.1", Some("lib/libgomp.so.1"), Some("lib/libgomp.so.1")),
            (
                &torch,
                "torch/lib/libtorch_cuda_linalg.so",
                None,
                Some("lib/libtorch_cuda_linalg.so"),
            ),
            (&torch, "torch/lib/libtorch_python.so", None, None),
            (&torch, "torch/lib/libc10.a", None, None),
            (
                &torch,
                "torch/include/ATen/ATen.h",
                Some("include/ATen/ATen.h"),
                Some("include/ATen/ATen.h"),
            ),
            (&torch, "torch/include/../../x.h", None, None),
            (&torch, "torch/nn/functional.py", None, None),
            (
                &nvidia,
                "nvidia/cu13/lib/libcudart.so.13",
                Some("lib/libcudart.so.13"),
                Some("lib/libcudart.so.13"),
            ),
            (&nvidia, "nvidia/cu13/lib/libcublas.so.13", None, Some("lib/libcublas.so.13")),
            (&nvidia, "nvidia/cu13/lib/libcudart_static.a", None, None),
            (&nvidia, "nvidia/cu13/include/crt/host.h", None, Some("include/crt/host.h")),
        ];
        for (wheel, entry, cpu, cuda) in cases {
            assert_eq!(destination(wheel, entry, Side::Cpu).as_deref(), cpu, "{entry}");
            assert_eq!(destination(wheel, entry, Side::Cuda).as_deref(), cuda, "{entry}");
        }
    }
}
