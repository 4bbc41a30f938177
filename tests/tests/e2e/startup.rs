//! A rank of 16,384 is ready for its first step before anybody waits for it.

use e2e::startup::{WORLD, programs_of};
use job::mesh::Group;
use std::io::Write;
use std::process::Command;

/// The trainer's libtorch apart. `cargo xtask bench` holds 200 MiB and a second.
const PEAK_BYTES_MAX: u64 = 400 << 20;

#[test]
fn a_rank_of_16384_has_its_program() {
    let output = Command::new(env!("CARGO_BIN_EXE_startup")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // Past libtest's capture. Time is shown and not tested.
    std::io::stderr().write_all(format!("STARTUP {}\n", said.trim().replace('\n', ", ")).as_bytes()).unwrap();
    let figure = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let peak: u64 = figure("PEAK_BYTES ").parse().unwrap();
    assert!(peak < PEAK_BYTES_MAX, "{peak} bytes");
    assert!(figure("INSTRUCTIONS ").parse::<u64>().unwrap() > 1000);
}

#[test]
fn ranks_of_one_place_have_one_program() {
    let (dims, programs) = programs_of(9_001).unwrap();
    assert_eq!(dims.world(), WORLD);
    let place = dims.coordinate(Group::Pp, 9_001);
    let other = (0..WORLD).rev().find(|rank| dims.coordinate(Group::Pp, *rank) == place).unwrap();
    assert_ne!(other, 9_001);
    assert_eq!(programs_of(other).unwrap().1, programs);
    assert_ne!(programs_of(0).unwrap().1, programs);
}
