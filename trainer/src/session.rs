//! One rank among the others: how it reaches them, what it computes on, and how all learn that one of them failed.

use crate::coordinate::StoreKeys;
use crate::error::{Error, Result};
use crate::ffi::device::{self, Nccl};
use crate::ffi::process_group::{GroupOptions, ProcessGroup};
use crate::ffi::store::{Store, TcpOptions};
use dcp::coordinate::{Alone, Coordinator, Peers};
use job::config::CommBackend;
use job::launch::{Member, Rendezvous};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::Device;

/// How long a rank that met the failure of another looks for what that one says.
const CULPRIT_WAIT: Duration = Duration::from_secs(2);
/// Under which key the rank that failed first says so.
const FAILED: &str = "failed";

/// A rank's lines to the others.
#[derive(Debug)]
pub struct Session {
    /// Which rank this is.
    pub member: Member,
    /// What it computes on.
    pub device: Device,
    /// Messages about setting up, saving and loading.
    pub coordinator: Arc<dyn Coordinator>,
    line: Option<Line>,
}

/// What there is where there are others.
#[derive(Debug)]
struct Line {
    store: Arc<Store>,
    /// Whether the store is in this process.
    is_host: bool,
    nccl: Option<Nccl>,
    timeout: Duration,
    interface: Option<&'static str>,
}

impl Session {
    /// A job of one rank.
    ///
    /// Errors: [`Error::Usage`] for a backend that cannot be had.
    pub fn alone(backend: CommBackend) -> Result<Session> {
        let member = Member { rank: 0, ranks: 1, local_rank: Some(0) };
        let device = choose_device(&member, backend)?;
        Ok(Session { member, device, coordinator: Arc::new(Alone), line: None })
    }

    /// Meets the other ranks. CUDA is loaded already, where it is wanted.
    ///
    /// Errors: [`Error::Store`] where the store is not reached in time; [`Error::Usage`] for a backend that cannot be had.
    pub fn open(
        member: Member,
        rendezvous: &Rendezvous,
        backend: CommBackend,
        timeout: Duration,
    ) -> Result<Session> {
        let is_host = member.rank == 0 && !rendezvous.is_open;
        let options = TcpOptions {
            host: &rendezvous.host,
            port: rendezvous.port,
            is_master: is_host,
            world: Some(member.ranks),
            wait_workers: false,
            timeout,
        };
        let store = Arc::new(Store::tcp(&options)?.prefix(&rendezvous.prefix)?);
        // A connection of its own: saves talk while the trainer does.
        let keys = StoreKeys::new(Arc::new(store.reconnect()?.prefix("agree")?));
        let coordinator = Arc::new(Peers::new(Arc::new(keys), member.rank, member.ranks, timeout)?);
        let is_local = matches!(&*rendezvous.host, "127.0.0.1" | "localhost" | "::1");
        let line = Line { store, is_host, nccl: None, timeout, interface: is_local.then_some("lo") };
        let mut session = Session { member, device: Device::Cpu, coordinator, line: Some(line) };
        let found = choose_device(&member, backend).and_then(|device| {
            let nccl = matches!(device, Device::Cuda(_)).then(Nccl::load).transpose()?;
            Ok((device, nccl))
        });
        let (device, nccl) = session.together("device", found)?;
        session.device = device;
        if let Some(line) = &mut session.line {
            line.nccl = nccl;
        }
        Ok(session)
    }

    /// The group of all ranks; `None` where there is one.
    ///
    /// Errors: what making it gives.
    pub fn world(&self) -> Result<Option<ProcessGroup>> {
        let Some(line) = &self.line else { return Ok(None) };
        let options = GroupOptions {
            name: "world",
            rank: self.member.rank,
            size: self.member.ranks,
            timeout: line.timeout,
            interface: line.interface,
        };
        let world = ProcessGroup::gloo(line.store.clone(), &options)?;
        self.accelerate(&world)?;
        Ok(Some(world))
    }

    /// Gives a group what carries tensors of this rank's device.
    ///
    /// Errors: what adding NCCL gives.
    pub fn accelerate(&self, group: &ProcessGroup) -> Result<()> {
        let nccl = self.line.as_ref().and_then(|line| line.nccl.as_ref());
        match (nccl, self.device) {
            (Some(nccl), Device::Cuda(index)) => group.add_nccl(nccl, index as u32),
            _ => Ok(()),
        }
    }

    /// All ranks or none: gives each its own outcome where all are good. Called by every rank with the same `tag`, which
    /// serves once.
    ///
    /// Errors: this rank's own; [`Error::Elsewhere`] where only others failed.
    pub fn together<T>(&self, tag: &str, outcome: Result<T>) -> Result<T> {
        let own = match &outcome {
            Ok(_) => Vec::new(),
            Err(error) => vec![error.exit_code()],
        };
        let reports = self.coordinator.gather(tag, &own)?;
        let first = reports.and_then(|reports| {
            let failed = |(rank, report): (usize, Vec<u8>)| Some((rank as u32, *report.first()?));
            reports.into_iter().enumerate().find_map(failed)
        });
        let verdict = first.map_or_else(Vec::new, |(rank, exit_code)| {
            rank.to_le_bytes().into_iter().chain([exit_code]).collect()
        });
        let verdict = self.coordinator.share(&format!("{tag}/verdict"), &verdict)?;
        match *verdict {
            [a, b, c, d, exit_code] => match (u32::from_le_bytes([a, b, c, d]), outcome) {
                (rank, Err(error)) if rank == self.member.rank => Err(error),
                (rank, _) => Err(Error::Elsewhere { rank, exit_code }),
            },
            _ => outcome,
        }
    }

    /// Tells the others that this rank ends by an error, and gives the error that it should end by: its own, or that it is
    /// another rank's to say.
    pub fn fail(&self, error: Error) -> Error {
        let Some(line) = &self.line else { return error };
        if let Error::Elsewhere { .. } = error {
            return error;
        }
        if error.is_of_others()
            && let Some(elsewhere) = self.culprit(line, CULPRIT_WAIT)
        {
            return elsewhere;
        }
        let own = format!("{} {} {}", self.member.rank, error.exit_code(), error.with_causes());
        // Where nobody hears it, there is nobody to tell.
        let first =
            line.store.compare_set(FAILED, b"", own.as_bytes()).unwrap_or_else(|_| own.clone().into());
        if line.is_host {
            // Others look here for what happened.
            std::thread::sleep(CULPRIT_WAIT);
        }
        match Said::of(&first) {
            // Several ranks meet one mistake, in a file that all read: one says it.
            Some(first)
                if first.rank != self.member.rank
                    && (error.is_of_others() || first.text == error.with_causes()) =>
            {
                first.elsewhere()
            }
            _ => error,
        }
    }

    /// The rank that failed first, as it says.
    fn culprit(&self, line: &Line, wait: Duration) -> Option<Error> {
        let deadline = Instant::now() + wait;
        // The connection of collectives may be in use by one that hangs.
        let store = line.store.reconnect().ok()?;
        while !store.has(&[FAILED]).ok()? {
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let said = Said::of(&store.get(FAILED, CULPRIT_WAIT).ok()?)?;
        (said.rank != self.member.rank).then(|| said.elsewhere())
    }
}

/// What the rank that failed first says.
struct Said {
    rank: u32,
    exit_code: u8,
    text: String,
}

impl Said {
    fn of(bytes: &[u8]) -> Option<Said> {
        let said = std::str::from_utf8(bytes).ok()?;
        let (rank, rest) = said.split_once(' ')?;
        let (exit_code, text) = rest.split_once(' ')?;
        Some(Said { rank: rank.parse().ok()?, exit_code: exit_code.parse().ok()?, text: text.to_owned() })
    }

    fn elsewhere(&self) -> Error {
        Error::Elsewhere { rank: self.rank, exit_code: self.exit_code }
    }
}

/// The device of a rank: its CUDA device where CUDA is loaded.
fn choose_device(member: &Member, backend: CommBackend) -> Result<Device> {
    let devices = if device::is_loaded() { device::device_count()? } else { 0 };
    match (devices, backend) {
        (0, CommBackend::Nccl) => Err(Error::Usage(format!(
            "comm.backend = \"nccl\" needs CUDA, which is not loaded; set it to \"auto\" or \"gloo\", or see to it that \
             {} is not \"off\" and there is a driver",
            device::CUDA_VARIABLE
        ))),
        (0, _) => Ok(Device::Cpu),
        (_, CommBackend::Gloo) if member.ranks > 1 => Err(Error::Usage(format!(
            "comm.backend = \"gloo\" carries tensors of CPUs only, but CUDA is loaded; set it to \"auto\", or set {}=off",
            device::CUDA_VARIABLE
        ))),
        (devices, _) => {
            let index = member.local_rank.unwrap_or(member.rank) % devices;
            device::set_device(index)?;
            Ok(Device::Cuda(index as usize))
        }
    }
}
