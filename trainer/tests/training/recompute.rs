//! Activations that are computed again: with the random numbers of the first time, and no other bit.

use crate::llama::{Cut, ONE, Training, model};
use crate::support::{numbers, run_well};
use convert::spec;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::{Device, Kind, Tensor};
use trainer::ffi::rng::{self, RngState};
use trainer::groups::Groups;
use trainer::model::{Llama3, Model, Params, UnitSpec};
use trainer::optimizer::Settings;
use trainer::{Error, Result};

const AGAIN: Cut = Cut { recompute: 1, ..ONE };

/// The small Llama with dropout after every block. Forward passes are counted, and from some number on they fail.
struct Dropping {
    inner: Llama3,
    forwards: AtomicUsize,
    fails_from: usize,
    /// Of the generator, after the last forward pass that did not fail.
    random: Mutex<Option<RngState>>,
}

impl Dropping {
    fn new(fails_from: usize) -> Self {
        Dropping { inner: model(), forwards: AtomicUsize::new(0), fails_from, random: Mutex::default() }
    }
}

impl Model for Dropping {
    fn spec(&self) -> &spec::Model {
        self.inner.spec()
    }

    fn units(&self) -> &[UnitSpec] {
        self.inner.units()
    }

    fn blocks(&self) -> Range<usize> {
        self.inner.blocks()
    }

    fn forward(&self, unit: usize, params: &Params, input: &Tensor) -> Result<Tensor> {
        if self.forwards.fetch_add(1, Ordering::SeqCst) >= self.fails_from {
            rng::manual_seed(0)?;
            return Err(Error::Usage("lost".to_owned()));
        }
        let output = self.inner.forward(unit, params, input)?;
        let output = if self.blocks().contains(&unit) { output.f_dropout(0.1, true)? } else { output };
        *self.random.lock().unwrap() = Some(rng::state(Device::Cpu)?);
        Ok(output)
    }
}

/// What came of two steps.
struct TwoSteps {
    losses_and_norms: Vec<(f64, f64)>,
    params: Vec<f64>,
    /// What the generator gives afterwards.
    drawn: Vec<f64>,
    forwards: usize,
}

fn two_steps(cut: Cut) -> TwoSteps {
    rng::manual_seed(7).unwrap();
    let (model, nobody) = (Dropping::new(usize::MAX), Groups::default());
    let mut training = Training::new(&model, &nobody, 0, cut, None);
    let losses_and_norms = training.until(2);
    let params = training.runner.units.iter().flat_map(|unit| &unit.params);
    let params = params.flat_map(|param| numbers(&param.shard)).collect();
    let drawn = numbers(&Tensor::rand([8], (Kind::Float, Device::Cpu)));
    TwoSteps { losses_and_norms, params, drawn, forwards: model.forwards.load(Ordering::SeqCst) }
}

/// In a process of its own, since the generator is the process's.
#[test]
fn random_numbers_are_replayed_and_no_bit_changes() {
    run_well("recompute::random_numbers_are_replayed_and_no_bit_changes", 1, |_| {
        replayed();
        left_alone_by_a_failure();
    });
}

fn replayed() {
    let (once, again) = (two_steps(ONE), two_steps(AGAIN));
    assert_eq!((once.forwards, again.forwards), (2 * 8, 2 * (8 + 6)), "every block twice");
    assert_eq!(again.losses_and_norms, once.losses_and_norms);
    assert!(again.params == once.params, "the parameters differ");
    assert_eq!(again.drawn, once.drawn);
}

/// A recomputation that fails is an error, and leaves the generator as the forward passes left it.
fn left_alone_by_a_failure() {
    let (model, nobody) = (Dropping::new(8), Groups::default());
    let mut training = Training::new(&model, &nobody, 0, AGAIN, None);
    let settings = Settings { lr: 1e-3, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };
    let error = training.runner.step(settings, &mut training.text).unwrap_err();
    assert_eq!(error.to_string(), "lost");
    assert_eq!(model.random.lock().unwrap().take(), Some(rng::state(Device::Cpu).unwrap()));
}
