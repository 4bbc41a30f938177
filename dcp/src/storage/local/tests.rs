mod direct;
mod faults;

use super::fault::{self, Fault};
use super::*;
use crate::storage::{AlignedBuf, WriterState, conformance};
use std::os::unix::fs::symlink;

/// Two direct writes' worth, and a last block that is not whole.
const BYTE_LEN: usize = (2 << 20) + 4099;

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// Every file and folder below a folder, by path from it.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(folder).unwrap().to_owned());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

fn is_unfinished_path(path: &Path) -> bool {
    is_unfinished(path.file_name().unwrap().to_str().unwrap())
}

fn bytes() -> Vec<u8> {
    (0..BYTE_LEN as u32).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

/// Writes the object `a/b/object` as the engine does: aligned, in two pieces cut at an odd place.
fn write_object(store: &LocalStore) -> Result<()> {
    let bytes = bytes();
    let writer = store.create(&key("a/b/object"), Some(BYTE_LEN as u64))?;
    let cut = 4097;
    writer.write_at(0, &bytes[..cut])?;
    let mut buffer = AlignedBuf::default();
    let range = &buffer.lay_out([(cut as u64, BYTE_LEN - cut)].into_iter()).unwrap()[0];
    buffer.bytes_mut(range).copy_from_slice(&bytes[cut..]);
    writer.write_at(cut as u64, buffer.bytes(range))?;
    writer.finish()
}

#[test]
fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance::all(&(Arc::new(LocalStore::new(folder.path())) as Arc<dyn Storage>));
}

#[test]
fn conforms_through_the_page_cache() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path().join("not/there/yet")).without_direct_io();
    conformance::all(&(Arc::new(store) as Arc<dyn Storage>));
}

/// What `body` returns and which calls it makes.
fn in_new_folder<T>(body: impl FnOnce(&LocalStore) -> T) -> (T, Vec<&'static str>) {
    let folder = tempfile::tempdir().unwrap();
    fault::record(|| body(&LocalStore::new(folder.path())))
}

#[test]
fn unfinished_names_are_recognised_and_are_no_keys() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    // A process that is killed runs no destructor.
    std::mem::forget(store.create(&key("object"), Some(3)).unwrap());
    let leftovers = entries(folder.path());
    let [leftover] = leftovers.as_slice() else { panic!("{leftovers:?}") };
    let name = leftover.to_str().unwrap();
    assert!(is_unfinished(name) && name.starts_with(".object."), "{name}");
    assert!(store.list(&Key::root()).unwrap().is_empty());
    assert_eq!(store.head(&key(name)).unwrap(), None);
    assert!(matches!(store.open(&key(name)), Err(Error::NotFound { .. })));
    assert!(matches!(store.create(&key(name), None), Err(Error::BadKey { .. })));
    for other in
        ["object", ".object.titan-tmp", ".metadata", "x.titan-tmp", ".a.0123.titan-tmp", ".titan-tmp"]
    {
        assert!(!is_unfinished(other), "{other}");
    }
}

#[test]
fn a_writer_that_is_gone_is_told_from_one_at_work() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    let writer = store.create(&key("run/step/object"), Some(100)).unwrap();
    // A process that was killed leaves the file without its lock.
    let dead = format!(".left.over.{}.titan-tmp", "0".repeat(32));
    std::fs::create_dir_all(folder.path().join("run/dead/deeper")).unwrap();
    std::fs::write(folder.path().join("run/dead/deeper").join(&dead), b"abc").unwrap();
    let found = store.unfinished(&key("run")).unwrap();
    let told: Vec<_> = found.iter().map(|found| (found.key.as_str(), found.byte_len, found.writer)).collect();
    assert_eq!(
        told,
        [
            ("run/dead/deeper/left.over", Some(3), WriterState::Dead),
            ("run/step/object", Some(100), WriterState::Alive)
        ]
    );
    assert!(matches!(store.discard(&found[1]), Err(Error::InUse { .. })));
    store.discard(&found[0]).unwrap();
    store.discard(&found[0]).unwrap();
    assert!(!folder.path().join("run/dead").exists());
    writer.finish().unwrap();
    assert_eq!(store.unfinished(&Key::root()).unwrap(), []);
    assert_eq!(store.list(&Key::root()).unwrap().len(), 1);
}

/// What is no unfinished name is never removed, whoever asks.
#[test]
fn nothing_but_leftovers_is_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    store.put(&key("object"), b"abc").unwrap();
    for id in ["object", "", "../object"] {
        let (key, writer) = (key("object"), WriterState::Dead);
        let forged = Unfinished { key, id: id.to_owned(), byte_len: None, modified: None, writer };
        assert!(matches!(store.discard(&forged), Err(Error::BadKey { .. })), "{id}");
    }
    assert_eq!(store.get(&key("object"), 3).unwrap(), b"abc");
}

/// Writers begin while another thread removes whatever has no lock: none of them loses its file.
#[test]
fn cleaning_up_does_not_harm_writers_that_begin() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for found in store.unfinished(&Key::root()).unwrap() {
                    if found.writer != WriterState::Alive {
                        let discarded = store.discard(&found);
                        assert!(matches!(discarded, Ok(()) | Err(Error::InUse { .. })), "{discarded:?}");
                    }
                }
            }
        });
        for index in 0..300 {
            store.put(&key(&format!("run/{index}")), b"abc").unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(store.list(&Key::root()).unwrap().len(), 300);
}

#[test]
fn follows_links_but_not_in_circles() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    store.put(&key("run/step/weights"), b"abc").unwrap();
    symlink("step/weights", folder.path().join("run/linked")).unwrap();
    symlink("step", folder.path().join("run/latest")).unwrap();
    symlink("..", folder.path().join("run/step/up")).unwrap();
    symlink("nowhere", folder.path().join("run/dangling")).unwrap();
    symlink("itself", folder.path().join("run/itself")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path().join("run/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let objects = store.list(&key("run")).unwrap();
    let listed: Vec<_> = objects.iter().map(|object| (object.key.as_str(), object.byte_len)).collect();
    assert_eq!(listed, [("run/latest/weights", 3), ("run/linked", 3), ("run/step/weights", 3)]);
    assert_eq!(store.list_prefixes(&key("run")).unwrap(), [key("run/latest"), key("run/step")]);
    for name in ["run/dangling", "run/itself", "run/fifo"] {
        assert_eq!(store.head(&key(name)).unwrap(), None, "{name}");
        assert!(matches!(store.open(&key(name)), Err(Error::NotFound { .. })), "{name}");
        assert!(matches!(store.create(&key(name), None), Err(Error::AlreadyExists { .. })), "{name}");
    }
}

#[test]
fn refuses_what_cannot_be_listed_in_full() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "x").unwrap();
    let error = store.list(&Key::root()).unwrap_err();
    assert!(error.to_string().contains("not UTF-8"), "{error}");
    assert!(matches!(error, Error::BadKey { .. }));

    let windows = tempfile::tempdir().unwrap();
    std::fs::write(windows.path().join("a\\b"), "x").unwrap();
    let error = LocalStore::new(windows.path()).list(&Key::root()).unwrap_err();
    assert!(matches!(&error, Error::BadKey { key, .. } if key == "a\\b"), "{error}");

    let deep = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(deep.path().join("d/".repeat(200))).unwrap();
    let error = LocalStore::new(deep.path()).list(&Key::root()).unwrap_err();
    assert!(matches!(error, Error::OverLimit { limit: 128, .. }), "{error}");
}

#[test]
fn a_file_is_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    store.put(&key("a"), b"x").unwrap();
    let error = store.create(&key("a/b/c"), None).map(drop).unwrap_err();
    assert!(matches!(&error, Error::AlreadyExists { object } if object.ends_with("/a")), "{error}");
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    assert!(matches!(store.create(&key("folder"), None), Err(Error::AlreadyExists { .. })));
}

#[test]
fn a_file_cut_after_opening_is_truncated() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    store.put(&key("object"), b"0123456789").unwrap();
    let object = store.open(&key("object")).unwrap();
    std::fs::File::options().write(true).open(folder.path().join("object")).unwrap().set_len(4).unwrap();
    let cut = object.read_at(2, &mut [0; 8]);
    assert!(matches!(cut, Err(Error::Truncated { found: 4, expected: 10, .. })), "{cut:?}");
}

#[test]
fn a_writer_that_gives_up_does_not_pull_the_folder_from_under_another() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..200 {
                    let writer = store.create(&key(&format!("a/b/{thread}-{round}")), Some(1)).unwrap();
                    if round % 10 == thread {
                        writer.write_at(0, b"x").unwrap();
                        writer.finish().unwrap();
                        std::fs::remove_file(store.root.join(format!("a/b/{thread}-{round}"))).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(store.list(&Key::root()).unwrap(), []);
}

#[test]
fn paths_are_shown_as_typed() {
    for (typed, root, name) in [
        ("/data/run", "/data", "run"),
        ("run", "", "run"),
        ("run/step-1/", "run", "step-1"),
        ("./run", ".", "run"),
        ("../run", "..", "run"),
        ("a/../b", "a/..", "b"),
        ("100%25", "", "100%25"),
    ] {
        let place = open(typed).unwrap();
        assert_eq!(place.key, key(name));
        assert_eq!(place.display(), typed.trim_end_matches('/'));
        assert_eq!(place.store.display(&Key::root()), if root.is_empty() { "." } else { root });
    }
    for typed in ["/", ".", "..", "a/.."] {
        let place = open(typed).unwrap();
        assert!(place.key.is_root());
        assert_eq!(place.display(), typed);
        assert!(place.store.free_bytes().unwrap().unwrap() > 0);
    }
    assert!(matches!(open(""), Err(Error::BadUrl { .. })));
    assert!(matches!(open("odd\\name"), Err(Error::BadKey { .. })));
}

#[test]
fn free_space_is_known_before_the_folder_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let absent = LocalStore::new(folder.path().join("not/there"));
    assert!(absent.free_bytes().unwrap().unwrap() > 0);
}
