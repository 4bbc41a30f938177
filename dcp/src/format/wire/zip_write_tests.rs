use super::super::item::Item;
use super::super::memory::Memory;
use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/torch-2.11/pt_files");

fn known(name: &str, bytes: &[u8]) -> NewRecord {
    NewRecord { name: name.into(), contents: Contents::Known(bytes.to_vec()), align_bytes: ALIGN_BYTES }
}

fn later(name: &str, byte_len: u64, align_bytes: u64) -> NewRecord {
    NewRecord { name: name.into(), contents: Contents::Later { byte_len }, align_bytes }
}

#[test]
fn torch_archives_are_rebuilt_byte_for_byte() {
    for file in ["objects.pt", "shared_views.pt", "llama_full.pt"] {
        let bytes = std::fs::read(format!("{FIXTURES}/{file}")).unwrap();
        let memory = Memory::new(bytes.clone());
        let mut item = Item::whole(&memory, file);
        let index = ZipIndex::read(&mut item).unwrap();
        let names: Vec<_> = index.records.keys().cloned().collect();
        let records =
            names.iter().map(|name| known(name, &index.read_record(&mut item, name, u64::MAX).unwrap()));
        let layout = ZipLayout::new(&index.prefix, records.collect());
        assert!(layout.to_bytes() == bytes, "{file}");
        for (at, name) in names.iter().enumerate() {
            assert_eq!(layout.data_offset(at), index.data_offset(&mut item, name).unwrap(), "{file} {name}");
        }
    }
}

#[test]
fn data_written_later_gives_the_same_archive() {
    let data: Vec<u8> = (0..5000u32).flat_map(u32::to_le_bytes).collect();
    let records = |contents: fn(&[u8]) -> Contents| {
        [("data.pkl", &b"pickle"[..]), ("data/0", &data), ("data/1", b""), ("data/2", &data[..7])].map(
            |(name, bytes)| NewRecord {
                name: name.into(),
                contents: if name == "data.pkl" { Contents::Known(bytes.to_vec()) } else { contents(bytes) },
                align_bytes: 4096,
            },
        )
    };
    let whole = ZipLayout::new("archive", records(|bytes| Contents::Known(bytes.to_vec())).into()).to_bytes();
    let layout =
        ZipLayout::new("archive", records(|bytes| Contents::Later { byte_len: bytes.len() as u64 }).into());
    let base = 640;
    let mut object = vec![0; (base + layout.byte_len()) as usize];
    let crcs = [crc32(&data), 0, crc32(&data[..7])];
    let mut patches = [layout.fixed(base), layout.late(base, &crcs)].concat();
    for (index, bytes) in [(1, &data[..]), (3, &data[..7])] {
        patches.push(Patch { byte_offset: base + layout.data_offset(index), bytes: bytes.to_vec() });
    }
    patches.sort_by_key(|patch| patch.byte_offset);
    let mut written = base;
    for patch in patches {
        assert_eq!(patch.byte_offset, written, "patches tile the archive");
        written += patch.bytes.len() as u64;
        object[patch.byte_offset as usize..written as usize].copy_from_slice(&patch.bytes);
    }
    assert_eq!(written, object.len() as u64);
    assert!(object[base as usize..] == whole);
    for index in 0..4 {
        assert_eq!(layout.data_offset(index) % 4096, 0);
    }
    // Data that comes last leaves one patch on either side of it.
    let layout = ZipLayout::new("archive", vec![known("data.pkl", b"x"), later("data/0", 9, 64)]);
    assert_eq!((layout.fixed(0).len(), layout.late(0, &[1]).len()), (1, 1));
}

/// An archive of which only some bytes are stored; the rest reads as zeros.
#[derive(Debug)]
struct Sparse {
    byte_len: u64,
    patches: Vec<Patch>,
}

impl crate::storage::ReadAt for Sparse {
    fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> crate::error::Result<()> {
        assert!(byte_offset + target.len() as u64 <= self.byte_len);
        target.fill(0);
        for patch in &self.patches {
            for (at, byte) in (patch.byte_offset..).zip(&patch.bytes) {
                let place = at.checked_sub(byte_offset).map(|place| place as usize);
                if let Some(target) = place.and_then(|place| target.get_mut(place)) {
                    *target = *byte;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn records_and_offsets_beyond_32_bits() {
    const GIB: u64 = 1 << 30;
    let sizes = [u64::from(u32::MAX) - 1, u64::from(u32::MAX), 5 * GIB, 12];
    let records = sizes.iter().enumerate().map(|(at, &byte_len)| later(&format!("data/{at}"), byte_len, 64));
    let layout = ZipLayout::new("big", records.collect());
    let crcs = [1, 2, 3, 4];
    let patches = [layout.fixed(0), layout.late(0, &crcs)].concat();
    let sparse = Sparse { byte_len: layout.byte_len(), patches };
    let mut item = Item::whole(&sparse, "big.pt");
    let index = ZipIndex::read(&mut item).unwrap();
    for (at, (name, record)) in index.records.clone().into_iter().enumerate() {
        assert_eq!((name, record.byte_len, record.crc32), (format!("data/{at}"), sizes[at], crcs[at]));
        assert_eq!(index.data_offset(&mut item, &format!("data/{at}")).unwrap(), layout.data_offset(at));
    }
    // Sizes of exactly 2^32-1 are 64-bit; one less is not.
    assert_eq!(layout.placed[0].zip64_field().len(), 0);
    assert_eq!(layout.placed[1].zip64_field().len(), 4 + 16 + 8);
    assert_eq!(layout.placed[3].zip64_field().len(), 4 + 8);
    assert_eq!(layout.placed.iter().map(Placed::descriptor_len).collect::<Vec<_>>(), [16, 24, 24, 24]);
}

#[test]
fn more_records_than_16_bits_count() {
    let records = (0..70_000).map(|at| known(&format!("data/{at}"), b"")).collect();
    let memory = Memory::new(ZipLayout::new("many", records).to_bytes());
    let index = ZipIndex::read(&mut Item::whole(&memory, "many.pt")).unwrap();
    assert_eq!(index.records.len(), 70_000);
    assert_eq!(index.records.get_index(69_999).unwrap().0, "data/69999");
}
