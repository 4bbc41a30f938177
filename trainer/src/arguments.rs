//! The command line: a few words of the trainer's own, everything else is configuration.

use job::config;

/// What the user wants.
#[derive(Clone, PartialEq, Eq, Debug)]
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
}

/// The page for `--help`.
pub fn help() -> String {
    format!(
        "titan-train {}: trains a language model, saves and resumes it.\n\n\
         titan-train --job.config_file FILE [--section.key=value]... [--nproc N]\n\n\
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
    /// Errors: what is wrong with `--nproc`.
    pub fn read(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
        let (mut nproc, mut flags) = (None, Vec::new());
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (&*argument, None),
            };
            match name {
                "--help" | "-h" => return Ok(Command::Help),
                "--version" | "-V" => return Ok(Command::Version),
                "--nproc" => {
                    let value = value.or_else(|| arguments.next());
                    nproc = Some(count(value.as_deref())?);
                }
                _ => flags.push(argument),
            }
        }
        Ok(Command::Train { nproc, flags })
    }
}

fn count(value: Option<&str>) -> Result<u32, String> {
    let Some(value) = value else {
        return Err("--nproc needs a number of ranks, as in --nproc 4".to_owned());
    };
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
        for (line, word) in [("--nproc", "needs"), ("--nproc 0", "nproc 0"), ("--nproc=x", "nproc x")] {
            assert!(read(line).unwrap_err().contains(word), "{line}");
        }
        assert!(help().contains("--training.steps") && help().contains("--nproc"));
    }
}
