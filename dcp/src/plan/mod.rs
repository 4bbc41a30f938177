//! Who writes and who reads what. Integers in, integers out: nothing here touches a byte.

mod division;
mod experts;
mod layouts;
mod owners;
mod reads;

pub use division::divide;
pub use experts::{Boxes, ExpertDegrees, ExpertTensor, cut_experts, expert_mesh_of, place_experts};
pub(crate) use layouts::layer_of;
pub use layouts::{Degrees, Revealed, mesh_of, place, reveal, stage_of};
pub use owners::choose_owners;
pub use reads::{Read, Want, reads};
