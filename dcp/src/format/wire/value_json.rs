//! Values as JSON, without loss.
//!
//! | value | JSON |
//! |---|---|
//! | `None`, `bool`, `int` of 64 bits, `str`, `list` | `null`, boolean, number, string, array |
//! | `float` | number with a point or an exponent; `{"$float": "nan"}`, `inf`, `-inf`, or a NaN's 16 hex digits |
//! | `dict` whose keys are all strings that do not start with `$` | object, in order |
//! | any other `dict`, `OrderedDict` | `{"$dict": [[key, value], ...]}`, `{"$ordered_dict": ...}` |
//! | `tuple`, `set`, `torch.Size` | `{"$tuple": [...]}`, `{"$set": [...]}`, `{"$size": [...]}` |
//! | larger `int` | `{"$int": BASE64}` of its two's complement, little-endian |
//! | `complex` | `{"$complex": [re, im]}` |
//! | `bytes`, `bytearray` | `{"$bytes": BASE64}`, `{"$bytearray": BASE64}` |
//! | `torch.dtype`, `torch.device` | `{"$dtype": "float32"}`, `{"$device": "cuda:0"}` |
//! | tensor | `{"$tensor": {"dtype": "float32", "shape": [2], "bytes": BASE64}}` |
//! | numpy scalar, array | `{"$numpy_scalar": {"dtype": "<f4", "bytes": BASE64}}`, `{"$numpy_array": {...}}` |
//!
//! An object whose first key starts with `$` has that one key and is one of these.

use crate::model::{DType, InlineTensor, TensorSpec, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use std::collections::HashSet;
use std::fmt;

/// Writes a value as JSON.
///
/// Errors: in words, for opaque values and for what nests too deep to be read again.
pub fn encode(value: &Value) -> Result<String, String> {
    let text = serde_json::to_string(&Written(value)).map_err(|error| error.to_string())?;
    decode(&text)?;
    Ok(text)
}

/// Reads what [`encode`] writes.
///
/// Errors: in words, for anything else. Nesting is bounded by the parser.
pub fn decode(text: &str) -> Result<Value, String> {
    serde_json::from_str::<Parsed>(text).map(|Parsed(value)| value).map_err(|error| error.to_string())
}

/// A value to be written.
struct Written<'a>(&'a Value);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::None => serializer.serialize_unit(),
            Value::Bool(flag) => serializer.serialize_bool(*flag),
            Value::Int(int) => serializer.serialize_i64(*int),
            Value::Float(float) if float.is_finite() => serializer.serialize_f64(*float),
            Value::Float(float) => tag(serializer, "$float", &special_name(*float)),
            Value::Str(text) => serializer.serialize_str(text),
            Value::List(items) => serializer.collect_seq(items.iter().map(Written)),
            Value::Dict(pairs) => match plain_keys(pairs) {
                Some(keys) => serializer
                    .collect_map(keys.into_iter().zip(pairs.iter().map(|(_, value)| Written(value)))),
                None => tag(serializer, "$dict", &Pairs(pairs)),
            },
            Value::OrderedDict(pairs) => tag(serializer, "$ordered_dict", &Pairs(pairs)),
            Value::Tuple(items) => tag(serializer, "$tuple", &Items(items)),
            Value::Set(items) => tag(serializer, "$set", &Items(items)),
            Value::Size(sizes) => tag(serializer, "$size", sizes),
            Value::BigInt(bytes) => tag(serializer, "$int", &STANDARD.encode(bytes)),
            Value::Complex(re, im) => {
                tag(serializer, "$complex", &Items(&[Value::Float(*re), Value::Float(*im)]))
            }
            Value::Bytes(bytes) => tag(serializer, "$bytes", &STANDARD.encode(bytes)),
            Value::ByteArray(bytes) => tag(serializer, "$bytearray", &STANDARD.encode(bytes)),
            Value::DType(dtype) => tag(serializer, "$dtype", dtype.name()),
            Value::Device(device) => tag(serializer, "$device", device),
            Value::Tensor(InlineTensor { spec, bytes }) => {
                tag(serializer, "$tensor", &Array::new(spec.dtype.name(), Some(&spec.shape), bytes))
            }
            Value::NumpyScalar { dtype, bytes } => {
                tag(serializer, "$numpy_scalar", &Array::new(dtype, None, bytes))
            }
            Value::NumpyArray { dtype, shape, bytes } => {
                tag(serializer, "$numpy_array", &Array::new(dtype, Some(shape), bytes))
            }
            Value::Opaque { global } => Err(S::Error::custom(format!("a value of type {global}"))),
        }
    }
}

fn tag<S: Serializer, T: Serialize + ?Sized>(
    serializer: S,
    name: &str,
    content: &T,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(name, content)?;
    map.end()
}

/// The keys, where they can be those of a JSON object: distinct strings that do not start with `$`.
fn plain_keys(pairs: &[(Value, Value)]) -> Option<Vec<&str>> {
    let mut seen = HashSet::with_capacity(pairs.len());
    pairs
        .iter()
        .map(|(key, _)| match key {
            Value::Str(text) if !text.starts_with('$') && seen.insert(text.as_str()) => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

/// The name of a number that JSON lacks.
fn special_name(float: f64) -> String {
    match float {
        f64::INFINITY => "inf".to_owned(),
        f64::NEG_INFINITY => "-inf".to_owned(),
        nan if nan.to_bits() == f64::NAN.to_bits() => "nan".to_owned(),
        nan => format!("{:016x}", nan.to_bits()),
    }
}

fn special_of(name: &str) -> Option<f64> {
    match name {
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        "nan" => Some(f64::NAN),
        bits if bits.len() == 16 => u64::from_str_radix(bits, 16).ok().map(f64::from_bits),
        _ => None,
    }
}

struct Items<'a>(&'a [Value]);

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Written))
    }
}

struct Pairs<'a>(&'a [(Value, Value)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(key, value)| [Written(key), Written(value)]))
    }
}

/// The elements of a tensor or numpy value.
#[derive(serde::Serialize, serde::Deserialize)]
struct Array {
    dtype: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shape: Option<Vec<u64>>,
    bytes: String,
}

impl Array {
    fn new(dtype: &str, shape: Option<&[u64]>, bytes: &[u8]) -> Self {
        Array { dtype: dtype.to_owned(), shape: shape.map(<[u64]>::to_vec), bytes: STANDARD.encode(bytes) }
    }
}

/// A value that was read.
struct Parsed(Value);

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Parsed)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, int: i64) -> Result<Value, E> {
        Ok(Value::Int(int))
    }

    fn visit_u64<E: de::Error>(self, int: u64) -> Result<Value, E> {
        i64::try_from(int).map(Value::Int).map_err(|_| E::custom(format!("{int} is over 64 bits; use $int")))
    }

    fn visit_f64<E>(self, float: f64) -> Result<Value, E> {
        Ok(Value::Float(float))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Str(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Parsed(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Some(first) = map.next_key::<String>()? else { return Ok(Value::Dict(Vec::new())) };
        if first.starts_with('$') {
            let value = tagged(&first, &mut map)?;
            return match map.next_key::<String>()? {
                None => Ok(value),
                Some(other) => Err(de::Error::custom(format!("{other:?} follows {first:?}"))),
            };
        }
        let mut seen = HashSet::new();
        let (mut pairs, mut next) = (Vec::new(), Some(first));
        while let Some(key) = next {
            if key.starts_with('$') || !seen.insert(key.clone()) {
                return Err(de::Error::custom(format!("{key:?} cannot be a key here")));
            }
            let Parsed(value) = map.next_value()?;
            pairs.push((Value::Str(key), value));
            next = map.next_key()?;
        }
        Ok(Value::Dict(pairs))
    }
}

fn tagged<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Value, A::Error> {
    let bad = |why: String| de::Error::custom(format!("{name}: {why}"));
    Ok(match name {
        "$float" => {
            let text: String = map.next_value()?;
            Value::Float(special_of(&text).ok_or_else(|| bad(format!("{text:?} is no number")))?)
        }
        "$dict" => Value::Dict(pairs(map)?),
        "$ordered_dict" => Value::OrderedDict(pairs(map)?),
        "$tuple" => Value::Tuple(items(map)?),
        "$set" => Value::Set(items(map)?),
        "$size" => Value::Size(map.next_value()?),
        "$int" => Value::BigInt(bytes(map)?),
        "$complex" => match items(map)?[..] {
            [Value::Float(re), Value::Float(im)] => Value::Complex(re, im),
            _ => return Err(bad("expected two floats".to_owned())),
        },
        "$bytes" => Value::Bytes(bytes(map)?),
        "$bytearray" => Value::ByteArray(bytes(map)?),
        "$dtype" => {
            let text: String = map.next_value()?;
            Value::DType(DType::from_name(&text).ok_or_else(|| bad(format!("unknown dtype {text:?}")))?)
        }
        "$device" => Value::Device(map.next_value()?),
        "$tensor" | "$numpy_scalar" | "$numpy_array" => array(name, map.next_value()?).map_err(bad)?,
        _ => return Err(bad("unknown kind of value".to_owned())),
    })
}

fn items<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Vec<Value>, A::Error> {
    let items: Vec<Parsed> = map.next_value()?;
    Ok(items.into_iter().map(|Parsed(item)| item).collect())
}

fn pairs<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Vec<(Value, Value)>, A::Error> {
    let pairs: Vec<(Parsed, Parsed)> = map.next_value()?;
    Ok(pairs.into_iter().map(|(Parsed(key), Parsed(value))| (key, value)).collect())
}

fn bytes<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Vec<u8>, A::Error> {
    STANDARD.decode(map.next_value::<String>()?).map_err(de::Error::custom)
}

fn array(name: &str, array: Array) -> Result<Value, String> {
    let Array { dtype, shape, bytes } = array;
    let bytes = STANDARD.decode(bytes).map_err(|error| error.to_string())?;
    match (name, shape) {
        ("$numpy_scalar", None) => Ok(Value::NumpyScalar { dtype, bytes }),
        ("$numpy_array", Some(shape)) => Ok(Value::NumpyArray { dtype, shape, bytes }),
        ("$tensor", Some(shape)) => {
            let dtype = DType::from_name(&dtype).ok_or_else(|| format!("unknown dtype {dtype:?}"))?;
            let spec = TensorSpec::new(dtype, shape);
            match spec.bytes() == Some(bytes.len() as u64) {
                true => Ok(Value::Tensor(InlineTensor { spec, bytes })),
                false => Err(format!("{} bytes for {dtype} of shape {:?}", bytes.len(), spec.shape)),
            }
        }
        _ => Err("its shape is missing or out of place".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(name: &str) -> Value {
        Value::Str(name.to_owned())
    }

    #[test]
    fn plain_values_are_plain_json() {
        let pairs = vec![
            (text("step"), Value::Int(7)),
            (text("lr"), Value::Float(3e-4)),
            (text("list"), Value::List(vec![Value::None, Value::Bool(true), Value::Float(1.0)])),
            (text("a"), Value::Dict(vec![])),
        ];
        let json = encode(&Value::Dict(pairs)).unwrap();
        assert_eq!(json, r#"{"step":7,"lr":0.0003,"list":[null,true,1.0],"a":{}}"#);
    }

    #[test]
    fn keys_that_json_lacks_and_keys_that_look_like_tags_are_kept() {
        for pairs in [
            vec![(Value::Int(0), Value::Int(1))],
            vec![(text("$tuple"), Value::List(vec![]))],
            vec![(text("a"), Value::None), (text("$a"), Value::None)],
            vec![(text("a"), Value::Int(1)), (text("a"), Value::Int(2))],
            vec![(Value::Tuple(vec![Value::Int(1), text("x")]), Value::None)],
        ] {
            let value = Value::Dict(pairs);
            let json = encode(&value).unwrap();
            assert!(json.starts_with(r#"{"$dict":[["#), "{json}");
            assert_eq!(decode(&json).unwrap(), value);
        }
    }

    #[test]
    fn odd_floats_keep_their_bits() {
        let nans = [0x7ff8_0000_0000_0000, 0xfff8_0000_0000_0000, 0x7ff0_0000_0000_0001].map(f64::from_bits);
        let others = [-0.0, 5e-324, f64::MAX, 0.1 + 0.2, 1e22, f64::INFINITY, f64::NEG_INFINITY];
        for float in nans.into_iter().chain(others) {
            let Value::Float(found) = decode(&encode(&Value::Float(float)).unwrap()).unwrap() else {
                panic!("{float} is no float any more")
            };
            assert_eq!(found.to_bits(), float.to_bits());
        }
    }

    #[test]
    fn opaque_and_bottomless_values_are_refused() {
        assert!(encode(&Value::Opaque { global: "os.system".to_owned() }).unwrap_err().contains("os.system"));
        let deep = (0..200).fold(Value::None, |inner, _| Value::List(vec![inner]));
        assert!(encode(&deep).unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn other_json_is_refused() {
        for bad in [
            "",
            "18446744073709551615",
            r#"{"$tuple": [], "x": 1}"#,
            r#"{"x": 1, "$tuple": []}"#,
            r#"{"x": 1, "x": 2}"#,
            r#"{"$what": 1}"#,
            r#"{"$float": "0.5"}"#,
            r#"{"$bytes": "***"}"#,
            r#"{"$complex": [1, 2]}"#,
            r#"{"$dict": [[1]]}"#,
            r#"{"$dtype": "float33"}"#,
            r#"{"$tensor": {"dtype": "float32", "shape": [2], "bytes": "AAAA"}}"#,
            r#"{"$tensor": {"dtype": "float32", "bytes": "AAAA"}}"#,
        ] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let blob = || proptest::collection::vec(any::<u8>(), 0..9);
        let leaf = prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            proptest::num::f64::ANY.prop_filter("NaN is not itself", |x| !x.is_nan()).prop_map(Value::Float),
            ".{0,8}".prop_map(Value::Str),
            blob().prop_map(Value::BigInt),
            blob().prop_map(Value::Bytes),
            blob().prop_map(Value::ByteArray),
            (-1e300..1e300, -1e300..1e300).prop_map(|(re, im)| Value::Complex(re, im)),
            proptest::collection::vec(any::<i64>(), 0..4).prop_map(Value::Size),
            Just(Value::DType(DType::F4)),
            Just(Value::Device("cuda:0".to_owned())),
            blob().prop_map(|bytes| {
                let spec = TensorSpec::new(DType::U8, [bytes.len() as u64]);
                Value::Tensor(InlineTensor { spec, bytes })
            }),
            blob().prop_map(|bytes| Value::NumpyScalar { dtype: "<f8".to_owned(), bytes }),
            blob().prop_map(|bytes| Value::NumpyArray { dtype: "|b1".to_owned(), shape: vec![3], bytes }),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            let list = || proptest::collection::vec(inner.clone(), 0..6);
            let pairs = || {
                let key = prop_oneof![inner.clone(), "[$a-c]{0,2}".prop_map(Value::Str)];
                proptest::collection::vec((key, inner.clone()), 0..6)
            };
            prop_oneof![
                list().prop_map(Value::List),
                list().prop_map(Value::Tuple),
                list().prop_map(Value::Set),
                pairs().prop_map(Value::Dict),
                pairs().prop_map(Value::OrderedDict),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in any_value()) {
            prop_assert_eq!(decode(&encode(&value).unwrap()).unwrap(), value);
        }
    }
}
