//! The binary `titan-train`, as its users run it.

mod kills;
mod launch;
mod meshes;
mod run;
mod wrong;
