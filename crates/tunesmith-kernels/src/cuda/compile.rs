//! From CUDA C to machine code, by NVRTC.

use crate::{KernelError, dynamic_codebook};
use cudarc::nvrtc::sys;
use std::ffi::{CStr, CString, c_char};
use tch::Kind;

const PRELUDE: &str = include_str!("../../cuda/prelude.cuh");
const SOURCES: [&str; 4] = [
    include_str!("../../cuda/rms_norm.cu"),
    include_str!("../../cuda/elementwise.cu"),
    include_str!("../../cuda/label_scores.cu"),
    include_str!("../../cuda/adamw.cu"),
];

/// Whether the compiler's library can be loaded here.
pub fn nvrtc_is_here() -> bool {
    // SAFETY: looks for the library and loads it.
    unsafe { sys::is_culib_present() }
}

/// All kernels for tensors of `kind` on GPUs of this architecture (90 for sm_90), as one cubin.
///
/// # Errors
/// What the compiler says.
pub fn compile(kind: Kind, architecture: i32) -> Result<Vec<u8>, KernelError> {
    let books = [book("SIGNED_BOOK", true), book("UNSIGNED_BOOK", false)];
    let source = [&[PRELUDE], &books.each_ref().map(String::as_str)[..], &SOURCES[..]];
    let source = source.concat().join("\n");
    let source = c_string(source)?;
    let mut options = vec![
        c_string(format!("--gpu-architecture=sm_{architecture}"))?,
        c_string("--std=c++17".into())?,
    ];
    if kind == Kind::BFloat16 {
        options.push(c_string("-DELEMENT_BF16".into())?);
    }
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut program: sys::nvrtcProgram = std::ptr::null_mut();
    // SAFETY: NUL-terminated strings that outlive the calls; sizes are asked for before buffers are filled.
    unsafe {
        let name = c"tunesmith.cu".as_ptr();
        let (headers, names) = (std::ptr::null(), std::ptr::null());
        check(sys::nvrtcCreateProgram(&mut program, source.as_ptr(), name, 0, headers, names))?;
        let compiled = sys::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr());
        let result = match compiled {
            sys::nvrtcResult::NVRTC_SUCCESS => cubin(program),
            _ => Err(KernelError::Cuda(log(program))),
        };
        check(sys::nvrtcDestroyProgram(&mut program))?;
        result
    }
}

/// A codebook as a table of CUDA C.
fn book(name: &str, signed: bool) -> String {
    let values = dynamic_codebook(signed).into_iter().map(|value| format!("{value:e}f"));
    let values = values.collect::<Vec<_>>().join(", ");
    format!("__device__ const float {name}[256] = {{{values}}};")
}

/// # Safety
/// A compiled program.
unsafe fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>, KernelError> {
    let mut size = 0;
    // SAFETY: the buffer has the size that was asked for.
    unsafe {
        check(sys::nvrtcGetCUBINSize(program, &mut size))?;
        let mut cubin = vec![0_u8; size];
        check(sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()))?;
        Ok(cubin)
    }
}

/// # Safety
/// A program that was compiled, or not.
unsafe fn log(program: sys::nvrtcProgram) -> String {
    let mut size = 0;
    // SAFETY: as above; the log ends with NUL.
    unsafe {
        if sys::nvrtcGetProgramLogSize(program, &mut size) != sys::nvrtcResult::NVRTC_SUCCESS {
            return "NVRTC gave no reason".into();
        }
        let mut log = vec![0_u8; size.max(1)];
        let _ = sys::nvrtcGetProgramLog(program, log.as_mut_ptr().cast());
        CStr::from_bytes_until_nul(&log)
            .map_or_else(|_| String::new(), |log| log.to_string_lossy().into())
    }
}

fn check(result: sys::nvrtcResult) -> Result<(), KernelError> {
    match result {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        other => Err(KernelError::Cuda(format!("NVRTC: {other:?}"))),
    }
}

fn c_string(text: String) -> Result<CString, KernelError> {
    CString::new(text).map_err(|_| KernelError::Cuda("a NUL in a kernel's source".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kernel for every GPU generation in use, without a GPU.
    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
    fn kernels_compile_for_every_architecture() {
        if !nvrtc_is_here() {
            eprintln!(
                "skipped: no libnvrtc on LD_LIBRARY_PATH (the wheel nvidia-cuda-nvrtc has it)"
            );
            return;
        }
        for architecture in [80, 90, 100] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let cubin = compile(kind, architecture).unwrap();
                assert!(cubin.starts_with(b"\x7fELF"), "sm_{architecture}, {kind:?}");
            }
        }
    }
}
