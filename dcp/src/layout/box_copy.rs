//! Copies a box between two strided arrays in memory.

use super::transpose::{Matrix, transpose};

/// Row-major strides, in elements, of an array of this extent.
pub fn row_major(extent: &[u64]) -> Vec<u64> {
    let mut strides = vec![1u64; extent.len()];
    for dim in (1..extent.len()).rev() {
        strides[dim - 1] = strides[dim].saturating_mul(extent[dim]);
    }
    strides
}

/// One dim of a copy: how many times, and how many bytes to move on either side each time.
#[derive(Clone, Copy, Debug)]
struct Loop {
    count: usize,
    source_step: usize,
    target_step: usize,
}

/// Copies `extent` elements of `element_bytes` bytes each from `source` to `target`. Both slices start at the box's
/// first element; strides are in elements, one per dim.
///
/// Dims that are contiguous on both sides are merged, so that a copy between two row-major arrays is as few runs as
/// possible; where the element order differs, the innermost dims of the two sides are walked in tiles that stay in cache.
///
/// Panics: when a slice is too short for its strides.
pub fn copy_box(
    source: &[u8],
    source_strides: &[u64],
    target: &mut [u8],
    target_strides: &[u64],
    extent: &[u64],
    element_bytes: usize,
) {
    if extent.contains(&0) {
        return;
    }
    let (mut loops, run) = merge(source_strides, target_strides, extent, element_bytes);
    put_innermost(&mut loops);
    walk(source, target, &loops, run);
}

/// Merges dims where both sides are contiguous. Returns the remaining loops, outermost first, and the bytes that are
/// contiguous on both sides.
fn merge(
    source_strides: &[u64],
    target_strides: &[u64],
    extent: &[u64],
    element_bytes: usize,
) -> (Vec<Loop>, usize) {
    let mut run = element_bytes;
    let mut loops: Vec<Loop> = Vec::new();
    for dim in (0..extent.len()).rev().filter(|&dim| extent[dim] > 1) {
        let next = Loop {
            count: extent[dim] as usize,
            source_step: source_strides[dim] as usize * element_bytes,
            target_step: target_strides[dim] as usize * element_bytes,
        };
        match loops.last_mut() {
            None if next.source_step == run && next.target_step == run => run *= next.count,
            Some(inner)
                if next.source_step == inner.source_step * inner.count
                    && next.target_step == inner.target_step * inner.count =>
            {
                inner.count *= next.count;
            }
            _ => loops.push(next),
        }
    }
    loops.reverse();
    (loops, run)
}

/// Puts the innermost dim of the source and that of the target last, in this order.
fn put_innermost(loops: &mut [Loop]) {
    let by_target = (0..loops.len()).min_by_key(|&at| (loops[at].target_step, std::cmp::Reverse(at)));
    by_target.into_iter().for_each(|at| loops[at..].rotate_left(1));
    if let Some((_, others)) = loops.split_last_mut() {
        let by_source = (0..others.len()).min_by_key(|&at| (others[at].source_step, std::cmp::Reverse(at)));
        by_source.into_iter().for_each(|at| others[at..].rotate_left(1));
    }
}

fn walk(source: &[u8], target: &mut [u8], loops: &[Loop], run: usize) {
    match loops {
        [] => target[..run].copy_from_slice(&source[..run]),
        [only] => copy_runs(source, target, *only, run),
        [outer, inner] if run <= 16 => copy_tiles(source, target, *outer, *inner, run),
        [outer, rest @ ..] => {
            for index in 0..outer.count {
                walk(
                    &source[index * outer.source_step..],
                    &mut target[index * outer.target_step..],
                    rest,
                    run,
                );
            }
        }
    }
}

fn copy_runs(source: &[u8], target: &mut [u8], dim: Loop, run: usize) {
    /// A fixed size lets the compiler turn the copy into one load and one store.
    fn fixed<const RUN: usize>(source: &[u8], target: &mut [u8], dim: Loop) {
        for index in 0..dim.count {
            let (from, to) = (index * dim.source_step, index * dim.target_step);
            target[to..to + RUN].copy_from_slice(&source[from..from + RUN]);
        }
    }
    match run {
        1 => fixed::<1>(source, target, dim),
        2 => fixed::<2>(source, target, dim),
        4 => fixed::<4>(source, target, dim),
        8 => fixed::<8>(source, target, dim),
        16 => fixed::<16>(source, target, dim),
        _ => {
            for index in 0..dim.count {
                let (from, to) = (index * dim.source_step, index * dim.target_step);
                target[to..to + run].copy_from_slice(&source[from..from + run]);
            }
        }
    }
}

/// Walks two dims in square tiles, so that a transposition touches each cache line once.
fn copy_tiles(source: &[u8], target: &mut [u8], outer: Loop, inner: Loop, run: usize) {
    const TILE: usize = 64;
    if outer.source_step == run && inner.target_step == run {
        let matrix = Matrix {
            rows: outer.count,
            columns: inner.count,
            source_step: inner.source_step,
            target_step: outer.target_step,
        };
        match run {
            1 => return transpose::<1>(source, target, matrix),
            2 => return transpose::<2>(source, target, matrix),
            4 => return transpose::<4>(source, target, matrix),
            8 => return transpose::<8>(source, target, matrix),
            16 => return transpose::<16>(source, target, matrix),
            _ => {}
        }
    }
    for outer_at in (0..outer.count).step_by(TILE) {
        for inner_at in (0..inner.count).step_by(TILE) {
            let columns = Loop { count: TILE.min(inner.count - inner_at), ..inner };
            for row in outer_at..outer.count.min(outer_at + TILE) {
                let from = row * outer.source_step + inner_at * inner.source_step;
                let to = row * outer.target_step + inner_at * inner.target_step;
                copy_runs(&source[from..], &mut target[to..], columns, run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_contiguous_dims_into_one_run() {
        let extent = [3, 4, 5];
        let (loops, run) = merge(&row_major(&extent), &row_major(&extent), &extent, 4);
        assert!(loops.is_empty());
        assert_eq!(run, 240);
        // A column block: rows stay apart in the source only.
        let (loops, run) = merge(&[10, 1], &[4, 1], &[3, 4], 2);
        assert_eq!((loops.len(), run), (1, 8));
    }

    #[test]
    fn transposes() {
        let (rows, columns) = (70usize, 130usize);
        let source: Vec<u8> = (0..rows * columns).flat_map(|at| (at as u16).to_le_bytes()).collect();
        let mut target = vec![0; source.len()];
        // The target is row-major [columns, rows]; walk it as the transposed view of the source.
        let extent = [columns as u64, rows as u64];
        copy_box(&source, &[1, columns as u64], &mut target, &row_major(&extent), &extent, 2);
        for column in 0..columns {
            for row in 0..rows {
                let at = (column * rows + row) * 2;
                let value = u16::from_le_bytes([target[at], target[at + 1]]) as usize;
                assert_eq!(value, (row * columns + column) % 65536);
            }
        }
    }

    #[test]
    fn any_order_of_dims_to_any_other() {
        let extent = [3u64, 5, 4, 6];
        let orders: Vec<Vec<usize>> = (0..256)
            .map(|code| (0..4).map(|at| code >> (2 * at) & 3).collect::<Vec<usize>>())
            .filter(|order| (0..4).all(|dim| order.contains(&dim)))
            .collect();
        let strides_in = |order: &[usize]| {
            let stored = row_major(&order.iter().map(|&dim| extent[dim]).collect::<Vec<_>>());
            let mut strides = vec![0; 4];
            order.iter().zip(stored).for_each(|(&dim, stride)| strides[dim] = stride);
            strides
        };
        let whole: Vec<u8> = (0..360 * 2u32).map(|at| (at % 251) as u8).collect();
        for from in &orders {
            for to in &orders {
                let (source, target) = (strides_in(from), strides_in(to));
                let mut copied = vec![0; 720];
                copy_box(&whole, &source, &mut copied, &target, &extent, 2);
                for piece in crate::layout::Region::whole(&extent).strips(1) {
                    let at = |strides: &[u64]| {
                        2 * piece.start.iter().zip(strides).map(|(at, stride)| at * stride).sum::<u64>()
                            as usize
                    };
                    let (source, target) = (at(&source), at(&target));
                    assert_eq!(copied[target..target + 2], whole[source..source + 2], "{from:?} to {to:?}");
                }
            }
        }
    }

    #[test]
    fn scalars_and_empty_boxes() {
        let mut target = [0u8; 4];
        copy_box(&[1, 2, 3, 4], &[], &mut target, &[], &[], 4);
        assert_eq!(target, [1, 2, 3, 4]);
        copy_box(&[], &[1], &mut [], &[1], &[0], 4);
    }
}
