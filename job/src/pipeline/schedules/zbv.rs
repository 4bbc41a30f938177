//! ZB-V: two stages per rank in a V, and gradients of parameters where a rank would wait.
//!
//! Source: Qi et al. 2023 (arXiv 2401.10241), section 6; PyTorch 2.11 `ScheduleZBVZeroBubble`.

use super::super::{Action, Shape};
use super::chunk::Chunk;

pub(super) fn actions(shape: Shape, rank: u32) -> Vec<Action> {
    let Shape { ranks, microbatches, .. } = shape;
    // A list for what fills the pipeline; of fewer microbatches those that there are.
    let filling = microbatches.max(2 * ranks - 1);
    let after = ranks - rank;
    let [mut down, mut up] = Chunk::pair(ranks, rank);
    let mut actions = Vec::new();
    for _ in 0..2 * after - 1 {
        actions.push(down.forward());
    }
    for _ in 0..rank {
        actions.extend([up.forward(), down.forward()]);
    }
    for _ in 0..after {
        actions.extend([up.forward(), up.backward_input(), up.backward_weight()]);
    }
    while up.forwards() < filling {
        if down.forwards() < filling {
            actions.push(down.forward());
        }
        actions.extend([down.backward_input(), down.backward_weight()]);
        actions.extend([up.forward(), up.backward_input(), up.backward_weight()]);
    }
    for _ in 0..rank {
        actions.extend([down.backward_input(), up.backward_input()]);
    }
    for _ in 0..after {
        actions.extend([down.backward_input(), down.backward_weight()]);
    }
    for chunk in [&mut up, &mut down] {
        while chunk.is_behind() {
            actions.push(chunk.backward_weight());
        }
    }
    actions.retain(|action| action.microbatch.0 < microbatches);
    actions
}
