//! How long collectives take, by where their ranks are.
//!
//! Ranks are put on nodes one after the other. A group that lies within a node has its links; a group that does not has the
//! network of each of its nodes, which it shares with the groups of the other ranks there. Collectives go round in rings: per
//! rank, all that it does not have comes in once. What several collectives at a time take from each other is not counted.

use super::device::Device;
use crate::mesh::{Group, ParallelDims};

/// Where a group is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Its ranks.
    pub ranks: u32,
    /// How many of them are on a node.
    pub on_node: u32,
}

impl Span {
    /// Where a group of rank 0 is; those of other ranks are alike.
    pub fn of(dims: &ParallelDims, group: Group, per_node: u32) -> Self {
        let members = dims.ranks(group, 0);
        let on_node = members.iter().filter(|rank| **rank < per_node).count() as u32;
        Span { ranks: members.len() as u32, on_node: on_node.max(1) }
    }

    /// Bytes that come to a rank that gets all of `bytes` and has its own part.
    pub fn carried(&self, bytes: f64) -> f64 {
        bytes * f64::from(self.ranks - 1) / f64::from(self.ranks)
    }

    fn nodes(&self) -> u32 {
        self.ranks.div_ceil(self.on_node)
    }
}

/// The links of a device.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Links<'a>(pub &'a Device);

impl Links<'_> {
    /// Seconds in which every rank of a group gets what all of them have, `bytes` together.
    pub fn all_gather(&self, span: Span, bytes: f64) -> f64 {
        if span.ranks <= 1 {
            return 0.0;
        }
        let (ranks, on_node) = (f64::from(span.ranks), f64::from(span.on_node));
        let calibration = self.0.calibration;
        let within = match span.on_node {
            1 => 0.0,
            _ => bytes * (ranks - 1.0) / ranks / (self.0.node_bandwidth * calibration.node_share),
        };
        let network = self.0.network_bandwidth * calibration.network_share * on_node;
        let between = bytes * (ranks - on_node) / ranks / network;
        let hops = f64::from(span.nodes() - 1);
        calibration.collective_seconds + calibration.hop_seconds * hops + within.max(between)
    }

    /// Seconds in which every rank gets its part of the sum of what each has, `bytes` each.
    pub fn reduce_scatter(&self, span: Span, bytes: f64) -> f64 {
        self.all_gather(span, bytes)
    }

    /// Seconds in which every rank gets the sum of what each has, `bytes` each.
    pub fn all_reduce(&self, span: Span, bytes: f64) -> f64 {
        self.reduce_scatter(span, bytes) + self.all_gather(span, bytes)
    }

    /// Seconds from one rank to the next of its group.
    pub fn send(&self, span: Span, bytes: f64) -> f64 {
        let calibration = self.0.calibration;
        // From the last of a node it goes over the network; all ranks of a step wait for those.
        let bandwidth = match span.nodes() {
            1 => self.0.node_bandwidth * calibration.node_share,
            _ => self.0.network_bandwidth * calibration.network_share,
        };
        calibration.collective_seconds + bytes / bandwidth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Parallelism;

    fn dims(shard: i64, tp: u64, pp: u64, world: u32) -> ParallelDims {
        let parallelism = Parallelism {
            data_parallel_shard_degree: shard,
            tensor_parallel_degree: tp,
            pipeline_parallel_degree: pp,
            ..Parallelism::default()
        };
        ParallelDims::new(&parallelism, world).unwrap()
    }

    #[test]
    fn groups_lie_on_nodes() {
        let of = |dims: &ParallelDims, group| {
            let Span { ranks, on_node } = Span::of(dims, group, 8);
            (ranks, on_node)
        };
        let plain = dims(-1, 1, 1, 32);
        assert_eq!(of(&plain, Group::Fsdp), (32, 8));
        let large = dims(-1, 8, 8, 512);
        assert_eq!(of(&large, Group::Tp), (8, 8));
        assert_eq!(of(&large, Group::Fsdp), (8, 1));
        assert_eq!(of(&large, Group::Pp), (8, 1));
        let mixed = dims(-1, 2, 1, 16);
        assert_eq!(of(&mixed, Group::Fsdp), (8, 4));
    }

    #[test]
    fn collectives_by_hand() {
        let device = Device::find("h100").unwrap();
        let (links, calibration) = (Links(device), device.calibration);
        let seconds = |span, bytes| links.all_gather(span, bytes);
        assert_eq!(seconds(Span { ranks: 1, on_node: 1 }, 1e9), 0.0);
        // Within a node 7/8 comes in over its links.
        let inside = 7e9 / 8.0 / (450e9 * calibration.node_share) + calibration.collective_seconds;
        assert!((seconds(Span { ranks: 8, on_node: 8 }, 1e9) - inside).abs() < 1e-12);
        // One rank on each of 8 nodes: over its own share of the network.
        let base = calibration.collective_seconds + 7.0 * calibration.hop_seconds;
        let apart = 7e9 / 8.0 / (50e9 * calibration.network_share) + base;
        assert!((seconds(Span { ranks: 8, on_node: 1 }, 1e9) - apart).abs() < 1e-12);
        // All ranks of two nodes: half of it comes over the network, which takes longer than their links.
        let both = 0.5e9 / (400e9 * calibration.network_share);
        let within = 15e9 / 16.0 / (450e9 * calibration.node_share);
        let found = seconds(Span { ranks: 16, on_node: 8 }, 1e9);
        let base = calibration.collective_seconds + calibration.hop_seconds;
        assert!((found - base - both.max(within)).abs() < 1e-12);
        let span = Span { ranks: 8, on_node: 8 };
        assert_eq!(links.all_reduce(span, 1e6), 2.0 * links.all_gather(span, 1e6));
    }
}
