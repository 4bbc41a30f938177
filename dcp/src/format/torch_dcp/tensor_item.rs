//! Writes the item of one chunk of a tensor: a `torch.save` archive around the elements.

use crate::format::wire::pickle_write::PickleWriter;
use crate::format::wire::tensor::write_tensor;
use crate::format::wire::zip_write::{ALIGN_BYTES, Contents, NewRecord, ZipLayout};
use crate::model::TensorSpec;

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
    /// leave 2^62, or where torch lacks the type.
    pub(super) fn place(chunk: &TensorSpec, cursor: u64) -> Option<TensorItem> {
        let byte_len = chunk.bytes()?;
        cursor.checked_add(byte_len).filter(|&end| end < 1 << 62)?;
        let contents = match byte_len {
            0 => Contents::Known(Vec::new()),
            byte_len => Contents::Later { byte_len },
        };
        let mut pickle = PickleWriter::new();
        write_tensor(&mut pickle, chunk, "0").ok()?;
        // Without the record `.format_version` torch looks for the data in the headers, as it has to: see
        // `calculate_storage_offsets` in torch/serialization.py, 2.7 on.
        let layout = ZipLayout::new(
            "archive",
            vec![
                record("data.pkl", Contents::Known(pickle.finish())),
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

fn record(name: &str, contents: Contents) -> NewRecord {
    NewRecord { name: name.to_owned(), contents, align_bytes: ALIGN_BYTES }
}
