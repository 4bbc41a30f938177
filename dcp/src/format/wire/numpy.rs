//! numpy's dtypes, scalars and arrays in pickles.
//!
//! ```text
//! dtype  = numpy.dtype('f4', False, True)   state (3, '<', None, None, None, -1, -1, 0)
//! scalar = numpy._core.multiarray.scalar(dtype, bytes)
//! array  = numpy._core.multiarray._reconstruct(numpy.ndarray, (0,), b'b')   state (1, shape, dtype, is_fortran, bytes)
//! array  = numpy._core.numeric._frombuffer(bytes, dtype, shape, 'C' or 'F')   (protocol 5)
//! ```
//!
//! Before numpy 2 the modules were `numpy.core.*`. Types with plain bytes are read: booleans, integers, floats, complex
//! numbers, byte strings and fixed-width text. Objects, records and dates are not.
//!
//! Source: `numpy/_core/src/multiarray/{descriptor,methods}.c` of numpy 2.4.

use super::pickle_nodes::{NodeId, Object, Pickle, View};
use super::pickle_write::PickleWriter;
use super::value_read::bytes_of;
use crate::layout::{copy_box, row_major};
use crate::model::{NumpyType, Value};

/// Reads a dtype node. `None` for types without plain bytes.
fn read_type(pickle: &Pickle<'_>, id: NodeId) -> Option<NumpyType> {
    let object =
        pickle.object(id).filter(|object| pickle.global(object.callee) == Some(("numpy", "dtype")))?;
    let code = pickle.str(*pickle.tuple(object.args)?.first()?)?;
    let [_version, order, subtype, names, ..] = pickle.tuple(object.state?)? else { return None };
    let plain = [subtype, names].into_iter().all(|field| pickle.view(*field) == View::None);
    let order = match pickle.str(*order)? {
        "=" => "<",
        order => order,
    };
    NumpyType::parse(&format!("{order}{code}")).filter(|_| plain)
}

fn write_type(writer: &mut PickleWriter, dtype: NumpyType) {
    writer.call("numpy", "dtype", 3, |writer| {
        writer.str(&format!("{}{}", dtype.kind, dtype.width));
        writer.bool(false);
        writer.bool(true);
    });
    let (item_bytes, align_bytes, flags) = match dtype.kind {
        'U' => (dtype.item_bytes as i64, 4, 8),
        'S' => (dtype.item_bytes as i64, 1, 0),
        _ => (-1, -1, 0),
    };
    writer.build(|writer| {
        writer.tuple(8, |writer| {
            writer.int(3);
            writer.str(&dtype.order.to_string());
            (0..3).for_each(|_| writer.none());
            [item_bytes, align_bytes, flags].into_iter().for_each(|field| writer.int(field));
        });
    });
}

/// Decodes a scalar or an array; `None` for what is neither, or whose type has no plain bytes. Makes nothing larger
/// than the bytes in the pickle.
pub(super) fn read(pickle: &Pickle<'_>, object: &Object<'_>) -> Option<Value> {
    let (module, name) = pickle.global(object.callee)?;
    let args = pickle.tuple(object.args)?;
    let module = module.strip_prefix("numpy._core.").or_else(|| module.strip_prefix("numpy.core."))?;
    match (module, name, args) {
        ("multiarray", "scalar", [dtype, bytes]) => {
            let dtype = read_type(pickle, *dtype)?;
            let bytes = bytes_of(pickle, *bytes)?.into_owned();
            (bytes.len() as u64 == dtype.item_bytes)
                .then(|| Value::NumpyScalar { dtype: dtype.to_string(), bytes })
        }
        ("multiarray", "_reconstruct", [class, ..])
            if pickle.global(*class) == Some(("numpy", "ndarray")) =>
        {
            let [_version, shape, dtype, is_fortran, bytes] = pickle.tuple(object.state?)? else {
                return None;
            };
            let column_major = pickle.view(*is_fortran) == View::Bool(true);
            array(pickle, *shape, *dtype, column_major, *bytes)
        }
        ("numeric", "_frombuffer", [bytes, dtype, shape, order]) => {
            array(pickle, *shape, *dtype, pickle.str(*order)? == "F", *bytes)
        }
        _ => None,
    }
}

fn array(
    pickle: &Pickle<'_>,
    shape: NodeId,
    dtype: NodeId,
    column_major: bool,
    bytes: NodeId,
) -> Option<Value> {
    let dtype = read_type(pickle, dtype)?;
    let shape = pickle.shape(shape)?;
    let mut bytes = bytes_of(pickle, bytes)?.into_owned();
    let expected = shape.iter().try_fold(dtype.item_bytes, |product, &n| product.checked_mul(n))?;
    if expected != bytes.len() as u64 {
        return None;
    }
    if column_major && !bytes.is_empty() {
        let reversed: Vec<u64> = shape.iter().rev().copied().collect();
        let source_strides: Vec<u64> = row_major(&reversed).into_iter().rev().collect();
        let mut ordered = vec![0; bytes.len()];
        let item_bytes = dtype.item_bytes as usize;
        copy_box(&bytes, &source_strides, &mut ordered, &row_major(&shape), &shape, item_bytes);
        bytes = ordered;
    }
    Some(Value::NumpyArray { dtype: dtype.to_string(), shape, bytes })
}

/// Writes a scalar, or an array when there is a shape. Returns `false`, having written nothing, for a type that is not
/// one of those that are read.
pub(super) fn write(writer: &mut PickleWriter, dtype: &str, shape: Option<&[u64]>, bytes: &[u8]) -> bool {
    let Some(dtype) = NumpyType::parse(dtype) else { return false };
    match shape {
        None => writer.call("numpy._core.multiarray", "scalar", 2, |writer| {
            write_type(writer, dtype);
            writer.bytes(bytes);
        }),
        Some(shape) => {
            writer.call("numpy._core.multiarray", "_reconstruct", 3, |writer| {
                writer.global("numpy", "ndarray");
                writer.int_tuple(&[0]);
                writer.bytes(b"b");
            });
            writer.build(|writer| {
                writer.tuple(5, |writer| {
                    writer.int(1);
                    writer.int_tuple(shape);
                    write_type(writer, dtype);
                    writer.bool(false);
                    writer.bytes(bytes);
                });
            });
        }
    }
    true
}
