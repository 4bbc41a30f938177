use super::super::Dataloader;
use super::*;
use dcp::coordinate::Alone;
use dcp::format;
use dcp::save::{SaveOptions, Saver, State, StateValue};
use dcp::storage::memory::MemoryStore;
use dcp::storage::{Key, Place};

#[test]
fn a_few_names_are_shown() {
    assert_eq!(some_of(&[]), "nothing");
    assert_eq!(some_of(&["a", "b"]), "`a`, `b`");
    assert_eq!(some_of(&["a", "b", "c", "d", "e"]), "`a`, `b`, `c` and 2 more");
}

/// A checkpoint of these values in PyTorch's format.
fn checkpoint(values: &[(&str, Value)]) -> Arc<dyn Reader> {
    let run = Place { store: Arc::new(MemoryStore::new()), key: Key::new("run").unwrap() };
    let value = |(name, value): &(&str, Value)| StateValue {
        fqn: Fqn::new(*name),
        path: Vec::new(),
        value: value.clone(),
    };
    let state = State { mesh: None, tensors: Vec::new(), values: values.iter().map(value).collect() };
    let options = SaveOptions::new(format::by_name("dcp").unwrap());
    let mut saver = Saver::new(run.clone(), options, Arc::new(Alone)).unwrap();
    saver.save(5, state).unwrap().wait_done().unwrap();
    dcp::load::open(&Origin::Newest(run), &Alone, "values").unwrap().reader
}

fn of_torchtitan() -> (Dataloader, Value) {
    let place = MapPlace { sample_idx: 22, token_buffer: vec![354, 15, 1] };
    let loader = Dataloader { place, sequences: 20, local_batch_size: 4 };
    let bytes = Value::Bytes(loader.encode().unwrap());
    (loader, bytes)
}

#[test]
fn the_data_goes_on_by_the_best_that_is_known() {
    let (loader, state) = of_torchtitan();
    let place = |values: &[(&str, Value)]| {
        let mut notes = Vec::new();
        let place = data_place(&*checkpoint(values), 5, &mut notes).unwrap();
        (place, notes)
    };
    let one = [("dataloader.world_size", Value::Int(1)), ("dataloader.dp_rank_0", state.clone())];
    assert_eq!(place(&one), (DataPlace::Map { place: loader.place, steps: 5 }, Vec::new()));
    let ours = ("data.rank_0", Value::Str("{}".to_owned()));
    let both = [&one[..], &[ours]].concat();
    assert_eq!(place(&both), (DataPlace::Ranks(vec!["{}".to_owned()]), Vec::new()));

    let two = [
        ("dataloader.world_size", Value::Int(2)),
        ("dataloader.dp_rank_0", state.clone()),
        ("dataloader.dp_rank_1", state),
    ];
    let odd = [("dataloader.world_size", Value::Int(1)), ("dataloader.dp_rank_0", Value::Bytes(vec![0x80]))];
    let none = [("train_state.step", Value::Int(5))];
    for (values, why) in [
        (&two[..], "its data loader's state is of 2 data-parallel ranks; "),
        (&odd, "its data loader's state cannot be taken over: "),
        (&none, "it has no state of a data loader; "),
    ] {
        let (place, notes) = place(values);
        assert_eq!(place, DataPlace::AfterSteps(5));
        assert!(notes.len() == 1 && notes[0].contains(why), "{notes:?}");
        assert!(
            notes[0].ends_with("the data goes on after the sequences of 5 steps, in the order of this run")
        );
    }
}

#[test]
fn tokens_are_those_of_all_ranks() {
    let seen = ("train_state.ntokens_seen", Value::Int(5120));
    let theirs = checkpoint(&[seen.clone(), ("dataloader.world_size", Value::Int(4))]);
    assert_eq!(tokens(&*theirs).unwrap(), 20_480);
    let ours = checkpoint(&[seen, ("train_state.tokens_seen", Value::Int(10_240))]);
    assert_eq!(tokens(&*ours).unwrap(), 10_240);
    let odd = checkpoint(&[("train_state.ntokens_seen", Value::Float(1.0))]);
    let error = tokens(&*odd).unwrap_err().to_string();
    assert!(error.ends_with("`train_state.ntokens_seen` is Float(1.0), which is no count"), "{error}");
}

#[test]
fn random_states_are_taken_by_as_many_ranks_as_saved_them() {
    let mut notes = Vec::new();
    let one = checkpoint(&[("rng.rank_0", Value::Bytes(vec![1, 2]))]);
    let found = random(&*one, &Alone, &mut notes).unwrap();
    assert_eq!((found, notes.len()), (Some(RngState::from_bytes(vec![1, 2])), 0));
    let two = checkpoint(&[("rng.rank_0", Value::Bytes(vec![1])), ("rng.rank_1", Value::Bytes(vec![2]))]);
    assert_eq!(random(&*two, &Alone, &mut notes).unwrap(), None);
    assert!(notes[0].starts_with("the random state is of 2 ranks and this run has 1: "), "{notes:?}");
    // TorchTitan saves none, and there is nothing to say of it.
    notes.clear();
    assert_eq!(
        random(&*checkpoint(&[("train_state.step", Value::Int(5))]), &Alone, &mut notes).unwrap(),
        None
    );
    assert_eq!(notes, Vec::<String>::new());
}

#[test]
fn a_batch_that_changes_is_told_once() {
    let resumed = |step, tokens_seen| Resumed {
        step,
        tokens_seen,
        schedule_step: step,
        data: DataPlace::Beginning,
        rng: None,
        stored: Stored::default(),
        notes: Vec::new(),
        passed_over: Vec::new(),
    };
    assert_eq!(resumed(0, 0).other_batch(1024, 256), None);
    assert_eq!(resumed(5, 5 * 1024).other_batch(1024, 256), None);
    let found = resumed(5, 5 * 1024).other_batch(2048, 256).unwrap();
    assert!(
        found.contains("had 1024 tokens") && found.contains("training.global_batch_size = 4 "),
        "{found}"
    );
    assert!(resumed(5, 5 * 1000).other_batch(1024, 256).unwrap().contains("and training.seq_len"));
    // Steps of both sizes: it was told when it changed.
    assert_eq!(resumed(6, 5 * 1024 + 2048).other_batch(2048, 256), None);
    assert_eq!(resumed(5, 0).other_batch(1024, 256), None, "tokens that nobody counted");
}
