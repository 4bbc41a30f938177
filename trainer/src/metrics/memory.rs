//! How much memory a device has given.

use crate::error::{Error, Result};
use std::path::Path;

/// Of one GiB.
pub(super) const BYTES_PER_GIB: f64 = 1024.0 * 1024.0 * 1024.0;

const STATUS: &str = "/proc/self/status";
const MEMINFO: &str = "/proc/meminfo";

/// Memory of a device. On a CPU that of this process, of which nothing is reserved that is not active.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Memory {
    /// The most that tensors had since the last log; on a CPU, the most that the process had resident since it began.
    pub max_active_bytes: u64,
    /// The most that the allocator had taken from the device, in the same time.
    pub max_reserved_bytes: u64,
    /// What the device has; on a CPU, the machine.
    pub total_bytes: u64,
    /// Allocations that succeeded only once cached memory was given up, since the process began.
    pub alloc_retries: u64,
    /// Allocations that failed, since the process began.
    pub ooms: u64,
}

impl Memory {
    /// Memory of this process and machine, for training on a CPU. Linux only.
    ///
    /// Errors: [`Error::Usage`] where /proc cannot be read or does not say.
    pub fn of_process() -> Result<Self> {
        let read = |file| {
            std::fs::read_to_string(Path::new(file)).map_err(|error| {
                Error::Usage(format!("{file}: cannot be read, so memory is not known: {error}"))
            })
        };
        let resident = bytes(STATUS, &read(STATUS)?, "VmHWM")?;
        let total_bytes = bytes(MEMINFO, &read(MEMINFO)?, "MemTotal")?;
        Ok(Memory {
            max_active_bytes: resident,
            max_reserved_bytes: resident,
            total_bytes,
            alloc_retries: 0,
            ooms: 0,
        })
    }

    /// Percent of the whole. Not a number where the whole is not known.
    pub fn max_active_percent(&self) -> f64 {
        self.percent(self.max_active_bytes)
    }

    /// The same of what the allocator had taken.
    pub fn max_reserved_percent(&self) -> f64 {
        self.percent(self.max_reserved_bytes)
    }

    fn percent(&self, bytes: u64) -> f64 {
        match self.total_bytes {
            0 => f64::NAN,
            total => 100.0 * bytes as f64 / total as f64,
        }
    }
}

/// The value of a line such as `VmHWM:     2136 kB`.
fn bytes(file: &str, text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.and_then(|kib| kib.checked_mul(1024)).ok_or_else(|| {
        let found = line.map_or("no such line".to_owned(), |value| format!("`{}`", value.trim()));
        Error::Usage(format!("{file}: {name} should be a number of kB, found {found}; memory is not known"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_process() {
        // Pages that are written are resident.
        let pages = vec![1u8; 64 << 20];
        let memory = Memory::of_process().unwrap();
        assert!(std::hint::black_box(&pages).iter().step_by(4096).all(|byte| *byte == 1));
        assert!(memory.max_active_bytes >= 64 << 20, "{memory:?}");
        assert!(memory.total_bytes > memory.max_active_bytes, "{memory:?}");
        assert_eq!(memory.max_active_bytes, memory.max_reserved_bytes);
        assert_eq!((memory.alloc_retries, memory.ooms), (0, 0));
    }

    #[test]
    fn lines_of_proc() {
        let text = "VmPeak:\t   10 kB\nVmHWM:\t    2136 kB\nVmRSS: 3 kB\n";
        assert_eq!(bytes("f", text, "VmHWM").unwrap(), 2136 * 1024);
        for (text, found) in [
            ("VmHWMs: 1 kB\n", "no such line"),
            ("VmHWM: 1 MB\n", "`1 MB`"),
            ("VmHWM: -1 kB", "`-1 kB`"),
            ("VmHWM: 18446744073709551615 kB", "`18446744073709551615 kB`"),
        ] {
            let error = bytes("f", text, "VmHWM").unwrap_err().to_string();
            assert_eq!(
                error,
                format!("f: VmHWM should be a number of kB, found {found}; memory is not known")
            );
        }
    }

    #[test]
    fn percent_of_what_is_not_known() {
        let memory =
            Memory { max_active_bytes: 1, max_reserved_bytes: 3, total_bytes: 4, ..Memory::default() };
        assert_eq!((memory.max_active_percent(), memory.max_reserved_percent()), (25.0, 75.0));
        assert!(Memory::default().max_active_percent().is_nan());
    }
}
