//! What stages of a pipeline send each other.

use crate::error::{Error, Result};
use crate::ffi::process_group::{ProcessGroup, Work};
use job::pipeline::{Message, Stage};
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
