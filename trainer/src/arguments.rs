//! The command line: a few words of the trainer's own, everything else is configuration.

use job::config;
use job::estimate::{Assumptions, Device};

/// What the user wants.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// To read.
    Help,
    /// To know which program this is.
    Version,
    /// To train.
    Train {
        /// How many ranks to start here; `None` for one that is this process, or that a launcher has started.
        nproc: Option<u32>,
        /// Flags of the configuration.
        flags: Vec<String>,
    },
    /// To know what training would take.
    Predict {
        /// How many ranks there would be; `None` for those that a launcher has started, or one.
        nproc: Option<u32>,
        /// What each of them would be.
        device: &'static Device,
        /// What is taken for granted that the trainer does not do.
        assumptions: Assumptions,
        /// Flags of the configuration.
        flags: Vec<String>,
    },
}

/// The device of `--dry-run` where none is named.
const DEVICE: &str = "h100";

/// The page for `--help`.
pub fn help() -> String {
    format!(
        "titan-train {}: trains a language model, saves and resumes it.\n\n\
         titan-train --job.config_file FILE [--section.key=value]... [--nproc N] [--dry-run]\n\n\
         --dry-run trains nothing and prints what training would take on --nproc ranks of --device NAME (h100), with --assume of\n\
         what this trainer refuses (float8, compile, async-tp); docs/plan.md says how.\n\n\
         --nproc N starts N ranks on this machine. Under torchrun, srun or mpirun the ranks are theirs. SIGTERM or SIGUSR1:\n\
         the step is finished and saved, then the job ends well. Exit codes: 0 ok, 2 wrong usage, 3 bad data, 4 a disk, a\n\
         network, another rank or a device failed, 70 a bug. Environment: LOG_RANK, the ranks that log (0); RUST_LOG;\n\
         TITAN_TORCH_CUDA, auto, off or the path of libtorch_cuda.so; OMP_NUM_THREADS.\n\n{}",
        env!("CARGO_PKG_VERSION"),
        config::help()
    )
}

impl Command {
    /// Reads the arguments, the program's name left out. What is no word of the trainer's own is left to the configuration.
    ///
    /// Errors: what is wrong with one of its own.
    pub fn read(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
        let (mut nproc, mut flags) = (None, Vec::new());
        let (mut is_dry, mut device, mut assumptions) = (false, None, Assumptions::default());
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (&*argument, None),
            };
            let mut value_of = |what: &str| {
                let value = value.clone().or_else(|| arguments.next());
                value.ok_or_else(|| format!("{name} needs {what}"))
            };
            match name {
                "--help" | "-h" => return Ok(Command::Help),
                "--version" | "-V" => return Ok(Command::Version),
                "--nproc" => nproc = Some(count(&value_of("a number of ranks, as in --nproc 4")?)?),
                "--dry-run" => is_dry = true,
                "--device" => {
                    device = Some(Device::find(&value_of("the name of a device, as in --device h100")?)?)
                }
                "--assume" => assume(&mut assumptions, &value_of("a word, as in --assume compile")?)?,
                _ => flags.push(argument),
            }
        }
        match (is_dry, device) {
            (true, device) => {
                let device = device.map_or_else(|| Device::find(DEVICE), Ok)?;
                Ok(Command::Predict { nproc, device, assumptions, flags })
            }
            (false, Some(Device { name, .. })) => Err(format!(
                "--device {name} is for --dry-run; training takes CUDA where it is, by TITAN_TORCH_CUDA. Add --dry-run, or leave \
                 it out"
            )),
            (false, None) if !assumptions.names().is_empty() => {
                Err("--assume is for --dry-run: training does not do it. Add --dry-run, or leave it out"
                    .to_owned())
            }
            (false, None) => Ok(Command::Train { nproc, flags }),
        }
    }
}

fn assume(assumptions: &mut Assumptions, words: &str) -> Result<(), String> {
    match words.split(',').find(|word| !assumptions.assume(word)) {
        None => Ok(()),
        Some(word) => {
            let known = Assumptions::NAMES.join(", ");
            Err(format!("--assume {words}: `{word}` cannot be taken for granted; expected some of {known}"))
        }
    }
}

fn count(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(0) | Err(_) => Err(format!("--nproc {value}: expected a number of ranks, 1 or more")),
        Ok(count) => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, String> {
        Command::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn own_words_and_flags() {
        let train = |nproc, flags: &str| {
            let flags = flags.split_whitespace().map(str::to_owned).collect();
            Ok(Command::Train { nproc, flags })
        };
        assert_eq!(read("--training.steps 5 --nproc 4"), train(Some(4), "--training.steps 5"));
        assert_eq!(read("--nproc=2 --x.y=--nproc"), train(Some(2), "--x.y=--nproc"));
        assert_eq!(read("--a.b c"), train(None, "--a.b c"));
        assert_eq!(read("--a.b c -h"), Ok(Command::Help));
        assert_eq!(read("--version"), Ok(Command::Version));
        for (line, word) in [
            ("--nproc", "needs"),
            ("--nproc 0", "nproc 0"),
            ("--nproc=x", "nproc x"),
            ("--dry-run --device", "--device needs"),
            ("--dry-run --device h900", "no device `h900`"),
            ("--device h100", "--dry-run"),
            ("--assume compile", "--dry-run"),
            ("--dry-run --assume=compile,magic", "`magic`"),
        ] {
            assert!(read(line).unwrap_err().contains(word), "{line}");
        }
        let Ok(Command::Predict { nproc, device, assumptions, flags }) =
            read("--nproc 8 --a.b c --dry-run --device=h200 --assume compile,float8")
        else {
            panic!("a prediction is wanted")
        };
        assert_eq!((nproc, device.name, assumptions.names()), (Some(8), "h200", vec!["float8", "compile"]));
        assert_eq!(flags, ["--a.b", "c"]);
        assert!(help().contains("--training.steps") && help().contains("--nproc"));
    }
}
