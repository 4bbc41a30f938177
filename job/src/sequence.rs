//! What each rank has of a sequence that ranks share (context parallelism), and which of its queries meet which keys.
//!
//! A causal query meets the keys up to its own position, so that the end of a sequence is more work than its beginning.
//! Balanced, the sequence is cut in 2 chunks a rank, and each rank takes one from the front and the same from the back:
//!
//! ```text
//! 4 ranks, in order       0 0 1 1 2 2 3 3
//! 4 ranks, balanced       0 1 2 3 3 2 1 0
//! ```
//!
//! A rank's chunks follow each other in its part, so that its own queries and keys are causal as they lie.
//!
//! Source: `_HeadTailLoadBalancer` and `_templated_ring_attention` of torch/distributed/tensor/experimental/_context_parallel,
//! PyTorch 2.11.

use crate::config::LoadBalancer;
use std::ops::Range;

/// How ranks share a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    ranks: u64,
    is_balanced: bool,
}

/// Queries and keys that meet, as places in their ranks' parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tile {
    /// Of the rank that computes.
    pub queries: Range<u64>,
    /// Of the rank whose keys they are.
    pub keys: Range<u64>,
    /// Whether a query meets only the keys up to its own place; else all of them.
    pub is_causal: bool,
}

impl Split {
    /// Among that many ranks; without a balancer, in order.
    pub fn new(ranks: u32, balancer: Option<LoadBalancer>) -> Self {
        Split { ranks: ranks.into(), is_balanced: balancer.is_some() }
    }

    /// Number of ranks.
    pub fn ranks(self) -> u32 {
        self.ranks as u32
    }

    /// The positions that a rank has of a sequence of `len`, in its order. `len` is a multiple of 2 x ranks.
    pub fn positions(self, len: u64, rank: u32) -> Vec<Range<u64>> {
        let rank = u64::from(rank);
        let chunks = if self.is_balanced { vec![rank, 2 * self.ranks - 1 - rank] } else { vec![rank] };
        let chunk_len = len / self.ranks / chunks.len() as u64;
        chunks.into_iter().map(|chunk| chunk * chunk_len..(chunk + 1) * chunk_len).collect()
    }

    /// What the queries of one rank compute with the keys of another, of parts of `part` positions; none where all of those
    /// keys come later.
    pub fn tile(self, queries_of: u32, keys_of: u32, part: u64) -> Option<Tile> {
        let (all, first, second) = (0..part, 0..part / 2, part / 2..part);
        let tile = |queries, keys, is_causal| Some(Tile { queries, keys, is_causal });
        match (keys_of.cmp(&queries_of), self.is_balanced) {
            (std::cmp::Ordering::Equal, _) => tile(all.clone(), all, true),
            (std::cmp::Ordering::Less, false) => tile(all.clone(), all, false),
            (std::cmp::Ordering::Greater, false) => None,
            // Its chunk from the front comes before both of ours, that from the back after both.
            (std::cmp::Ordering::Less, true) => tile(all, first, false),
            // The other way round: both of its chunks lie between ours.
            (std::cmp::Ordering::Greater, true) => tile(second, all, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits() -> impl Iterator<Item = Split> {
        (1..=6).flat_map(|ranks| [None, Some(LoadBalancer::HeadTail)].map(|of| Split::new(ranks, of)))
    }

    fn flat(split: Split, len: u64, rank: u32) -> Vec<u64> {
        split.positions(len, rank).into_iter().flatten().collect()
    }

    #[test]
    fn every_position_is_one_ranks() {
        for split in splits() {
            let len = split.ranks * 6;
            let mut all: Vec<u64> = (0..split.ranks()).flat_map(|rank| flat(split, len, rank)).collect();
            assert!((0..split.ranks()).all(|rank| flat(split, len, rank).is_sorted()));
            all.sort_unstable();
            assert_eq!(all, (0..len).collect::<Vec<_>>(), "{split:?}");
        }
    }

    /// Of every query and key, that they meet once where the key comes no later, else never.
    #[test]
    fn every_query_meets_the_keys_up_to_its_own_position() {
        for split in splits() {
            let (len, part) = (split.ranks * 4, 4);
            let mut met = vec![0; (len * len) as usize];
            let mut work = Vec::new();
            for own in 0..split.ranks() {
                let mut pairs = 0;
                for other in 0..split.ranks() {
                    let (queries, keys) = (flat(split, len, own), flat(split, len, other));
                    let Some(tile) = split.tile(own, other, part) else { continue };
                    for (row, query) in tile.queries.clone().enumerate() {
                        for (column, key) in tile.keys.clone().enumerate() {
                            if !tile.is_causal || column <= row {
                                met[(queries[query as usize] * len + keys[key as usize]) as usize] += 1;
                                pairs += 1;
                            }
                        }
                    }
                }
                work.push(pairs);
            }
            for query in 0..len {
                for key in 0..len {
                    let expected = u32::from(key <= query);
                    assert_eq!(met[(query * len + key) as usize], expected, "{split:?}: {query} and {key}");
                }
            }
            assert!(!split.is_balanced || work.iter().all(|pairs| *pairs == work[0]), "{split:?}: {work:?}");
        }
    }
}
