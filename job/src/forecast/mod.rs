//! A run predicted: mesh, batch, time, traffic, memory and saves of a configuration on so many ranks of a device.
//!
//! `titan-ckpt plan` and `titan-train --dry-run` show it. The programs are those that the trainer runs
//! ([`Step`]), run by [`simulate`](crate::simulate) with the costs of [`estimate`](crate::estimate).

mod beside;
mod document;
pub mod published;
mod saves;
mod text;

pub use beside::Beside;
pub use saves::{Saves, WRITE_BANDWIDTH};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::estimate::{Assumptions, Device, costs};
use crate::flops;
use crate::mesh::ParallelDims;
use crate::program::{Program, check};
use crate::simulate::{Figures, Peak, Run, events, simulate};
use crate::step::Step;
use crate::timeline::{Event, Process, chrome_traces};
use convert::spec::Model;

/// What is to be predicted.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The run.
    pub config: &'a Config,
    /// The text of the file that `parallelism.pipeline_parallel_schedule_csv` names.
    pub csv: Option<&'a str>,
    /// Its ranks.
    pub world: u32,
    /// What each of them is.
    pub device: &'static Device,
    /// What is taken for granted that the trainer does not do.
    pub assumptions: Assumptions,
    /// Bytes per second that a node writes to where checkpoints go.
    pub write_bandwidth: f64,
}

/// What is predicted.
#[derive(Clone, Debug)]
pub struct Forecast {
    device: &'static Device,
    assumptions: Assumptions,
    model: Model,
    parameters: u64,
    seq_len: u64,
    schedule: Option<&'static str>,
    /// Its degrees.
    pub dims: ParallelDims,
    /// How it is cut, and its plan.
    pub step: Step,
    /// Floating-point operations per token.
    pub flops_per_token: u64,
    /// Where the time of a step goes.
    pub figures: Figures,
    /// The rank of the pipeline that holds most, and what.
    pub peak: (u32, Peak),
    /// What saving takes.
    pub saves: Saves,
    run: Run,
}

impl Forecast {
    /// Answers a question.
    ///
    /// Errors: what is wrong with the configuration on so many ranks, all at once; [`Error::NoFlops`] and
    /// [`Error::NotModelled`] for what cannot be predicted; [`Error::Stuck`] for a step that would never end.
    pub fn new(question: &Question) -> Result<Self> {
        let Question { config, device, assumptions, .. } = *question;
        config.validate(question.world)?;
        let model = config.model()?;
        let (dims, step) = Step::of(config, question.world, &model, question.csv)?;
        let parameters = flops::parameters(&model)?.total;
        let flops_per_token = flops::per_token(&model, config.training.seq_len)?;
        let costs = costs(config, &model, &dims, &step, device, assumptions)?;
        let programs: Vec<Program> = (0..dims.pp).map(|rank| step.train(rank)).collect();
        for (rank, program) in (0..).zip(&programs) {
            check(program, step.plan.gathered).map_err(|fault| Error::Program { rank, fault })?;
        }
        let run = simulate(&programs, &costs)?;
        let ranks = (0..).zip(programs.iter().zip(&run.ranks));
        let peaks =
            ranks.filter_map(|(rank, (program, timed))| Some((rank, Peak::of(program, timed, &costs)?)));
        let peak = peaks.max_by_key(|(rank, peak)| (peak.memory.total(), std::cmp::Reverse(*rank)));
        let peak = peak.expect("every program has an instruction: it loads its batch");
        let saves = Saves::new(question, &dims, &model, parameters, &programs, &costs, run.seconds);
        Ok(Forecast {
            device,
            assumptions,
            seq_len: config.training.seq_len,
            schedule: step.pipeline().map(|_| config.parallelism.pipeline_parallel_schedule.as_str()),
            flops_per_token,
            figures: Figures::of(&run, &costs),
            peak,
            saves,
            model,
            parameters,
            dims,
            step,
            run,
        })
    }

    /// Tokens per second of one device, as TorchTitan counts them.
    pub fn tokens_per_second(&self) -> f64 {
        let tokens = self.tokens() / u64::from(self.dims.batch());
        flops::tokens_per_second(tokens, self.figures.seconds, self.dims.non_data_parallel())
    }

    /// Model FLOPS utilisation in percent of the device's peak in bfloat16.
    pub fn mfu_percent(&self) -> f64 {
        flops::utilisation(self.flops_per_token, self.tokens_per_second(), self.device.bfloat16_flops())
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> u64 {
        self.step.batch.global * self.seq_len
    }

    /// Bytes that a step can take of the device's memory; none where it has no memory of its own.
    pub fn memory_bytes_max(&self) -> Option<u64> {
        let usable = self.device.calibration.memory_usable;
        self.device.memory_bytes.map(|bytes| (bytes as f64 * usable) as u64)
    }

    /// Whether a step fits the device's memory; none where that is not known.
    pub fn fits(&self) -> Option<bool> {
        self.memory_bytes_max().map(|max| self.peak.1.memory.total() <= max)
    }

    /// The ranks of which a step is simulated: one of every place of the pipeline. Others do the same as one of them.
    pub fn ranks(&self) -> impl Iterator<Item = u32> + use<> {
        // The places of a pipeline are as many ranks apart as there are in one of them.
        let apart = self.dims.world() / self.dims.pp;
        (0..self.dims.pp).map(move |place| place * apart)
    }

    /// What each of [`Forecast::ranks`] does when.
    fn events(&self) -> Vec<Vec<Event>> {
        self.run.ranks.iter().map(|timed| events(timed)).collect()
    }

    /// A step of every rank of a pipeline as a Chrome trace, with the names that the trainer's traces have.
    pub fn trace(&self) -> String {
        let events = self.events();
        let processes = self.ranks().zip(&events).map(|(rank, events)| Process::rank(rank, events));
        chrome_traces(&processes.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests;
