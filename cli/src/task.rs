//! Which task of a cluster job this process is: what launchers tell the processes they start.

use crate::error::{CliError, Result};
use dcp::convert::Task;

/// The value of a variable of the environment, where it is set.
type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// How a launcher tells a process its number and how many there are.
struct Launcher {
    name: &'static str,
    /// Counts from 0.
    rank: &'static str,
    /// The first of these that is set.
    size: &'static [&'static str],
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
        is_in_effect: |_| true,
        is_inside_slurm: |_| true,
    },
    Launcher {
        name: "PMI",
        rank: "PMI_RANK",
        size: &["PMI_SIZE"],
        is_in_effect: |_| true,
        is_inside_slurm: |_| true,
    },
    Launcher {
        name: "torchrun",
        rank: "RANK",
        size: &["WORLD_SIZE"],
        is_in_effect: |_| true,
        // Without torchrun itself these are what a script exports, and must agree with Slurm.
        is_inside_slurm: |variable| variable("TORCHELASTIC_RUN_ID").is_some(),
    },
];

/// What one launcher says.
struct Told {
    launcher: &'static Launcher,
    size_variable: &'static str,
    index: u32,
    count: u32,
}

impl Told {
    fn text(&self) -> String {
        let Told { launcher, size_variable, index, count } = self;
        format!("{}={index} and {size_variable}={count} ({})", launcher.rank, launcher.name)
    }
}

/// The task that was named, or that the environment names; the only one where neither does.
pub(crate) fn task(named: Option<Task>) -> Result<Task> {
    match named {
        Some(task) => Ok(task),
        None => detect(&|name| std::env::var(name).ok()),
    }
}

/// Reads `I/N`.
pub(crate) fn named(text: &str) -> Result<Task, String> {
    let numbers =
        text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
    let (index, count) =
        numbers.ok_or_else(|| "a task is a number, from 0, and how many there are: 0/16".to_owned())?;
    Task::new(index, count)
        .map_err(|_| format!("of {count} tasks the last is {}/{count}", i64::from(count) - 1))
}

fn detect(environment: &Variables) -> Result<Task> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let mut told = Vec::new();
    for launcher in LAUNCHERS {
        told.extend(read(launcher, &variable)?);
    }
    if told.iter().any(|told| (told.launcher.is_inside_slurm)(&variable)) {
        told.retain(|told| told.launcher.name != SLURM);
    }
    let Some(first) = told.first() else { return Ok(Task::ALONE) };
    if let Some(other) = told.iter().find(|other| (other.index, other.count) != (first.index, first.count)) {
        return Err(usage(format!("the environment names two tasks: {}, {}", first.text(), other.text())));
    }
    match Task::new(first.index, first.count) {
        Ok(task) => Ok(task),
        Err(_) => Err(usage(format!("{}: tasks are numbered from 0 to the number before", first.text()))),
    }
}

/// What a launcher says; `None` where it says nothing.
fn read(launcher: &'static Launcher, variable: &Variables) -> Result<Option<Told>> {
    if !(launcher.is_in_effect)(variable) {
        return Ok(None);
    }
    // How many there are says nothing without a number: scripts set it for programs of their own.
    let Some(index) = variable(launcher.rank) else { return Ok(None) };
    let size = launcher.size.iter().find_map(|name| Some((*name, variable(name)?)));
    let Some((size_variable, count)) = size else {
        let (rank, name, sizes) = (launcher.rank, launcher.name, launcher.size.join(" nor "));
        return Err(usage(format!("{rank}={index} is set ({name}), but not {sizes}")));
    };
    let number = |name: &str, text: &str| {
        text.parse::<u32>()
            .map_err(|_| usage(format!("{name}={text} is no number of a task ({})", launcher.name)))
    };
    let (index, count) = (number(launcher.rank, &index)?, number(size_variable, &count)?);
    Ok(Some(Told { launcher, size_variable, index, count }))
}

fn usage(message: String) -> CliError {
    CliError::Usage {
        message,
        hint: Some("say which task this is with --task I/N; --task 0/1 is the only one".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Variables that are set, with their values.
    type Set<'a> = &'a [(&'a str, &'a str)];

    fn detected(environment: Set) -> Result<(u32, u32), String> {
        let find = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        detect(&find).map(|task| (task.index(), task.count())).map_err(|error| error.to_string())
    }

    #[test]
    fn launchers_are_understood() {
        let slurm = [("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "3"), ("SLURM_NTASKS", "16")];
        let batch = [("SLURM_STEP_ID", "4294967291"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "16")];
        let of_step = [&slurm[..], &[("SLURM_STEP_NUM_TASKS", "4")]].concat();
        let mpirun = [("OMPI_COMM_WORLD_RANK", "5"), ("OMPI_COMM_WORLD_SIZE", "8")];
        let elastic = [("RANK", "9"), ("WORLD_SIZE", "32"), ("TORCHELASTIC_RUN_ID", "x")];
        let agreeing = [&slurm[..], &[("RANK", "3"), ("WORLD_SIZE", "16")]].concat();
        let expected: [(Set, (u32, u32)); 12] = [
            (&[], (0, 1)),
            (&slurm, (3, 16)),
            (&of_step, (3, 4)),
            (&slurm[1..], (0, 1)),
            (&batch, (0, 1)),
            (&mpirun, (5, 8)),
            (&[("PMI_RANK", "1"), ("PMI_SIZE", "2")], (1, 2)),
            (&[("RANK", "1"), ("WORLD_SIZE", "2")], (1, 2)),
            (&[("RANK", ""), ("WORLD_SIZE", "2")], (0, 1)),
            (&agreeing, (3, 16)),
            (&[&slurm[..], &mpirun].concat(), (5, 8)),
            (&[&slurm[..], &elastic].concat(), (9, 32)),
        ];
        for (environment, task) in expected {
            assert_eq!(detected(environment), Ok(task), "{environment:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_names_variable_and_value() {
        let slurm = [("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "3"), ("SLURM_NTASKS", "16")];
        let stale = [&slurm[..], &[("RANK", "0"), ("WORLD_SIZE", "1")]].concat();
        let expected: [(Set, &[&str]); 6] = [
            (&stale, &["SLURM_PROCID=3", "SLURM_NTASKS=16", "RANK=0", "WORLD_SIZE=1"]),
            (&[("RANK", "4"), ("WORLD_SIZE", "4")], &["RANK=4", "WORLD_SIZE=4"]),
            (&[("RANK", "0"), ("WORLD_SIZE", "0")], &["RANK=0", "WORLD_SIZE=0"]),
            (&[("RANK", "-1"), ("WORLD_SIZE", "4")], &["RANK=-1"]),
            (&[("PMI_RANK", "1"), ("PMI_SIZE", "many")], &["PMI_SIZE=many"]),
            (&[("OMPI_COMM_WORLD_RANK", "1")], &["OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE"]),
        ];
        for (environment, words) in expected {
            let message = detected(environment).unwrap_err();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn tasks_are_named() {
        let task = named("3/16").unwrap();
        assert_eq!((task.index(), task.count()), (3, 16));
        for text in ["", "3", "16/16", "0/0", "-1/4", "1/2/3", "a/b"] {
            assert!(named(text).is_err(), "{text}");
        }
    }
}
