//! The committer on a store: what the slots hold decides, and not the answer to its own creation alone.

use super::protocol::Existing;
use super::{begin, commit, is_final};
use crate::error::{Error, Result};
use crate::format::{
    Attempt, Draft, Format, ObjectSums, Pieces, Target, TargetTensor, WriteOptions, by_name,
};
use crate::layout::Region;
use crate::model::{DType, Path, TensorSpec};
use crate::storage::memory::MemoryStore;
use crate::storage::{Key, Place};
use std::sync::Arc;

fn titan() -> &'static dyn Format {
    by_name("titan").unwrap()
}

fn place() -> Place {
    Place { store: Arc::new(MemoryStore::new()), key: Key::new("step-1").unwrap() }
}

/// Begins an attempt and writes its one object and its record.
fn written(place: &Place) -> (Attempt, Box<dyn Draft>) {
    let attempt = begin(place, titan(), Existing::Supersede).unwrap();
    let tensor = TargetTensor {
        fqn: "w".into(),
        spec: TensorSpec::new(DType::F32, [0]),
        path: Path::new(),
        pieces: Pieces::Listed(vec![(0, Region::whole(&[0]))]),
    };
    let target = Target { tensors: vec![tensor], writers: 1, ..Target::default() };
    let options = WriteOptions { attempt: Some(attempt.clone()), ..WriteOptions::default() };
    let draft = titan().draft(&target, &options).unwrap();
    let put =
        |key: &Key, bytes: &[u8]| place.store.put(&place.key.join(key.as_str()).unwrap(), bytes).unwrap();
    let [object] = draft.objects() else { panic!("one object is expected") };
    put(&object.key, &object.fixed[0].bytes);
    let sums = ObjectSums { blocks: vec![vec![]], byte_len: object.byte_len, ..ObjectSums::default() };
    let (key, record) = draft.record(0, &[sums]).unwrap().unwrap();
    put(&key, &record);
    (attempt, draft)
}

fn committed(place: &Place, (attempt, draft): &(Attempt, Box<dyn Draft>)) -> Result<()> {
    commit(place, titan(), &**draft, attempt)
}

fn slot(place: &Place, generation: u32) -> Key {
    place.key.join(&titan().slot_name(generation).unwrap()).unwrap()
}

#[test]
fn a_slot_that_is_free_again_is_no_commit() {
    let place = place();
    let (late, first) = (written(&place), written(&place));
    committed(&place, &first).unwrap();
    committed(&place, &written(&place)).unwrap();
    // What cleans up does with slots below the newest.
    assert!(place.store.remove(&slot(&place, 0)).unwrap());
    let error = committed(&place, &late).unwrap_err();
    assert!(matches!(error, Error::LostRace { .. }), "{error}");
}

#[test]
fn a_newer_abandoned_slot_fences_an_attempt_whose_slot_is_free() {
    let place = place();
    let late = written(&place);
    place.store.put(&slot(&place, 1), &titan().abandoned(1).unwrap()).unwrap();
    let error = committed(&place, &late).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
}

#[test]
fn a_newer_slot_that_cannot_be_read_is_anothers() {
    let place = place();
    let late = written(&place);
    place.store.put(&slot(&place, 1), b"{").unwrap();
    let error = committed(&place, &late).unwrap_err();
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
