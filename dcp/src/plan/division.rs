//! Which task of a job makes which object.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Divides objects among tasks so that their bytes are balanced: gives each object its task. Every task that computes this
/// from the same input gets the same answer.
///
/// Largest first, each to the task that has the least so far (the first of equals). An object of no bytes costs as much as
/// one of one byte, so that many of them are spread too. The difference between two tasks is at most the largest object.
pub fn divide(byte_lens: &[u64], tasks: u32) -> Vec<u32> {
    let mut loads: BinaryHeap<Reverse<(u128, u32)>> =
        (0..tasks.max(1)).map(|task| Reverse((0, task))).collect();
    let mut order: Vec<usize> = (0..byte_lens.len()).collect();
    order.sort_by_key(|&object| Reverse(byte_lens[object]));
    let mut tasks = vec![0; byte_lens.len()];
    for object in order {
        let Some(Reverse((load, task))) = loads.pop() else { break };
        tasks[object] = task;
        loads.push(Reverse((load + u128::from(byte_lens[object].max(1)), task)));
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_largest_go_first_and_equals_go_round() {
        assert_eq!(divide(&[10, 40, 20, 30], 2), [0, 0, 1, 1]);
        assert_eq!(divide(&[0, 0, 0, 0], 3), [0, 1, 2, 0]);
        assert_eq!(divide(&[7], 16), [0]);
        assert_eq!(divide(&[], 4), [0u32; 0]);
        assert_eq!(divide(&[1, 2, 3], 1), [0, 0, 0]);
    }

    proptest! {
        #[test]
        fn tasks_differ_by_at_most_the_largest_object(
            byte_lens in prop::collection::vec(prop_oneof![0u64..9, any::<u64>()], 0..60),
            tasks in 1u32..20,
        ) {
            let divided = divide(&byte_lens, tasks);
            prop_assert_eq!(divided.len(), byte_lens.len());
            let mut loads = vec![0u128; tasks as usize];
            for (&task, &byte_len) in divided.iter().zip(&byte_lens) {
                prop_assert!(task < tasks);
                loads[task as usize] += u128::from(byte_len.max(1));
            }
            let largest = u128::from(byte_lens.iter().copied().max().unwrap_or(0).max(1));
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            prop_assert!(most - least <= largest, "{loads:?}");
            // Nobody is idle while another has two.
            if byte_lens.len() >= tasks as usize {
                prop_assert!(*least > 0);
            }
        }
    }
}
