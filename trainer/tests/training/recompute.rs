//! Activations that are computed again: with the random numbers of the first time, and no other bit.

use crate::llama::{Cut, ONE, Training, model};
use crate::support::{LONG, Rank, numbers, run_well};
use convert::spec;
use job::program::Reshard;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::{Device, Kind, Tensor, with_grad};
use trainer::ffi::autograd::leaf;
use trainer::ffi::rng::{self, RngState};
use trainer::groups::Groups;
use trainer::model::{Llama3, Model, Params, UnitSpec};
use trainer::optimizer::Settings;
use trainer::parallel::Parallel;
use trainer::tape::Tape;
use trainer::{Error, Result};

const AGAIN: Cut = Cut { recompute: 1, ..ONE };
const OPERATIONS_AGAIN: Cut = Cut { recompute: 1, is_selective: true, ..ONE };

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

    fn between(&self, tokens: &[i64]) -> Vec<i64> {
        self.inner.between(tokens)
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
    let once = two_steps(ONE);
    for cut in [AGAIN, OPERATIONS_AGAIN, Cut { recompute: 2, ..OPERATIONS_AGAIN }] {
        let again = two_steps(cut);
        let forwards = (2 * 8, 2 * (8 + 6 / cut.recompute));
        assert_eq!((once.forwards, again.forwards), forwards, "blocks twice");
        assert_eq!(again.losses_and_norms, once.losses_and_norms);
        assert!(again.params == once.params, "the parameters differ");
        assert_eq!(again.drawn, once.drawn);
    }
}

/// A recomputation that fails is an error, and leaves the generator as the forward passes left it.
fn left_alone_by_a_failure() {
    for cut in [AGAIN, OPERATIONS_AGAIN] {
        let (model, nobody) = (Dropping::new(8), Groups::default());
        let mut training = Training::new(&model, &nobody, 0, cut, None);
        let settings = Settings { lr: 1e-3, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };
        let error = training.runner.step(settings, &mut training.text).unwrap_err();
        assert_eq!(error.to_string(), "lost");
        assert_eq!(model.random.lock().unwrap().take(), Some(rng::state(Device::Cpu).unwrap()));
    }
}

/// What came of two steps of the plain model, with some modules' products always computed again.
fn course(rank: &Rank, groups: &Groups, cut: Cut, products_again: &[&str]) -> (Vec<(f64, f64)>, Vec<f64>) {
    let model = model();
    let mut training = Training::new(&model, groups, rank.rank, cut, None);
    let names = products_again.iter().map(|name| (*name).to_owned()).collect();
    training.runner = training.runner.with_products_again(names);
    let losses = training.until(2);
    let params = training.runner.units.iter().flat_map(|unit| &unit.params);
    (losses, params.flat_map(|param| numbers(&param.shard)).collect())
}

/// Parameters that are gathered anew, two microbatches, other types.
#[test]
fn operations_that_are_computed_again_change_no_bit_on_two_ranks() {
    run_well("recompute::operations_that_are_computed_again_change_no_bit_on_two_ranks", 2, |rank| {
        let world = rank.group("world", LONG).unwrap();
        let plain = Cut { dp_shard: 2, microbatches: 2, reshard: Reshard::Always, ..ONE };
        let groups = Groups::of_mesh(world, &plain.dims(), &|_| Ok(())).unwrap();
        for (stored, param) in
            [(Kind::Float, Kind::Float), (Kind::Float, Kind::BFloat16), (Kind::BFloat16, Kind::BFloat16)]
        {
            let plain = Cut { stored, param, ..plain };
            let again = Cut { recompute: 1, is_selective: true, ..plain };
            let expected = course(rank, &groups, plain, &[]);
            for products_again in [&[][..], &["attention.wq"], &["feed_forward", "wo"]] {
                let found = course(rank, &groups, again, products_again);
                assert_eq!(found.0, expected.0, "{param:?}, {products_again:?}");
                assert!(found.1 == expected.1, "{param:?}, {products_again:?}: the parameters differ");
            }
        }
    });
}

/// Of a block, in tensors `[sequence, 256]` of float32; the feed-forward's are three times as wide.
///
/// Without a tape autograd keeps 22 on a CPU: input, both norms (inside and out), query, key, value, mixed, attended, and
/// three each of w1, silu, w3 and their product. Of these the tape gives up 14; it keeps besides the outputs of wq and w2.
#[test]
fn what_is_kept_and_what_is_not() {
    let model = model();
    let (nobody, alone) = (Groups::default(), Parallel::default());
    let training = Training::new(&model, &nobody, 0, ONE, None);
    let unit = &training.runner.units[1];
    let input = leaf(&Tensor::ones([1, 64, 256], (Kind::Float, Device::Cpu)));
    let in_tensors = |again: &[[i64; 2]]| {
        let tape = Tape::new(again.iter().map(|shape| shape.to_vec()).collect());
        let params = Params::new(&unit.names, unit.whole(), &alone).on_tape(Some(&tape));
        let output = with_grad(|| model.forward(1, &params, &input)).unwrap();
        tape.give_up(&[&input, &output]).unwrap();
        let of = |byte_len: usize| byte_len as f64 / (64.0 * 256.0 * 4.0);
        let (given_up, kept) = tape.byte_lens();
        (of(given_up), of(kept))
    };
    // Given up: norm, query, key, wk, wo, attended, norm; silu, w3, product. Kept: wq, wv, mixed, w2; w1.
    assert_eq!(in_tensors(&[]), (7.0 + 9.0, 4.0 + 3.0));
    // The products of attention, which are square, are not counted: of the others w1 and w2 are kept.
    assert_eq!(in_tensors(&[[256, 256]]), (9.0 + 9.0, 2.0 + 3.0));
    // Without w1 and w3, wq, wv and w2 are the first, third and fifth.
    assert_eq!(in_tensors(&[[768, 256]]), (7.0 + 12.0, 4.0));
}
