//! What of a run is saved and what of it is loaded: all, the model alone, a chosen step, a model of anybody's.

use crate::llama::{ONE, Training, hyper, model};
use crate::support::numbers;
use convert::dialect::DIALECTS;
use convert::exchange::{inward, outward};
use convert::spec;
use dcp::convert::{ConvertOptions, plan};
use dcp::coordinate::Alone;
use dcp::format;
use dcp::load::Origin;
use dcp::model::{DType, cast};
use dcp::save::{SaveOptions, Saver};
use dcp::storage::{Place, open_url};
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Tensor};
use trainer::checkpoint::{self, Content, DataPlace, Holds, Hyper, Parts, Resumed, Tensors};
use trainer::ffi::rng;
use trainer::groups::Groups;
use trainer::model::{Llama3, Model};

const BF16: Content = Content::Model { dtype: DType::BF16 };

fn place(path: &Path) -> Place {
    open_url(path.to_str().unwrap()).unwrap()
}

fn save(run: &Place, format: &str, training: &mut Training, content: Content) {
    let options = SaveOptions::new(format::by_name(format).unwrap());
    let mut saver = Saver::new(run.clone(), options, Arc::new(Alone)).unwrap();
    saver.save(training.step, training.state(content)).unwrap().wait_done().unwrap();
}

fn load(origin: &Origin, training: &Training, parts: Parts) -> trainer::Result<Resumed> {
    checkpoint::load(origin, &Alone, "load", training.tensors(), parts)
}

fn parameters(training: &Training) -> Vec<Tensor> {
    training.runner.units.iter().flat_map(|unit| &unit.params).map(|param| param.shard.copy()).collect()
}

fn moments(training: &Training) -> Vec<Tensor> {
    let moments = training.runner.optimizer.state.iter().flatten();
    moments.flat_map(|one| [one.exp_avg.copy(), one.exp_avg_sq.copy(), one.step.copy()]).collect()
}

/// Every number as it comes out of this type.
fn through(dtype: DType, tensors: &[Tensor]) -> Vec<Vec<f64>> {
    let through = |tensor: &Tensor| {
        let bytes: Vec<u8> =
            numbers(tensor).iter().flat_map(|&number| (number as f32).to_le_bytes()).collect();
        let mut narrow = vec![0; bytes.len() / 4 * dtype.block_bytes() as usize];
        cast(DType::F32, &bytes, dtype, &mut narrow);
        let mut wide = vec![0; bytes.len()];
        cast(dtype, &narrow, DType::F32, &mut wide);
        wide.as_chunks().0.iter().map(|number| f64::from(f32::from_le_bytes(*number))).collect()
    };
    tensors.iter().map(through).collect()
}

fn all_numbers(tensors: &[Tensor]) -> Vec<Vec<f64>> {
    tensors.iter().map(numbers).collect()
}

/// One run with everything of step 1 and the model alone of step 2, in each of our formats.
#[test]
fn parts_of_a_run_are_loaded_or_an_error_says_what_to_do() {
    rng::set_threads(1).unwrap();
    let (model, nobody) = (model(), Groups::default());
    let mut training = Training::new(&model, &nobody, 0, ONE, None);
    let folder = tempfile::tempdir().unwrap();
    let run = |format: &str| place(&folder.path().join(format));
    training.until(1);
    let first = (parameters(&training), moments(&training));
    let progress = training.progress();
    ["titan", "dcp"].iter().for_each(|format| save(&run(format), format, &mut training, Content::Full));
    training.until(2);
    ["titan", "dcp"].iter().for_each(|format| save(&run(format), format, &mut training, BF16));
    let second = parameters(&training);
    drop(training);
    for format in ["titan", "dcp"] {
        chosen_steps(&model, &run(format), &first, &progress);
        the_model_alone(&model, &run(format), &second);
        other_models(&model, &run(format));
    }
    through_a_hugging_face_folder(&model, &run("dcp"), folder.path(), &second);
}

fn fresh<'a>(model: &'a dyn Model, nobody: &'a Groups) -> Training<'a> {
    Training::new(model, nobody, 0, ONE, None)
}

fn chosen_steps(
    model: &dyn Model,
    run: &Place,
    (params, moments_then): &(Vec<Tensor>, Vec<Tensor>),
    progress: &checkpoint::Progress,
) {
    let nobody = Groups::default();
    let training = fresh(model, &nobody);
    let first = Origin::Step { run: run.clone(), step: 1 };
    let resumed = load(&first, &training, Parts::ALL).unwrap();
    assert!(parameters(&training) == *params && moments(&training) == *moments_then);
    assert_eq!((resumed.step, resumed.schedule_step), (1, 1));
    assert_eq!(resumed.tokens_seen, progress.tokens_seen);
    assert_eq!(resumed.data, DataPlace::Ranks(progress.data.clone()));
    assert_eq!(resumed.rng.as_ref(), Some(&progress.rng));
    let other = Hyper { lr: 1e-3, weight_decay: 0.0, ..hyper() };
    assert_eq!(resumed.stored.differences(&other).len(), 2);

    let none = Parts::without(&["optimizer".into(), "lr_scheduler".into()]).unwrap();
    let training = fresh(model, &nobody);
    let begun = moments(&training);
    let resumed = load(&first, &training, none).unwrap();
    assert!(parameters(&training) == *params && moments(&training) == begun);
    assert_eq!((resumed.step, resumed.schedule_step), (1, 0));
    let resumed = load(&first, &training, Parts::MODEL).unwrap();
    assert_eq!((resumed.step, resumed.tokens_seen, &resumed.data), (0, 0, &DataPlace::Beginning));
    assert_eq!((resumed.rng, resumed.notes), (None, Vec::new()));

    let error = load(&Origin::Step { run: run.clone(), step: 7 }, &training, Parts::ALL).unwrap_err();
    assert!(error.to_string().contains("there is no step 7; there is 2, 1."), "{error}");
}

fn the_model_alone(model: &dyn Model, run: &Place, params: &[Tensor]) {
    let nobody = Groups::default();
    let newest = Origin::Newest(run.clone());
    let opened = dcp::load::open(&newest, &Alone, "look").unwrap();
    let found = checkpoint::holds(&*opened.reader).unwrap();
    let parts = Parts { train_state: true, ..Parts::MODEL };
    assert_eq!(found, Holds { step: Some(2), parts });
    let training = fresh(model, &nobody);
    let error = load(&newest, &training, Parts::ALL).unwrap_err().to_string();
    assert!(
        error.contains("step-2: holds only the model, ") && error.contains("initial_load_path"),
        "{error}"
    );
    let resumed = load(&newest, &training, parts).unwrap();
    assert_eq!((resumed.step, resumed.rng), (2, None));
    assert!(all_numbers(&parameters(&training)) == through(DType::BF16, params));
    let with_data = Parts { dataloader: true, ..parts };
    let resumed = load(&newest, &training, with_data).unwrap();
    assert_eq!(resumed.data, DataPlace::AfterSteps(2));
    assert!(resumed.notes[0].contains("it has no state of a data loader; "), "{:?}", resumed.notes);
}

fn other_models(model: &dyn Model, run: &Place) {
    let nobody = Groups::default();
    let newest = Origin::Step { run: run.clone(), step: 1 };
    let training = fresh(model, &nobody);
    let refused = |change: &dyn Fn(&mut spec::Model), parts| {
        let mut other = model.spec().clone();
        change(&mut other);
        let other = Llama3::new(other, 256, Device::Cpu).unwrap();
        let tensors = Tensors { model: &other, ..training.tensors() };
        checkpoint::load(&newest, &Alone, "load", tensors, parts).unwrap_err().to_string()
    };
    let renamed = |model: &mut spec::Model| {
        for param in &mut model.params {
            param.fqn = param.fqn.replace("layers.5.ffn_norm", "layers.5.post_norm");
        }
    };
    let error = refused(&renamed, Parts::ALL);
    let expected = "it lacks `layers.5.post_norm.weight` and has `layers.5.ffn_norm.weight` besides; ";
    assert!(error.contains(expected), "{error}");
    let smaller = |model: &mut spec::Model| model.params[3].shape[0] -= 1;
    let error = refused(&smaller, Parts::MODEL);
    let fqn = &model.spec().params[3].fqn;
    assert!(error.starts_with(&format!("`{fqn}` is float32 [")), "{error}");
}

/// Out of our checkpoint as Hugging Face has it, and back in as the model that a run begins with.
fn through_a_hugging_face_folder(model: &dyn Model, run: &Place, folder: &Path, params: &[Tensor]) {
    let opened = dcp::load::open(&Origin::Newest(run.clone()), &Alone, "export").unwrap();
    let (view, _) = outward(model.spec(), opened.reader).unwrap();
    let target = place(&folder.join("hf"));
    let options = ConvertOptions { drop_values: true, ..ConvertOptions::default() };
    plan(&view, &target, format::by_name("safetensors").unwrap(), &options).unwrap().run(&()).unwrap();
    let (view, _) = inward(model.spec(), format::open(&target).unwrap(), &DIALECTS[0]).unwrap();
    let nobody = Groups::default();
    let training = fresh(model, &nobody);
    let origin = Origin::Opened(Arc::new(view));
    let resumed = load(&origin, &training, Parts::MODEL).unwrap();
    assert_eq!((resumed.step, &resumed.data), (0, &DataPlace::Beginning));
    assert!(all_numbers(&parameters(&training)) == through(DType::BF16, params));
    let error = load(&origin, &training, Parts::ALL).unwrap_err().to_string();
    assert!(error.contains("holds only the model"), "{error}");
}
