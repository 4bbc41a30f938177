//! Which process of a job this is, and where the others meet: what launchers tell the processes that they start.
//!
//! Sources: the variables that Slurm's `srun`, Open MPI's `mpirun`, PMI and PyTorch 2.11's `torchrun` set, from the manual
//! of each; `torch/distributed/elastic/agent/server/local_elastic_agent.py` for torchrun.

mod nodes;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};

/// The value of a variable of the environment, where it is set.
pub type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// How a launcher tells a process its number and how many there are.
struct Launcher {
    name: &'static str,
    /// Counts from 0.
    rank: &'static str,
    /// The first of these that is set.
    size: &'static [&'static str],
    /// The number among those of the same machine.
    local_rank: &'static str,
    /// Whether what is set is meant for this process.
    is_in_effect: fn(&Variables) -> bool,
    /// Whether it may itself have been started by Slurm, one per node: then its numbers count, and Slurm's do not.
    is_inside_slurm: fn(&Variables) -> bool,
}

/// Slurm's numbers of steps from here on are no steps of tasks: the batch script, interactive and external steps.
const SLURM_STEP_SPECIAL: u64 = 0xffff_fff0;
const SLURM: &str = "Slurm";

/// Every launcher. To add one: a line here.
static LAUNCHERS: &[Launcher] = &[
    Launcher {
        name: SLURM,
        rank: "SLURM_PROCID",
        size: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
        local_rank: "SLURM_LOCALID",
        is_in_effect: |variable| {
            let step = variable("SLURM_STEP_ID").or_else(|| variable("SLURM_STEPID"));
            step.is_some_and(|step| step.parse().map_or(true, |step: u64| step < SLURM_STEP_SPECIAL))
        },
        is_inside_slurm: |_| false,
    },
    Launcher {
        name: "Open MPI",
        rank: "OMPI_COMM_WORLD_RANK",
        size: &["OMPI_COMM_WORLD_SIZE"],
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        is_in_effect: |_| true,
        is_inside_slurm: |_| true,
    },
    Launcher {
        name: "PMI",
        rank: "PMI_RANK",
        size: &["PMI_SIZE"],
        local_rank: "MPI_LOCALRANKID",
        is_in_effect: |_| true,
        is_inside_slurm: |_| true,
    },
    Launcher {
        name: "torchrun",
        rank: "RANK",
        size: &["WORLD_SIZE"],
        local_rank: "LOCAL_RANK",
        is_in_effect: |_| true,
        // Without torchrun itself these are what a script exports, and must agree with Slurm.
        is_inside_slurm: |variable| variable("TORCHELASTIC_RUN_ID").is_some(),
    },
];

/// A process of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its number, from 0.
    pub rank: u32,
    /// How many there are, at least 1.
    pub ranks: u32,
    /// Its number among those of the same machine, where the launcher says it.
    pub local_rank: Option<u32>,
}

/// What one launcher says.
struct Told {
    launcher: &'static Launcher,
    size_variable: &'static str,
    member: Member,
}

impl Told {
    fn text(&self) -> String {
        let Told { launcher, size_variable, member: Member { rank, ranks, .. } } = self;
        format!("{}={rank} and {size_variable}={ranks} ({})", launcher.rank, launcher.name)
    }
}

/// Which process this is; `None` where no launcher says anything.
///
/// Errors: [`Error::Environment`] where two launchers contradict each other, or one says what makes no sense.
pub fn member(environment: &Variables) -> Result<Option<Member>> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let mut told = Vec::new();
    for launcher in LAUNCHERS {
        told.extend(read(launcher, &variable)?);
    }
    if told.iter().any(|told| (told.launcher.is_inside_slurm)(&variable)) {
        told.retain(|told| told.launcher.name != SLURM);
    }
    let Some(first) = told.first() else { return Ok(None) };
    let numbers = |told: &Told| (told.member.rank, told.member.ranks);
    if let Some(other) = told.iter().find(|other| numbers(other) != numbers(first)) {
        return Err(bad(format!("the environment names two tasks: {}, {}", first.text(), other.text())));
    }
    match first.member.rank < first.member.ranks {
        true => Ok(Some(first.member)),
        false => Err(bad(format!("{}: tasks are numbered from 0 to the number before", first.text()))),
    }
}

/// What a launcher says; `None` where it says nothing.
fn read(launcher: &'static Launcher, variable: &Variables) -> Result<Option<Told>> {
    if !(launcher.is_in_effect)(variable) {
        return Ok(None);
    }
    // How many there are says nothing without a number: scripts set it for programs of their own.
    let Some(rank) = variable(launcher.rank) else { return Ok(None) };
    let size = launcher.size.iter().find_map(|name| Some((*name, variable(name)?)));
    let Some((size_variable, ranks)) = size else {
        let (variable, name, sizes) = (launcher.rank, launcher.name, launcher.size.join(" nor "));
        return Err(bad(format!("{variable}={rank} is set ({name}), but not {sizes}")));
    };
    let number = |name: &str, text: &str| {
        text.parse::<u32>()
            .map_err(|_| bad(format!("{name}={text} is no number of a task ({})", launcher.name)))
    };
    let (rank, ranks) = (number(launcher.rank, &rank)?, number(size_variable, &ranks)?);
    let local_rank =
        variable(launcher.local_rank).map(|text| number(launcher.local_rank, &text)).transpose()?;
    Ok(Some(Told { launcher, size_variable, member: Member { rank, ranks, local_rank } }))
}

fn bad(why: String) -> Error {
    Error::Environment { why }
}

/// Where the ranks of a job meet: a key-value store over TCP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rendezvous {
    /// Name or address of the host that has the store.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the launcher has opened the store; if not, rank 0 does.
    pub is_open: bool,
    /// What keys begin with, so that a job that was started again does not meet what it left.
    pub prefix: String,
}

/// The port where nobody names one: torchrun's.
const PORT: u16 = 29_500;
/// Ports of Slurm's steps, where nobody names one: two jobs on one machine get two.
const SLURM_PORTS: std::ops::Range<u64> = 20_000..40_000;

impl Rendezvous {
    /// Where the ranks of a job meet: `MASTER_ADDR` and `MASTER_PORT`; under Slurm without them, the first node of the step
    /// and a port by its number; on a single machine itself.
    ///
    /// Errors: [`Error::Environment`] where nothing says it.
    pub fn of(environment: &Variables, member: &Member) -> Result<Rendezvous> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let is_step = (LAUNCHERS[0].is_in_effect)(&variable);
        let nodes = variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_JOB_NODELIST"));
        let host = match (variable("MASTER_ADDR"), nodes.filter(|_| is_step)) {
            (Some(host), _) => host,
            (None, Some(nodes)) => nodes::first(&nodes).ok_or_else(|| {
                bad(format!("SLURM_STEP_NODELIST={nodes} is no list of nodes; set MASTER_ADDR"))
            })?,
            (None, None) if is_one_machine(&variable, member) => "127.0.0.1".to_owned(),
            (None, None) => {
                let ranks = member.ranks;
                return Err(bad(format!(
                    "nothing says where the {ranks} ranks meet; set MASTER_ADDR to the host of rank 0, and MASTER_PORT to a \
                     free port of it, on every rank"
                )));
            }
        };
        let port = match variable("MASTER_PORT") {
            Some(text) => text.parse().map_err(|_| bad(format!("MASTER_PORT={text} is no port")))?,
            None if is_step => slurm_port(&variable),
            None => PORT,
        };
        let restarts = variable("TORCHELASTIC_RESTART_COUNT").unwrap_or_else(|| "0".to_owned());
        let is_open =
            variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        Ok(Rendezvous { host, port, is_open, prefix: format!("titan/{restarts}") })
    }
}

/// Whether all ranks are on this machine, as far as anything says.
fn is_one_machine(variable: &Variables, member: &Member) -> bool {
    let local = ["LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"];
    let local: Option<u32> = local.iter().find_map(|name| variable(name)?.parse().ok());
    member.ranks == 1 || local == Some(member.ranks)
}

fn slurm_port(variable: &Variables) -> u16 {
    let number = |name: &str| variable(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let mixed = number("SLURM_JOB_ID").wrapping_mul(31).wrapping_add(number("SLURM_STEP_ID"));
    (SLURM_PORTS.start + mixed % (SLURM_PORTS.end - SLURM_PORTS.start)) as u16
}
