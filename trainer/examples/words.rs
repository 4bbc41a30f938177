//! Trains the small Llama of the tests on `fixtures/text/words`, on one rank: what TorchTitan's runs are compared with.
//!
//! ```text
//! words RUN FROM UNTIL [SAVED]   from a step of RUN until another
//! ```
//!
//! `FROM` may be 0, and `model` for a run that begins with the newest model of RUN. Step `SAVED` is saved in PyTorch's
//! format, and the model alone of step `UNTIL`. Prints step and loss of every step.

use dcp::coordinate::Alone;
use dcp::format;
use dcp::load::Origin;
use dcp::model::DType;
use dcp::save::{SaveOptions, Saver};
use dcp::storage::{Place, open_url};
use llama::{ONE, Training, model};
use std::sync::Arc;
use trainer::checkpoint::{self, Content, Parts};
use trainer::ffi::rng;
use trainer::groups::Groups;
use trainer::model::Llama3;

#[allow(dead_code)] // what the tests use
#[path = "../tests/training/llama.rs"]
mod llama;
#[allow(dead_code)]
#[path = "../tests/support/mod.rs"]
mod support;

const USAGE: &str = "usage: words RUN FROM UNTIL [SAVED]";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (run, from, until, saved) = match &args[..] {
        [run, from, until] => (run, from, until, None),
        [run, from, until, saved] => (run, from, until, Some(saved.parse::<u64>()?)),
        _ => return Err(USAGE.into()),
    };
    let until: u64 = until.parse()?;
    rng::set_threads(1)?;
    let (run, model, nobody) = (open_url(run)?, model(), Groups::default());
    let mut training = begin(&model, &nobody, &run, from)?;
    while training.step < until {
        let step = training.step + 1;
        let [(loss, _)] = training.until(step)[..] else { return Err("one step, one loss".into()) };
        println!("step: {step}  loss: {loss:.6}");
        let content = match saved {
            Some(saved) if saved == step => Content::Full,
            Some(_) if until == step => Content::Model { dtype: DType::F32 },
            _ => continue,
        };
        let options = SaveOptions::new(format::by_name("dcp")?);
        let mut saver = Saver::new(run.clone(), options, Arc::new(Alone))?;
        saver.save(step, training.state(content))?.wait_done()?;
    }
    Ok(())
}

fn begin<'a>(model: &'a Llama3, nobody: &'a Groups, run: &Place, from: &str) -> Outcome<Training<'a>> {
    let begun = Training::new(model, nobody, 0, ONE, None);
    let (origin, parts) = match from {
        "0" => return Ok(begun),
        "model" => (Origin::Newest(run.clone()), Parts::MODEL),
        step => (Origin::Step { run: run.clone(), step: step.parse()? }, Parts::ALL),
    };
    let (units, optimizer) = (&begun.runner.units, &begun.runner.optimizer);
    let resumed = checkpoint::load(&origin, &Alone, "load", units, optimizer, ONE.dims().degrees(), parts)?;
    for note in resumed.notes.iter().chain(&resumed.stored.differences(&begun.hyper)) {
        println!("note: {note}");
    }
    println!("tokens: {}", resumed.tokens_seen);
    let mut training = Training::new(model, nobody, 0, ONE, Some(&resumed));
    training.runner = begun.runner;
    Ok(training)
}
