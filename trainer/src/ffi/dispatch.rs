//! A call of any operator of libtorch by its name. Graphs are made as usual.
//!
//! The crate tch leaves out operators with lists of tensors (`_foreach_*`, `_fused_adamw_`), names that end in
//! `_forward`, and those whose results are of several types. A call costs microseconds more than one through tch.

use super::outcome::{RawTensors, check, raw, take_tensor, take_text, text};
use super::{kind, sys};
use crate::error::{Error, Result};
use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};
use tch::{Device, Kind, Tensor};

/// An argument, in the order of the operator's schema.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// None, where the schema has a `?`.
    None,
    /// The schema's default, as for arguments left out at the end.
    Default,
    /// A tensor.
    Tensor(&'a Tensor),
    /// `int`, `SymInt`, `float`, `Scalar`.
    Int(i64),
    /// `float`, `Scalar`.
    Double(f64),
    /// `bool`, `Scalar`.
    Bool(bool),
    /// `int[]`, `SymInt[]`.
    Ints(&'a [i64]),
    /// `float[]`, `Scalar[]`.
    Doubles(&'a [f64]),
    /// `Tensor[]`.
    Tensors(&'a [&'a Tensor]),
    /// `Tensor?[]`.
    OptionalTensors(&'a [Option<&'a Tensor>]),
    /// `str`.
    Str(&'a str),
    /// `ScalarType`.
    Kind(Kind),
    /// `Device`.
    Device(Device),
}

/// A result, in the order of the operator's schema.
#[derive(Debug)]
pub enum Value {
    /// None, or a tensor that is not defined.
    None,
    /// A tensor.
    Tensor(Tensor),
    /// `Tensor[]`.
    Tensors(Vec<Tensor>),
    /// `int`.
    Int(i64),
    /// `float`.
    Double(f64),
    /// `bool`.
    Bool(bool),
}

impl Value {
    /// The tensors of a list; none of any other result.
    pub fn tensors(&self) -> &[Tensor] {
        match self {
            Value::Tensors(tensors) => tensors,
            _ => &[],
        }
    }
}

/// `TitanKind` in `csrc/dispatch.cpp`.
mod tag {
    pub(super) const NONE: i32 = 0;
    pub(super) const TENSOR: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const DOUBLE: i32 = 3;
    pub(super) const BOOL: i32 = 4;
    pub(super) const INTS: i32 = 5;
    pub(super) const DOUBLES: i32 = 6;
    pub(super) const TENSORS: i32 = 7;
    pub(super) const OPTIONAL_TENSORS: i32 = 8;
    pub(super) const STRING: i32 = 9;
    pub(super) const DEVICE: i32 = 10;
    pub(super) const DEFAULT: i32 = 11;
}

/// Calls an operator, such as `aten::_foreach_norm` with overload `Scalar`. Arguments left out at the end get their
/// defaults.
///
/// Fails where there is no such operator, where an argument is not of the type that the schema says, and where the
/// operator fails.
pub fn call(name: &str, overload: &str, args: &[Arg]) -> Result<Vec<Value>> {
    let operator = if overload.is_empty() { name.to_owned() } else { format!("{name}.{overload}") };
    let (name, overload) = (text(name)?, text(overload)?);
    let held = args.iter().map(Held::new).collect::<Result<Vec<_>>>()?;
    let raw: Vec<sys::Arg> = args.iter().zip(&held).map(|(arg, held)| to_raw(arg, held)).collect();
    let mut results = Results::default();
    let sink = (&raw mut results).cast::<c_void>();
    // SAFETY: texts, arguments and what they point to outlive the call; `sink` is what `take` takes it for, and is used
    // during the call only.
    unsafe {
        check(
            &operator,
            sys::titan_call_operator(name.as_ptr(), overload.as_ptr(), raw.as_ptr(), raw.len(), sink, take),
        )
    }?;
    Ok(results.values)
}

/// As [`call`], of an operator whose one result is a tensor.
pub fn call_tensor(name: &str, overload: &str, args: &[Arg]) -> Result<Tensor> {
    let mut values = call(name, overload, args)?;
    match (values.pop(), values.is_empty()) {
        (Some(Value::Tensor(tensor)), true) => Ok(tensor),
        (last, _) => Err(Error::Usage(format!(
            "{name}.{overload} does not give one tensor; its last result: {last:?}"
        ))),
    }
}

/// What an operator takes and gives, in PyTorch's notation; `None` where it is not there.
pub fn schema(name: &str, overload: &str) -> Result<Option<String>> {
    let (name, overload) = (text(name)?, text(overload)?);
    let mut found = null_mut();
    // SAFETY: texts and out pointer outlive the call.
    unsafe { check("schema", sys::titan_schema(name.as_ptr(), overload.as_ptr(), &mut found)) }?;
    // SAFETY: not null where it is taken, and then handed out by the shim.
    Ok((!found.is_null()).then(|| unsafe { take_text(found) }))
}

/// What an argument needs beside itself, for as long as the call.
enum Held<'a> {
    Nothing,
    Text(CString),
    Tensors(RawTensors<'a>),
}

impl<'a> Held<'a> {
    fn new(arg: &Arg<'a>) -> Result<Held<'a>> {
        Ok(match arg {
            Arg::Str(string) => Held::Text(text(string)?),
            Arg::Tensors(list) => Held::Tensors(RawTensors::new(list.iter().copied())),
            Arg::OptionalTensors(list) => Held::Tensors(RawTensors::optional(list.iter().copied())),
            _ => Held::Nothing,
        })
    }
}

/// An argument as the shim takes it, pointing into the argument and what is held for it.
fn to_raw(arg: &Arg, held: &Held) -> sys::Arg {
    let bare = |kind| sys::Arg { kind, device_type: 0, integer: 0, real: 0.0, pointer: null(), count: 0 };
    let integer = |kind, integer| sys::Arg { integer, ..bare(kind) };
    let list = |kind, pointer, count| sys::Arg { pointer, count, ..bare(kind) };
    let (held_pointer, held_count) = match held {
        Held::Nothing => (null(), 0),
        Held::Text(text) => (text.as_ptr().cast::<c_void>(), 0),
        Held::Tensors(tensors) => (tensors.as_ptr().cast::<c_void>(), tensors.len()),
    };
    match *arg {
        Arg::None => bare(tag::NONE),
        Arg::Default => bare(tag::DEFAULT),
        Arg::Tensor(tensor) => list(tag::TENSOR, raw(tensor).cast_const().cast(), 0),
        Arg::Int(number) => integer(tag::INT, number),
        Arg::Double(real) => sys::Arg { real, ..bare(tag::DOUBLE) },
        Arg::Bool(truth) => integer(tag::BOOL, i64::from(truth)),
        Arg::Ints(numbers) => list(tag::INTS, numbers.as_ptr().cast(), numbers.len()),
        Arg::Doubles(reals) => list(tag::DOUBLES, reals.as_ptr().cast(), reals.len()),
        Arg::Tensors(_) => list(tag::TENSORS, held_pointer, held_count),
        Arg::OptionalTensors(_) => list(tag::OPTIONAL_TENSORS, held_pointer, held_count),
        Arg::Str(_) => list(tag::STRING, held_pointer, 0),
        Arg::Kind(element) => integer(tag::INT, i64::from(kind::code(element))),
        Arg::Device(device) => {
            // `c10::DeviceType`, and -1 for the current one of its type.
            let (device_type, index) = match device {
                Device::Cpu => (0, -1),
                Device::Cuda(index) => (1, index as i64),
                Device::Vulkan => (10, -1),
                Device::Mps => (13, -1),
            };
            sys::Arg { device_type, ..integer(tag::DEVICE, index) }
        }
    }
}

/// Results so far.
#[derive(Default)]
struct Results {
    values: Vec<Value>,
    /// How many elements of the list at the end are still to come.
    list_left: i64,
}

/// Puts a result into the [`Results`] behind `sink`.
unsafe extern "C" fn take(sink: *mut c_void, kind: i32, tensor: *mut sys::C_tensor, integer: i64, real: f64) {
    // SAFETY: `call` passes its results, alone in use during its call.
    let results = unsafe { &mut *sink.cast::<Results>() };
    // SAFETY: null, or handed out to us.
    let tensor = unsafe { take_tensor(tensor) };
    if results.list_left > 0
        && let Some(Value::Tensors(list)) = results.values.last_mut()
    {
        list.push(tensor.unwrap_or_default());
        results.list_left -= 1;
        return;
    }
    results.values.push(match (kind, tensor) {
        (tag::TENSOR, Some(tensor)) => Value::Tensor(tensor),
        (tag::INT, _) => Value::Int(integer),
        (tag::DOUBLE, _) => Value::Double(real),
        (tag::BOOL, _) => Value::Bool(integer != 0),
        (tag::TENSORS, _) => {
            results.list_left = integer;
            Value::Tensors(Vec::new())
        }
        _ => Value::None,
    });
}
