//! DualPipeV: two stages per rank in a V, where a forward pass of one stage and a backward pass of the other go together.
//!
//! Two passes that PyTorch overlaps stand one after the other here; an executor may take them as one.
//!
//! Source: DeepSeek-AI 2024 (arXiv 2412.19437), its half in a V; PyTorch 2.11 `ScheduleDualPipeV`.

use super::super::{Action, Pass, Shape};
use super::chunk::Chunk;
use std::collections::VecDeque;

pub(super) fn actions(shape: Shape, rank: u32) -> Vec<Action> {
    let Shape { ranks, microbatches, .. } = shape;
    let after = ranks - 1 - rank;
    let [mut down, mut up] = Chunk::pair(ranks, rank);
    let mut actions = Vec::new();
    for _ in 0..2 * after {
        actions.push(down.forward());
    }
    for _ in 0..=rank {
        actions.extend([down.forward(), up.forward()]);
    }
    for _ in 0..after {
        actions.extend([up.backward_input(), up.backward_weight(), up.forward()]);
    }
    // The rest of what goes down, each with something that comes back up. There is a microbatch per stage at least.
    for _ in 0..microbatches - 2 * ranks + rank + 1 {
        actions.extend([down.forward(), up.backward(), up.forward(), down.backward()]);
    }
    for _ in 0..after {
        actions.extend([up.backward(), up.forward(), down.backward()]);
    }
    // Nothing goes forward any more. Of the second half of these the gradients of parameters are put off.
    let mut late = VecDeque::new();
    let weights_of = |input: Action| Action { pass: Pass::BackwardWeight, ..input };
    for index in 0..2 * (rank + 1) {
        let chunk = if index % 2 == 0 { &mut up } else { &mut down };
        if index <= rank {
            actions.push(chunk.backward());
        } else {
            let input = chunk.backward_input();
            actions.push(input);
            late.push_back(weights_of(input));
        }
    }
    for _ in 0..after {
        let input = down.backward_input();
        actions.extend(late.pop_front());
        actions.push(input);
        late.push_back(weights_of(input));
    }
    actions.extend(late);
    actions
}
