//! Process groups of PyTorch's c10d and their collectives.
//!
//! All ranks of a group call the same collectives in the same order. Each gives a [`Work`] at once; its tensors may not
//! be touched until it has been waited for. Tensors on the CPU go by gloo, those on CUDA by NCCL, once
//! [`ProcessGroup::add_nccl`] was called.

use super::device::Nccl;
use super::outcome::{handle, int, message, raw, text, timeout_ms};
use super::store::Store;
use super::sys;
use crate::error::{Error, Result};
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tch::Tensor;

/// What becomes of the elements of all ranks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReduceOp {
    /// Their sum.
    Sum = 0,
    /// Their mean; of floating-point elements.
    Avg = 1,
    /// Their product.
    Product = 2,
    /// The least.
    Min = 3,
    /// The greatest.
    Max = 4,
}

/// What a group is made of.
#[derive(Clone, Debug)]
pub struct GroupOptions<'a> {
    /// Its name, the same at all its ranks, and of one group only in the store.
    pub name: &'a str,
    /// This process's place in it, from 0.
    pub rank: u32,
    /// How many ranks it has.
    pub size: u32,
    /// How long a collective, and making the group, may take.
    pub timeout: Duration,
    /// The network interface, such as `lo` where all ranks are on one machine. `None`: the one that the host's name
    /// resolves to, or the first in `GLOO_SOCKET_IFNAME`.
    pub interface: Option<&'a str>,
}

/// Who a group is, for errors and subgroups.
#[derive(Debug)]
struct Identity {
    name: String,
    rank: u32,
    size: u32,
}

impl Identity {
    fn error(&self, op: &'static str, message: String) -> Error {
        Error::Collective { op, group: self.name.clone(), rank: self.rank, size: self.size, message }
    }
}

/// A group of processes that talk to each other.
#[derive(Debug)]
pub struct ProcessGroup {
    raw: NonNull<sys::Group>,
    identity: Arc<Identity>,
    store: Arc<Store>,
    /// Of collectives, and of what is made of this group.
    timeout: Mutex<Duration>,
    interface: Option<String>,
}

// SAFETY: c10d's process groups are reference-counted atomically, and their collectives may be called from any thread:
// gloo's enqueue under a lock, NCCL's lock their communicators.
unsafe impl Send for ProcessGroup {}
// SAFETY: as above. Two threads that call collectives of one group at once have to agree on an order with the other
// ranks; a wrong one is an error or a timeout, no memory is at stake.
unsafe impl Sync for ProcessGroup {}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: ours alone, and not used after this.
        unsafe { sys::titan_group_drop(self.raw.as_ptr()) }
    }
}

/// A collective under way. It holds its tensors until it is dropped.
#[derive(Debug)]
#[must_use = "the tensors of a collective may not be touched until it was waited for"]
pub struct Work {
    raw: NonNull<sys::Work>,
    op: &'static str,
    group: Arc<Identity>,
    _tensors: Vec<Tensor>,
}

// SAFETY: c10d's works are reference-counted atomically and made to be waited for by any thread; tensors are `Send`.
unsafe impl Send for Work {}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: ours alone, and not used after this. Work that nobody waited for goes on, with its own references to
        // its tensors.
        unsafe { sys::titan_work_drop(self.raw.as_ptr()) }
    }
}

impl Work {
    /// Waits until it is done. On CUDA: until what is queued on the current stream from now on will find it done.
    pub fn wait(self) -> Result<()> {
        // SAFETY: the handle is alive, and the message is taken at once.
        unsafe { message(sys::titan_work_wait(self.raw.as_ptr())) }
            .map_err(|message| self.group.error(self.op, message))
    }

    /// Whether it is done, well or not.
    pub fn is_completed(&self) -> Result<bool> {
        let mut completed = false;
        // SAFETY: handle and out pointer are alive, and the message is taken at once.
        unsafe { message(sys::titan_work_is_completed(self.raw.as_ptr(), &mut completed)) }
            .map_err(|message| self.group.error(self.op, message))?;
        Ok(completed)
    }
}

impl ProcessGroup {
    /// Makes a group over gloo. All its ranks call this; it returns when all are connected.
    pub fn gloo(store: Arc<Store>, options: &GroupOptions) -> Result<ProcessGroup> {
        let GroupOptions { name, rank, size, timeout, interface } = options;
        if rank >= size {
            return Err(Error::Usage(format!("group `{name}`: rank {rank} is not below its size, {size}")));
        }
        let identity = Identity { name: (*name).to_owned(), rank: *rank, size: *size };
        let own = store.prefix(&format!("group/{name}"))?;
        own.set_timeout(*timeout)?;
        let (name, on) = (text(name)?, text(interface.unwrap_or(""))?);
        let (rank, size) = (int(*rank, "a rank")?, int(*size, "a group's size")?);
        let mut raw = null_mut();
        // SAFETY: the store and the texts are alive, the out pointer outlives the call, the message is taken at once.
        unsafe {
            message(sys::titan_group_gloo(
                own.raw(),
                rank,
                size,
                timeout_ms(*timeout),
                on.as_ptr(),
                name.as_ptr(),
                &mut raw,
            ))
        }
        .map_err(|message| identity.error("connecting", message))?;
        Ok(ProcessGroup {
            raw: handle(raw),
            identity: Arc::new(identity),
            store,
            timeout: Mutex::new(*timeout),
            interface: interface.map(str::to_owned),
        })
    }

    /// Makes a group of some of this one's ranks, in that order. Those ranks call it; at others it gives `None` and does
    /// nothing.
    pub fn subgroup(&self, name: &str, ranks: &[u32]) -> Result<Option<ProcessGroup>> {
        let mut seen = ranks.to_vec();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() != ranks.len() || seen.last().is_none_or(|last| *last >= self.size()) {
            return Err(Error::Usage(format!(
                "group `{name}` of ranks {ranks:?}: each must be one of the {} of `{}`, once",
                self.size(),
                self.name()
            )));
        }
        let Some(rank) = ranks.iter().position(|rank| *rank == self.rank()) else { return Ok(None) };
        let options = GroupOptions {
            name,
            rank: rank as u32,
            size: ranks.len() as u32,
            timeout: self.timeout(),
            interface: self.interface.as_deref(),
        };
        Self::gloo(self.store.clone(), &options).map(Some)
    }

    /// Gives the group NCCL for tensors on this process's CUDA device. All ranks call this; connections are made with the
    /// first collective.
    pub fn add_nccl(&self, nccl: &Nccl, device_index: u32) -> Result<()> {
        let store = self.store.prefix(&format!("nccl/{}", self.name()))?;
        let timeout = self.timeout();
        store.set_timeout(timeout)?;
        let name = text(self.name())?;
        let (rank, size) = (int(self.rank(), "a rank")?, int(self.size(), "a group's size")?);
        let device = int(device_index, "a device")?;
        // SAFETY: group, store and text are alive, `Nccl` holds this very function of its library, and the message is
        // taken at once.
        unsafe {
            message((nccl.add)(
                self.raw.as_ptr(),
                store.raw(),
                rank,
                size,
                device,
                timeout_ms(timeout),
                name.as_ptr(),
            ))
        }
        .map_err(|message| self.identity.error("adding NCCL", message))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// This process's place in it, from 0.
    pub fn rank(&self) -> u32 {
        self.identity.rank
    }

    /// How many ranks it has.
    pub fn size(&self) -> u32 {
        self.identity.size
    }

    /// How long collectives from now on may take.
    pub fn set_timeout(&self, timeout: Duration) -> Result<()> {
        // SAFETY: the handle is alive, and the message is taken at once.
        unsafe { message(sys::titan_group_set_timeout(self.raw.as_ptr(), timeout_ms(timeout))) }
            .map_err(|message| self.identity.error("setting the timeout", message))?;
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner) = timeout;
        Ok(())
    }

    fn timeout(&self) -> Duration {
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what is under way: NCCL ends its communicators; gloo has nothing to end, its collectives end by timeout.
    pub fn abort(&self) -> Result<()> {
        // SAFETY: the handle is alive, and the message is taken at once.
        unsafe { message(sys::titan_group_abort(self.raw.as_ptr())) }
            .map_err(|message| self.identity.error("abort", message))
    }

    /// Ends the group well, after all its work. Dropping it does the same without saying what went wrong.
    pub fn shutdown(self) -> Result<()> {
        // SAFETY: the handle is alive, and the message is taken at once.
        unsafe { message(sys::titan_group_shutdown(self.raw.as_ptr())) }
            .map_err(|message| self.identity.error("shutdown", message))
    }

    /// Reduces a tensor of the same shape at all ranks, in place.
    pub fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<Work> {
        // SAFETY: as `start` asks: the function only borrows, for the call, what is alive here.
        self.start("all_reduce", &[tensor], |group, work| unsafe {
            sys::titan_all_reduce(group, raw(tensor), op as i32, work)
        })
    }

    /// Gives all ranks the root's tensor, in place.
    pub fn broadcast(&self, tensor: &Tensor, root: u32) -> Result<Work> {
        let root = self.peer(root)?;
        // SAFETY: as `start` asks.
        self.start("broadcast", &[tensor], |group, work| unsafe {
            sys::titan_broadcast(group, raw(tensor), root, work)
        })
    }

    /// Gives all ranks the inputs of all, one after the other on dim 0 of `output`, which is `size` times as long.
    pub fn all_gather_into(&self, output: &Tensor, input: &Tensor) -> Result<Work> {
        self.check_fit("all_gather_into", ("output", output), ("input", input))?;
        // SAFETY: as `start` asks.
        self.start("all_gather_into", &[output, input], |group, work| unsafe {
            sys::titan_all_gather_into(group, raw(output), raw(input), work)
        })
    }

    /// Reduces the inputs of all, and gives each rank its part of dim 0; `input` is `size` times as long as `output`.
    pub fn reduce_scatter(&self, output: &Tensor, input: &Tensor, op: ReduceOp) -> Result<Work> {
        self.check_fit("reduce_scatter", ("input", input), ("output", output))?;
        // SAFETY: as `start` asks.
        self.start("reduce_scatter", &[output, input], |group, work| unsafe {
            sys::titan_reduce_scatter(group, raw(output), raw(input), op as i32, work)
        })
    }

    /// Sends to each rank a part of dim 0 of `input`, and puts what each sends one after the other into `output`. Splits
    /// are lengths on dim 0, one a rank; both empty: equal parts.
    pub fn all_to_all(
        &self,
        output: &Tensor,
        input: &Tensor,
        output_splits: &[i64],
        input_splits: &[i64],
    ) -> Result<Work> {
        let fits = |splits: &[i64], tensor: &Tensor| {
            splits.len() == self.size() as usize
                && splits.iter().all(|len| *len >= 0)
                && tensor.size().first() == Some(&splits.iter().sum())
        };
        let is_equal = output_splits.is_empty() && input_splits.is_empty();
        let fits = is_equal || (fits(output_splits, output) && fits(input_splits, input));
        if !fits {
            return Err(Error::Usage(format!(
                "all_to_all in group `{}` of {}: splits {output_splits:?} and {input_splits:?} do not add up to dim 0 of \
                 output {:?} and input {:?}",
                self.name(),
                self.size(),
                output.size(),
                input.size()
            )));
        }
        // SAFETY: as `start` asks; both lists have `count` entries.
        self.start("all_to_all", &[output, input], |group, work| unsafe {
            let (outputs, inputs) = (output_splits.as_ptr(), input_splits.as_ptr());
            sys::titan_all_to_all(group, raw(output), raw(input), outputs, inputs, output_splits.len(), work)
        })
    }

    /// Sends a tensor to a rank, which receives one of that shape and type under that tag.
    pub fn send(&self, tensor: &Tensor, to: u32, tag: u32) -> Result<Work> {
        let (to, tag) = (self.peer(to)?, int(tag, "a tag")?);
        // SAFETY: as `start` asks.
        self.start("send", &[tensor], |group, work| unsafe {
            sys::titan_send(group, raw(tensor), to, tag, work)
        })
    }

    /// Receives a tensor from a rank, in place.
    pub fn recv(&self, tensor: &Tensor, from: u32, tag: u32) -> Result<Work> {
        let (from, tag) = (self.peer(from)?, int(tag, "a tag")?);
        // SAFETY: as `start` asks.
        self.start("recv", &[tensor], |group, work| unsafe {
            sys::titan_recv(group, raw(tensor), from, tag, work)
        })
    }

    /// Returns when all ranks have called it.
    pub fn barrier(&self) -> Result<()> {
        // SAFETY: as `start` asks.
        self.start("barrier", &[], |group, work| unsafe { sys::titan_barrier(group, work) })?.wait()
    }

    /// Whether one tensor has as many elements as the other of every rank. What does not fit would fail at this rank, and
    /// leave the others waiting.
    fn check_fit(&self, op: &str, all: (&str, &Tensor), one: (&str, &Tensor)) -> Result<()> {
        if all.1.numel() == one.1.numel() * self.size() as usize && all.1.kind() == one.1.kind() {
            return Ok(());
        }
        let (shapes, kinds) = ((all.1.size(), one.1.size()), (all.1.kind(), one.1.kind()));
        Err(Error::Usage(format!(
            "{op} in group `{}`: {} {:?} {:?} does not have the elements of {} ranks' {} {:?} {:?}",
            self.name(),
            all.0,
            kinds.0,
            shapes.0,
            self.size(),
            one.0,
            kinds.1,
            shapes.1
        )))
    }

    /// A rank of this group as C wants it.
    fn peer(&self, rank: u32) -> Result<i32> {
        if rank >= self.size() {
            return Err(Error::Usage(format!(
                "rank {rank} is not one of the {} of group `{}`",
                self.size(),
                self.name()
            )));
        }
        int(rank, "a rank")
    }

    /// Starts a collective. `call` is a function of the shim that gets the group and an out pointer, and is called once,
    /// before this returns; `tensors` are those it takes.
    fn start(
        &self,
        op: &'static str,
        tensors: &[&Tensor],
        call: impl FnOnce(*mut sys::Group, *mut *mut sys::Work) -> sys::Message,
    ) -> Result<Work> {
        let mut work = null_mut();
        let answer = call(self.raw.as_ptr(), &mut work);
        // SAFETY: private, and called with functions of the shim only, so that this is a fresh answer of it.
        unsafe { message(answer) }.map_err(|message| self.identity.error(op, message))?;
        Ok(Work {
            raw: handle(work),
            op,
            group: self.identity.clone(),
            _tensors: tensors.iter().map(|tensor| tensor.shallow_clone()).collect(),
        })
    }
}
