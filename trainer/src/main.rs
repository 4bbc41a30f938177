//! `titan-train`: trains a language model, saves and resumes it.

use job::config::{Config, Parsed};
use job::estimate::{Assumptions, Device};
use job::forecast::{Forecast, Question, WRITE_BANDWIDTH};
use job::launch::{Member, Rendezvous, member};
use job::step::schedule_text;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tracing::{error, info, warn};
use trainer::arguments::{self, Command};
use trainer::ffi::device::{CudaChoice, CudaLoaded, load as load_cuda};
use trainer::metrics::{LogOptions, LogRanks, init_log, wants_colour};
use trainer::session::Session;
use trainer::stop::Stop;
use trainer::train::Log;
use trainer::{Error, Result, launch, train};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}\nthis is a bug in titan-train; please report the lines above");
        std::process::exit(Error::EXIT_BUG.into());
    }));
    let command = Command::read(std::env::args().skip(1));
    match command {
        Ok(Command::Help) => println!("{}", arguments::help()),
        Ok(Command::Version) => println!("titan-train {}", env!("CARGO_PKG_VERSION")),
        Ok(Command::Train { nproc, flags }) => return start(nproc, &flags),
        Ok(Command::Predict { nproc, device, assumptions, flags }) => {
            return match predict(nproc, device, assumptions, &flags) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            };
        }
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Prints what training would take, as `titan-ckpt plan` does it; under a launcher one rank prints.
fn predict(
    nproc: Option<u32>,
    device: &'static Device,
    assumptions: Assumptions,
    flags: &[String],
) -> Result<()> {
    let member = member(&|name: &str| std::env::var(name).ok())?;
    let (rank, ranks) = member.map_or((0, 1), |member| (member.rank, member.ranks));
    let read_file = |path: &Path| std::fs::read_to_string(path);
    let Parsed { config, notes, .. } = Config::from_args(flags.to_vec(), read_file)?;
    let csv = schedule_text(&config, read_file)?;
    let forecast = Forecast::new(&Question {
        config: &config,
        csv: csv.as_deref(),
        world: nproc.unwrap_or(ranks),
        device,
        assumptions,
        write_bandwidth: WRITE_BANDWIDTH,
    })?;
    if rank == 0 {
        notes.iter().for_each(|note| eprintln!("{note}"));
        print!("{}", forecast.text());
    }
    Ok(())
}

/// Starts ranks, or is one.
fn start(nproc: Option<u32>, flags: &[String]) -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    let member = match (member(&variable), nproc) {
        (Ok(None), Some(_)) => None,
        (Ok(Some(member)), Some(nproc)) => {
            let Member { rank, ranks, .. } = member;
            let message = format!(
                "--nproc {nproc}: this process is rank {rank} of {ranks} already, by its launcher; leave --nproc out"
            );
            return fail(&Error::Usage(message));
        }
        (Ok(member), None) => Some(member.unwrap_or(Member { rank: 0, ranks: 1, local_rank: Some(0) })),
        (Err(error), _) => return fail(&error.into()),
    };
    let (rank, ranks) = member.map_or((0, nproc.unwrap_or(1)), |member| (member.rank, member.ranks));
    let read = Config::from_args(flags.to_vec(), |path| std::fs::read_to_string(path));
    let checked = read.and_then(|parsed| parsed.config.validate(ranks).map(|()| parsed));
    let is_plain = checked.as_ref().is_ok_and(|parsed| parsed.config.metrics.disable_color_printing);
    let log = match start_log(rank, is_plain) {
        Ok(log) => log,
        Err(error) => return fail(&error),
    };
    let parsed = match checked {
        Ok(parsed) => parsed,
        // Every rank reads the same: one says it.
        Err(error) if rank > 0 => return ExitCode::from(Error::from(error).exit_code()),
        Err(error) => return fail(&error.into()),
    };
    let outcome = match member {
        None => launch::run(ranks, flags),
        Some(member) => be_rank(member, &parsed, &log).map(|()| 0),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    }
}

fn start_log(rank: u32, is_plain: bool) -> Result<Log> {
    let ranks = match std::env::var("LOG_RANK") {
        Ok(text) => LogRanks::parse(&text)?,
        Err(_) => LogRanks::default(),
    };
    let no_color = std::env::var_os("NO_COLOR");
    let is_coloured = wants_colour(std::io::stdout().is_terminal(), is_plain, no_color.as_deref());
    let filter = std::env::var("RUST_LOG").ok();
    let options = LogOptions { rank, log_ranks: &ranks, is_coloured, filter: filter.as_deref() };
    let screen = init_log(&options)?;
    Ok(Log { ranks, is_coloured, screen })
}

fn be_rank(member: Member, parsed: &Parsed, log: &Log) -> Result<()> {
    launch::end_with_launcher()?;
    // Before anything asks libtorch for CUDA.
    let cuda = load_cuda(&CudaChoice::from_env())?;
    let stop = Stop::on_signals()?;
    let config = &parsed.config;
    info!("Starting job: {}", config.job.description);
    parsed.notes.iter().for_each(|note| warn!("{note}"));
    match cuda {
        CudaLoaded::Yes { library, devices } => info!("CUDA: {devices} devices, by {}", library.display()),
        CudaLoaded::No { why } => info!("training on the CPU: {why}"),
    }
    let backend = config.comm.backend;
    let session = match member.ranks {
        1 => Session::alone(backend)?,
        _ => {
            let rendezvous = Rendezvous::of(&|name: &str| std::env::var(name).ok(), &member)?;
            let timeout = Duration::from_secs(config.comm.init_timeout_seconds);
            Session::open(member, &rendezvous, backend, timeout)?
        }
    };
    train::run(config, &session, &stop, log).map_err(|error| session.fail(error))
}

/// Says what went wrong, unless another rank says it.
fn fail(error: &Error) -> ExitCode {
    let text = error.with_causes();
    match error {
        Error::Elsewhere { .. } => {}
        // Before there is a log.
        _ if !tracing::enabled!(tracing::Level::ERROR) => eprintln!("error: {text}"),
        _ => error!("{text}"),
    }
    ExitCode::from(error.exit_code())
}
