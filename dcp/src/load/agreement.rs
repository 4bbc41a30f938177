//! All ranks load the same save of the same step, or none does.

use super::newest::attempt_of;
use super::origin::{Found, Origin};
use crate::coordinate::Coordinator;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, Reader};
use crate::storage::Place;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What all ranks load.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Choice {
    pub(super) step: Option<u64>,
    attempt: Option<String>,
    pub(super) passed_over: Vec<(u64, String)>,
}

/// Rank 0 chooses for all.
pub(super) fn choose(
    origin: &Origin,
    coordinator: &dyn Coordinator,
    tag: &str,
    before: Option<u64>,
) -> Result<Choice> {
    let mut own = None;
    if coordinator.rank() == 0 {
        own = Some(origin.find(before).map(|Found { step, reader, passed_over }| Choice {
            step,
            attempt: attempt_of(&*reader),
            passed_over,
        }));
    }
    let said = own.as_ref().map(|own| own.as_ref().map_err(Error::with_causes));
    let heard =
        coordinator.share(&format!("{tag}/step"), &said.map_or_else(Vec::new, |said| encode(&said)))?;
    match own {
        Some(own) => own,
        None => decode::<std::result::Result<Choice, String>>(&heard)?.map_err(|message| Error::RankFailed {
            rank: 0,
            so: "nothing was loaded",
            message,
        }),
    }
}

/// Opens what was chosen.
///
/// Errors: [`Error::Changed`] where it is another save.
pub(super) fn open_chosen(origin: &Origin, choice: &Choice) -> Result<Arc<dyn Reader>> {
    let reader = origin.open(choice.step)?;
    match attempt_of(&*reader) == choice.attempt {
        true => Ok(reader),
        false => Err(Error::Changed { object: reader.place().display() }),
    }
}

/// What became of a rank's load, and, of the ranks' verdicts, of all: the later ones decide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Verdict {
    Good,
    /// The data cannot be read: all take the step before.
    Damaged {
        rank: u32,
        message: String,
    },
    /// Another save has taken its place: all choose again.
    Replaced,
    /// All give up.
    Failed {
        rank: u32,
        message: String,
    },
}

/// All or none: what one rank met decides for all.
pub(super) fn agree(
    coordinator: &dyn Coordinator,
    tag: &str,
    place: &Place,
    choice: &Choice,
    error: Option<&Error>,
) -> Result<Verdict> {
    let rank = coordinator.rank();
    let own = match error {
        None => Verdict::Good,
        Some(Error::Changed { .. }) => Verdict::Replaced,
        Some(error) if error.kind() == ErrorKind::Data => {
            Verdict::Damaged { rank, message: error.with_causes() }
        }
        Some(error) => Verdict::Failed { rank, message: error.with_causes() },
    };
    let mut all = own.clone();
    if let Some(reports) = coordinator.gather(&format!("{tag}/read"), &encode(&own))? {
        let verdicts = reports.iter().map(|report| decode(report)).collect::<Result<Vec<Verdict>>>()?;
        all = verdicts.into_iter().max().unwrap_or(own);
        // What a newer save replaced may be gone already: that is no damage.
        let is_replaced = |reader: Arc<dyn Reader>| attempt_of(&*reader) != choice.attempt;
        if matches!(all, Verdict::Damaged { .. }) && format::open(place).is_ok_and(is_replaced) {
            all = Verdict::Replaced;
        }
    }
    decode(&coordinator.share(&format!("{tag}/verdict"), &encode(&all))?)
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("numbers, strings and lists")
}

fn decode<T: DeserializeOwned>(message: &[u8]) -> Result<T> {
    serde_json::from_slice(message)
        .map_err(|error| Error::malformed("another rank", "message about a load", error.to_string()))
}
