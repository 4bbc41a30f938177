//! Pure maths over integers: boxes, meshes, placements and who holds which box. No I/O, no names, no element sizes.

mod box_copy;
mod cover;
mod mesh;
mod region;
mod reorder;
mod runs;
mod shard;
mod strips;
mod transpose;

pub use box_copy::{copy_box, row_major};
pub use cover::{Gap, cover};
pub use mesh::{Axis, Mesh};
pub use region::Region;
pub use reorder::{Reorder, in_order};
pub use runs::Runs;
pub use shard::{Layout, LayoutError, Placement, chunk};
pub use strips::Strips;
