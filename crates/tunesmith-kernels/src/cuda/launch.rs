//! Loads compiled kernels into the current device and starts them.

use super::compile::compile;
use crate::KernelError;
use cudarc::driver::sys;
use std::{
    collections::HashMap,
    ffi::{CStr, c_void},
    sync::{Mutex, PoisonError},
};
use tch::{Device, Kind, Tensor};

/// Blocks and threads of a launch, and dynamic shared memory in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: u32,
    pub(super) threads: u32,
    pub(super) shared: u32,
}

/// An argument of a kernel: a copy that lives until the launch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    Pointer(u64),
    Int(i32),
    Long(i64),
    Float(f32),
}

impl From<&Tensor> for Arg {
    fn from(tensor: &Tensor) -> Self {
        Self::Pointer(tensor.data_ptr() as u64)
    }
}

impl From<Option<&Tensor>> for Arg {
    fn from(tensor: Option<&Tensor>) -> Self {
        tensor.map_or(Self::Pointer(0), Self::from)
    }
}

impl Arg {
    fn address(&mut self) -> *mut c_void {
        match self {
            Self::Pointer(x) => std::ptr::from_mut(x).cast(),
            Self::Int(x) => std::ptr::from_mut(x).cast(),
            Self::Long(x) => std::ptr::from_mut(x).cast(),
            Self::Float(x) => std::ptr::from_mut(x).cast(),
        }
    }
}

/// A module's handle, which any thread may use.
#[derive(Clone, Copy)]
struct Module(sys::CUmodule);

// SAFETY: a module belongs to its context and not to a thread (CUDA driver API, "Module Management").
unsafe impl Send for Module {}

static MODULES: Mutex<Option<HashMap<(i32, bool), Module>>> = Mutex::new(None);

/// Starts kernel `name` for tensors of `kind` on the device of `at`.
///
/// # Panics
/// Where the driver refuses, as libtorch's own operations do.
pub(super) fn launch(name: &CStr, kind: Kind, at: Device, grid: Grid, args: &mut [Arg]) {
    let done = start(name, kind, at, grid, args);
    done.unwrap_or_else(|error| panic!("{}: {error}", name.to_string_lossy()));
}

fn start(
    name: &CStr,
    kind: Kind,
    at: Device,
    grid: Grid,
    args: &mut [Arg],
) -> Result<(), KernelError> {
    if grid.blocks == 0 {
        return Ok(()); // nothing to do, which a launch would call an error
    }
    let device = match at {
        Device::Cuda(index) => index as i32,
        other => return Err(KernelError::Cuda(format!("a kernel on {other:?}"))),
    };
    let module = module(device, kind)?;
    let mut addresses: Vec<*mut c_void> = args.iter_mut().map(Arg::address).collect();
    // SAFETY: the arguments are those of the kernel of this name (the callers in `ops` stand beside their sources),
    // and outlive the call; a null stream is the default one.
    unsafe {
        let mut function: sys::CUfunction = std::ptr::null_mut();
        check(sys::cuModuleGetFunction(&mut function, module.0, name.as_ptr()))?;
        if grid.shared > 48 << 10 {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            check(sys::cuFuncSetAttribute(function, attribute, grid.shared as i32))?;
        }
        check(sys::cuLaunchKernel(
            function,
            grid.blocks,
            1,
            1,
            grid.threads,
            1,
            1,
            grid.shared,
            std::ptr::null_mut(),
            addresses.as_mut_ptr(),
            std::ptr::null_mut(),
        ))
    }
}

/// The kernels of `kind` on `device`, compiled on first use.
fn module(device: i32, kind: Kind) -> Result<Module, KernelError> {
    let key = (device, kind == Kind::BFloat16);
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let modules = modules.get_or_insert_with(HashMap::new);
    // SAFETY: plain driver calls with live out-pointers; the cubin outlives the load.
    unsafe {
        let mut handle = 0;
        check(sys::cuDeviceGet(&mut handle, device))?;
        let mut context: sys::CUcontext = std::ptr::null_mut();
        check(sys::cuCtxGetCurrent(&mut context))?;
        if context.is_null() {
            // The context that libtorch uses; a thread of autograd may meet a kernel before any operation of its own.
            check(sys::cuDevicePrimaryCtxRetain(&mut context, handle))?;
            check(sys::cuCtxSetCurrent(context))?;
        }
        if let Some(module) = modules.get(&key) {
            return Ok(*module);
        }
        let attribute = |which| {
            let mut value = 0;
            check(sys::cuDeviceGetAttribute(&mut value, which, handle)).map(|()| value)
        };
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let cubin = compile(kind, 10 * attribute(MAJOR)? + attribute(MINOR)?)?;
        let mut module: sys::CUmodule = std::ptr::null_mut();
        check(sys::cuModuleLoadData(&mut module, cubin.as_ptr().cast()))?;
        modules.insert(key, Module(module));
        Ok(Module(module))
    }
}

fn check(result: sys::CUresult) -> Result<(), KernelError> {
    match result {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(KernelError::Cuda(format!("driver: {other:?}"))),
    }
}
