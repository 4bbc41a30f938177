//! Which task of a cluster job this process is: named, or told by the launcher that started it.

use crate::error::{CliError, Result};
use dcp::convert::Task;
use job::launch::{Variables, member};

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
    match member(environment) {
        Ok(Some(member)) => Ok(Task::new(member.rank, member.ranks)?),
        Ok(None) => Ok(Task::ALONE),
        Err(error) => Err(CliError::Usage {
            message: error.to_string(),
            hint: Some("say which task this is with --task I/N; --task 0/1 is the only one".to_owned()),
        }),
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
    fn the_environment_names_a_task_or_none() {
        assert_eq!(detected(&[]), Ok((0, 1)));
        assert_eq!(detected(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")]), Ok((1, 2)));
        assert!(detected(&[("RANK", "4"), ("WORLD_SIZE", "4")]).unwrap_err().contains("RANK=4"));
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
