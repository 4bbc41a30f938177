//! The run of a job: from a configuration to steps, log, checkpoints.

mod feed;
mod figures;
mod place;
mod saves;
mod setup;
mod trace;
mod validation;

use crate::checkpoint::Progress;
use crate::error::Result;
use crate::groups::Groups;
use crate::run::Runner;
use crate::session::Session;
use crate::stop::Stop;
use data::MapPlaces;
use feed::Feed;
use figures::Figures;
pub use figures::Log;
use job::config::Config;
use job::saving;
use saves::Saves;
use setup::Setup;
use std::time::Duration;
use trace::Trace;
use tracing::{info, warn};
use validation::Validation;

/// Trains as configured, from where the run stands to its last step.
///
/// Errors: what the user got wrong, what a disk, a network or another rank did.
pub fn run(config: &Config, session: &Session, stop: &Stop, log: &Log) -> Result<()> {
    session.together("configuration", setup::same_everywhere(config, session))?;
    let seed = setup::shared_seed(config.debug.seed, session)?;
    let setup = session.together("setup", Setup::new(config, session, seed))?;
    setup.describe(config);
    session.together("configuration file", setup::show(config, session))?;
    let groups = setup.groups(session)?;
    let runner = setup.runner(config, &groups)?;
    let mut saves = session.together("saves", Saves::open(config, session, &setup))?;
    let validation = session.together("validation", Validation::open(config, &setup))?;
    if config.checkpoint.create_seed_checkpoint {
        return saves.save_seed(&runner);
    }
    let resumed = saves.resume(config, session, &runner)?;
    let step_tokens = setup.step.batch.global * config.training.seq_len;
    resumed.other_batch(step_tokens, config.training.seq_len).iter().for_each(|note| warn!("{note}"));
    setup.begin_random(&resumed)?;
    let options = setup.data_options(config);
    let loader = session.together("data", setup.loader(&options, &resumed.data))?;
    let places = saves.is_for_torchtitan().then(|| MapPlaces::new(&options)).flatten();
    let feed = Feed::new(loader, places, &setup, stop.clone(), Trace::new(config, session.member.rank));
    let done = (resumed.step, resumed.tokens_seen);
    let figures = Figures::open(config, session, &setup, &groups, log, done)?;
    figures.tell(saves.take_happenings());
    let schedule_step = resumed.schedule_step;
    let mut training = Training {
        config,
        setup: &setup,
        groups: &groups,
        runner,
        saves,
        validation,
        feed,
        figures,
        schedule_step,
    };
    let outcome = training.run(resumed.step);
    // Whatever came of it: what is reported of it is not lost.
    training.figures.tell(training.saves.take_happenings());
    training.figures.finish();
    outcome
}

/// A run between two steps.
struct Training<'a> {
    config: &'a Config,
    setup: &'a Setup,
    groups: &'a Groups,
    runner: Runner<'a>,
    saves: Saves,
    validation: Option<Validation>,
    feed: Feed,
    figures: Figures<'a>,
    /// Steps of the learning rate's schedule that are done.
    schedule_step: u64,
}

impl Training<'_> {
    fn run(&mut self, done: u64) -> Result<()> {
        let steps = self.config.training.steps;
        if done >= steps {
            info!("training.steps = {steps} are done: nothing is left to do");
            return self.saves.finish();
        }
        info!("Training starts at step {}", done + 1);
        for step in done + 1..=steps {
            let Some(is_stopping) = self.step(step)? else {
                warn!("Ran out of data; last step was canceled.");
                break;
            };
            if step == done + 1 {
                let timeout = Duration::from_secs(self.config.comm.train_timeout_seconds);
                self.groups.set_timeout(timeout)?;
            }
            if is_stopping && step < steps {
                match self.saves.is_saving() {
                    true => info!("asked to stop: step {step} of {steps} is done"),
                    false => warn!(
                        "asked to stop: step {step} of {steps} is done, and not saved, since checkpoint.enable is off or \
                         checkpoint.load_only on"
                    ),
                }
                return self.saves.finish();
            }
        }
        self.saves.finish()?;
        info!("Training completed");
        Ok(())
    }

    /// One step and what follows it; `None` where there is no data for it. Gives whether the job was asked to stop.
    fn step(&mut self, step: u64) -> Result<Option<bool>> {
        let settings = self.setup.hyper.settings(self.schedule_step);
        self.saves.look()?;
        let Some(report) = self.runner.step(settings, &mut self.feed)? else { return Ok(None) };
        self.schedule_step += 1;
        self.figures.stepped(step, settings.lr, &report, &mut self.feed)?;
        let steps = self.config.training.steps;
        if let Some(due) = saving::due(&self.config.checkpoint, step, steps, report.is_stopping) {
            let tokens_seen = self.figures.tokens_seen();
            let progress = Progress { schedule_step: self.schedule_step, ..Progress::of(step, tokens_seen) };
            self.saves.save(due, &self.runner, &mut self.feed, progress)?;
        }
        let happenings = self.saves.take_happenings();
        if let Some(trace) = &mut self.feed.trace {
            happenings.iter().for_each(|happening| trace.happening(happening));
        }
        self.figures.tell(happenings);
        if let Some(validation) = self.validation.as_ref().filter(|validation| validation.is_due(step)) {
            // Parameters are not changed, so that a save may go on copying them.
            let found = validation.run(&mut self.runner, self.groups)?;
            self.figures.validated(step, &found)?;
        }
        if let Some(trace) = &mut self.feed.trace {
            trace.stepped(step)?;
        }
        Ok(Some(report.is_stopping))
    }
}
