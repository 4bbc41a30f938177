//! Writes past the page cache, beside writes through it.

use super::*;

#[test]
fn goes_past_the_page_cache_where_that_pays() {
    let probe = tempfile::NamedTempFile::new().unwrap();
    let has_direct = syscalls::open_direct(probe.path()).unwrap().is_some();
    // The misalignment of the buffer, the offset and length of the piece, and the writes it takes.
    let mib = 1 << 20;
    for (shift, byte_offset, byte_len, writes) in [
        (0, 0, 2 * mib, &["write direct"][..]),
        (0, 0, 2 * mib + 1, &["write", "write direct"]),
        (0, 4095, 2 * mib, &["write", "write", "write direct"]),
        (0, 65535, 2 * mib + 1, &["write", "write direct"]),
        (1, 0, 2 * mib, &["write"]),
        (4095, 1, 2 * mib, &["write"]),
        (0, 0, mib - 1, &["write"]),
        (0, 1, mib, &["write"]),
    ] {
        let write = |store: &LocalStore| {
            let writer = store.create(&key("object"), Some(4 << 20)).unwrap();
            let mut buffer = AlignedBuf::default();
            let range = &buffer.lay_out([(byte_offset + shift, byte_len)].into_iter()).unwrap()[0];
            buffer.bytes_mut(range).fill(7);
            writer.write_at(byte_offset, buffer.bytes(range)).unwrap();
            writer.finish().unwrap();
            let mut expected = vec![0; 4 << 20];
            expected[byte_offset as usize..][..byte_len].fill(7);
            assert!(store.get(&key("object"), 4 << 20).unwrap() == expected);
        };
        let (_, calls) = in_new_folder(write);
        let made: Vec<_> = calls.into_iter().filter(|call| call.starts_with("write")).collect();
        assert_eq!(made, if has_direct { writes } else { &["write"] }, "{byte_len} bytes at {byte_offset}");
    }
    let (_, calls) = in_new_folder(|store| store.put(&key("small"), &[0; 4096]).unwrap());
    assert!(!calls.contains(&"open direct"), "{calls:?}");
    let (_, calls) = in_new_folder(|store| {
        write_object(&LocalStore::new(&store.root).without_direct_io()).unwrap();
    });
    assert!(!calls.iter().any(|call| call.ends_with("direct")), "{calls:?}");
}

/// Pieces of any size, direct, buffered and copied by the kernel, by four threads side by side: what the page cache
/// holds and what the disk holds are both what was written.
#[test]
fn direct_and_buffered_writes_mix() {
    const FILE_BYTES: usize = (24 << 20) + 777;
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    let random = |index: usize| (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let bytes: Vec<u8> = (0..FILE_BYTES).map(|index| random(index) as u8).collect();
    store.put(&key("source"), &bytes).unwrap();
    let source = store.open(&key("source")).unwrap();
    for (round, byte_len) in
        [Some(FILE_BYTES as u64), None, Some(FILE_BYTES as u64), None].into_iter().enumerate()
    {
        let target = key(&format!("target-{round}"));
        let writer = store.create(&target, byte_len).unwrap();
        let mut cuts: Vec<usize> =
            (0..60).map(|index| random(round * 100 + index) as usize % FILE_BYTES).collect();
        cuts.extend([0, FILE_BYTES]);
        cuts.sort_unstable();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (writer, cuts, bytes, source) = (&writer, &cuts, &bytes, &source);
                scope.spawn(move || {
                    let mut buffer = AlignedBuf::default();
                    for (index, cut) in cuts.windows(2).enumerate().skip(thread).step_by(4) {
                        let (start, piece) = (cut[0] as u64, &bytes[cut[0]..cut[1]]);
                        let file = source.file().unwrap();
                        if random(round + index) % 3 == 0
                            && writer.copy_from(file, start, start, piece.len() as u64).unwrap()
                        {
                            continue;
                        }
                        let shift = random(index) % 3;
                        let range = &buffer.lay_out([(start + shift, piece.len())].into_iter()).unwrap()[0];
                        buffer.bytes_mut(range).copy_from_slice(piece);
                        writer.write_at(start, buffer.bytes(range)).unwrap();
                    }
                });
            }
        });
        writer.finish().unwrap();
        assert!(store.get(&target, FILE_BYTES as u64).unwrap() == bytes, "round {round}: as cached");
        let object = store.open(&target).unwrap();
        rustix::fs::fadvise(object.file().unwrap(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert!(store.get(&target, FILE_BYTES as u64).unwrap() == bytes, "round {round}: as on disk");
    }
}
