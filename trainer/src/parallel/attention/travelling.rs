//! Keys and values on their way from rank to rank, and their gradients.

use super::Sharing;
use crate::error::Result;
use crate::ffi::process_group::{ProcessGroup, ReduceOp, Work};
use job::config::RotateMethod;
use tch::{Kind, Tensor};

/// Keys and values of all ranks, `[2, batch, heads, sequence, head_dim]` each: this rank's first, then those of the ranks
/// before it, one after the other.
pub(super) struct Travelling<'a> {
    sharing: &'a Sharing,
    /// Those that are had: this rank's, or the last that came; or all.
    had: Tensor,
    /// What is on its way, into which tensor.
    coming: Option<(Work, Tensor)>,
    steps_done: u32,
}

impl<'a> Travelling<'a> {
    pub(super) fn new(sharing: &'a Sharing, own: Tensor) -> Self {
        Travelling { sharing, had: own, coming: None, steps_done: 0 }
    }

    /// Whose they are, and what.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Tensor)>> {
        let Sharing { group, method, .. } = self.sharing;
        let (step, ranks) = (self.steps_done, group.size());
        if step == ranks {
            return Ok(None);
        }
        self.steps_done += 1;
        if let Some((work, tensor)) = self.coming.take() {
            work.wait()?;
            self.had = tensor;
        }
        let rank = (group.rank() + ranks - step) % ranks;
        match method {
            RotateMethod::AllGather if step > 0 => return Ok(Some((rank, self.had.f_get(rank.into())?))),
            RotateMethod::AllGather => {
                let size = [&[i64::from(ranks)], self.had.size().as_slice()].concat();
                let all = self.had.f_new_empty(size, (self.had.kind(), self.had.device()))?;
                self.coming = Some((group.all_gather_into(&all.f_flatten(0, 1)?, &self.had)?, all));
            }
            RotateMethod::AllToAll if step + 1 < ranks => self.coming = Some(passed_on(group, &self.had)?),
            RotateMethod::AllToAll => {}
        }
        Ok(Some((rank, self.had.shallow_clone())))
    }
}

/// Begins to give the next rank a tensor, and to take that of the rank before.
fn passed_on(group: &ProcessGroup, tensor: &Tensor) -> Result<(Work, Tensor)> {
    let (ranks, own) = (group.size() as usize, group.rank() as usize);
    let coming = tensor.f_empty_like()?;
    let len = tensor.numel() as i64;
    let only = |rank: usize| (0..ranks).map(|other| if other == rank { len } else { 0 }).collect::<Vec<_>>();
    let (from, to) = (only((own + ranks - 1) % ranks), only((own + 1) % ranks));
    let work = group.all_to_all(&coming.f_view([-1])?, &tensor.f_view([-1])?, &from, &to)?;
    Ok((work, coming))
}

/// Gradients of keys and values, float32, as they are summed over ranks.
pub(super) struct Sums<'a> {
    sharing: &'a Sharing,
    /// Of all ranks, or of the one whose keys are had.
    sums: Tensor,
    coming: Option<(Work, Tensor)>,
}

impl<'a> Sums<'a> {
    pub(super) fn new(sharing: &'a Sharing, own: &Tensor) -> Result<Self> {
        let mut size = own.size();
        if sharing.method == RotateMethod::AllGather {
            size.insert(0, sharing.group.size().into());
        }
        let sums = own.f_new_zeros(size, (Kind::Float, own.device()))?;
        Ok(Sums { sharing, sums, coming: None })
    }

    /// Where those of a rank are summed.
    pub(super) fn of(&mut self, rank: u32) -> Result<Tensor> {
        if let Some((work, tensor)) = self.coming.take() {
            work.wait()?;
            self.sums = tensor;
        }
        match self.sharing.method {
            RotateMethod::AllGather => Ok(self.sums.f_get(rank.into())?),
            RotateMethod::AllToAll => Ok(self.sums.shallow_clone()),
        }
    }

    /// To the rank that has these keys next.
    pub(super) fn pass_on(&mut self) -> Result<()> {
        if self.sharing.method == RotateMethod::AllToAll {
            self.coming = Some(passed_on(&self.sharing.group, &self.sums)?);
        }
        Ok(())
    }

    /// The sums of this rank's own.
    pub(super) fn finish(mut self) -> Result<Tensor> {
        let group = &self.sharing.group;
        match self.coming.take() {
            Some((work, tensor)) => {
                work.wait()?;
                Ok(tensor)
            }
            None => {
                let own = self.sums.f_get(0)?.f_empty_like()?;
                group.reduce_scatter(&own, &self.sums.f_flatten(0, 1)?, ReduceOp::Sum)?.wait()?;
                Ok(own)
            }
        }
    }
}
