//! Transposes a matrix of small elements in memory, in tiles.
//!
//! A tile is read line by line into a buffer that stays in the nearest cache and written line by line from there. So
//! every cache line of both matrices is touched once, whatever their strides: lines at a power of two from each other
//! share few places of a cache, and would throw each other out if they were needed again.

/// Rows of a tile, and columns of one of elements that are not of 2 bytes.
const TILE: usize = 32;
/// Columns of a tile of elements of 2 bytes: two cache lines of the target.
const WIDE: usize = 64;

/// The matrix as the target has it. Elements of a column are neighbours in the source, those of a row in the target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Bytes from column to column in the source.
    pub(super) source_step: usize,
    /// Bytes from row to row in the target.
    pub(super) target_step: usize,
}

/// Transposes elements of `SIZE` bytes. Both slices start at the first element.
///
/// Panics: when a slice is too short.
pub(super) fn transpose<const SIZE: usize>(source: &[u8], target: &mut [u8], matrix: Matrix) {
    let width = if SIZE == 2 { WIDE } else { TILE };
    for row in (0..matrix.rows).step_by(TILE) {
        for column in (0..matrix.columns).step_by(width) {
            let (rows, columns) = (TILE.min(matrix.rows - row), width.min(matrix.columns - column));
            let tile = Matrix { rows, columns, ..matrix };
            let from = &source[column * matrix.source_step + row * SIZE..];
            let to = &mut target[row * matrix.target_step + column * SIZE..];
            match SIZE == 2 && rows == TILE && columns == WIDE {
                true => transpose_pairs(from, to, tile),
                false => transpose_tile::<SIZE>(from, to, tile),
            }
        }
    }
}

/// A tile of any elements, at most `TILE` by `WIDE`.
fn transpose_tile<const SIZE: usize>(source: &[u8], target: &mut [u8], tile: Matrix) {
    let mut rows = [[[0u8; SIZE]; WIDE]; TILE];
    for column in 0..tile.columns {
        let line = source[column * tile.source_step..][..tile.rows * SIZE].as_chunks::<SIZE>().0;
        rows.iter_mut().zip(line).for_each(|(row, element)| row[column] = *element);
    }
    for (index, row) in rows[..tile.rows].iter().enumerate() {
        let line = &mut target[index * tile.target_step..][..tile.columns * SIZE];
        line.copy_from_slice(row[..tile.columns].as_flattened());
    }
}

/// A tile of `TILE` by `WIDE` elements of 2 bytes, four by four in words of 8 bytes.
fn transpose_pairs(source: &[u8], target: &mut [u8], tile: Matrix) {
    let mut rows = [[0u64; WIDE / 4]; TILE];
    for four in 0..WIDE / 4 {
        let line = |column: usize| {
            let line = &source[(4 * four + column) * tile.source_step..][..2 * TILE];
            line.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
        };
        let words = line(0).zip(line(1)).zip(line(2).zip(line(3)));
        for (((a, b), (c, d)), rows) in words.zip(rows.as_chunks_mut::<4>().0) {
            let words = transpose_words([a, b, c, d]);
            rows.iter_mut().zip(words).for_each(|(row, word)| row[four] = word);
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let line = &mut target[index * tile.target_step..][..2 * WIDE];
        line.as_chunks_mut::<8>().0.iter_mut().zip(row).for_each(|(to, word)| *to = word.to_le_bytes());
    }
}

/// Four words of four elements each, little-endian, transposed.
fn transpose_words([a, b, c, d]: [u64; 4]) -> [u64; 4] {
    const EVEN: u64 = 0x0000_ffff_0000_ffff;
    const LOW: u64 = 0xffff_ffff;
    let even = |above: u64, below: u64| above & EVEN | (below & EVEN) << 16;
    let odd = |above: u64, below: u64| above >> 16 & EVEN | below & !EVEN;
    let low = |left: u64, right: u64| left & LOW | right << 32;
    let high = |left: u64, right: u64| left >> 32 | right & !LOW;
    let (ab_even, ab_odd, cd_even, cd_odd) = (even(a, b), odd(a, b), even(c, d), odd(c, d));
    [low(ab_even, cd_even), low(ab_odd, cd_odd), high(ab_even, cd_even), high(ab_odd, cd_odd)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const SIZE: usize>(rows: usize, columns: usize) {
        // Rows and columns are further apart than they are long.
        let (source_step, target_step) = (rows * SIZE + 3, columns * SIZE + 5);
        let source: Vec<u8> = (0..columns * source_step).map(|at| (at * 7 + at / 251) as u8).collect();
        let mut target = vec![0xee; rows * target_step];
        transpose::<SIZE>(&source, &mut target, Matrix { rows, columns, source_step, target_step });
        let mut expected = vec![0xee; rows * target_step];
        for row in 0..rows {
            for column in 0..columns {
                let (from, to) = (column * source_step + row * SIZE, row * target_step + column * SIZE);
                expected[to..to + SIZE].copy_from_slice(&source[from..from + SIZE]);
            }
        }
        assert_eq!(target, expected, "{rows} x {columns} of {SIZE}");
    }

    #[test]
    fn whole_and_ragged_tiles_of_every_size() {
        for rows in [0, 1, 3, 31, 32, 33, 64, 70] {
            for columns in [0, 1, 5, 63, 64, 65, 128, 131] {
                check::<1>(rows, columns);
                check::<2>(rows, columns);
                check::<4>(rows, columns);
                check::<8>(rows, columns);
                check::<16>(rows, columns);
            }
        }
    }
}
