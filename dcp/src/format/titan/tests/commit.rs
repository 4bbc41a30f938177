//! The last write decides, whatever the store answers.

use super::memory::{objects, place};
use crate::error::{Error, Result};
use crate::format::titan::Titan;
use crate::format::{Draft, Format, ObjectSums, Pieces, Target, TargetTensor, WriteOptions, open};
use crate::layout::Region;
use crate::model::{DType, Path, TensorSpec};
use crate::storage::{Key, ObjectMeta, ObjectWriter, Place, ReadAt, Storage, Unfinished};
use std::sync::Arc;

/// A store whose answer to a manifest's write is lost, after the write or before it.
#[derive(Debug)]
struct LostReply {
    store: Arc<dyn Storage>,
    written: bool,
}

impl Storage for LostReply {
    fn display(&self, key: &Key) -> String {
        self.store.display(key)
    }

    fn list(&self, prefix: &Key) -> Result<Vec<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_prefixes(&self, prefix: &Key) -> Result<Vec<Key>> {
        self.store.list_prefixes(prefix)
    }

    fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.store.head(key)
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        self.store.open(key)
    }

    fn create(&self, key: &Key, byte_len: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        self.store.create(key, byte_len)
    }

    fn unfinished(&self, prefix: &Key) -> Result<Vec<Unfinished>> {
        self.store.unfinished(prefix)
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        self.store.discard(unfinished)
    }

    fn remove(&self, key: &Key) -> Result<bool> {
        self.store.remove(key)
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.store.free_bytes()
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let is_manifest = key.name().starts_with("titan-");
        if !is_manifest || self.written {
            self.store.put(key, bytes)?;
        }
        match is_manifest {
            true => {
                let source = std::io::ErrorKind::ConnectionReset.into();
                Err(Error::Io { object: self.display(key), action: "writing", source })
            }
            false => Ok(()),
        }
    }
}

/// A draft of one empty tensor, whose one object has no data to write.
fn draft() -> Box<dyn Draft> {
    let tensor = TargetTensor {
        fqn: "w".into(),
        spec: TensorSpec::new(DType::F32, [0]),
        path: Path::new(),
        pieces: Pieces::Listed(vec![(0, Region::whole(&[0]))]),
    };
    let target = Target { tensors: vec![tensor], writers: 1, ..Target::default() };
    Titan.draft(&target, &WriteOptions::default()).unwrap()
}

/// Writes the one object as the engine would, and commits.
fn save(draft: &dyn Draft, store: &dyn Storage, root: &Key) -> Result<()> {
    let [object] = draft.objects() else { panic!("one object is expected") };
    store.put(&root.join(object.key.as_str())?, &object.fixed[0].bytes)?;
    let sums = ObjectSums { blocks: vec![vec![]], byte_len: object.byte_len, ..ObjectSums::default() };
    draft.commit(store, root, &[sums])
}

#[test]
fn a_lost_reply_is_no_lost_commit() {
    let goal = place(&[]);
    let store = LostReply { store: goal.store.clone(), written: true };
    save(&*draft(), &store, &goal.key).unwrap();
    assert!(open(&goal).unwrap().catalog().tensors.contains_key("w"));

    let goal = place(&[]);
    let store = LostReply { store: goal.store.clone(), written: false };
    assert!(matches!(save(&*draft(), &store, &goal.key), Err(Error::Io { .. })));
    assert!(open(&goal).is_err());
}

#[test]
fn of_two_saves_of_one_step_the_first_counts() {
    let goal = place(&[]);
    save(&*draft(), &*goal.store, &goal.key).unwrap();
    let first = objects(&goal);
    assert!(matches!(save(&*draft(), &*goal.store, &goal.key), Err(Error::AlreadyExists { .. })));
    let now = objects(&goal);
    assert!(first.iter().all(|object| now.contains(object)), "nothing of the first save changed");
    let reader = open(&Place { ..goal }).unwrap();
    assert_eq!(reader.catalog().findings.len(), 2, "the second save's shard and part record are leftovers");
}

#[test]
fn incomplete_sums_are_not_committed() {
    let goal = place(&[]);
    let error = draft().commit(&*goal.store, &goal.key, &[ObjectSums::default()]).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    assert_eq!(objects(&goal), []);
}
