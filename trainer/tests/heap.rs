//! Memory of tensors that are gone is that of the next ones.

use tch::{Device, Kind, Tensor};
use trainer::ffi::rng;

/// Pages that this thread touched for the first time.
fn faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The tenth field, proc(5); the second is in brackets and may have spaces.
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(7).unwrap().parse().unwrap()
}

#[test]
fn tensors_that_are_gone_leave_their_memory() {
    rng::set_threads(1).unwrap();
    let pages = |elements: i64| {
        let before = faults();
        drop(Tensor::ones([elements], (Kind::Float, Device::Cpu)));
        faults() - before
    };
    for megabytes in [1, 8, 64, 300] {
        let elements = megabytes << 18;
        let (first, second) = (pages(elements), pages(elements));
        assert!(second < 10, "{megabytes} MiB: {first} pages, then {second}");
    }
}
