//! Builds and checks the programs of a rank of 16,384, and prints what that took: `SECONDS`, and `PEAK_BYTES` of memory.

use e2e::startup::programs_of;
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let (_, programs) = programs_of(9_001)?;
    let seconds = begun.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let peak_kib: u64 = peak.ok_or("no VmHWM in the process's status")?.trim().parse()?;
    println!("INSTRUCTIONS {}", programs[0].instructions.len());
    println!("SECONDS {seconds:.4}");
    println!("PEAK_BYTES {}", peak_kib << 10);
    Ok(())
}
