//! Which sequence comes where, and which rank takes it. Integers in, integers out.
//!
//! Sequence `g` of a run comes from virtual shard `g mod V` and is that shard's turn `g div V`. A step of `B` sequences
//! is `B` positions in a row, of which data-parallel rank `r` of `R` takes the `r`-th `B / R`. Nothing of it depends on
//! `R` but who takes what.

/// The order of a run from position `start` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Order {
    /// Position of the first sequence of the first step, in sequences.
    pub start: u64,
    /// Sequences per step, of all ranks together; a multiple of `ranks`, not 0.
    pub sequences_per_step: u64,
    /// Data-parallel ranks, not 0.
    pub ranks: u64,
    /// Virtual shards, not 0.
    pub virtual_shards: u64,
}

impl Order {
    /// Position of the first sequence of a step, counted from `start`.
    pub fn step_start(&self, step: u64) -> u64 {
        self.start + step * self.sequences_per_step
    }

    /// Positions that a rank takes in a step.
    pub fn positions(&self, step: u64, rank: u64) -> std::ops::Range<u64> {
        let per_rank = self.sequences_per_step / self.ranks;
        let first = self.step_start(step) + rank * per_rank;
        first..first + per_rank
    }

    /// The virtual shard that gives the sequence at a position.
    pub fn shard_of(&self, position: u64) -> u64 {
        position % self.virtual_shards
    }

    /// How many sequences a virtual shard has given before a position.
    pub fn turns_before(&self, shard: u64, position: u64) -> u64 {
        position / self.virtual_shards + u64::from(position % self.virtual_shards > shard)
    }

    /// Whether a rank takes any sequence of a virtual shard, in whatever step.
    ///
    /// The positions of a rank are `start + B s + j`, with `j` of its range; modulo `V`, `B s` takes every multiple of
    /// `gcd(B, V)`, so that only `j` modulo that counts.
    pub fn touches(&self, rank: u64, shard: u64) -> bool {
        let per_rank = self.sequences_per_step / self.ranks;
        let (residue, period) = self.residue(shard);
        let first = rank * per_rank % period;
        (residue + period - first) % period < per_rank
    }

    /// The rank that keeps the state of a virtual shard: the first that touches it.
    pub fn owner(&self, shard: u64) -> u64 {
        let per_rank = self.sequences_per_step / self.ranks;
        self.residue(shard).0 / per_rank
    }

    /// The least `j` of a step whose position may be of the shard, and the distance to the next.
    fn residue(&self, shard: u64) -> (u64, u64) {
        let period = greatest_common_divisor(self.sequences_per_step, self.virtual_shards);
        ((shard % period + period - self.start % period) % period, period)
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Numbers below `count` in an order that `seed` and `round` decide, each order as likely as another.
pub fn shuffled(count: usize, seed: u64, round: u64) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..count).collect();
    let mut state = mixed(seed ^ mixed(round));
    for last in (1..count).rev() {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        // The high half of a product: a number up to `last`, even to one part in 2^64 / count.
        let chosen = (u128::from(mixed(state)) * (last as u128 + 1)) >> 64;
        numbers.swap(last, chosen as usize);
    }
    numbers
}

/// SplitMix64's mixing function.
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every order of a small domain.
    fn orders() -> impl Iterator<Item = Order> {
        let starts = [0, 1, 5, 12];
        let sizes = (1..=12_u64).flat_map(|size| {
            (1..=size).filter(move |ranks| size % ranks == 0).map(move |ranks| (size, ranks))
        });
        sizes.flat_map(move |(sequences_per_step, ranks)| {
            (1..=13).flat_map(move |virtual_shards| {
                starts.map(|start| Order { start, sequences_per_step, ranks, virtual_shards })
            })
        })
    }

    #[test]
    fn every_position_is_taken_once_and_in_turn() {
        for order in orders() {
            let mut taken = vec![0; order.virtual_shards as usize];
            for shard in 0..order.virtual_shards {
                taken[shard as usize] = order.turns_before(shard, order.start);
                assert_eq!(
                    taken[shard as usize],
                    (0..order.start).filter(|g| g % order.virtual_shards == shard).count() as u64
                );
            }
            let mut next = order.start;
            for step in 0..5 {
                for rank in 0..order.ranks {
                    for position in order.positions(step, rank) {
                        let shard = order.shard_of(position);
                        assert_eq!(position, next);
                        assert_eq!(
                            order.turns_before(shard, position),
                            taken[shard as usize],
                            "{order:?} {position}"
                        );
                        taken[shard as usize] += 1;
                        next += 1;
                    }
                }
            }
            assert_eq!(order.step_start(5), next);
        }
    }

    #[test]
    fn ranks_touch_what_they_take_and_one_owns_each_shard() {
        for order in orders() {
            for shard in 0..order.virtual_shards {
                for rank in 0..order.ranks {
                    // After V steps all residues have come round.
                    let takes = (0..order.virtual_shards)
                        .flat_map(|step| order.positions(step, rank))
                        .any(|position| order.shard_of(position) == shard);
                    assert_eq!(order.touches(rank, shard), takes, "{order:?} rank {rank} shard {shard}");
                }
                let owner = order.owner(shard);
                assert!(owner < order.ranks && order.touches(owner, shard), "{order:?} shard {shard}");
                assert!((0..owner).all(|rank| !order.touches(rank, shard)));
            }
        }
    }

    #[test]
    fn orders_of_a_seed() {
        assert!(shuffled(0, 1, 2).is_empty());
        assert_eq!(shuffled(1, 1, 2), [0]);
        let mut counts = [0; 6];
        for seed in 0..6000 {
            let order = shuffled(3, seed, 0);
            counts[order[0] * 2 + usize::from(order[1] > order[2])] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert_ne!(shuffled(50, 7, 0), shuffled(50, 7, 1));
        assert_eq!(shuffled(50, 7, 1), shuffled(50, 7, 1));
    }
}
