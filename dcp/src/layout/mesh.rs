//! Named grids of ranks.

use super::LayoutError;

/// One axis of a mesh.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Axis {
    /// Its name: `pp`, `dp_shard`, `tp`, ...
    pub name: String,
    /// Number of coordinates along it, at least 1.
    pub size: u32,
}

/// A grid of ranks with named axes; ranks count row-major, the last axis fastest, as PyTorch's `init_device_mesh`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Mesh {
    axes: Vec<Axis>,
    ranks: u32,
}

impl Mesh {
    /// A mesh from axes in order, outermost first. A mesh without axes has one rank.
    ///
    /// Errors: [`LayoutError::BadMesh`] for an axis of size 0, a repeated name, or more than `u32::MAX` ranks.
    pub fn new<N: Into<String>>(axes: impl IntoIterator<Item = (N, u32)>) -> Result<Self, LayoutError> {
        let axes: Vec<Axis> = axes.into_iter().map(|(name, size)| Axis { name: name.into(), size }).collect();
        let bad = |why: String| LayoutError::BadMesh { why };
        let mut ranks = 1u32;
        for (index, axis) in axes.iter().enumerate() {
            if axis.size == 0 {
                return Err(bad(format!(
                    "axis `{}` has size 0; every axis needs at least 1 rank",
                    axis.name
                )));
            }
            if axes[..index].iter().any(|earlier| earlier.name == axis.name) {
                return Err(bad(format!("axis `{}` is named twice", axis.name)));
            }
            ranks = ranks.checked_mul(axis.size).ok_or_else(|| bad("more than 2^32 - 1 ranks".to_owned()))?;
        }
        Ok(Mesh { axes, ranks })
    }

    /// The axes, outermost first.
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// Number of ranks: the product of the axis sizes.
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Position of the axis with this name.
    pub fn axis(&self, name: &str) -> Option<usize> {
        self.axes.iter().position(|axis| axis.name == name)
    }

    /// The coordinate of a rank along each axis.
    pub fn coordinates(&self, rank: u32) -> Vec<u32> {
        let mut rest = rank;
        let mut coordinates = vec![0; self.axes.len()];
        for (coordinate, axis) in coordinates.iter_mut().zip(&self.axes).rev() {
            *coordinate = rest % axis.size;
            rest /= axis.size;
        }
        coordinates
    }

    /// The rank at these coordinates, one per axis.
    pub fn rank_at(&self, coordinates: &[u32]) -> u32 {
        debug_assert_eq!(coordinates.len(), self.axes.len());
        self.axes.iter().zip(coordinates).fold(0, |rank, (axis, &coordinate)| rank * axis.size + coordinate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_with_the_last_axis_fastest() {
        let mesh = Mesh::new([("pp", 2), ("dp", 3), ("tp", 2)]).unwrap();
        assert_eq!(mesh.ranks(), 12);
        assert_eq!(mesh.coordinates(7), [1, 0, 1]);
        for rank in 0..12 {
            assert_eq!(mesh.rank_at(&mesh.coordinates(rank)), rank);
        }
        assert!(Mesh::new([("a", 0)]).is_err());
        assert!(Mesh::new([("a", 2), ("a", 2)]).is_err());
        assert!(Mesh::new([("a", 65536), ("b", 65536)]).is_err());
    }
}
