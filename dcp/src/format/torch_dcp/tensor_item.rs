//! Writes the item of one chunk of a tensor: a `torch.save` archive around the elements.

use crate::format::wire::pickle_write::PickleWriter;
use crate::format::wire::zip_write::{ALIGN_BYTES, Contents, NewRecord, ZipLayout};
use crate::layout::row_major;
use crate::model::DType;

/// The record of the elements, by its number in the archive.
const DATA_RECORD: usize = 2;
/// Elements of items this large start at a page of the file, so that they can be mapped and read directly.
const PAGE_ALIGNED_BYTES_MIN: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;

/// An item placed in its object.
#[derive(Debug)]
pub(super) struct TensorItem {
    /// First byte of the item in the object.
    pub(super) base: u64,
    pub(super) layout: ZipLayout,
}

impl TensorItem {
    /// Places the item of a chunk of this type and extent behind byte `cursor` of an object. `None` where positions
    /// leave 2^63.
    pub(super) fn place(dtype: DType, extent: &[u64], cursor: u64) -> Option<TensorItem> {
        let elements = if extent.contains(&0) { Some(0) } else { product(extent) };
        let byte_len = dtype.bytes(elements?)?;
        cursor.checked_add(byte_len).filter(|&end| end < 1 << 62)?;
        let contents = match byte_len {
            0 => Contents::Known(Vec::new()),
            byte_len => Contents::Later { byte_len },
        };
        // Without the record `.format_version` torch looks for the data in the headers, as it has to: see
        // `calculate_storage_offsets` in torch/serialization.py, 2.7 on.
        let layout = ZipLayout::new(
            "archive",
            vec![
                record("data.pkl", Contents::Known(pickle(dtype, extent, byte_len)?)),
                record("byteorder", Contents::Known(b"little".to_vec())),
                record("data/0", contents),
                record("version", Contents::Known(b"3\n".to_vec())),
            ],
        );
        let align_bytes = if byte_len >= PAGE_ALIGNED_BYTES_MIN { PAGE_BYTES } else { ALIGN_BYTES };
        // Between items there may be gaps: torch reads what the metadata says and nothing else.
        let data_offset = layout.data_offset(DATA_RECORD);
        let base = (cursor + data_offset).next_multiple_of(align_bytes) - data_offset;
        Some(TensorItem { base, layout })
    }

    /// First byte of the elements in the object.
    pub(super) fn data_start(&self) -> u64 {
        self.base + self.layout.data_offset(DATA_RECORD)
    }

    /// One past the item's last byte in the object.
    pub(super) fn end(&self) -> u64 {
        self.base + self.layout.byte_len()
    }
}

fn product(extent: &[u64]) -> Option<u64> {
    extent.iter().try_fold(1u64, |product, &size| product.checked_mul(size))
}

fn record(name: &str, contents: Contents) -> NewRecord {
    NewRecord { name: name.to_owned(), contents, align_bytes: ALIGN_BYTES }
}

/// The pickle of a dense row-major tensor of `byte_len` bytes in storage `0`; `None` for a type that torch lacks.
fn pickle(dtype: DType, extent: &[u64], byte_len: u64) -> Option<Vec<u8>> {
    let name = dtype.torch_name()?;
    let storage = storage_class(dtype);
    // Types that have no storage class of their own are in bytes, and named beside the storage.
    let (function, arg_count) = match storage {
        Some(_) => ("_rebuild_tensor_v2", 6),
        None => ("_rebuild_tensor_v3", 7),
    };
    let mut writer = PickleWriter::new();
    writer.call("torch._utils", function, arg_count, |writer| {
        writer.persistent(|writer| {
            writer.tuple(5, |writer| {
                writer.str("storage");
                match storage {
                    Some(class) => writer.global("torch", class),
                    None => writer.global("torch.storage", "UntypedStorage"),
                }
                writer.str("0");
                writer.str("cpu");
                writer.u64(if storage.is_some() { byte_len / dtype.block_bytes() } else { byte_len });
            });
        });
        writer.int(0);
        writer.int_tuple(extent);
        writer.int_tuple(&strides(extent));
        writer.bool(false);
        writer.call("collections", "OrderedDict", 0, |_| {});
        if storage.is_none() {
            writer.global("torch", name);
        }
    });
    Some(writer.finish())
}

/// Strides of a dense tensor; of one without elements, those that cannot overflow.
fn strides(extent: &[u64]) -> Vec<u64> {
    if extent.contains(&0) { vec![1; extent.len()] } else { row_major(extent) }
}

fn storage_class(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F32 => "FloatStorage",
        DType::F64 => "DoubleStorage",
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::I8 => "CharStorage",
        DType::U8 => "ByteStorage",
        DType::I16 => "ShortStorage",
        DType::I32 => "IntStorage",
        DType::I64 => "LongStorage",
        DType::Bool => "BoolStorage",
        DType::C64 => "ComplexFloatStorage",
        DType::C128 => "ComplexDoubleStorage",
        _ => return None,
    })
}
