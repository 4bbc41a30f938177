use super::super::memory::Memory;
use super::super::zip_write::{ALIGN_BYTES, Contents, NewRecord, ZipLayout};
use super::*;

/// An archive of two records, as torch lays it out.
fn archive() -> Vec<u8> {
    let records = [("data.pkl", b"pickle".to_vec()), ("data/0", vec![7; 100])];
    let records = records.map(|(name, bytes)| NewRecord {
        name: name.into(),
        contents: Contents::Known(bytes),
        align_bytes: ALIGN_BYTES,
    });
    ZipLayout::new("archive", records.into()).to_bytes()
}

fn read_all(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let memory = Memory::new(bytes.to_vec());
    let mut item = Item::whole(&memory, "file.pt");
    let index = ZipIndex::read(&mut item)?;
    let names: Vec<_> = index.records.keys().cloned().collect();
    names.iter().map(|name| index.read_record(&mut item, name, 1 << 20)).collect()
}

/// A zip archive as other tools write it: sizes in the local header, no zip64 records, a comment, odd extra fields.
fn plain_archive(comment: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for (name, data) in [("a/data.pkl", &b"xyz"[..]), ("a/version", b"3\n")] {
        let at = bytes.len() as u32;
        let mut shared = vec![0, 0, 0, 0, 0, 0, 0, 0];
        shared.extend([0; 4]);
        shared.extend((data.len() as u32).to_le_bytes());
        shared.extend((data.len() as u32).to_le_bytes());
        shared.extend((name.len() as u16).to_le_bytes());
        bytes.extend(b"PK\x03\x04\x14\x00");
        bytes.extend(&shared);
        bytes.extend([7, 0]);
        bytes.extend(name.as_bytes());
        bytes.extend(b"UT\x03\x00abc");
        bytes.extend(data);
        directory.extend(b"PK\x01\x02\x14\x00\x14\x00");
        directory.extend(&shared);
        directory.extend([3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
        directory.extend(b"\0\0\0hi");
    }
    let at = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0\x02\0\x02\0");
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(at.to_le_bytes());
    bytes.extend((comment.len() as u16).to_le_bytes());
    bytes.extend(comment);
    bytes
}

#[test]
fn reads_archives_of_other_tools() {
    for comment in [&b""[..], b"PK\x05\x06 is in this comment, which goes on.....", &[b'c'; 65535]] {
        assert_eq!(read_all(&plain_archive(comment)).unwrap(), [&b"xyz"[..], b"3\n"]);
    }
}

#[test]
fn an_archive_inside_an_object_takes_two_requests() {
    let records =
        [("data.pkl", vec![1; 200]), ("byteorder", b"little".to_vec()), ("data/0", vec![7; 100_000])];
    let records = records.map(|(name, bytes)| NewRecord {
        name: name.into(),
        contents: Contents::Known(bytes),
        align_bytes: ALIGN_BYTES,
    });
    let archive = ZipLayout::new("archive", records.into()).to_bytes();
    let mut object = vec![0xaa; 333];
    object.extend(&archive);
    object.extend([0xbb; 444]);
    let memory = Memory::new(object);
    let mut item = Item::new(&memory, "__0_0.distcp", 333, archive.len() as u64).unwrap();
    let index = ZipIndex::read(&mut item).unwrap();
    assert_eq!(index.read_record(&mut item, "data.pkl", 200).unwrap(), [1; 200]);
    let data = index.data_offset(&mut item, "data/0").unwrap();
    assert_eq!(memory.reads(), 2);
    assert_eq!(item.read(data, 100_000).unwrap(), [7; 100_000]);
    assert!(matches!(index.read_record(&mut item, "data.pkl", 199), Err(Error::OverLimit { .. })));
    assert!(index.find(&item, "data/1").unwrap_err().to_string().contains("no record `archive/data/1`"));
}

mod attacks {
    use super::*;

    #[track_caller]
    fn refused(bytes: &[u8], message: &str) {
        match read_all(bytes) {
            Ok(records) => panic!("read {} records", records.len()),
            Err(error) => assert!(error.to_string().contains(message), "{error}"),
        }
    }

    /// Position of the `nth` occurrence of a signature.
    fn find(bytes: &[u8], signature: u32, nth: usize) -> usize {
        let signature = signature.to_le_bytes();
        let hits = bytes.windows(4).enumerate().filter(|(_, window)| *window == signature);
        hits.map(|(at, _)| at).nth(nth).unwrap()
    }

    /// The archive with bytes replaced at a position counted from a signature.
    fn patched(signature: u32, nth: usize, at: usize, with: &[u8]) -> Vec<u8> {
        let mut bytes = archive();
        let at = find(&bytes, signature, nth) + at;
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = archive();
        assert!(read_all(&bytes).is_ok());
        for end in 0..bytes.len() {
            assert!(read_all(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn every_bit_flip_in_the_framing_is_an_error_or_harmless() {
        let bytes = archive();
        let directory = find(&bytes, CENTRAL_SIGNATURE, 0);
        for at in (0..100).chain(directory..bytes.len()) {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                // Sizes may shrink and stay in bounds; nothing may panic or read outside.
                let _ = read_all(&flipped);
            }
        }
    }

    #[test]
    fn records_that_overlap() {
        // The second record is said to start where the first does.
        refused(&patched(CENTRAL_SIGNATURE, 1, 42, &[0; 4]), "runs into what starts at");
        // The first record is said to be longer than the space to the second.
        let sizes = [100u32.to_le_bytes(), 100u32.to_le_bytes()].concat();
        refused(&patched(CENTRAL_SIGNATURE, 0, 20, &sizes), "runs into what starts at");
        // A bomb: one record that spans terabytes.
        let sizes = [u32::MAX - 1; 2].map(u32::to_le_bytes).concat();
        refused(&patched(CENTRAL_SIGNATURE, 1, 20, &sizes), "runs into what starts at");
    }

    #[test]
    fn a_local_header_that_pushes_data_into_the_next_record() {
        refused(&patched(LOCAL_SIGNATURE, 0, 28, &[0xff, 0xff]), "do not fit");
        refused(&patched(LOCAL_SIGNATURE, 0, 28, &[0x50, 0]), "do not fit");
    }

    #[test]
    fn a_local_header_that_differs_from_the_directory() {
        refused(&patched(LOCAL_SIGNATURE, 0, 0, b"XX"), "lacks the signature 504b0304");
        refused(&patched(LOCAL_SIGNATURE, 0, 30, b"evil"), "another name");
        refused(&patched(LOCAL_SIGNATURE, 0, 26, &[3, 0]), "another name");
        refused(&patched(LOCAL_SIGNATURE, 0, 8, &[8, 0]), "compressed (method 8)");
        refused(&patched(LOCAL_SIGNATURE, 0, 6, &[1, 8]), "encrypted");
    }

    #[test]
    fn compressed_and_encrypted_records() {
        refused(&patched(CENTRAL_SIGNATURE, 0, 10, &[8, 0]), "compressed (method 8)");
        refused(&patched(CENTRAL_SIGNATURE, 0, 8, &[1, 8]), "encrypted");
        refused(&patched(CENTRAL_SIGNATURE, 0, 20, &[5]), "is stored, but takes 5 bytes for 6");
    }

    #[test]
    fn split_archives() {
        refused(&patched(CENTRAL_SIGNATURE, 0, 34, &[1]), "another part");
        // The classic end record counts where there is no zip64 record.
        let mut bytes = patched(LOCATOR_SIGNATURE, 0, 0, b"XX");
        let at = find(&bytes, END_SIGNATURE, 0);
        bytes[at + 4] = 1;
        refused(&bytes, "split archive");
        refused(&patched(END64_SIGNATURE, 0, 16, &[1]), "split archive");
        refused(&patched(END64_SIGNATURE, 0, 24, &[1]), "split archive");
    }

    #[test]
    fn end_records_that_lie() {
        refused(&patched(END64_SIGNATURE, 0, 32, &[0xff; 8]), "split archive");
        let counts = [u64::MAX; 2].map(u64::to_le_bytes).concat();
        refused(&patched(END64_SIGNATURE, 0, 24, &counts), "cannot hold");
        refused(&patched(END64_SIGNATURE, 0, 40, &[0xff; 8]), "runs into its end record");
        refused(&patched(END64_SIGNATURE, 0, 40, &(300u64 << 20).to_le_bytes()), "runs into its end record");
        refused(&patched(END64_SIGNATURE, 0, 48, &[0xff; 8]), "runs into its end record");
        refused(&patched(END64_SIGNATURE, 0, 0, b"XX"), "lacks the signature 504b0606");
        refused(&patched(LOCATOR_SIGNATURE, 0, 8, &[0xff; 8]), "behind the locator");
        // Without the locator the classic record rules, and must not need a zip64 record.
        let mut bytes = patched(LOCATOR_SIGNATURE, 0, 0, b"XX");
        assert!(read_all(&bytes).is_ok());
        let at = find(&bytes, END_SIGNATURE, 0);
        bytes[at + 16..at + 20].fill(0xff);
        refused(&bytes, "needs a zip64 record");
    }

    #[test]
    fn directories_that_lie() {
        refused(&patched(CENTRAL_SIGNATURE, 0, 0, b"XX"), "not the signature 504b0102");
        refused(&patched(CENTRAL_SIGNATURE, 1, 28, &[0xff, 0xff]), "its name is truncated");
        refused(&patched(CENTRAL_SIGNATURE, 1, 30, &[0xff, 0xff]), "its extra field is truncated");
        refused(&patched(CENTRAL_SIGNATURE, 1, 32, &[0xff, 0xff]), "its comment is truncated");
        refused(&patched(CENTRAL_SIGNATURE, 0, 46, &[0xff]), "not UTF-8");
        refused(&patched(CENTRAL_SIGNATURE, 0, 42, &[0xff; 4]), "a 64-bit field is missing");
        let counts = [1u64; 2].map(u64::to_le_bytes).concat();
        refused(&patched(END64_SIGNATURE, 0, 24, &counts), "follow the last entry");
        let counts = [0u64; 2].map(u64::to_le_bytes).concat();
        refused(&patched(END64_SIGNATURE, 0, 24, &counts), "follow the last entry");
    }

    #[test]
    fn names_that_are_not_of_one_folder_or_not_unique() {
        refused(&patched(CENTRAL_SIGNATURE, 1, 46, b"another"), "not in the folder of the first record");
        refused(&patched(CENTRAL_SIGNATURE, 0, 46 + 7, b"_"), "is in no folder");
        let records = ["data/0", "data/0"].map(|name| NewRecord {
            name: name.into(),
            contents: Contents::Known(vec![1]),
            align_bytes: ALIGN_BYTES,
        });
        refused(&ZipLayout::new("archive", records.into()).to_bytes(), "two records have the name");
        refused(&ZipLayout::new("archive", Vec::new()).to_bytes(), "no records");
    }

    #[test]
    fn a_path_out_of_the_folder_is_only_a_name() {
        // Record names are never used as paths: this one is found by its own name and by no other.
        let record = NewRecord {
            name: "../../etc/passwd".into(),
            contents: Contents::Known(vec![1]),
            align_bytes: ALIGN_BYTES,
        };
        let memory = Memory::new(ZipLayout::new("archive", vec![record]).to_bytes());
        let index = ZipIndex::read(&mut Item::whole(&memory, "file.pt")).unwrap();
        assert!(index.records.contains_key("../../etc/passwd"));
    }
}
