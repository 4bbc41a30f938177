//! A training job before it runs: its configuration, its mesh, and the program of its step.
//!
//! Without libtorch, so that the trainer and the planner read the same job: the trainer runs the program, the planner
//! simulates it.

pub mod batch;
pub mod config;
pub mod error;
pub mod estimate;
pub mod flops;
pub mod forecast;
pub mod launch;
pub mod lr;
pub mod mesh;
pub mod pipeline;
pub mod presets;
pub mod program;
pub mod quantity;
pub mod saving;
pub mod sequence;
pub mod simulate;
pub mod step;
pub mod timeline;

pub use error::{Error, Result};
