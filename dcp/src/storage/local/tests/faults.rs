//! A system call that fails, and a process that dies at one.

use super::*;
use rustix::io::Errno;

#[test]
fn a_death_at_any_call_leaves_the_whole_object_or_none() {
    let mut calls = Vec::new();
    loop {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path());
        let (result, hit) = fault::during(calls.len(), Fault::Death, || write_object(&store));
        let listed = store.list(&Key::root()).unwrap();
        assert_eq!(store.head(&key("a/b/object")).unwrap().is_some(), !listed.is_empty());
        match listed.as_slice() {
            [] => {
                assert!(result.is_err(), "{hit:?}: finished, but not there");
                write_object(&store).unwrap();
            }
            [object] => assert_eq!(object.key, key("a/b/object")),
            more => panic!("{hit:?}: {more:?}"),
        }
        assert!(store.get(&key("a/b/object"), BYTE_LEN as u64).unwrap() == bytes(), "{hit:?}");
        let files = entries(folder.path()).into_iter().filter(|path| folder.path().join(path).is_file());
        let leftovers: Vec<_> = files.filter(|path| path != Path::new("a/b/object")).collect();
        assert!(
            leftovers.len() <= 1 && leftovers.iter().all(|path| is_unfinished_path(path)),
            "{leftovers:?}"
        );
        match hit {
            Some(call) => calls.push(call),
            None => break,
        }
    }
    // How the bytes are written differs with the file system of the temporary folder.
    assert!(calls.starts_with(&[
        "mkdir",
        "fsync directory",
        "mkdir",
        "fsync directory",
        "create",
        "flock",
        "fallocate"
    ]));
    assert!(calls.contains(&"write"));
    assert!(calls.ends_with(&["fsync", "link", "unlink", "fsync directory"]), "{calls:?}");
}

#[test]
fn an_error_of_any_call_leaves_nothing_behind() {
    for call_index in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path());
        let fault = Fault::Error(Errno::IO.raw_os_error());
        let (result, hit) = fault::during(call_index, fault, || write_object(&store));
        let Some(call) = hit else { break };
        let found = entries(folder.path());
        let visible = found.iter().any(|path| path.ends_with("object"));
        match (call, &result) {
            // Cleaning up is not worth an error: the object is there.
            ("unlink", Ok(())) => assert!(visible),
            // Visible, but perhaps not durable: an error all the same.
            (_, Err(Error::Io { .. })) if visible => assert_eq!(call, "fsync directory"),
            (_, Err(Error::Io { .. })) => assert!(found.is_empty(), "{call}: {found:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_full_disk_is_no_space_left() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    let fault = Fault::Error(Errno::NOSPC.raw_os_error());
    let mut refusals = 0;
    for call_index in 0.. {
        let (result, hit) = fault::during(call_index, fault, || write_object(&store));
        match (hit, result) {
            (
                Some("fallocate" | "write" | "write direct"),
                Err(Error::NoSpace { path, available, needed }),
            ) => {
                assert_eq!(path, folder.path().join("a/b"));
                assert!(available > 0 && needed > 0);
                assert_eq!(entries(folder.path()), [""; 0].map(PathBuf::from));
                refusals += 1;
            }
            (Some("link"), _) | (None, _) => break,
            _ => {}
        }
    }
    assert!(refusals >= 3, "fallocate and two writes: {refusals}");
    let more_than_there_is = store.create(&key("huge"), Some(1 << 60)).map(drop);
    assert!(matches!(more_than_there_is, Err(Error::NoSpace { needed, .. }) if needed == 1 << 60));
    assert!(entries(folder.path()).is_empty());
}

/// File systems that lack a feature answer with these; the object is the same.
#[test]
fn does_without_what_a_file_system_lacks() {
    let (_, calls) = in_new_folder(write_object);
    for (call, errno) in [
        ("flock", Errno::NOLCK),
        ("flock", Errno::INTR),
        ("fallocate", Errno::OPNOTSUPP),
        ("fallocate", Errno::INTR),
        ("open direct", Errno::INVAL),
        ("write direct", Errno::INVAL),
        ("write direct", Errno::INTR),
        ("link", Errno::PERM),
        ("link", Errno::OPNOTSUPP),
        ("fsync directory", Errno::INVAL),
    ] {
        for (call_index, _) in calls.iter().enumerate().filter(|(_, made)| **made == call) {
            let folder = tempfile::tempdir().unwrap();
            let store = LocalStore::new(folder.path());
            let fault = Fault::Error(errno.raw_os_error());
            let (result, hit) = fault::during(call_index, fault, || write_object(&store));
            assert_eq!(hit, Some(call));
            result.unwrap();
            assert!(store.get(&key("a/b/object"), BYTE_LEN as u64).unwrap() == bytes(), "{call}");
            assert_eq!(entries(folder.path()), ["a", "a/b", "a/b/object"].map(PathBuf::from));
        }
    }
}

#[test]
fn publishing_without_links_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    let writer = store.create(&key("object"), Some(4)).unwrap();
    store.put(&key("object"), b"here").unwrap();
    writer.write_at(0, b"late").unwrap();
    // Calls of `finish`: fsync, then link.
    let (result, hit) = fault::during(1, Fault::Error(Errno::PERM.raw_os_error()), || writer.finish());
    assert_eq!(hit, Some("link"));
    assert!(matches!(result, Err(Error::AlreadyExists { .. })), "{result:?}");
    assert_eq!(store.get(&key("object"), 4).unwrap(), b"here");
    assert_eq!(entries(folder.path()), [PathBuf::from("object")]);
}

#[test]
fn a_failed_write_cannot_be_finished() {
    let folder = tempfile::tempdir().unwrap();
    let writer = LocalStore::new(folder.path()).create(&key("object"), Some(3)).unwrap();
    let fault = Fault::Error(Errno::IO.raw_os_error());
    let (result, _) = fault::during(0, fault, || writer.write_at(0, b"abc"));
    assert!(matches!(result, Err(Error::Io { action: "writing", .. })));
    assert!(matches!(writer.finish(), Err(Error::Interrupted)));
    assert!(entries(folder.path()).is_empty());
}

#[test]
fn a_kernel_copy_refused_leaves_the_copying_to_the_caller() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    store.put(&key("source"), b"0123456789").unwrap();
    let source = store.open(&key("source")).unwrap();
    for errno in [Errno::XDEV, Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS] {
        let writer = store.create(&key("target"), Some(10)).unwrap();
        let fault = Fault::Error(errno.raw_os_error());
        let (copied, _) = fault::during(0, fault, || writer.copy_from(source.file().unwrap(), 0, 0, 10));
        assert!(!copied.unwrap());
    }
    let writer = store.create(&key("target"), Some(20)).unwrap();
    let past_the_end = writer.copy_from(source.file().unwrap(), 5, 0, 10);
    assert!(
        matches!(past_the_end, Err(Error::Truncated { found: 10, expected: 15, .. })),
        "{past_the_end:?}"
    );
    assert!(matches!(writer.finish(), Err(Error::Interrupted)));
}

#[test]
fn continues_short_direct_writes() {
    for byte_len_max in [1 << 20, 64 << 10, 5000, 511, 0] {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path());
        fault::with_short_direct_writes(byte_len_max, || write_object(&store)).unwrap();
        let found = store.get(&key("a/b/object"), BYTE_LEN as u64).unwrap();
        assert!(found == bytes(), "direct writes of {byte_len_max} bytes");
    }
}
