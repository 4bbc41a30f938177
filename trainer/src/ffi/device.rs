//! CUDA, loaded at run time. A process links `libtorch_cpu` only; [`load`] adds `libtorch_cuda` where it is wanted and
//! there is a device for it, and [`Nccl::load`] the NCCL half of process groups.
//!
//! [`load`] must come before anything asks libtorch for CUDA, so first thing in `main`: libtorch remembers the answer.

use super::library::{Library, path_of_loaded};
use super::outcome::{check, int};
use super::sys;
use crate::error::{Error, Result};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// The variable that [`CudaChoice::from_env`] reads: `auto`, `off`, or the path of `libtorch_cuda.so`.
pub const CUDA_VARIABLE: &str = "TITAN_TORCH_CUDA";
/// The variable that names the library of [`Nccl::load`], where it is in none of the usual places.
pub const NCCL_VARIABLE: &str = "TITAN_TORCH_NCCL";
const LIBTORCH_CUDA: &str = "libtorch_cuda.so";
const LIBTITAN_NCCL: &str = "libtitan_nccl.so";

/// What is wanted of CUDA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CudaChoice {
    /// Where there is a driver, and `libtorch_cuda.so` beside the `libtorch_cpu.so` of this process.
    Auto,
    /// Not at all.
    Off,
    /// This `libtorch_cuda.so`, or an error.
    Library(PathBuf),
}

/// What has become of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CudaLoaded {
    /// It is there, with so many devices.
    Yes {
        /// `libtorch_cuda.so`.
        library: PathBuf,
        /// At least one.
        devices: u32,
    },
    /// This process has the CPU only.
    No {
        /// For a log.
        why: String,
    },
}

impl CudaChoice {
    /// What `TITAN_TORCH_CUDA` says; [`CudaChoice::Auto`] where it is not set.
    pub fn from_env() -> Self {
        match std::env::var_os(CUDA_VARIABLE) {
            None => CudaChoice::Auto,
            Some(text) if text.is_empty() || text == "auto" => CudaChoice::Auto,
            Some(text) if text == "off" => CudaChoice::Off,
            Some(path) => CudaChoice::Library(path.into()),
        }
    }
}

/// Loads CUDA as chosen. Once, first thing in `main`.
pub fn load(choice: &CudaChoice) -> Result<CudaLoaded> {
    let no = |why: String| Ok(CudaLoaded::No { why });
    if *choice == CudaChoice::Off {
        return no(format!("{CUDA_VARIABLE} is off"));
    }
    let cpu = path_of_loaded("libtorch_cpu.so")?.and_then(|path| path.canonicalize().ok());
    let cpu = cpu.ok_or_else(|| Error::Usage("libtorch_cpu.so is not in this process as a file".into()))?;
    let beside = cpu.with_file_name(LIBTORCH_CUDA);
    // SAFETY: the driver's library, made to be loaded by any process.
    let driver = unsafe { Library::open(Path::new("libcuda.so.1")) };
    let library = match (choice, driver) {
        (CudaChoice::Library(library), _) => same_folder(library, &cpu)?,
        (_, Err(_)) => return no("there is no CUDA driver".into()),
        (_, Ok(_)) if !beside.exists() => {
            return no(format!(
                "there is a CUDA driver, but no {LIBTORCH_CUDA} beside {}; to use it, start with LD_LIBRARY_PATH=DIR, \
                 where DIR is torch/lib of an installed torch 2.11.0",
                cpu.display()
            ));
        }
        (_, Ok(_)) => beside,
    };
    // SAFETY: it is of the build of libtorch that is in this process, whose folder it shares.
    unsafe { Library::open(&library) }?;
    let wrong = |why: &str| Error::Library { library: library.clone(), why: why.to_owned() };
    // SAFETY: reads what was registered.
    if !unsafe { sys::titan_has_cuda() } {
        return Err(wrong("something asked for CUDA before it was loaded; load it first thing in main"));
    }
    match (device_count()?, choice) {
        (0, CudaChoice::Auto) => no("there is a CUDA driver, but no device that this process may use".into()),
        (0, _) => Err(wrong("it was asked for, but no device is there that this process may use")),
        (devices, _) => Ok(CudaLoaded::Yes { library, devices }),
    }
}

/// A library of CUDA's half, which must be of the build that the CPU's half is of.
fn same_folder(library: &Path, cpu: &Path) -> Result<PathBuf> {
    let wrong = |why: String| Error::Library { library: library.to_owned(), why };
    let found = library.canonicalize().map_err(|error| wrong(error.to_string()))?;
    if found.parent() != cpu.parent() {
        return Err(wrong(format!(
            "this process has the CPU half of libtorch from {}, and both halves must be of one build; start with \
             LD_LIBRARY_PATH={}",
            cpu.display(),
            found.parent().unwrap_or(Path::new("")).display()
        )));
    }
    Ok(found)
}

/// Whether CUDA is loaded and has a device.
pub fn is_loaded() -> bool {
    // SAFETY: reads what was registered.
    unsafe { sys::titan_has_cuda() && device_count().is_ok_and(|count| count > 0) }
}

/// How many CUDA devices this process may use; 0 where CUDA is not loaded.
pub fn device_count() -> Result<u32> {
    let mut count = 0;
    // SAFETY: the out pointer outlives the call.
    unsafe { check("device_count", sys::titan_cuda_count(&mut count)) }?;
    Ok(count.max(0).unsigned_abs())
}

type DeviceGet = unsafe extern "C" fn(device: *mut c_int, ordinal: c_int) -> c_int;
type DeviceGetName = unsafe extern "C" fn(name: *mut c_char, len: c_int, device: c_int) -> c_int;

/// What the driver calls a device, such as `NVIDIA H100 80GB HBM3`.
pub fn device_name(device_index: u32) -> Result<String> {
    const NAME_BYTES_MAX: usize = 256;
    device(device_index, "device_name")?;
    // SAFETY: the driver's library, made to be loaded by any process; CUDA has loaded it already.
    let driver = unsafe { Library::open(Path::new("libcuda.so.1")) }?;
    let (get, name) = (driver.symbol("cuDeviceGet")?, driver.symbol("cuDeviceGetName")?);
    // SAFETY: the type that NVIDIA's cuda.h gives it.
    let get = unsafe { std::mem::transmute::<NonNull<c_void>, DeviceGet>(get) };
    // SAFETY: the type that NVIDIA's cuda.h gives it.
    let name = unsafe { std::mem::transmute::<NonNull<c_void>, DeviceGetName>(name) };
    let mut handle = 0;
    let mut text = [0 as c_char; NAME_BYTES_MAX];
    // SAFETY: the out pointers outlive the calls, and the length is that of the text.
    let code = unsafe {
        match get(&mut handle, int(device_index, "a device")?) {
            0 => name(text.as_mut_ptr(), NAME_BYTES_MAX as c_int, handle),
            code => code,
        }
    };
    if code != 0 {
        let message = format!("the driver answers with error {code}");
        return Err(Error::Torch { call: "device_name".into(), message });
    }
    // SAFETY: the driver has written a NUL-terminated text into it.
    Ok(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
}

/// Makes a device this thread's current one.
pub fn set_device(device_index: u32) -> Result<()> {
    let index = device(device_index, "set_device")?;
    // SAFETY: CUDA is loaded, and the device is there.
    unsafe { check("set_device", sys::titan_set_cuda_device(index)) }
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceMemory {
    /// In tensors now.
    pub allocated: u64,
    /// In tensors at most, since the last [`reset_peak`].
    pub allocated_peak: u64,
    /// Held by the allocator now, in tensors or not.
    pub reserved: u64,
    /// Held by the allocator at most.
    pub reserved_peak: u64,
    /// Free on the device, for all processes.
    pub free: u64,
    /// Of the device.
    pub total: u64,
    /// How often the allocator had to give back what it held, and try again.
    pub retries: u64,
    /// How often there was not enough.
    pub out_of_memory: u64,
}

/// Memory of a device.
pub fn memory(device_index: u32) -> Result<DeviceMemory> {
    let index = device(device_index, "memory")?;
    let mut found = sys::Memory::default();
    // SAFETY: CUDA is loaded, the device is there, and the out pointer outlives the call.
    unsafe { check("memory", sys::titan_cuda_memory(index, &mut found)) }?;
    let bytes = |number: i64| number.max(0).unsigned_abs();
    Ok(DeviceMemory {
        allocated: bytes(found.allocated),
        allocated_peak: bytes(found.allocated_peak),
        reserved: bytes(found.reserved),
        reserved_peak: bytes(found.reserved_peak),
        free: bytes(found.free),
        total: bytes(found.total),
        retries: bytes(found.retries),
        out_of_memory: bytes(found.out_of_memory),
    })
}

/// Begins to look for peaks anew.
pub fn reset_peak(device_index: u32) -> Result<()> {
    let index = device(device_index, "reset_peak")?;
    // SAFETY: CUDA is loaded, and the device is there.
    unsafe { check("reset_peak", sys::titan_cuda_reset_peak(index)) }
}

/// Gives back to CUDA what the allocator holds and no tensor uses.
pub fn empty_cache() -> Result<()> {
    device(0, "empty_cache")?;
    // SAFETY: CUDA is loaded.
    unsafe { check("empty_cache", sys::titan_cuda_empty_cache()) }
}

/// Waits until a device has done all that is queued on it.
pub fn synchronize(device_index: u32) -> Result<()> {
    let index = device(device_index, "synchronize")?;
    // SAFETY: CUDA is loaded, and the device is there.
    unsafe { check("synchronize", sys::titan_cuda_synchronize(index)) }
}

/// A device's index as the shim takes it: libtorch would end the process over one that is not there.
fn device(device_index: u32, call: &str) -> Result<c_int> {
    // SAFETY: reads what was registered.
    let count = if unsafe { sys::titan_has_cuda() } { device_count()? } else { 0 };
    match device_index < count {
        true => int(device_index, "a device"),
        false => {
            Err(Error::Usage(format!("{call}: there is no CUDA device {device_index}; {count} are there")))
        }
    }
}

/// `titan_group_add_nccl` in `csrc/nccl/nccl.cpp`.
pub(super) type AddNccl = unsafe extern "C" fn(
    group: *mut sys::Group,
    store: *mut sys::Store,
    rank: c_int,
    size: c_int,
    device: c_int,
    timeout_ms: i64,
    name: *const c_char,
) -> sys::Message;

/// The NCCL half of process groups, for [`super::process_group::ProcessGroup::add_nccl`].
#[derive(Debug)]
pub struct Nccl {
    pub(super) add: AddNccl,
}

impl Nccl {
    /// Loads it, after CUDA: the library that `TITAN_TORCH_NCCL` names, else `libtitan_nccl.so` beside the program, in
    /// `../lib` from there, beside libtorch, or where `cargo xtask nccl` has put it.
    pub fn load() -> Result<Nccl> {
        // SAFETY: reads what was registered.
        if !unsafe { sys::titan_has_cuda() } {
            return Err(Error::Usage("NCCL is for CUDA, which is not loaded".into()));
        }
        let path = match std::env::var_os(NCCL_VARIABLE) {
            Some(path) => PathBuf::from(path),
            None => Self::find()?,
        };
        // SAFETY: it is built for this libtorch, as docs/libtorch.md says; every symbol that it lacks is an error.
        let library = unsafe { Library::open(&path) }?;
        let add = library.symbol("titan_group_add_nccl")?;
        // SAFETY: it is defined with these types.
        Ok(Nccl { add: unsafe { std::mem::transmute::<NonNull<c_void>, AddNccl>(add) } })
    }

    fn find() -> Result<PathBuf> {
        let program = std::env::current_exe().ok();
        let folder = program.as_deref().and_then(Path::parent);
        let libtorch = path_of_loaded("libtorch_cpu.so")?;
        let places: Vec<PathBuf> = [
            folder.map(|folder| folder.join(LIBTITAN_NCCL)),
            folder.map(|folder| folder.join("../lib").join(LIBTITAN_NCCL)),
            libtorch.map(|libtorch| libtorch.with_file_name(LIBTITAN_NCCL)),
            Some(Path::new(env!("TITAN_LIBTORCH_LIB")).join(LIBTITAN_NCCL)),
        ]
        .into_iter()
        .flatten()
        .collect();
        places.iter().find(|place| place.exists()).cloned().ok_or_else(|| {
            let looked: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
            Error::Library {
                library: LIBTITAN_NCCL.into(),
                why: format!(
                    "it is in none of {}; `cargo xtask nccl` builds it, and {NCCL_VARIABLE} may name it",
                    looked.join(", ")
                ),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_of_another_build_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join(LIBTORCH_CUDA);
        let message = || load(&CudaChoice::Library(library.clone())).unwrap_err().to_string();
        assert!(message().contains("No such file"), "{}", message());
        std::fs::write(&library, "").unwrap();
        assert!(message().contains("LD_LIBRARY_PATH="), "{}", message());
    }

    #[test]
    fn without_cuda_each_call_says_so() {
        assert_eq!(load(&CudaChoice::Off).unwrap(), CudaLoaded::No { why: "TITAN_TORCH_CUDA is off".into() });
        if !is_loaded() {
            assert_eq!(device_count().unwrap(), 0);
            for error in [
                device_name(0).map(drop).unwrap_err(),
                memory(0).map(drop).unwrap_err(),
                reset_peak(0).unwrap_err(),
                empty_cache().unwrap_err(),
                synchronize(0).unwrap_err(),
                set_device(0).unwrap_err(),
            ] {
                assert!(error.to_string().contains("no CUDA device 0; 0 are there"), "{error}");
            }
            assert!(Nccl::load().unwrap_err().to_string().contains("not loaded"));
        }
    }
}
