//! A file of TensorBoard events: scalars by tag and step.
//!
//! ```text
//! file     record*
//! record   u64 LE   bytes of the event
//!          u32 LE   masked CRC-32C of these eight bytes
//!          event    protobuf
//!          u32 LE   masked CRC-32C of the event
//! event    1: wall time, double    2: step, varint    3: version, string, in the first event only    5: summary
//! summary  1: value*
//! value    1: tag, string    2: number, float32
//! ```
//!
//! A CRC is masked because one of data that holds CRCs says little. One event has all scalars of a step, so that a kill
//! leaves all of them or none: readers leave a cut record at the end alone.
//!
//! Source: tensorboard/compat/proto/{event,summary}.proto and summary/writer/record_writer.py, TensorBoard 2.21.

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const VERSION: &str = "brain.Event:2";
const KEY: &str = "enable_tensorboard";

/// A file of events that is being written.
#[derive(Debug)]
pub(super) struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Makes a new file in `folder`, which is made where it is missing, and says in it what it is.
    pub(super) fn create(folder: &Path, unix_seconds: f64) -> Result<Self> {
        fs::create_dir_all(folder).map_err(failed(folder, "making the folder"))?;
        let machine = rustix::system::uname().nodename().to_string_lossy().replace('/', "_");
        let stem = format!(
            "events.out.tfevents.{:010}.{machine}.{}",
            unix_seconds.max(0.0) as u64,
            std::process::id()
        );
        let mut count = 0;
        loop {
            let path = folder.join(format!("{stem}.{count}"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => return EventFile::begin(file, path, unix_seconds),
                // Of this process: readers take all files of a folder for one run.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => count += 1,
                Err(error) => return Err(failed(&path, "making it")(error)),
            }
        }
    }

    fn begin(file: File, path: PathBuf, unix_seconds: f64) -> Result<Self> {
        let mut events = EventFile { file, path };
        events.append(&version_event(unix_seconds))?;
        Ok(events)
    }

    /// Writes numbers under their tags.
    pub(super) fn scalars(
        &mut self,
        unix_seconds: f64,
        step: u64,
        scalars: &[(&'static str, f64)],
    ) -> Result<()> {
        self.append(&scalars_event(unix_seconds, step, scalars))
    }

    /// Waits until what was written is on the disk.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(failed(&self.path, "waiting for the disk"))
    }

    /// One call of the system per record: nothing is kept back.
    fn append(&mut self, event: &[u8]) -> Result<()> {
        self.file.write_all(&framed(event)).map_err(failed(&self.path, "writing"))
    }
}

fn failed(file: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let file = file.to_owned();
    move |source| Error::Metrics { file, action, key: KEY, source }
}

fn framed(event: &[u8]) -> Vec<u8> {
    let byte_len = (event.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(event.len() + 16);
    record.extend(byte_len);
    record.extend(masked_crc(&byte_len).to_le_bytes());
    record.extend(event);
    record.extend(masked_crc(event).to_le_bytes());
    record
}

fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn version_event(unix_seconds: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, unix_seconds);
    text(&mut event, 3, VERSION.as_bytes());
    event
}

fn scalars_event(unix_seconds: f64, step: u64, scalars: &[(&'static str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, number) in scalars {
        let mut value = Vec::new();
        text(&mut value, 1, tag.as_bytes());
        // Written even where it is zero: a value without a number is none.
        key(&mut value, 2, FOUR_BYTES);
        value.extend((*number as f32).to_le_bytes());
        text(&mut summary, 1, &value);
    }
    let mut event = Vec::new();
    double(&mut event, 1, unix_seconds);
    if step != 0 {
        key(&mut event, 2, VARINT);
        varint(&mut event, step);
    }
    text(&mut event, 5, &summary);
    event
}

// Wire types of protobuf.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH: u64 = 2;
const FOUR_BYTES: u64 = 5;

fn key(message: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(message, field << 3 | wire_type);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn double(message: &mut Vec<u8>, field: u64, value: f64) {
    key(message, field, EIGHT_BYTES);
    message.extend(value.to_le_bytes());
}

/// A string or a message.
fn text(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(message, field, LENGTH);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// What a file says, read by other means than it is written with.
#[cfg(test)]
pub(super) mod reading {
    /// One event.
    #[derive(Debug, PartialEq, Default)]
    pub(in crate::metrics) struct Event {
        pub(in crate::metrics) unix_seconds: f64,
        pub(in crate::metrics) step: u64,
        pub(in crate::metrics) version: Option<String>,
        pub(in crate::metrics) scalars: Vec<(String, f32)>,
    }

    /// All whole records; a CRC that does not fit is a panic. A cut one at the end is left alone, as by TensorBoard.
    pub(in crate::metrics) fn events(mut bytes: &[u8]) -> Vec<Event> {
        let mut found = Vec::new();
        while bytes.len() >= 12 {
            let byte_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(u32_at(bytes, 8), masked(&bytes[..8]), "CRC of a length");
            if bytes.len() < 16 + byte_len {
                break;
            }
            let event = &bytes[12..12 + byte_len];
            assert_eq!(u32_at(bytes, 12 + byte_len), masked(event), "CRC of an event");
            found.push(read(event));
            bytes = &bytes[16 + byte_len..];
        }
        found
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// The definition, bit by bit.
    fn masked(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        // Fifteen bits to the right, around.
        let crc = u64::from(!crc);
        ((crc >> 15 | crc << 17) as u32).wrapping_add(0xa282_ead8)
    }

    /// A field: its number, and its bytes, or its value where it is a varint.
    fn field<'a>(message: &mut &'a [u8]) -> (u64, &'a [u8], u64) {
        let key = number(message);
        let byte_len = match key & 7 {
            0 => return (key >> 3, &[], number(message)),
            1 => 8,
            2 => number(message) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (bytes, rest) = message.split_at(byte_len);
        *message = rest;
        (key >> 3, bytes, 0)
    }

    fn number(message: &mut &[u8]) -> u64 {
        let digits = message.iter().take_while(|byte| **byte >= 0x80).count() + 1;
        let (bytes, rest) = message.split_at(digits);
        *message = rest;
        bytes.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
    }

    fn read(mut message: &[u8]) -> Event {
        let mut event = Event::default();
        while !message.is_empty() {
            match field(&mut message) {
                (1, bytes, _) => event.unix_seconds = f64::from_le_bytes(bytes.try_into().unwrap()),
                (2, _, step) => event.step = step,
                (3, bytes, _) => event.version = Some(String::from_utf8(bytes.to_vec()).unwrap()),
                (5, mut summary, _) => {
                    while !summary.is_empty() {
                        let (1, value, _) = field(&mut summary) else { panic!("no value") };
                        event.scalars.push(scalar(value));
                    }
                }
                other => panic!("unknown field {other:?}"),
            }
        }
        event
    }

    fn scalar(mut value: &[u8]) -> (String, f32) {
        let (1, tag, _) = field(&mut value) else { panic!("no tag") };
        let (2, number, _) = field(&mut value) else { panic!("no number") };
        assert!(value.is_empty(), "more than a tag and a number");
        (String::from_utf8(tag.to_vec()).unwrap(), f32::from_le_bytes(number.try_into().unwrap()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes that TensorBoard 2.21's own classes (`Event`, `RecordWriter`) make of the same events.
    #[test]
    fn bytes_are_tensorboards() {
        let scalars = [("grad_norm", 1.25), ("lr", f64::NAN), ("mfu(%)", 0.0)];
        let mut file = framed(&version_event(1_764_064_800.125));
        file.extend(framed(&scalars_event(1_764_064_801.5, 300, &scalars)));
        assert_eq!(
            hex(&file),
            "1800000000000000a37f4b2209000008885f49da411a0d627261696e2e4576656e743a32bd0dbd2e\
             3a000000000000001295eae209000060885f49da4110ac022a2c0a100a09677261645f6e6f726d150000a03f\
             0a090a026c72150000c07f0a0d0a066d66752825291500000000\
             57d8980c"
        );
        assert_eq!(hex(&scalars_event(1.0, 0, &[("a", 0.0)])), "09000000000000f03f2a0a0a080a01611500000000");
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(&folder.path().join("new/folder"), 1_764_064_800.75).unwrap();
        // Tags and steps of one and of more bytes of length.
        let long: &'static str = "t".repeat(300).leak();
        let steps = [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), i64::MAX as u64];
        for step in steps {
            file.scalars(step as f64, step, &[("a", f64::MIN_POSITIVE), (long, -1e300), ("b", 0.1)]).unwrap();
        }
        let bytes = fs::read(&file.path).unwrap();
        let events = reading::events(&bytes);
        assert_eq!(events.len(), steps.len() + 1);
        assert_eq!((events[0].version.as_deref(), events[0].unix_seconds), (Some(VERSION), 1_764_064_800.75));
        for (event, step) in events[1..].iter().zip(steps) {
            let scalars =
                vec![("a".to_owned(), 0.0), (long.to_owned(), f32::NEG_INFINITY), ("b".to_owned(), 0.1)];
            let expected = reading::Event { unix_seconds: step as f64, step, version: None, scalars };
            assert_eq!(*event, expected);
        }
        // A kill at any byte loses the event that it cuts, and no other.
        let last = bytes.len() - framed(&scalars_event(0.0, u64::MAX >> 1, &[])).len();
        for byte_len in [last, bytes.len() - 1] {
            assert_eq!(reading::events(&bytes[..byte_len]).len(), steps.len());
        }
    }

    #[test]
    fn two_files_of_one_second() {
        let folder = tempfile::tempdir().unwrap();
        let files = [1.25, 1.75].map(|seconds| EventFile::create(folder.path(), seconds).unwrap().path);
        let names = files.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
        assert!(names[0].starts_with("events.out.tfevents.0000000001."), "{names:?}");
        assert!(names[0].ends_with(".0") && names[1].ends_with(".1"), "{names:?}");
    }

    #[test]
    fn a_file_where_a_folder_should_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tb");
        fs::write(&path, "").unwrap();
        let error = EventFile::create(&path, 0.0).unwrap_err().to_string();
        let expected = format!("{}: making the folder failed; metrics go there", path.display());
        assert!(error.starts_with(&expected) && error.ends_with("metrics.enable_tensorboard"), "{error}");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let full = Path::new("/dev/full");
        let file = OpenOptions::new().append(true).open(full).unwrap();
        let Err(Error::Metrics { file, action, source, .. }) = EventFile::begin(file, full.into(), 0.0)
        else {
            panic!("written")
        };
        assert_eq!((&*file, action, source.kind()), (full, "writing", ErrorKind::StorageFull));
    }
}
