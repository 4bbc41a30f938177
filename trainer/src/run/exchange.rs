//! What stages of a pipeline send each other.

use super::{Runner, Step, Values, missing, taken};
use crate::error::{Error, Result};
use crate::ffi::process_group::{ProcessGroup, Work};
use job::pipeline::{Message, Payload, Stage};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// A tensor that is there, or on its way.
#[derive(Debug)]
pub(super) struct Waiting {
    tensor: Tensor,
    work: Option<Work>,
}

impl Waiting {
    pub(super) fn here(tensor: Tensor) -> Self {
        Waiting { tensor, work: None }
    }

    /// The tensor, once it is there.
    ///
    /// Errors: what the communication gives.
    pub(super) fn wait(self) -> Result<Tensor> {
        self.work.map_or(Ok(()), Work::wait)?;
        Ok(self.tensor)
    }
}

/// The ranks of a pipeline, and what this one has sent.
///
/// Two ranks begin the messages between them in the same order, so that no tags are needed to tell them apart, which NCCL
/// would not have.
pub(super) struct Exchange {
    group: Option<Arc<ProcessGroup>>,
    /// Of every stage.
    stage_ranks: Vec<u32>,
    device: Device,
    /// Under way, with the memory that is read.
    sent: Vec<Waiting>,
}

const TAG: u32 = 0;

impl Exchange {
    /// Errors: [`Error::Usage`] for a stage of a rank that is none of the group.
    pub(super) fn new(
        group: Option<Arc<ProcessGroup>>,
        stage_ranks: Vec<u32>,
        device: Device,
    ) -> Result<Self> {
        let ranks = group.as_ref().map_or(1, |group| group.size());
        match stage_ranks.iter().find(|rank| **rank >= ranks) {
            Some(rank) => Err(Error::Usage(format!("a stage on rank {rank} of a pipeline of {ranks} ranks"))),
            None => Ok(Exchange { group, stage_ranks, device, sent: Vec::new() }),
        }
    }

    fn peer(&self, stage: Stage) -> Result<(&ProcessGroup, u32)> {
        let rank = self.stage_ranks.get(stage.0 as usize).copied();
        self.group
            .as_deref()
            .zip(rank)
            .ok_or_else(|| Error::Usage(format!("stage {} is on no rank", stage.0)))
    }

    /// Begins to send.
    ///
    /// Errors: what the communication gives.
    pub(super) fn send(&mut self, message: Message, tensor: Tensor) -> Result<()> {
        let tensor = tensor.f_contiguous()?;
        let (group, rank) = self.peer(message.to)?;
        let work = Some(group.send(&tensor, rank, TAG)?);
        // What has arrived needs no memory any more.
        while let Some(first) = self.sent.first()
            && first.work.as_ref().map_or(Ok(true), Work::is_completed)?
        {
            drop(self.sent.remove(0).wait()?);
        }
        self.sent.push(Waiting { tensor, work });
        Ok(())
    }

    /// Begins to receive a tensor of this shape and type.
    ///
    /// Errors: what the communication gives.
    pub(super) fn recv(&mut self, message: Message, shape: &[i64], kind: Kind) -> Result<Waiting> {
        let tensor = Tensor::f_empty(shape, (kind, self.device))?;
        let (group, rank) = self.peer(message.from)?;
        let work = Some(group.recv(&tensor, rank, TAG)?);
        Ok(Waiting { tensor, work })
    }

    /// Waits until all that was sent has arrived.
    ///
    /// Errors: what the communication gives.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.sent.drain(..).try_for_each(|sent| sent.wait().map(drop))
    }
}

impl Runner<'_> {
    pub(super) fn send(&mut self, step: &mut Step, message: Message) -> Result<()> {
        let (of, unit) = self.end_of(step, message, message.from)?;
        let tensor = taken(of, (unit, message.microbatch.0), "what is to be sent")?;
        self.exchange.send(message, tensor)
    }

    pub(super) fn recv(&mut self, step: &mut Step, message: Message) -> Result<()> {
        let tokens = step.batch[message.microbatch.0 as usize].inputs.size();
        let kind = self.units.first().ok_or_else(|| missing("a unit"))?.param_kind();
        let waiting =
            self.exchange.recv(message, &self.model.between(&self.parallel.part_size(&tokens)), kind)?;
        let (of, unit) = self.end_of(step, message, message.to)?;
        of.insert((unit, message.microbatch.0), waiting);
        Ok(())
    }

    /// Where what a message brings is kept at one of its ends, and under which unit.
    fn end_of<'s>(
        &self,
        step: &'s mut Step,
        message: Message,
        stage: Stage,
    ) -> Result<(&'s mut Values, u32)> {
        let found = self.programs.train.stages.iter().find(|of_rank| of_rank.stage == stage);
        let units = &found.ok_or_else(|| missing("a stage"))?.units;
        // Between two units, what the one after takes is what the one before gives.
        let after = if (stage == message.from) == (message.payload == Payload::Activation) {
            units.end
        } else {
            units.start
        };
        Ok(match message.payload {
            Payload::Activation => (&mut step.inputs, after),
            Payload::Gradient => (&mut step.grads, after - 1),
        })
    }
}
