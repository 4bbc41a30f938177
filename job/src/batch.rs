//! How many sequences go through the model when.
//!
//! Source: torchtitan/train.py and distributed/pipeline_parallel.py, v0.2.2.

use crate::config::Config;
use crate::mesh::ParallelDims;

/// The sequences of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Sequences of all ranks in a step.
    pub global: u64,
    /// Sequences of a data-parallel rank in a turn: what goes through the model before gradients are added up.
    pub local: u64,
    /// Turns per step.
    pub accumulation_steps: u64,
    /// Sequences that go through a pipeline stage at a time; `local` without stages.
    pub microbatch: u64,
    /// Microbatches per turn; 1 without stages.
    pub microbatches: u64,
}

/// A rule of batches that does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation
pub enum BatchError {
    #[error("training.local_batch_size = 0: a step needs a sequence")]
    Empty,

    #[error(
        "training.global_batch_size = 0: a step needs a sequence; -1 means {local} per data-parallel rank"
    )]
    GlobalEmpty { local: u64 },

    #[error(
        "training.global_batch_size = {global}: it must be a multiple of local batch size {local} x data-parallel degree \
         {data_parallel} = {turn}; set it to {lower}{upper}, or change training.local_batch_size"
    )]
    Global { global: u64, local: u64, data_parallel: u64, turn: u64, lower: String, upper: u64 },

    #[error(
        "training.local_batch_size = {local}: with pipeline stages it must be a multiple of \
         parallelism.pipeline_parallel_microbatch_size = {microbatch}; change either"
    )]
    Microbatch { local: u64, microbatch: u64 },

    #[error(
        "training.local_batch_size = {local}: over {data_parallel} data-parallel ranks it is beyond 64 bits"
    )]
    TooLarge { local: u64, data_parallel: u64 },
}

impl Batch {
    /// The batch of a configuration.
    ///
    /// Errors: [`BatchError`].
    pub fn new(config: &Config, dims: &ParallelDims) -> Result<Self, BatchError> {
        let local = config.training.local_batch_size;
        let microbatch = match dims.pp {
            1 => local,
            _ => config.parallelism.pipeline_parallel_microbatch_size,
        };
        Batch::of(local, config.training.global_batch_size, u64::from(dims.batch()), microbatch)
    }

    /// The same from numbers: a negative `global` means one turn per step.
    ///
    /// Errors: [`BatchError`].
    pub fn of(local: u64, global: i64, data_parallel: u64, microbatch: u64) -> Result<Self, BatchError> {
        if local == 0 {
            return Err(BatchError::Empty);
        }
        let turn = local.checked_mul(data_parallel).ok_or(BatchError::TooLarge { local, data_parallel })?;
        let global = match u64::try_from(global) {
            Ok(0) => return Err(BatchError::GlobalEmpty { local }),
            Ok(global) => global,
            Err(_) => turn,
        };
        if turn == 0 || !global.is_multiple_of(turn) {
            let turns = global.checked_div(turn).unwrap_or(0);
            let lower = if turns == 0 { String::new() } else { format!("{} or ", turns * turn) };
            let upper = (turns + 1).saturating_mul(turn);
            return Err(BatchError::Global { global, local, data_parallel, turn, lower, upper });
        }
        if microbatch == 0 || !local.is_multiple_of(microbatch) {
            return Err(BatchError::Microbatch { local, microbatch });
        }
        let microbatches = local / microbatch;
        Ok(Batch { global, local, accumulation_steps: global / turn, microbatch, microbatches })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn turns_and_microbatches() {
        let batch = |local, global, data_parallel, microbatch| {
            let Batch { global, accumulation_steps, microbatches, .. } =
                Batch::of(local, global, data_parallel, microbatch).unwrap();
            [global, accumulation_steps, microbatches]
        };
        assert_eq!(batch(8, -1, 4, 8), [32, 1, 1]);
        assert_eq!(batch(8, 32, 2, 8), [32, 2, 1]);
        assert_eq!(batch(8, 64, 2, 2), [64, 4, 4]);
    }

    #[test]
    fn what_does_not_divide_is_told() {
        let message = |local, global, data_parallel, microbatch| {
            Batch::of(local, global, data_parallel, microbatch).unwrap_err().to_string()
        };
        assert_eq!(
            message(8, 40, 2, 8),
            "training.global_batch_size = 40: it must be a multiple of local batch size 8 x data-parallel degree 2 = 16; set \
             it to 32 or 48, or change training.local_batch_size"
        );
        assert_eq!(
            message(8, 4, 2, 8),
            "training.global_batch_size = 4: it must be a multiple of local batch size 8 x data-parallel degree 2 = 16; set \
             it to 16, or change training.local_batch_size"
        );
        assert_eq!(
            message(8, -1, 2, 3),
            "training.local_batch_size = 8: with pipeline stages it must be a multiple of \
             parallelism.pipeline_parallel_microbatch_size = 3; change either"
        );
        assert_eq!(message(0, -1, 2, 1), "training.local_batch_size = 0: a step needs a sequence");
        assert_eq!(
            message(3, 0, 2, 1),
            "training.global_batch_size = 0: a step needs a sequence; -1 means 3 per data-parallel rank"
        );
        assert_eq!(
            message(u64::MAX, -1, 2, 1),
            "training.local_batch_size = 18446744073709551615: over 2 data-parallel ranks it is beyond 64 bits"
        );
    }

    proptest! {
        #[test]
        fn every_sequence_of_a_step_is_in_one_microbatch(
            microbatch in 1u64..9, microbatches in 1u64..9, data_parallel in 1u64..9, turns in 1u64..9,
        ) {
            let local = microbatch * microbatches;
            let global = (local * data_parallel * turns) as i64;
            let batch = Batch::of(local, global, data_parallel, microbatch).unwrap();
            prop_assert_eq!(batch.accumulation_steps, turns);
            let all = batch.accumulation_steps * batch.microbatches * batch.microbatch * data_parallel;
            prop_assert_eq!(all, batch.global);
        }

        #[test]
        fn what_is_accepted_divides(local in 0u64..20, global in -2i64..200, dp in 0u64..9, microbatch in 0u64..9) {
            if let Ok(batch) = Batch::of(local, global, dp, microbatch) {
                prop_assert_eq!(batch.accumulation_steps * local * dp, batch.global);
                prop_assert_eq!(batch.microbatches * microbatch, local);
                prop_assert!(global < 0 || batch.global == global as u64);
            }
        }
    }
}
