//! Which machine gave the figures.

use crate::process::read;
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::process::Command;

/// One line: date, processor, cores, memory, kernel, disk.
pub(crate) fn describe(place: &Path) -> Result<String> {
    let disk = read(Command::new("df").args(["--output=source,fstype"]).arg(place))?;
    let date = read(Command::new("date").args(["-u", "+%F"]))?;
    let kernel = read(Command::new("uname").arg("-r"))?;
    let cores = std::thread::available_parallelism()?;
    let memory_gib =
        field("/proc/meminfo", "MemTotal").and_then(|kib| kib.split(' ').next()?.parse::<f64>().ok());
    Ok(format!(
        "{}: {}, {cores} cores, {:.0} GiB, Linux {}, disk {}",
        date.trim(),
        field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned()),
        memory_gib.unwrap_or(0.0) / 1_048_576.0,
        kernel.trim(),
        disk.lines().last().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "),
    ))
}

/// The value of the first line `name : value`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
