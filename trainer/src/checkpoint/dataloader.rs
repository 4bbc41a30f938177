//! The state of TorchTitan's data loader: `dataloader.dp_rank_0`, a pickle in bytes.
//!
//! ```text
//! {_index_sampler_state: None, _sampler_iter_state: {samples_yielded: 20}, _sampler_iter_yielded: 5, _num_yielded: 5,
//!  _IterableDataset_len_called: None, _shared_seed: None,
//!  fetcher_state: {dataset_iter_state: None, fetcher_ended: False},
//!  dataset_state: {token_buffer: [354, 334, ...], sample_idx: 22}, _iterator_finished: False}
//! ```
//!
//! Sources: torchdata/stateful_dataloader/stateful_dataloader.py of torchdata 0.11, with no workers;
//! torchtitan/hf_datasets/text_datasets.py, v0.2.2.

use data::MapPlace;
use dcp::format::pickle;
use dcp::model::Value;

/// Where TorchTitan's data loader of one data-parallel rank stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dataloader {
    /// Where its dataset stands.
    pub place: MapPlace,
    /// Sequences taken so far.
    pub sequences: u64,
    /// Sequences that it gives at once (`training.local_batch_size`).
    pub local_batch_size: u64,
}

impl Dataloader {
    /// The bytes of its state.
    pub(super) fn encode(&self) -> dcp::Result<Vec<u8>> {
        let int = |number: u64| Value::Int(number as i64);
        let dict = |pairs: Vec<(&str, Value)>| {
            Value::Dict(pairs.into_iter().map(|(key, value)| (Value::Str(key.to_owned()), value)).collect())
        };
        let batches = int(self.sequences / self.local_batch_size.max(1));
        let tokens = self.place.token_buffer.iter().map(|&token| int(token.into())).collect();
        pickle::encode(&dict(vec![
            ("_index_sampler_state", Value::None),
            ("_sampler_iter_state", dict(vec![("samples_yielded", int(self.sequences))])),
            ("_sampler_iter_yielded", batches.clone()),
            ("_num_yielded", batches),
            ("_IterableDataset_len_called", Value::None),
            ("_shared_seed", Value::None),
            (
                "fetcher_state",
                dict(vec![("dataset_iter_state", Value::None), ("fetcher_ended", Value::Bool(false))]),
            ),
            (
                "dataset_state",
                dict(vec![("token_buffer", Value::List(tokens)), ("sample_idx", int(self.place.sample_idx))]),
            ),
            ("_iterator_finished", Value::Bool(false)),
        ]))
    }
}

/// The place in the data that such a value tells, or in words why it tells none.
pub(super) fn place_of(value: &Value) -> Result<MapPlace, String> {
    let Value::Bytes(bytes) = value else { return Err("it is no bytes".to_owned()) };
    let state = pickle::decode(bytes, "dataloader.dp_rank_0").map_err(|error| error.with_causes())?;
    let dataset = get(&state, "dataset_state").ok_or("it is of a loader with workers")?;
    let (sample_idx, tokens) = (get(dataset, "sample_idx"), get(dataset, "token_buffer"));
    let sample_idx = match sample_idx {
        Some(Value::Int(index)) => u64::try_from(*index).ok(),
        _ => None,
    };
    let token = |token: &Value| match token {
        Value::Int(token) => u32::try_from(*token).ok(),
        _ => None,
    };
    let token_buffer: Option<Vec<u32>> = match tokens {
        Some(Value::List(tokens)) => tokens.iter().map(token).collect(),
        _ => None,
    };
    let place = sample_idx.zip(token_buffer);
    let (sample_idx, token_buffer) = place.ok_or("it is of a dataset that is not in map style")?;
    Ok(MapPlace { sample_idx, token_buffer })
}

fn get<'a>(dict: &'a Value, key: &str) -> Option<&'a Value> {
    let Value::Dict(pairs) = dict else { return None };
    let found = pairs.iter().find(|(name, _)| matches!(name, Value::Str(name) if name == key));
    found.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of TorchTitan 0.2.2 after five steps of four sequences, but for the length of its buffer.
    const REAL: &[u8] = b"\x80\x04\x952\x01\x00\x00\x00\x00\x00\x00}\x94(\x8c\x14_index_sampler_state\x94N\
        \x8c\x13_sampler_iter_state\x94}\x94\x8c\x0fsamples_yielded\x94K\x14s\x8c\x15_sampler_iter_yielded\x94K\x05\
        \x8c\x0c_num_yielded\x94K\x05\x8c\x1b_IterableDataset_len_called\x94N\x8c\x0c_shared_seed\x94N\
        \x8c\rfetcher_state\x94}\x94(\x8c\x12dataset_iter_state\x94N\x8c\rfetcher_ended\x94\x89u\
        \x8c\rdataset_state\x94}\x94(\x8c\x0ctoken_buffer\x94]\x94(Mb\x01K\x0fK\x01e\x8c\nsample_idx\x94K\x16u\
        \x8c\x12_iterator_finished\x94\x89u.";

    fn loader() -> Dataloader {
        let place = MapPlace { sample_idx: 22, token_buffer: vec![354, 15, 1] };
        Dataloader { place, sequences: 20, local_batch_size: 4 }
    }

    #[test]
    fn what_torchtitan_keeps_is_read_and_written() {
        assert_eq!(place_of(&Value::Bytes(REAL.to_vec())).unwrap(), loader().place);
        let ours = loader().encode().unwrap();
        assert_eq!(pickle::decode(&ours, "ours").unwrap(), pickle::decode(REAL, "theirs").unwrap());
    }

    #[test]
    fn other_states_are_told_apart_and_none_is_run() {
        let why = |value: &Value| place_of(&Value::Bytes(pickle::encode(value).unwrap())).unwrap_err();
        let dict = |key: &str, value| Value::Dict(vec![(Value::Str(key.to_owned()), value)]);
        assert_eq!(why(&dict("_snapshot", Value::None)), "it is of a loader with workers");
        let streamed = dict("dataset_state", dict("data", Value::None));
        assert_eq!(why(&streamed), "it is of a dataset that is not in map style");
        let negative = dict("dataset_state", dict("sample_idx", Value::Int(-1)));
        assert_eq!(why(&negative), "it is of a dataset that is not in map style");
        assert_eq!(place_of(&Value::Int(1)).unwrap_err(), "it is no bytes");
        assert!(place_of(&Value::Bytes(b"cos\nsystem\n(S'true'\ntR.".to_vec())).is_err());
        assert!(place_of(&Value::Bytes(REAL[..40].to_vec())).unwrap_err().contains("dataloader.dp_rank_0"));
    }
}
