//! What ranks say to each other about a save: values, encoded as everywhere else, as `torch.save` archives.
//!
//! A report is a list: a failure or `None`, then `(FQN, path, value)` for each value. An announcement is
//! `(attempt, generation)`, or a failure. A failure is `(rank, text)`; the rank is `None` where it is the sender's own.

use super::state::StateValue;
use crate::error::{Error, Result};
use crate::format::Attempt;
use crate::format::wire::archive;
use crate::model::{Fqn, PathPart, Value};

/// What follows from a rank's failure.
const UNCOMMITTED: &str = "nothing was committed";
/// What error messages call a message.
const WHAT: &str = "a message between ranks";

/// "I am ready, and these are my values", or why not. A value that cannot be sent makes it an error.
pub(super) fn report(outcome: std::result::Result<&[StateValue], &Error>) -> Vec<u8> {
    let entry = |value: &StateValue| {
        let path = value.path.iter().map(|part| match part {
            PathPart::Key(key) => Value::Str(key.clone()),
            PathPart::Index(index) => Value::Int(*index as i64),
        });
        let fqn = Value::Str(value.fqn.as_str().to_owned());
        Value::Tuple(vec![fqn, Value::List(path.collect()), value.value.clone()])
    };
    let message = match outcome {
        Ok(values) => std::iter::once(Value::None).chain(values.iter().map(entry)).collect(),
        Err(error) => vec![failure(error)],
    };
    match archive::encode(&Value::List(message)) {
        Ok(bytes) => bytes,
        Err(why) => {
            let why = Value::Str(format!("a value cannot be saved: {why}"));
            let refused = Value::List(vec![Value::Tuple(vec![Value::None, why])]);
            archive::encode(&refused).unwrap_or_default()
        }
    }
}

/// Whose failure it is stays with it, however many ranks pass it on.
fn failure(error: &Error) -> Value {
    let (rank, text) = match error {
        Error::RankFailed { rank, message, .. } => (Value::Int(i64::from(*rank)), message.clone()),
        error => (Value::None, error.with_causes()),
    };
    Value::Tuple(vec![rank, Value::Str(text)])
}

/// The error that a failure means to those who hear of it from `sender`; `None` for anything else.
fn heard(sender: u32, message: &Value) -> Option<Error> {
    let Value::Tuple(failure) = message else { return None };
    let (rank, text) = match &failure[..] {
        [Value::None, Value::Str(text)] => (sender, text),
        [Value::Int(rank), Value::Str(text)] => (u32::try_from(*rank).ok()?, text),
        _ => return None,
    };
    Some(Error::RankFailed { rank, so: UNCOMMITTED, message: text.clone() })
}

/// The first rank, by its position, whose report is an error.
pub(super) fn failed(messages: &[Vec<u8>]) -> Result<()> {
    for (rank, message) in (0..).zip(messages) {
        if let (Some(error), _) = decode(rank, message)? {
            return Err(error);
        }
    }
    Ok(())
}

/// The values of a report.
pub(super) fn values(message: &[u8]) -> Result<Vec<StateValue>> {
    decode(0, message).map(|(_, values)| values)
}

fn decode(sender: u32, message: &[u8]) -> Result<(Option<Error>, Vec<StateValue>)> {
    let malformed = || Error::malformed("another rank", WHAT, "it is no report");
    let Value::List(message) = archive::decode(message, "another rank")? else { return Err(malformed()) };
    let mut message = message.into_iter();
    let error = match message.next() {
        Some(Value::None) => None,
        Some(failure) => Some(heard(sender, &failure).ok_or_else(malformed)?),
        None => return Err(malformed()),
    };
    let values = message.map(|entry| {
        let Value::Tuple(entry) = entry else { return Err(malformed()) };
        let Ok([Value::Str(fqn), Value::List(path), value]) = <[Value; 3]>::try_from(entry) else {
            return Err(malformed());
        };
        let part = |part| match part {
            Value::Str(key) => Ok(PathPart::Key(key)),
            Value::Int(index) => u64::try_from(index).map(PathPart::Index).map_err(|_| malformed()),
            _ => Err(malformed()),
        };
        let path = path.into_iter().map(part).collect::<Result<_>>()?;
        Ok(StateValue { fqn: Fqn::from(fqn.as_str()), path, value })
    });
    Ok((error, values.collect::<Result<_>>()?))
}

/// The attempt that all ranks write, or why there is none.
pub(super) fn announce(attempt: std::result::Result<&Attempt, &Error>) -> Vec<u8> {
    let message = match attempt {
        Ok(attempt) => {
            Value::Tuple(vec![Value::Str(attempt.id.clone()), Value::Int(i64::from(attempt.generation))])
        }
        Err(error) => failure(error),
    };
    archive::encode(&message).unwrap_or_default()
}

/// Reads an announcement.
///
/// Errors: [`Error::RankFailed`] with what kept rank 0 from choosing an attempt.
pub(super) fn announced(message: &[u8]) -> Result<Attempt> {
    let message = archive::decode(message, "rank 0")?;
    if let Some(error) = heard(0, &message) {
        return Err(error);
    }
    match message {
        Value::Tuple(attempt) => match &attempt[..] {
            [Value::Str(id), Value::Int(generation)] => Ok(Attempt {
                id: id.clone(),
                generation: u32::try_from(*generation)
                    .map_err(|_| Error::malformed("rank 0", WHAT, "it has no generation"))?,
            }),
            _ => Err(Error::malformed("rank 0", WHAT, "it is no announcement")),
        },
        _ => Err(Error::malformed("rank 0", WHAT, "it is no announcement")),
    }
}
