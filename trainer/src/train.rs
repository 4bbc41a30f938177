//! The run of a job: from a configuration to steps, log, checkpoints.

mod feed;
mod figures;
mod place;
mod saves;
mod setup;
mod trace;
mod validation;

use crate::error::Result;
use crate::optimizer::Settings;
use crate::session::Session;
use crate::stop::Stop;
use feed::Feed;
use figures::Figures;
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
pub fn run(config: &Config, session: &Session, stop: &Stop) -> Result<()> {
    session.together("configuration", setup::same_everywhere(config, session))?;
    let seed = setup::shared_seed(config.debug.seed, session)?;
    let setup = session.together("setup", Setup::new(config, session, seed))?;
    setup.describe(config);
    let groups = setup.groups(session)?;
    let mut runner = setup.runner(config, &groups)?;
    let mut saves = session.together("saves", Saves::open(config, session, &setup))?;
    let validation = session.together("validation", Validation::open(config, &setup))?;
    let resumed = saves.resume(config, session, &runner)?;
    let loader = session.together("data", setup.loader(config, &resumed.data))?;
    let mut feed = Feed::new(loader, &setup, stop.clone(), Trace::new(config, session.member.rank));
    let mut figures = Figures::new(config, &setup, &groups, resumed.tokens_seen);
    let steps = config.training.steps;
    if resumed.step >= steps {
        info!("training.steps = {steps} are done: nothing is left to do");
        return saves.finish();
    }
    info!("Training starts at step {}", resumed.step + 1);
    for step in resumed.step + 1..=steps {
        let optimizer = &config.optimizer;
        let settings = Settings {
            lr: optimizer.lr * setup.schedule.factor(step - 1),
            betas: (optimizer.beta1, optimizer.beta2),
            eps: optimizer.eps,
            weight_decay: optimizer.weight_decay,
        };
        saves.look()?;
        let Some(report) = runner.step(settings, &mut feed)? else {
            warn!("Ran out of data; last step was canceled.");
            break;
        };
        figures.stepped(step, settings.lr, &report, &mut feed)?;
        if let Some(due) = saving::due(&config.checkpoint, step, steps, report.is_stopping) {
            saves.save(step, due, &runner, &mut feed, figures.tokens_seen())?;
        }
        if let Some(validation) = validation.as_ref().filter(|validation| validation.is_due(step)) {
            let found = validation.run(&mut runner, &groups)?;
            figures.validated(step, &found);
        }
        if let Some(trace) = &mut feed.trace {
            trace.stepped(step)?;
        }
        if step == resumed.step + 1 {
            groups.set_timeout(Duration::from_secs(config.comm.train_timeout_seconds))?;
        }
        if report.is_stopping && step < steps {
            info!("asked to stop: step {step} of {steps} is done");
            return saves.finish();
        }
    }
    saves.finish()?;
    info!("Training completed");
    Ok(())
}
