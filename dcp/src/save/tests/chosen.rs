//! Loads of what somebody chose, in the type that is wanted.

use super::*;
use crate::error::ErrorKind;

/// What somebody chose is loaded or an error names why not: no other step takes its place.
#[test]
fn a_chosen_step_or_checkpoint_is_loaded_or_an_error() {
    let store = memory();
    let stores = same_store(&store);
    for step in [10, 20] {
        must_save(&store, &options("titan"), step, step);
    }
    let at = |step| move |run| Origin::Step { run, step };
    let place = |step: u64, run: Place| Place { key: run.key.join(&format!("step-{step}")).unwrap(), ..run };
    let checkpoint = |run| Origin::Checkpoint(place(20, run));
    let opened = |run| Origin::Opened(format::open(&place(10, run)).unwrap());
    let ranks = || Ranks::new(DType::F32);
    // Groups of one tensor each, and all in one.
    for memory_bytes_max in [1 << 20, 64 << 20] {
        let options = CopyOptions { memory_bytes_max, threads: 1 };
        for found in load_from(&stores, at(10), ranks, options, look) {
            assert_eq!(found.unwrap(), (10, 10));
        }
        for found in load_from(&stores, checkpoint, ranks, options, look) {
            assert_eq!(found.unwrap(), (20, 20));
        }
        for found in load_from(&stores, opened, ranks, options, look) {
            assert_eq!(found.unwrap(), (10, 10));
        }
    }
    let missing = load_from(&stores, at(15), ranks, CopyOptions::default(), look);
    let first = missing[0].as_ref().unwrap_err();
    assert!(matches!(first, Error::NoSuchStep { step: 15, .. }), "{first:?}");
    assert!(first.to_string().contains("there is no step 15; there is 20, 10."), "{first}");
    assert!(missing[1..].iter().all(|one| matches!(one, Err(Error::RankFailed { rank: 0, .. }))));

    let objects = store.list(&Key::new("run/step-20").unwrap()).unwrap();
    let largest = objects.into_iter().max_by_key(|object| object.byte_len).unwrap().key;
    let mut bytes = store.get(&largest, u64::MAX).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0x40);
    assert!(store.remove(&largest).unwrap());
    store.put(&largest, &bytes).unwrap();
    let outcomes = load_from(&stores, at(20), ranks, CopyOptions::default(), look);
    let is_damage = |one: &Result<_>| one.as_ref().is_err_and(|error| error.kind() == ErrorKind::Data);
    assert!(outcomes.iter().any(is_damage), "{outcomes:?}");
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    assert_eq!(load_all(&store, &[10]), (10, 10));
}

/// Stored elements of another type are converted on the way, on every rank alike.
#[test]
fn what_is_loaded_has_the_type_that_is_wanted() {
    let store = memory();
    must_save(&store, &options("dcp"), 10, 3);
    let look = |rank: u32, loaded: Loaded, ranks: Ranks| {
        assert!(loaded.amplification() <= 1.0 + 1e-9, "{loaded:?}");
        for ((name, shape, placements), bytes) in ranks.wanted.iter().zip(&ranks.memory) {
            let Some(region) = region_of(shape, *placements, rank) else { continue };
            let stored = cut(shape, &whole(name, shape, 3), &region);
            let mut expected = vec![0; stored.len() / 4 * ranks.dtype.block_bytes() as usize];
            crate::model::cast(DType::F32, &stored, ranks.dtype, &mut expected);
            assert_eq!(bytes, &expected, "{name} as {}", ranks.dtype);
        }
    };
    for dtype in [DType::BF16, DType::F16, DType::F64] {
        let ranks = || Ranks::new(dtype);
        for outcome in load_from(&same_store(&store), Origin::Newest, ranks, CopyOptions::default(), look) {
            outcome.unwrap();
        }
    }
}

#[test]
fn a_tensor_that_is_not_as_wanted_is_named_on_every_rank() {
    let store = memory();
    must_save(&store, &options("titan"), 10, 1);
    let other = |change: fn(&mut Ranks)| {
        let ranks = move || {
            let mut ranks = Ranks::new(DType::F32);
            change(&mut ranks);
            ranks
        };
        let outcomes =
            load_from(&same_store(&store), Origin::Newest, ranks, CopyOptions::default(), |_, _, _| ());
        let errors: Vec<String> = outcomes.into_iter().map(|one| one.unwrap_err().to_string()).collect();
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
        errors[0].clone()
    };
    let shape = other(|ranks| ranks.wanted[1].1 = vec![5, 4]);
    assert!(
        shape.starts_with("`rows` is float32 [5, 3] in the checkpoint, float32 [5, 4] is wanted; "),
        "{shape}"
    );
    let dtype = other(|ranks| ranks.dtype = DType::I64);
    assert!(
        dtype.starts_with("`both` is float32 [8, 6] in the checkpoint, int64 [8, 6] is wanted; "),
        "{dtype}"
    );
    let name = other(|ranks| ranks.wanted[3].0 = "other");
    assert!(name.starts_with("no tensor or value is named `other`"), "{name}");
}
