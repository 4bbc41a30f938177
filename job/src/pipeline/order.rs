//! Which rank has which stage.

use super::Stage;

/// How stages are dealt out to ranks (`generate_stage_to_rank_mapping` of PyTorch 2.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Every time from the first rank to the last: rank r has r, r + ranks, ...
    Loop,
    /// There and back: of two stages per rank, r and 2 ranks - 1 - r. The first rank has the last stage too.
    V,
}

impl Order {
    /// The rank that has a stage.
    pub fn rank_of(self, stage: Stage, ranks: u32) -> u32 {
        let (lap, place) = (stage.0 / ranks, stage.0 % ranks);
        match self {
            Order::V if lap % 2 == 1 => ranks - 1 - place,
            Order::V | Order::Loop => place,
        }
    }

    /// Whether the last stage, where the loss is, is on the first rank: with an even number of stages per rank in a V.
    pub fn is_loss_on_first(self, ranks: u32, stages_per_rank: u32) -> bool {
        self.rank_of(Stage((ranks * stages_per_rank).saturating_sub(1)), ranks) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_of_ranks() {
        let ranks = |order: Order, stages| (0..stages).map(|stage| order.rank_of(Stage(stage), 3)).collect();
        let of: Vec<u32> = ranks(Order::Loop, 9);
        assert_eq!(of, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        let of: Vec<u32> = ranks(Order::V, 9);
        assert_eq!(of, [0, 1, 2, 2, 1, 0, 0, 1, 2]);
        assert!(Order::V.is_loss_on_first(3, 2) && !Order::V.is_loss_on_first(3, 3));
        assert!(!Order::Loop.is_loss_on_first(3, 2) && Order::Loop.is_loss_on_first(1, 2));
    }
}
