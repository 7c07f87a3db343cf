//! Loads compiled kernels into a device and puts them into libtorch's current stream.

use super::{compile::compile, device};
use crate::KernelError;
use cudarc::driver::sys;
use std::{
    collections::{HashMap, hash_map::Entry},
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

/// An argument of a kernel, under the type that its source gives it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    /// `T *`, the dtype that the kernel is compiled for.
    Elements(&'a Tensor),
    /// `T *` or null.
    Maybe(Option<&'a Tensor>),
    /// `float *`.
    Floats(&'a Tensor),
    /// `float *` or null.
    MaybeFloats(Option<&'a Tensor>),
    /// `i64 *`.
    Longs(&'a Tensor),
    /// `bool *`.
    Flags(&'a Tensor),
    /// `u8 *`.
    Codes(&'a Tensor),
    Int(i32),
    Long(i64),
    Float(f32),
}

impl Arg<'_> {
    /// The argument as the launch reads it: in the low bytes of a word.
    ///
    /// # Panics
    /// A tensor elsewhere, of another dtype, or with strides: bugs of a caller inside tunesmith, which a kernel would
    /// turn into wrong numbers.
    pub(super) fn word(&self, elements: Kind, at: Device) -> u64 {
        let (tensor, kind) = match *self {
            Self::Elements(x) | Self::Maybe(Some(x)) => (x, elements),
            Self::Floats(x) | Self::MaybeFloats(Some(x)) => (x, Kind::Float),
            Self::Longs(x) => (x, Kind::Int64),
            Self::Flags(x) => (x, Kind::Bool),
            Self::Codes(x) => (x, Kind::Uint8),
            Self::Maybe(None) | Self::MaybeFloats(None) => return 0,
            Self::Int(x) => return u64::from(x as u32),
            Self::Long(x) => return x as u64,
            Self::Float(x) => return u64::from(x.to_bits()),
        };
        let found = (tensor.kind(), tensor.device());
        assert_eq!(found, (kind, at), "dtype and device of a kernel's tensor");
        assert!(tensor.is_contiguous(), "a kernel's tensor is contiguous");
        tensor.data_ptr() as u64
    }
}

/// What the driver gave out for one dtype on one device; any thread may use it.
struct Loaded {
    context: sys::CUcontext,
    module: sys::CUmodule,
    functions: HashMap<&'static CStr, sys::CUfunction>,
}

// SAFETY: handles belong to their context and not to a thread (CUDA driver API, "Context Management").
unsafe impl Send for Loaded {}

/// By device and whether elements are bf16.
static MODULES: Mutex<Option<HashMap<(i32, bool), Loaded>>> = Mutex::new(None);

/// Puts kernel `name` for tensors of `kind` into the current stream of the device `at`.
///
/// # Panics
/// Where an argument is not what the kernel takes, or the driver refuses, as libtorch's own operations do.
pub(super) fn launch(name: &'static CStr, kind: Kind, at: Device, grid: Grid, args: &[Arg]) {
    let words: Vec<u64> = args.iter().map(|arg| arg.word(kind, at)).collect();
    if grid.blocks == 0 {
        return; // nothing to do, which the driver would call an error
    }
    let done = start(name, kind, at, grid, words);
    done.unwrap_or_else(|error| panic!("{}: {error}", name.to_string_lossy()));
}

fn start(
    name: &'static CStr,
    kind: Kind,
    at: Device,
    grid: Grid,
    mut words: Vec<u64>,
) -> Result<(), KernelError> {
    let index = match at {
        Device::Cuda(index) => index,
        other => return Err(KernelError::Cuda(format!("a kernel on {other:?}"))),
    };
    let stream = device::stream(index)?;
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let modules = modules.get_or_insert_with(HashMap::new);
    let key = (index as i32, kind == Kind::BFloat16);
    let Loaded { context, module, functions } = match modules.entry(key) {
        Entry::Occupied(loaded) => loaded.into_mut(),
        Entry::Vacant(place) => place.insert(load(key.0, kind)?),
    };
    let mut addresses: Vec<*mut c_void> =
        words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
    // SAFETY: the arguments are those of the kernel of this name (the callers in `ops` stand beside their sources) and
    // outlive the call; function, stream and context are of one device.
    unsafe {
        // Whichever device is current, the launch is for this one; afterwards it is as it was.
        check(sys::cuCtxPushCurrent_v2(*context))?;
        let launched = function(*module, functions, name).and_then(|function| {
            if grid.shared > 48 << 10 {
                use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;
                check(sys::cuFuncSetAttribute(function, SHARED, grid.shared as i32))?;
            }
            let (blocks, threads, shared) = (grid.blocks, grid.threads, grid.shared);
            let (args, extra) = (addresses.as_mut_ptr(), std::ptr::null_mut());
            let stream = stream.cast();
            check(sys::cuLaunchKernel(
                function, blocks, 1, 1, threads, 1, 1, shared, stream, args, extra,
            ))
        });
        let mut popped: sys::CUcontext = std::ptr::null_mut();
        check(sys::cuCtxPopCurrent_v2(&mut popped))?;
        launched
    }
}

/// # Safety
/// The module's context is current.
unsafe fn function(
    module: sys::CUmodule,
    functions: &mut HashMap<&'static CStr, sys::CUfunction>,
    name: &'static CStr,
) -> Result<sys::CUfunction, KernelError> {
    if let Some(&function) = functions.get(name) {
        return Ok(function);
    }
    let mut function: sys::CUfunction = std::ptr::null_mut();
    // SAFETY: the caller's; a live out-pointer and a NUL-terminated name.
    check(unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) })?;
    functions.insert(name, function);
    Ok(function)
}

/// Compiles the kernels of `kind` for `device` and loads them into its primary context, the one that libtorch uses.
fn load(device: i32, kind: Kind) -> Result<Loaded, KernelError> {
    // SAFETY: plain driver calls with live out-pointers; the cubin outlives the load.
    unsafe {
        let mut handle = 0;
        check(sys::cuDeviceGet(&mut handle, device))?;
        let mut context: sys::CUcontext = std::ptr::null_mut();
        check(sys::cuDevicePrimaryCtxRetain(&mut context, handle))?;
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
        check(sys::cuCtxPushCurrent_v2(context))?;
        let loaded = check(sys::cuModuleLoadData(&mut module, cubin.as_ptr().cast()));
        let mut popped: sys::CUcontext = std::ptr::null_mut();
        check(sys::cuCtxPopCurrent_v2(&mut popped))?;
        loaded?;
        Ok(Loaded { context, module, functions: HashMap::new() })
    }
}

fn check(result: sys::CUresult) -> Result<(), KernelError> {
    match result {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(KernelError::Cuda(format!("driver: {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(arg: Arg) -> std::thread::Result<u64> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            arg.word(Kind::BFloat16, Device::Cpu)
        }))
    }

    /// The checks know nothing of a device, so they are tested with tensors on the CPU.
    #[test]
    fn a_tensor_is_what_the_kernel_takes() {
        let [bf16, fp32] =
            [Kind::BFloat16, Kind::Float].map(|k| Tensor::zeros([4, 2], (k, Device::Cpu)));
        assert_eq!(word(Arg::Elements(&bf16)).unwrap(), bf16.data_ptr() as u64);
        assert_eq!(word(Arg::Floats(&fp32)).unwrap(), fp32.data_ptr() as u64);
        assert!(word(Arg::Elements(&fp32)).is_err(), "dtype");
        assert!(word(Arg::MaybeFloats(Some(&bf16))).is_err(), "dtype");
        assert!(word(Arg::Longs(&bf16)).is_err(), "dtype");
        assert!(word(Arg::Floats(&fp32.tr())).is_err(), "strides");
        let elsewhere = || Arg::Floats(&fp32).word(Kind::Float, Device::Cuda(0));
        assert!(
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(elsewhere)).is_err(),
            "device"
        );
    }

    #[test]
    fn numbers_lie_in_the_low_bytes() {
        assert_eq!(word(Arg::Maybe(None)).unwrap(), 0);
        assert_eq!(word(Arg::Int(-1)).unwrap(), 0xffff_ffff);
        assert_eq!(word(Arg::Long(-1)).unwrap(), u64::MAX);
        assert_eq!(word(Arg::Float(1.0)).unwrap(), 0x3f80_0000);
    }
}
