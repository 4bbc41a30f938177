//! Pickles that are bytes inside a value, as TorchTitan keeps the state of its data loader. Read without running anything,
//! as every pickle here is.

use super::wire::pickle_read::parse;
use super::wire::pickle_write::PickleWriter;
use super::wire::value_read::{Budget, value_of};
use super::wire::value_write::write_value;
use crate::error::{Error, Result};
use crate::model::Value;

/// Decodes a pickle; `object` names it in errors. What is of a type that is not admitted is [`Value::Opaque`].
///
/// Errors: [`Error::Malformed`] for what is no pickle, nests too deep or has tensors; [`Error::OverLimit`] for what takes
/// too much memory.
pub fn decode(bytes: &[u8], object: &str) -> Result<Value> {
    let pickle = parse(bytes).map_err(|error| error.of(object))?;
    let mut budget = Budget::of_file(bytes.len() as u64);
    let tensor = || Error::malformed(object, "pickle of plain values", "it has a tensor inside");
    value_of(&pickle, pickle.root(), object, &mut budget, &mut |_| Err(tensor()))
}

/// Encodes a value with protocol 2.
///
/// Errors: [`Error::Usage`] for a value with tensors or opaque parts, or of a type that Python does not have.
pub fn encode(value: &Value) -> Result<Vec<u8>> {
    let mut writer = PickleWriter::new();
    write_value(&mut writer, value, &mut |_, _| Err("a tensor".to_owned()))
        .map_err(|what| Error::Usage(format!("{what} cannot be pickled as a plain value")))?;
    Ok(writer.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DType, InlineTensor, TensorSpec};

    #[test]
    fn plain_values_go_out_and_in() {
        let text = |text: &str| Value::Str(text.to_owned());
        let numbers =
            Value::List(vec![Value::Int(0), Value::Int(-1), Value::Int(70_000), Value::Int(1 << 40)]);
        let inner = Value::Dict(vec![(text("token_buffer"), numbers), (text("none"), Value::None)]);
        let value = Value::Dict(vec![(text("dataset_state"), inner), (text("ended"), Value::Bool(false))]);
        assert_eq!(decode(&encode(&value).unwrap(), "state").unwrap(), value);
    }

    #[test]
    fn what_is_no_plain_value_is_refused_and_nothing_is_run() {
        for bytes in [&b""[..], b"\x80\x02", b"no pickle", b"\x80\x02N.N"] {
            assert!(matches!(decode(bytes, "state"), Err(Error::Malformed { .. } | Error::Truncated { .. })));
        }
        let command = decode(b"cos\nsystem\n(S'true'\ntR.", "state").unwrap();
        assert_eq!(command, Value::Opaque { global: "os.system".to_owned() });
        let tensor = InlineTensor { spec: TensorSpec::new(DType::F32, [1]), bytes: vec![0; 4] };
        let error = encode(&Value::Tuple(vec![Value::Tensor(tensor)])).unwrap_err().to_string();
        assert_eq!(error, "a tensor cannot be pickled as a plain value");
    }
}
