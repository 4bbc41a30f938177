//! Which of several equal copies is written.

use crate::layout::{Mesh, Placement};
use std::cmp::Reverse;

/// Chooses, for each tensor, the coordinates along its replica axes of the copy that is written, so that the bytes
/// each rank writes are balanced. Every rank that computes this from the same input gets the same answer.
///
/// `tensors` gives one placement per mesh axis and the tensor's bytes. The result has one coordinate per mesh axis,
/// 0 on axes that are not replicated.
///
/// Largest tensors first, each to the copy whose ranks have the least to write so far (the first of equals). Cost:
/// tensors x ranks additions.
pub fn choose_owners(mesh: &Mesh, tensors: &[(Vec<Placement>, u64)]) -> Vec<Vec<u32>> {
    let mut loads = vec![0u64; mesh.ranks() as usize];
    let mut owners = vec![Vec::new(); tensors.len()];
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&index| Reverse(tensors[index].1));
    for index in order {
        let (placements, bytes) = &tensors[index];
        let ranks = ranks_of_copies(mesh, placements);
        let best = ranks.iter().min_by_key(|(_, ranks)| ranks.iter().map(|&rank| loads[rank as usize]).max());
        let Some((coordinates, ranks)) = best else { continue };
        for &rank in ranks {
            loads[rank as usize] += bytes / ranks.len() as u64;
        }
        owners[index] = coordinates.clone();
    }
    owners
}

/// Every combination of coordinates along the replica axes, with the ranks that hold that copy.
fn ranks_of_copies(mesh: &Mesh, placements: &[Placement]) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut copies: Vec<(Vec<u32>, Vec<u32>)> = vec![(Vec::new(), vec![0])];
    for (axis, placement) in mesh.axes().iter().zip(placements) {
        let step = |ranks: &[u32], coordinates: std::ops::Range<u32>| -> Vec<u32> {
            ranks
                .iter()
                .flat_map(|&rank| coordinates.clone().map(move |own| rank * axis.size + own))
                .collect()
        };
        copies = copies
            .into_iter()
            .flat_map(|(coordinates, ranks)| match *placement {
                Placement::Replicate => (0..axis.size)
                    .map(|own| ([&coordinates[..], &[own]].concat(), step(&ranks, own..own + 1)))
                    .collect::<Vec<_>>(),
                Placement::Only { coordinate } => {
                    vec![([&coordinates[..], &[0]].concat(), step(&ranks, coordinate..coordinate + 1))]
                }
                _ => vec![([&coordinates[..], &[0]].concat(), step(&ranks, 0..axis.size))],
            })
            .collect();
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;
    use Placement::{Only, Replicate, Shard};

    #[test]
    fn copies_are_spread_by_bytes() {
        let mesh = Mesh::new([("rep", 2), ("dp", 2)]).unwrap();
        let tensors: Vec<_> = [40, 30, 20, 10].map(|bytes| (vec![Replicate, Shard { dim: 0 }], bytes)).into();
        let owners = choose_owners(&mesh, &tensors);
        assert_eq!(owners, [[0, 0], [1, 0], [1, 0], [0, 0]]);
    }

    #[test]
    fn full_copies_use_every_rank_and_stages_stay_apart() {
        let mesh = Mesh::new([("pp", 2), ("dp", 3)]).unwrap();
        let on = |coordinate| (vec![Only { coordinate }, Replicate], 8);
        let owners = choose_owners(&mesh, &[on(0), on(0), on(0), on(1)]);
        assert_eq!(owners, [[0, 0], [0, 1], [0, 2], [0, 0]]);
    }
}
