//! Lays out a zip archive as `torch.save` does: positions and framing bytes, before any tensor is read.
//!
//! Every record is stored and starts on its alignment, counted from the archive's start:
//!
//! ```text
//! local header (30, sizes and CRC 0) + name + [zip64 field] + padding field "FB" + data + data descriptor
//! ...
//! central header (46) + name + [zip64 field]      once per record
//! zip64 end record (56) + zip64 locator (20) + end record (22)
//! ```
//!
//! CRCs stand in the data descriptors and in the directory, both behind the data they are of, so an archive can be
//! written front to back. An empty record has no descriptor. A descriptor has 64-bit sizes where the record's size or
//! position needs them.
//!
//! Source: `PyTorchStreamWriter` in `caffe2/serialize/inline_container.cc` and `third_party/miniz` of PyTorch 2.11.

use super::zip_read::*;
use crate::format::Patch;
use crc_fast::CrcAlgorithm::Crc32IsoHdlc;

/// What fits 32 bits in a zip archive; the largest value says that a 64-bit field follows.
const NARROW_MAX: u64 = u32::MAX as u64 - 1;
const PADDING_FIELD: &[u8; 2] = b"FB";
/// Bit 11: the name is UTF-8. Bit 3: a data descriptor follows the data.
const FLAGS_EMPTY: u16 = 1 << 11;
const FLAGS: u16 = FLAGS_EMPTY | 1 << 3;
/// Alignment of records whose alignment does not matter, as in torch.
pub const ALIGN_BYTES: u64 = 64;

/// What a record holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contents {
    /// These bytes.
    Known(Vec<u8>),
    /// Bytes that someone else writes, of which only the number is known.
    Later {
        /// How many.
        byte_len: u64,
    },
}

impl Contents {
    fn byte_len(&self) -> u64 {
        match self {
            Contents::Known(bytes) => bytes.len() as u64,
            Contents::Later { byte_len } => *byte_len,
        }
    }
}

/// A record to lay out.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Name below the archive's prefix.
    pub name: String,
    /// What it holds.
    pub contents: Contents,
    /// Where its data may start: a multiple of this, at most 32768.
    pub align_bytes: u64,
}

/// A record that was laid out.
#[derive(Clone, Debug)]
struct Placed {
    full_name: String,
    contents: Contents,
    header_offset: u64,
    data_offset: u64,
}

impl Placed {
    fn is_long(&self) -> bool {
        self.contents.byte_len() > NARROW_MAX
    }

    fn is_far(&self) -> bool {
        self.header_offset > NARROW_MAX
    }

    fn flags(&self) -> u16 {
        if self.contents.byte_len() == 0 { FLAGS_EMPTY } else { FLAGS }
    }

    /// The zip64 field, which the local and the central header share; empty where 32 bits do.
    fn zip64_field(&self) -> Vec<u8> {
        let mut wide = Vec::new();
        if self.is_long() {
            wide.extend([self.contents.byte_len(); 2]);
        }
        if self.is_far() {
            wide.push(self.header_offset);
        }
        let mut field = Vec::new();
        if !wide.is_empty() {
            field.extend(ZIP64_EXTRA.to_le_bytes());
            field.extend((wide.len() as u16 * 8).to_le_bytes());
            field.extend(wide.into_iter().flat_map(u64::to_le_bytes));
        }
        field
    }

    fn local_header(&self) -> Vec<u8> {
        let zip64 = self.zip64_field();
        let unpadded = LOCAL_BYTES + self.full_name.len() as u64 + zip64.len() as u64 + 4;
        let padding = self.data_offset - self.header_offset - unpadded;
        let mut header = Vec::with_capacity((self.data_offset - self.header_offset) as usize);
        header.extend(LOCAL_SIGNATURE.to_le_bytes());
        header.extend([0, 0]);
        header.extend(self.flags().to_le_bytes());
        // Method, time and date, CRC and both sizes.
        header.extend([0; 2 + 4 + 12]);
        header.extend((self.full_name.len() as u16).to_le_bytes());
        header.extend((zip64.len() as u16 + 4 + padding as u16).to_le_bytes());
        header.extend(self.full_name.as_bytes());
        header.extend(zip64);
        header.extend(PADDING_FIELD);
        header.extend((padding as u16).to_le_bytes());
        header.resize(header.len() + padding as usize, b'Z');
        header
    }

    fn descriptor_len(&self) -> u64 {
        match self.contents.byte_len() {
            0 => 0,
            _ if self.is_long() || self.is_far() => 24,
            _ => 16,
        }
    }

    fn descriptor(&self, crc32: u32) -> Vec<u8> {
        let byte_len = self.contents.byte_len();
        let mut descriptor = Vec::new();
        if byte_len > 0 {
            descriptor.extend(DESCRIPTOR_SIGNATURE.to_le_bytes());
            descriptor.extend(crc32.to_le_bytes());
            match self.descriptor_len() {
                24 => descriptor.extend([byte_len; 2].into_iter().flat_map(u64::to_le_bytes)),
                _ => descriptor.extend([byte_len as u32; 2].into_iter().flat_map(u32::to_le_bytes)),
            }
        }
        descriptor
    }

    fn central_header(&self, crc32: u32) -> Vec<u8> {
        let narrow = |wide: u64| u32::try_from(wide).unwrap_or(u32::MAX).to_le_bytes();
        let zip64 = self.zip64_field();
        let mut header = Vec::new();
        header.extend(CENTRAL_SIGNATURE.to_le_bytes());
        header.extend([0; 4]);
        header.extend(self.flags().to_le_bytes());
        header.extend([0; 2 + 4]);
        header.extend(crc32.to_le_bytes());
        header.extend(narrow(self.contents.byte_len()));
        header.extend(narrow(self.contents.byte_len()));
        header.extend((self.full_name.len() as u16).to_le_bytes());
        header.extend((zip64.len() as u16).to_le_bytes());
        // Comment, disk, internal and external attributes.
        header.extend([0; 2 + 2 + 2 + 4]);
        header.extend(narrow(self.header_offset));
        header.extend(self.full_name.as_bytes());
        header.extend(zip64);
        header
    }

    fn end(&self) -> u64 {
        self.data_offset + self.contents.byte_len() + self.descriptor_len()
    }
}

/// An archive laid out.
#[derive(Clone, Debug)]
pub struct ZipLayout {
    placed: Vec<Placed>,
    directory_offset: u64,
    byte_len: u64,
}

impl ZipLayout {
    /// Lays out records in this order, all in the folder `prefix`.
    ///
    /// Panics: for a name of 64 KiB or more, an alignment that is no power of two up to 32768, or records of together
    /// 2^64 bytes.
    pub fn new(prefix: &str, records: Vec<NewRecord>) -> Self {
        let mut placed: Vec<Placed> = Vec::with_capacity(records.len());
        for record in records {
            let align_bytes = record.align_bytes;
            assert!(align_bytes.is_power_of_two() && align_bytes <= 1 << 15, "alignment {align_bytes}");
            let full_name = format!("{prefix}/{}", record.name);
            assert!(full_name.len() < 1 << 16, "a record's name has {} bytes", full_name.len());
            let header_offset = placed.last().map_or(0, Placed::end);
            let mut next = Placed { full_name, contents: record.contents, header_offset, data_offset: 0 };
            let header_len = LOCAL_BYTES + next.full_name.len() as u64 + next.zip64_field().len() as u64 + 4;
            next.data_offset = (header_offset + header_len).next_multiple_of(align_bytes);
            placed.push(next);
        }
        let directory_offset = placed.last().map_or(0, Placed::end);
        let mut layout = ZipLayout { placed, directory_offset, byte_len: 0 };
        layout.byte_len = directory_offset + layout.directory(&mut std::iter::empty()).len() as u64;
        layout
    }

    /// Length of the archive.
    pub fn byte_len(&self) -> u64 {
        self.byte_len
    }

    /// Position of record `index`'s data in the archive.
    pub fn data_offset(&self, index: usize) -> u64 {
        self.placed[index].data_offset
    }

    /// Everything that depends on no CRC of [`Contents::Later`] data, for an archive that starts at `base` in its
    /// object: few and long patches, in order, that do not touch.
    pub fn fixed(&self, base: u64) -> Vec<Patch> {
        let mut patches = Vec::new();
        let mut all_known = true;
        for record in &self.placed {
            append(&mut patches, base + record.header_offset, record.local_header());
            if let Contents::Known(bytes) = &record.contents {
                append(&mut patches, base + record.data_offset, bytes.clone());
                append(
                    &mut patches,
                    base + record.data_offset + bytes.len() as u64,
                    record.descriptor(crc32(bytes)),
                );
            } else {
                all_known = false;
            }
        }
        if all_known {
            append(&mut patches, base + self.directory_offset, self.directory(&mut std::iter::empty()));
        }
        patches
    }

    /// What depends on the CRCs of [`Contents::Later`] data, given in the records' order: their descriptors and the
    /// directory. Nothing where there is no such record.
    ///
    /// Panics: when there are fewer CRCs than such records.
    pub fn late(&self, base: u64, later_crc32: &[u32]) -> Vec<Patch> {
        let mut patches = Vec::new();
        let mut crcs = later_crc32.iter().copied();
        for (index, record) in self.placed.iter().enumerate() {
            if matches!(record.contents, Contents::Later { .. }) {
                let crc32 = crcs.next().expect("one CRC per record that was written later");
                for Patch { byte_offset, bytes } in self.late_descriptor(base, index, crc32) {
                    append(&mut patches, byte_offset, bytes);
                }
            }
        }
        for Patch { byte_offset, bytes } in self.late_directory(base, later_crc32) {
            append(&mut patches, byte_offset, bytes);
        }
        patches
    }

    /// What depends on the CRC of record `index` alone; nothing where its contents were known or are empty.
    pub fn late_descriptor(&self, base: u64, index: usize, crc32: u32) -> Vec<Patch> {
        let record = &self.placed[index];
        let mut patches = Vec::new();
        if let Contents::Later { byte_len } = record.contents {
            append(&mut patches, base + record.data_offset + byte_len, record.descriptor(crc32));
        }
        patches
    }

    /// What depends on the CRCs of all [`Contents::Later`] data, given in the records' order. Nothing where there is no
    /// such record.
    pub fn late_directory(&self, base: u64, later_crc32: &[u32]) -> Vec<Patch> {
        let mut patches = Vec::new();
        if self.placed.iter().any(|record| matches!(record.contents, Contents::Later { .. })) {
            let directory = self.directory(&mut later_crc32.iter().copied());
            append(&mut patches, base + self.directory_offset, directory);
        }
        patches
    }

    /// The whole archive, where all of it is known.
    ///
    /// Panics: when a record's contents come later.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.fixed(0).as_slice() {
            [Patch { bytes, .. }] if bytes.len() as u64 == self.byte_len => bytes.clone(),
            _ => panic!("a record's contents are not known yet"),
        }
    }

    /// The directory and the end records. CRCs that run out, as they do when only the length matters, count as 0.
    fn directory(&self, later_crc32: &mut dyn Iterator<Item = u32>) -> Vec<u8> {
        let mut directory = Vec::new();
        for record in &self.placed {
            directory.extend(record.central_header(match &record.contents {
                Contents::Known(bytes) => crc32(bytes),
                Contents::Later { .. } => later_crc32.next().unwrap_or(0),
            }));
        }
        let (count, directory_len) = (self.placed.len() as u64, directory.len() as u64);
        let end64_offset = self.directory_offset + directory_len;
        directory.extend(END64_SIGNATURE.to_le_bytes());
        directory.extend((END64_BYTES - 12).to_le_bytes());
        // Made by and needed versions, as miniz writes them; both disk numbers.
        directory.extend([0x1e, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for wide in [count, count, directory_len, self.directory_offset] {
            directory.extend(wide.to_le_bytes());
        }
        directory.extend(LOCATOR_SIGNATURE.to_le_bytes());
        directory.extend([0; 4]);
        directory.extend(end64_offset.to_le_bytes());
        directory.extend(1u32.to_le_bytes());
        directory.extend(END_SIGNATURE.to_le_bytes());
        directory.extend([0; 4]);
        let narrow_count = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
        directory.extend([narrow_count, narrow_count].concat());
        for wide in [directory_len, self.directory_offset] {
            directory.extend(u32::try_from(wide).unwrap_or(u32::MAX).to_le_bytes());
        }
        directory.extend([0, 0]);
        directory
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    crc_fast::checksum(Crc32IsoHdlc, bytes) as u32
}

/// Adds bytes to the last patch where they follow it at once, else as a new one.
fn append(patches: &mut Vec<Patch>, byte_offset: u64, bytes: Vec<u8>) {
    match patches.last_mut() {
        _ if bytes.is_empty() => {}
        Some(last) if last.byte_offset + last.bytes.len() as u64 == byte_offset => last.bytes.extend(bytes),
        _ => patches.push(Patch { byte_offset, bytes }),
    }
}

#[cfg(test)]
#[path = "zip_write_tests.rs"]
mod tests;
