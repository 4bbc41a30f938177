//! The committer on a store: what the slots hold decides, and not the answer to its own creation alone.

use super::protocol::Existing;
use super::{begin, commit, complete, is_final};
use crate::error::{Error, Result};
use crate::format::{
    Attempt, Draft, Format, ObjectSums, Pieces, Target, TargetTensor, WriteOptions, by_name, open,
};
use crate::layout::Region;
use crate::model::{DType, Path, TensorSpec};
use crate::storage::faulty::{Call, Fault, Faults, FaultyStore, Operation};
use crate::storage::memory::MemoryStore;
use crate::storage::{Key, Place};
use std::sync::Arc;

fn titan() -> &'static dyn Format {
    by_name("titan").unwrap()
}

fn place() -> Place {
    Place { store: Arc::new(MemoryStore::new()), key: Key::new("step-1").unwrap() }
}

/// A draft of one empty tensor, whose one object has no data to write.
fn draft(attempt: Option<Attempt>) -> Box<dyn Draft> {
    let tensor = TargetTensor {
        fqn: "w".into(),
        spec: TensorSpec::new(DType::F32, [0]),
        path: Path::new(),
        pieces: Pieces::Listed(vec![(0, Region::whole(&[0]))]),
    };
    let target = Target { tensors: vec![tensor], writers: 1, ..Target::default() };
    titan().draft(&target, &WriteOptions { attempt, ..WriteOptions::default() }).unwrap()
}

/// Writes the one object as the engine would; what it would have measured.
fn write(place: &Place, draft: &dyn Draft) -> [ObjectSums; 1] {
    let [object] = draft.objects() else { panic!("one object is expected") };
    let key = place.key.join(object.key.as_str()).unwrap();
    place.store.put(&key, &object.fixed[0].bytes).unwrap();
    [ObjectSums { blocks: vec![vec![]], byte_len: object.byte_len, ..ObjectSums::default() }]
}

/// Begins an attempt and writes its object and its record.
fn written(place: &Place) -> Box<dyn Draft> {
    let draft = draft(Some(begin(place, titan(), Existing::Supersede).unwrap()));
    let (key, record) = draft.record(0, &write(place, &*draft)).unwrap().unwrap();
    place.store.put(&place.key.join(key.as_str()).unwrap(), &record).unwrap();
    draft
}

fn committed(place: &Place, draft: &dyn Draft) -> Result<()> {
    commit(place, titan(), draft)
}

/// All in one process, with the first slot.
fn saved(place: &Place) -> Result<()> {
    let draft = draft(None);
    let sums = write(place, &*draft);
    complete(place, titan(), &*draft, &sums)
}

fn slot(place: &Place, generation: u32) -> Key {
    place.key.join(&titan().slot_name(generation).unwrap()).unwrap()
}

#[test]
fn a_slot_that_is_free_again_is_no_commit() {
    let place = place();
    let (late, first) = (written(&place), written(&place));
    committed(&place, &*first).unwrap();
    committed(&place, &*written(&place)).unwrap();
    // What cleans up does with slots below the newest.
    assert!(place.store.remove(&slot(&place, 0)).unwrap());
    let error = committed(&place, &*late).unwrap_err();
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
}

#[test]
fn a_newer_abandoned_slot_fences_an_attempt_whose_slot_is_free() {
    let place = place();
    let late = written(&place);
    place.store.put(&slot(&place, 1), &titan().abandoned(1).unwrap()).unwrap();
    let error = committed(&place, &*late).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
}

#[test]
fn a_newer_slot_that_cannot_be_read_is_anothers() {
    let place = place();
    let late = written(&place);
    place.store.put(&slot(&place, 1), b"{").unwrap();
    let error = committed(&place, &*late).unwrap_err();
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
}

#[test]
fn only_an_answer_of_the_operating_system_is_final() {
    let failed = |source| Error::Io { object: "slot".to_owned(), action: "writing", source };
    assert!(is_final(&failed(std::io::Error::from_raw_os_error(5))));
    assert!(!is_final(&failed(std::io::Error::other("503 SlowDown"))), "an earlier try may still arrive");
    assert!(!is_final(&Error::NoAnswer { object: "slot".to_owned(), action: "writing" }));
}

#[test]
fn an_attempts_name_tells_its_slot() {
    for generation in [0, 7, 9999] {
        let attempt = Attempt::new(generation);
        assert_eq!(Attempt::generation_of(&attempt.id), Some(generation), "{}", attempt.id);
    }
    assert_ne!(Attempt::new(1).id, Attempt::new(1).id);
    for id in ["", "0001", "a0010000000000000000000000000000", "0001000000000000000000000000000G"] {
        assert_eq!(Attempt::generation_of(id), None, "{id}");
    }
}

/// The store's answer to the manifest's creation is lost, after it was created or before it could be.
#[test]
fn a_lost_reply_is_no_lost_commit() {
    for (fault, is_there) in [(Fault::LoseReply, true), (Fault::Fail, false)] {
        let inner = place();
        let is_manifest = |call: &Call<'_>| {
            call.operation == Operation::Put && titan().slot_generation(call.key.name()).is_some()
        };
        let faults = Faults::by(move |call| is_manifest(call).then_some(fault));
        let store = Arc::new(FaultyStore::new(inner.store.clone(), &faults));
        let outcome = saved(&Place { store, key: inner.key.clone() });
        match is_there {
            true => outcome.unwrap(),
            false => assert!(matches!(outcome, Err(Error::Unknown { .. })), "{outcome:?}"),
        }
        assert_eq!(open(&inner).is_ok(), is_there);
    }
}

#[test]
fn of_two_saves_with_one_slot_the_first_counts() {
    let place = place();
    saved(&place).unwrap();
    let contents = || -> Vec<_> {
        let listed = place.store.list(&place.key).unwrap().into_iter();
        listed.map(|object| (object.key.clone(), place.store.get(&object.key, 1 << 20).unwrap())).collect()
    };
    let first = contents();
    assert!(matches!(saved(&place), Err(Error::LostRace { .. })));
    let now = contents();
    assert!(first.iter().all(|object| now.contains(object)), "nothing of the first save changed");
    let reader = open(&place).unwrap();
    assert_eq!(reader.catalog().findings.len(), 2, "the second save's shard and part record are leftovers");
}

#[test]
fn incomplete_sums_are_not_committed() {
    let place = place();
    let error = complete(&place, titan(), &*draft(None), &[ObjectSums::default()]).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    assert_eq!(place.store.list(&place.key).unwrap(), []);
}
