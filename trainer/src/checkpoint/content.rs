//! How much of the state is saved, and how much is loaded.

use super::memory::dtype_of;
use crate::error::{Error, Result};
use dcp::model::DType;
use tch::Kind;

/// What a checkpoint is to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// All that a run needs to go on.
    Full,
    /// The parameters and the number of steps, by which a run that has ended is known. TorchTitan loads such a checkpoint as
    /// one of its own that holds the model only.
    Model {
        /// The type that parameters are saved in (`checkpoint.export_dtype`).
        dtype: DType,
    },
}

impl Content {
    /// The type that a tensor of the state, of this type, has in it.
    pub(super) fn dtype(self, kind: Kind) -> DType {
        match self {
            Content::Full => dtype_of(kind),
            Content::Model { dtype } => dtype,
        }
    }
}

/// What of a checkpoint to load. The model always is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts {
    /// Moments and steps of the optimizer; without them it begins anew.
    pub optimizer: bool,
    /// How far the schedule of the learning rate is; without it, it begins anew.
    pub lr_scheduler: bool,
    /// The place in the data; without it, the data begins anew.
    pub dataloader: bool,
    /// Steps done, tokens seen, random numbers; without them, the run begins at step 0.
    pub train_state: bool,
}

impl Parts {
    /// Everything: to go on with a run.
    pub const ALL: Parts = Parts { optimizer: true, lr_scheduler: true, dataloader: true, train_state: true };
    /// The model alone: to begin a run with.
    pub const MODEL: Parts =
        Parts { optimizer: false, lr_scheduler: false, dataloader: false, train_state: false };

    /// Everything but what `checkpoint.exclude_from_loading` names.
    ///
    /// Errors: [`Error::Usage`] for a name that is no part, and for the model.
    pub fn without(excluded: &[String]) -> Result<Parts> {
        let mut parts = Parts::ALL;
        for name in excluded {
            match name.as_str() {
                "optimizer" => parts.optimizer = false,
                "lr_scheduler" => parts.lr_scheduler = false,
                "dataloader" => parts.dataloader = false,
                "train_state" => parts.train_state = false,
                other => {
                    return Err(Error::Usage(format!(
                        "checkpoint.exclude_from_loading: `{other}` cannot be left out; optimizer, lr_scheduler, \
                         dataloader and train_state can"
                    )));
                }
            }
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_left_out_by_name() {
        let without =
            |names: &[&str]| Parts::without(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(without(&[]).unwrap(), Parts::ALL);
        let all = ["optimizer", "lr_scheduler", "dataloader", "train_state"];
        assert_eq!(without(&all).unwrap(), Parts::MODEL);
        let found = without(&["dataloader"]).unwrap();
        assert_eq!(found, Parts { dataloader: false, ..Parts::ALL });
        for name in ["model", "data_loader", ""] {
            let error = without(&["optimizer", name]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}` cannot be left out; optimizer, ")), "{error}");
        }
    }
}
