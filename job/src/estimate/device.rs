//! Devices: what they can do at most, and what of it a training step gets.
//!
//! Peaks are those of data sheets. Shares are [`Calibration`]s: one set for GPUs, made on H100s, whose values
//! `docs/plan.md` gives reasons for, and one for a core of a CPU.

use crate::flops;
use std::fmt::Write;

/// A device.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Device {
    /// Its name, after `--device`.
    pub name: &'static str,
    /// Which one it is.
    pub about: &'static str,
    /// Its name as [`flops::peak`] knows it; without one, operations per second in bfloat16 are `float32_flops`.
    peak: Option<&'static str>,
    /// Operations per second in float32, as matrix products compute it without TF32.
    pub float32_flops: f64,
    /// Dense operations per second in 8 bits, where it has them.
    pub float8_flops: Option<f64>,
    /// Bytes of its memory, where it has its own.
    pub memory_bytes: Option<u64>,
    /// Bytes per second that its memory reads or writes.
    pub memory_bandwidth: f64,
    /// Devices of a node.
    pub per_node: u32,
    /// Bytes per second, one way, from a device to those of its node.
    pub node_bandwidth: f64,
    /// Bytes per second, one way, of the network of a node, per device.
    pub network_bandwidth: f64,
    /// Bytes per second from a device to pinned host memory.
    pub host_bandwidth: f64,
    /// What of all that a step gets.
    pub calibration: &'static Calibration,
}

/// What of its peaks a device attains, and what everything takes beside.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Calibration {
    /// Share of the peak in matrix products.
    pub product_share: f64,
    /// The same of the peak in 8 bits; what the casts take is counted apart.
    pub float8_share: f64,
    /// Share of the peak in attention, whose masked half is not computed.
    pub attention_share: f64,
    /// Share of the bandwidth of memory in operations element by element.
    pub memory_share: f64,
    /// Share of the bandwidth within a node in collectives.
    pub node_share: f64,
    /// Share of the bandwidth of the network.
    pub network_share: f64,
    /// Seconds that a collective takes however little it carries.
    pub collective_seconds: f64,
    /// Seconds more for each further node in its ring.
    pub hop_seconds: f64,
    /// Seconds from one operation to the next at least: the host does not issue them faster.
    pub operation_seconds: f64,
    /// Share of the collectives of tensor parallelism that go on behind matrix products where that is assumed.
    pub async_tensor_parallel_hidden: f64,
    /// Share of the memory that a step can fill: the rest is the driver's, the communicators', and gaps between blocks.
    pub memory_usable: f64,
}

/// Made on the rows of `docs/plan.md`.
static H100: Calibration = Calibration {
    product_share: 0.48,
    float8_share: 0.42,
    attention_share: 0.27,
    memory_share: 0.60,
    node_share: 0.80,
    network_share: 0.80,
    collective_seconds: 15e-6,
    hop_seconds: 3e-6,
    operation_seconds: 5e-6,
    async_tensor_parallel_hidden: 0.35,
    memory_usable: 0.95,
};

/// Made on one thread of the machine of `BENCHMARKS.md`, section training: its peak is that of the products.
static CORE: Calibration = Calibration {
    product_share: 0.90,
    float8_share: 0.90,
    attention_share: 0.40,
    memory_share: 0.60,
    node_share: 0.50,
    network_share: 0.50,
    collective_seconds: 200e-6,
    hop_seconds: 100e-6,
    operation_seconds: 5e-6,
    async_tensor_parallel_hidden: 0.0,
    memory_usable: 1.0,
};

const MIB: u64 = 1 << 20;

/// Every device. To add one: a line here. Bytes of memory are those that `nvidia-smi` shows.
pub static DEVICES: &[Device] = &[
    Device {
        name: "h100",
        about: "NVIDIA H100 SXM 80 GB, 8 per node by NVLink 4, 400 Gb/s of network each",
        peak: Some("H100"),
        float32_flops: 67e12,
        float8_flops: Some(1979e12),
        memory_bytes: Some(81_559 * MIB),
        memory_bandwidth: 3.35e12,
        per_node: 8,
        node_bandwidth: 450e9,
        network_bandwidth: 50e9,
        host_bandwidth: 50e9,
        calibration: &H100,
    },
    Device {
        name: "h200",
        about: "NVIDIA H200 SXM 141 GB, 8 per node by NVLink 4, 400 Gb/s of network each",
        peak: Some("H200"),
        float32_flops: 67e12,
        float8_flops: Some(1979e12),
        memory_bytes: Some(143_771 * MIB),
        memory_bandwidth: 4.8e12,
        per_node: 8,
        node_bandwidth: 450e9,
        network_bandwidth: 50e9,
        host_bandwidth: 50e9,
        calibration: &H100,
    },
    Device {
        name: "a100",
        about: "NVIDIA A100 SXM 80 GB, 8 per node by NVLink 3, 200 Gb/s of network each",
        peak: Some("A100"),
        float32_flops: 19.5e12,
        float8_flops: None,
        memory_bytes: Some(81_920 * MIB),
        memory_bandwidth: 2.04e12,
        per_node: 8,
        node_bandwidth: 300e9,
        network_bandwidth: 25e9,
        host_bandwidth: 25e9,
        calibration: &H100,
    },
    Device {
        name: "b200",
        about: "NVIDIA B200 180 GB, 8 per node by NVLink 5, 400 Gb/s of network each",
        peak: Some("B200"),
        float32_flops: 75e12,
        float8_flops: Some(4500e12),
        memory_bytes: Some(183_359 * MIB),
        memory_bandwidth: 8.0e12,
        per_node: 8,
        node_bandwidth: 900e9,
        network_bandwidth: 50e9,
        host_bandwidth: 50e9,
        calibration: &H100,
    },
    Device {
        name: "cpu",
        about: "one core of a server, a rank on each, 64 per node by its memory, 10 Gb/s of network for all",
        peak: None,
        float32_flops: 110e9,
        float8_flops: None,
        memory_bytes: None,
        memory_bandwidth: 10e9,
        per_node: 64,
        node_bandwidth: 4e9,
        network_bandwidth: 1.25e9 / 64.0,
        host_bandwidth: 5e9,
        calibration: &CORE,
    },
];

impl Device {
    /// The device of a name.
    ///
    /// Errors: a message that lists those there are.
    pub fn find(name: &str) -> Result<&'static Device, String> {
        DEVICES.iter().find(|device| device.name == name).ok_or_else(|| {
            let mut message = format!("there is no device `{name}`; known:");
            for device in DEVICES {
                let _ = write!(message, "\n  {:<5} {}", device.name, device.about);
            }
            message
        })
    }

    /// Dense operations per second in bfloat16, by which utilisation is counted.
    pub fn bfloat16_flops(&self) -> f64 {
        self.peak.map_or(self.float32_flops, |peak| flops::peak(peak, None).flops)
    }

    /// Seconds to read and write so many bytes in all.
    pub(super) fn traffic(&self, bytes: f64) -> f64 {
        bytes / (self.memory_bandwidth * self.calibration.memory_share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_the_peaks_that_figures_are_counted_by() {
        let peaks = DEVICES.iter().map(|device| (device.name, device.bfloat16_flops()));
        assert_eq!(
            peaks.collect::<Vec<_>>(),
            [("h100", 989e12), ("h200", 989e12), ("a100", 312e12), ("b200", 2.25e15), ("cpu", 110e9)]
        );
        assert_eq!(Device::find("a100").map(|device| device.name), Ok("a100"));
    }

    #[test]
    fn a_device_that_is_none_is_told() {
        insta::assert_snapshot!(Device::find("h900").unwrap_err());
    }
}
