//! Reads the directory of a zip archive, as `torch.save` writes it: finds stored records, decompresses nothing.
//!
//! ```text
//! local header (30) + name + extra + data [+ data descriptor (16 or 24)]     once per record
//! central header (46) + name + extra + comment                               once per record
//! [zip64 end record (56) + zip64 locator (20)]                               always in torch's archives
//! end record (22) + comment
//! ```
//!
//! All integers are little-endian. Positions are counted from the start of the archive, which may lie anywhere in an
//! object. The directory alone is read to open an archive; a record's data lies behind its local header, whose length
//! is known only once it is read.
//!
//! Source: PKWARE APPNOTE 6.3.10, `caffe2/serialize/inline_container.cc` and `third_party/miniz` of PyTorch 2.11.

use super::item::Item;
use crate::error::{Error, Result};
use crc_fast::CrcAlgorithm::Crc32IsoHdlc;
use indexmap::IndexMap;

/// The largest directory: some three million records.
const DIRECTORY_BYTES_MAX: u64 = 256 << 20;

pub(super) const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
pub(super) const DESCRIPTOR_SIGNATURE: u32 = 0x0807_4b50;
pub(super) const CENTRAL_SIGNATURE: u32 = 0x0201_4b50;
pub(super) const END64_SIGNATURE: u32 = 0x0606_4b50;
pub(super) const LOCATOR_SIGNATURE: u32 = 0x0706_4b50;
pub(super) const END_SIGNATURE: u32 = 0x0605_4b50;
pub(super) const LOCAL_BYTES: u64 = 30;
pub(super) const CENTRAL_BYTES: u64 = 46;
pub(super) const END64_BYTES: u64 = 56;
pub(super) const LOCATOR_BYTES: u64 = 20;
pub(super) const END_BYTES: u64 = 22;
/// Id of the extra field with 64-bit sizes and offsets.
pub(super) const ZIP64_EXTRA: u16 = 1;
const COMMENT_BYTES_MAX: u64 = u16::MAX as u64;
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;

/// One record of an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Position of its local header in the archive.
    pub header_offset: u64,
    /// Bytes of its data.
    pub byte_len: u64,
    /// Bytes from its local header to what follows it: the next record's header, or the directory.
    pub extent_len: u64,
    /// CRC-32 of its data as recorded; 0 where the producer left it out.
    pub crc32: u32,
    /// Compression method: 0 for stored, the only one whose data can be read.
    pub method: u16,
    /// What its flags say: only the encryption bits matter.
    flags: u16,
}

/// The records of an archive.
#[derive(Clone, Debug)]
pub struct ZipIndex {
    /// The folder that all records are in, by its name in the archive.
    pub prefix: String,
    /// Records by their names below the prefix, in the directory's order.
    pub records: IndexMap<String, Record>,
}

impl ZipIndex {
    /// Reads the directory of the archive that fills `item`.
    ///
    /// Errors: [`Error::Malformed`] where it is no zip archive, is split or encrypted, has records that overlap, leave
    /// the archive, share a name, or are not all in one folder.
    pub fn read(item: &mut Item<'_>) -> Result<ZipIndex> {
        let end = EndRecord::find(item)?;
        if end.directory_len > DIRECTORY_BYTES_MAX {
            return Err(Error::OverLimit {
                object: item.object().to_owned(),
                what: "the length of its zip directory",
                found: end.directory_len,
                limit: DIRECTORY_BYTES_MAX,
            });
        }
        let directory = item.read(end.directory_offset, end.directory_len)?;
        parse_directory(&directory, &end).map_err(|why| malformed(item, why))
    }

    /// Finds a record by its name below the prefix.
    pub fn find(&self, item: &Item<'_>, name: &str) -> Result<&Record> {
        self.records
            .get(name)
            .ok_or_else(|| malformed(item, format!("it has no record `{}/{name}`", self.prefix)))
    }

    /// Position of a record's data in the archive. Reads its local header.
    pub fn data_offset(&self, item: &mut Item<'_>, name: &str) -> Result<u64> {
        let record = self.find(item, name)?;
        let full_name = format!("{}/{name}", self.prefix);
        let header = item.read(record.header_offset, LOCAL_BYTES + full_name.len() as u64)?;
        local_data_offset(&header, record, &full_name)
            .map_err(|why| malformed(item, format!("record `{full_name}`: {why}")))
    }

    /// Reads the whole data of a record of at most `byte_len_max` bytes.
    ///
    /// Errors: [`Error::Damaged`] where it does not have the checksum that is recorded; [`Error::OverLimit`].
    pub fn read_record(&self, item: &mut Item<'_>, name: &str, byte_len_max: u64) -> Result<Vec<u8>> {
        let byte_len = self.find(item, name)?.byte_len;
        if byte_len > byte_len_max {
            return Err(Error::OverLimit {
                object: format!("{}, record `{}/{name}`", item.object(), self.prefix),
                what: "its length",
                found: byte_len,
                limit: byte_len_max,
            });
        }
        let offset = self.data_offset(item, name)?;
        let data = item.read(offset, byte_len)?;
        let (found, expected) = (crc_fast::checksum(Crc32IsoHdlc, &data) as u32, self.records[name].crc32);
        // A fuzzer cannot guess checksums, and would see nothing behind them.
        if found == expected || expected == 0 || cfg!(fuzzing) {
            return Ok(data);
        }
        Err(Error::Damaged {
            object: item.object().to_owned(),
            from: item.byte_offset() + offset,
            until: item.byte_offset() + offset + byte_len,
            found: format!("CRC-32 {found:08x}"),
            expected: format!("{expected:08x}"),
            fqn_note: format!(", record `{}/{name}`", self.prefix),
        })
    }
}

fn malformed(item: &Item<'_>, why: impl Into<String>) -> Error {
    Error::malformed(item.object(), "zip archive", why)
}

/// Reads integers at fixed positions of a header whose length is checked already.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap_or_default())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap_or_default())
    }
}

/// Where the directory is.
struct EndRecord {
    directory_offset: u64,
    directory_len: u64,
    count: u64,
}

impl EndRecord {
    fn find(item: &mut Item<'_>) -> Result<EndRecord> {
        let end_at = find_end(item)?;
        let end = item.read(end_at, END_BYTES)?;
        let end = Fields(&end);
        let mut found = EndRecord {
            directory_offset: end.u32(16).into(),
            directory_len: end.u32(12).into(),
            count: end.u16(10).into(),
        };
        let mut split = end.u16(4) != 0 || end.u16(6) != 0 || end.u16(8) != end.u16(10);
        let mut limit = end_at;
        let saturated = found.directory_offset == u64::from(u32::MAX)
            || found.directory_len == u64::from(u32::MAX)
            || found.count == u64::from(u16::MAX);
        // Where there is a zip64 record, it rules, as in miniz and in Python's zipfile.
        match find_end64(item, end_at)? {
            Some(end64_at) => {
                let end64 = item.read(end64_at, END64_BYTES)?;
                let end64 = Fields(&end64);
                if end64.u32(0) != END64_SIGNATURE {
                    return Err(malformed(item, "its zip64 end record lacks the signature 504b0606"));
                }
                split = end64.u32(16) != 0 || end64.u32(20) != 0 || end64.u64(24) != end64.u64(32);
                found = EndRecord {
                    directory_offset: end64.u64(48),
                    directory_len: end64.u64(40),
                    count: end64.u64(32),
                };
                limit = end64_at;
            }
            None if saturated => {
                return Err(malformed(item, "its end record needs a zip64 record, but has none"));
            }
            None => {}
        }
        if split {
            return Err(malformed(item, "it is one part of a split archive"));
        }
        if found.directory_offset.checked_add(found.directory_len).is_none_or(|end| end > limit) {
            let why = format!(
                "its directory ({} bytes at {}) runs into its end record at {limit}",
                found.directory_len, found.directory_offset
            );
            return Err(malformed(item, why));
        }
        Ok(found)
    }
}

/// Position of the end record: the last signature whose comment reaches exactly to the archive's end.
fn find_end(item: &mut Item<'_>) -> Result<u64> {
    let byte_len = item.byte_len();
    // Torch writes no comment, so the first and smaller look is almost always enough.
    for tail_len in [Item::WINDOW_BYTES, END_BYTES + COMMENT_BYTES_MAX] {
        let tail_len = tail_len.min(byte_len);
        let tail = item.read(byte_len - tail_len, tail_len)?;
        let last = tail.len().checked_sub(END_BYTES as usize);
        for at in last.into_iter().flat_map(|last| (0..=last).rev()) {
            let end = Fields(&tail[at..]);
            if end.u32(0) == END_SIGNATURE && at + END_BYTES as usize + usize::from(end.u16(20)) == tail.len()
            {
                return Ok(byte_len - tail_len + at as u64);
            }
        }
    }
    Err(malformed(item, "it has no end record; the archive is truncated or something else"))
}

/// Position of the zip64 end record, where a locator before the end record gives it.
fn find_end64(item: &mut Item<'_>, end_at: u64) -> Result<Option<u64>> {
    let Some(locator_at) = end_at.checked_sub(LOCATOR_BYTES) else { return Ok(None) };
    let locator = item.read(locator_at, LOCATOR_BYTES)?;
    let locator = Fields(&locator);
    if locator.u32(0) != LOCATOR_SIGNATURE {
        return Ok(None);
    }
    let end64_at = locator.u64(8);
    if end64_at.checked_add(END64_BYTES).is_none_or(|end| end > locator_at) {
        let why =
            format!("its zip64 end record is said to be at {end64_at}, behind the locator at {locator_at}");
        return Err(malformed(item, why));
    }
    Ok(Some(end64_at))
}

fn parse_directory(directory: &[u8], end: &EndRecord) -> Result<ZipIndex, String> {
    if end.count.saturating_mul(CENTRAL_BYTES) > directory.len() as u64 {
        return Err(format!("its directory of {} bytes cannot hold {} records", directory.len(), end.count));
    }
    let mut prefix = None;
    let mut records = IndexMap::with_capacity(end.count as usize);
    let mut rest = directory;
    for index in 0..end.count {
        let (full_name, record) =
            take_entry(&mut rest).map_err(|why| format!("entry {index} of its directory: {why}"))?;
        let (folder, name) = full_name.split_once('/').ok_or_else(|| {
            format!("record `{full_name}` is in no folder; this is not an archive of torch.save")
        })?;
        if *prefix.get_or_insert_with(|| folder.to_owned()) != folder {
            return Err(format!("record `{full_name}` is not in the folder of the first record"));
        }
        if records.insert(name.to_owned(), record).is_some() {
            return Err(format!("two records have the name `{full_name}`"));
        }
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes follow the last entry of its directory", rest.len()));
    }
    let prefix = prefix.ok_or("it holds no records")?;
    set_extents(&prefix, &mut records, end.directory_offset)?;
    Ok(ZipIndex { prefix, records })
}

/// Takes one entry off the front of the directory: the record's full name, and the record without its extent.
fn take_entry(rest: &mut &[u8]) -> Result<(String, Record), String> {
    let (fixed, tail) = rest.split_at_checked(CENTRAL_BYTES as usize).ok_or("it is truncated")?;
    let fixed = Fields(fixed);
    if fixed.u32(0) != CENTRAL_SIGNATURE {
        return Err(format!("it starts with {:08x}, not the signature 504b0102", fixed.u32(0).swap_bytes()));
    }
    let (name, tail) = tail.split_at_checked(fixed.u16(28).into()).ok_or("its name is truncated")?;
    let (extra, tail) = tail.split_at_checked(fixed.u16(30).into()).ok_or("its extra field is truncated")?;
    let (_, tail) = tail.split_at_checked(fixed.u16(32).into()).ok_or("its comment is truncated")?;
    *rest = tail;
    let name = std::str::from_utf8(name).map_err(|_| "its name is not UTF-8")?;
    let mut wide = zip64_fields(extra)?;
    let mut widen = |narrow: u32| match narrow {
        u32::MAX => wide.next().ok_or("a 64-bit field is missing"),
        narrow => Ok(u64::from(narrow)),
    };
    // The order of the 64-bit fields: size, stored size, header offset.
    let (byte_len, stored_len, header_offset) =
        (widen(fixed.u32(24))?, widen(fixed.u32(20))?, widen(fixed.u32(42))?);
    let (flags, method) = (fixed.u16(8), fixed.u16(10));
    if fixed.u16(34) != 0 {
        return Err(format!("`{name}` is in another part of a split archive"));
    }
    if method == 0 && byte_len != stored_len {
        return Err(format!("`{name}` is stored, but takes {stored_len} bytes for {byte_len}"));
    }
    // `extent_len` holds the stored size until all records are known.
    let record =
        Record { header_offset, byte_len, extent_len: stored_len, crc32: fixed.u32(16), method, flags };
    Ok((name.to_owned(), record))
}

/// The 64-bit values of the zip64 extra field, if there is one.
fn zip64_fields(mut extra: &[u8]) -> Result<impl Iterator<Item = u64>, String> {
    let mut found: &[u8] = &[];
    // What is shorter than a field's head is padding, as some tools leave it.
    while let Some((head, tail)) = extra.split_at_checked(4) {
        let head = Fields(head);
        let (body, tail) = tail.split_at_checked(head.u16(2).into()).ok_or("its extra field is truncated")?;
        if head.u16(0) == ZIP64_EXTRA {
            found = body;
        }
        extra = tail;
    }
    Ok(found.as_chunks::<8>().0.iter().map(|wide| u64::from_le_bytes(*wide)))
}

/// Computes each record's extent and checks that no two overlap and that none runs into the directory.
fn set_extents(
    prefix: &str,
    records: &mut IndexMap<String, Record>,
    directory_offset: u64,
) -> Result<(), String> {
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|&index| records[index].header_offset);
    let mut next = directory_offset;
    for index in order.into_iter().rev() {
        let (name, record) = (records.keys()[index].len() as u64, &mut records[index]);
        let header_len = LOCAL_BYTES + prefix.len() as u64 + 1 + name;
        let least_end = header_len
            .checked_add(record.extent_len)
            .and_then(|least_len| record.header_offset.checked_add(least_len));
        if least_end.is_none_or(|end| end > next) {
            return Err(format!(
                "record `{prefix}/{}` ({} bytes at {}) runs into what starts at {next}",
                records.keys()[index],
                records[index].extent_len,
                records[index].header_offset,
            ));
        }
        record.extent_len = next - record.header_offset;
        next = record.header_offset;
    }
    Ok(())
}

/// Position of the data, from the local header and the name behind it.
fn local_data_offset(header: &[u8], record: &Record, full_name: &str) -> Result<u64, String> {
    let (fixed, name) = header.split_at(LOCAL_BYTES as usize);
    let fixed = Fields(fixed);
    if fixed.u32(0) != LOCAL_SIGNATURE {
        return Err("its local header lacks the signature 504b0304".to_owned());
    }
    if usize::from(fixed.u16(26)) != full_name.len() || name != full_name.as_bytes() {
        return Err("its local header has another name".to_owned());
    }
    if (record.flags | fixed.u16(6)) & ENCRYPTED != 0 {
        return Err("it is encrypted, which is not supported".to_owned());
    }
    if record.method != 0 || fixed.u16(8) != 0 {
        return Err(format!(
            "it is compressed (method {}); torch.save stores records as they are, so load and save the file again",
            record.method.max(fixed.u16(8))
        ));
    }
    let header_len = LOCAL_BYTES + full_name.len() as u64 + u64::from(fixed.u16(28));
    if header_len.checked_add(record.byte_len).is_none_or(|end| end > record.extent_len) {
        return Err(format!(
            "its header of {header_len} bytes and data of {} bytes do not fit the {} bytes before what follows",
            record.byte_len, record.extent_len
        ));
    }
    Ok(record.header_offset + header_len)
}

#[cfg(test)]
#[path = "zip_read_tests.rs"]
mod tests;
