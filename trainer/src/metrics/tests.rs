use super::events::reading;
use super::record::samples::{COSTS, record, validation};
use super::screen::captured::Captured;
use super::*;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tracing::subscriber::with_default;

/// A run of rank `rank` of four, whose loss is on rank 2.
struct Run {
    folder: TempDir,
    config: config::Metrics,
    rank: u32,
    log_ranks: LogRanks,
    costs: Costs,
}

impl Run {
    fn new() -> Self {
        let config =
            config::Metrics { enable_tensorboard: true, enable_jsonl: true, ..config::Metrics::default() };
        let folder = tempfile::tempdir().unwrap();
        Run { folder, config, rank: 2, log_ranks: LogRanks::parse("2").unwrap(), costs: COSTS }
    }

    fn open(&self) -> Result<Metrics> {
        let options = MetricsOptions {
            config: &self.config,
            dump_folder: self.folder.path(),
            rank: self.rank,
            metrics_rank: 2,
            log_ranks: &self.log_ranks,
            is_coloured: false,
            screen: Screen::on(std::io::sink()),
            costs: self.costs,
            steps_done: 0,
            steps_total: 100,
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_064_800),
        };
        Metrics::with_bar_on(ProgressDrawTarget::hidden(), &options)
    }

    /// Names of files, from the folder on, sorted.
    fn files(&self) -> Vec<PathBuf> {
        let (mut folders, mut files) = (vec![self.folder.path().to_owned()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files
    }

    fn events(&self) -> Vec<Vec<reading::Event>> {
        let is_of_events = |path: &&PathBuf| path.to_str().unwrap().contains("events.out.tfevents.");
        let files = self.files();
        files.iter().filter(is_of_events).map(|path| reading::events(&fs::read(path).unwrap())).collect()
    }

    fn objects(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Messages that are logged meanwhile, with their levels.
fn logged(action: impl FnOnce()) -> Vec<String> {
    let captured = Captured::default();
    let options = LogOptions {
        rank: 0,
        log_ranks: &LogRanks::default(),
        is_coloured: false,
        filter: Some("trainer=info"),
    };
    with_default(log::subscriber(&options, Screen::on(captured.clone())).unwrap(), action);
    captured.text().lines().map(|line| line.splitn(3, " - ").last().unwrap().to_owned()).collect()
}

#[test]
fn a_run_is_in_every_place() {
    let run = Run::new();
    let lines = logged(|| {
        let metrics = run.open().unwrap();
        metrics.event("resumed", &[("step", json!(5))]);
        metrics.record(&record(10));
        metrics.validation(&validation());
        metrics.event("finished", &[("step", json!(200)), ("run_seconds", json!(1.5))]);
        metrics.finish();
    });
    assert_eq!(
        lines[1..],
        [
            "INFO - step: 10  loss:  8.12346  grad_norm:  1.9876  memory: 48.00GiB(60.62%)  tps: 7,000  tflops: 405.40  \
             mfu: 40.99%",
            "INFO - validate step: 200  loss:  3.9876  memory: 48.00GiB(60.62%)  tps: 820,500",
        ]
    );
    assert!(lines[0].starts_with("INFO - TensorBoard logging enabled. Logs will be saved at "), "{lines:?}");

    let [events] = run.events().try_into().unwrap();
    let steps: Vec<_> = events.iter().map(|event| (event.step, event.scalars.len())).collect();
    assert_eq!(steps, [(0, 0), (10, 18), (200, 6)]);
    assert_eq!(events[0].version.as_deref(), Some("brain.Event:2"));
    assert!(events[1].scalars.contains(&("loss_metrics/global_avg_loss".to_owned(), 8.123456)));
    assert!(events[2].scalars.contains(&("validation_metrics/loss".to_owned(), 3.98765)));
    assert!(events.windows(2).all(|pair| pair[0].unix_seconds <= pair[1].unix_seconds));

    let objects = run.objects();
    let kinds: Vec<_> =
        objects.iter().map(|object| (&object["kind"], &object["step"], &object["rank"])).collect();
    let expected = [("event", 5), ("step", 10), ("validation", 200), ("event", 200)];
    let expected = expected.map(|(kind, step)| (json!(kind), json!(step), json!(2)));
    assert!(
        kinds.iter().copied().eq(expected.iter().map(|(kind, step, rank)| (kind, step, rank))),
        "{kinds:?}"
    );
    // The same moment in both.
    assert_eq!(objects[1]["unix_seconds"], json!(events[1].unix_seconds));
}

#[test]
fn each_record_is_in_the_files_at_once() {
    let run = Run::new();
    let metrics = run.open().unwrap();
    for step in 1..=3 {
        metrics.record(&record(step));
        assert_eq!((run.events()[0].len() as u64, run.objects().len() as u64), (step + 1, step));
    }
}

#[test]
fn a_resumed_run_has_events_of_its_own_and_the_same_lines() {
    let run = Run::new();
    for step in [10, 20] {
        let metrics = run.open().unwrap();
        metrics.record(&record(step));
        metrics.finish();
    }
    let steps: Vec<Vec<u64>> =
        run.events().iter().map(|events| events.iter().map(|event| event.step).collect()).collect();
    assert_eq!(steps, [[0, 10], [0, 20]]);
    assert_eq!(run.objects().iter().map(|object| object["step"].clone()).collect::<Vec<_>>(), [10, 20]);
}

#[test]
fn which_ranks_write_files() {
    let files = |rank, save_for_all_ranks| {
        let mut run = Run::new();
        (run.rank, run.config.save_for_all_ranks) = (rank, save_for_all_ranks);
        let metrics = run.open().unwrap();
        metrics.record(&record(10));
        assert_eq!(metrics.progress.is_some(), rank == 2);
        let files = run.files();
        let below = files.iter().map(|path| path.strip_prefix(run.folder.path()).unwrap());
        // The minute depends on where this runs.
        let parts = below.map(|path| path.iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>());
        parts
            .map(|parts| match parts[..] {
                [file] => file.to_owned(),
                ["tb", _, _] => "tb/MINUTE/EVENTS".to_owned(),
                ["tb", _, rank, _] => format!("tb/MINUTE/{rank}/EVENTS"),
                _ => panic!("{parts:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(files(2, false), ["metrics.jsonl", "tb/MINUTE/EVENTS"]);
    assert_eq!(files(0, false), [""; 0]);
    assert_eq!(files(2, true), ["metrics.jsonl", "tb/MINUTE/rank_2/EVENTS"]);
    assert_eq!(files(0, true), ["tb/MINUTE/rank_0/EVENTS"]);
}

#[test]
fn nothing_asked_for_nothing_written() {
    let mut run = Run::new();
    run.config = config::Metrics::default();
    let metrics = run.open().unwrap();
    metrics.record(&record(10));
    metrics.event("saved", &[]);
    metrics.finish();
    assert!(run.files().is_empty(), "{:?}", run.files());
}

#[test]
fn a_full_disk_is_warned_of_once_and_ends_nothing_else() {
    let mut run = Run::new();
    run.config.save_jsonl_file = "/dev/full".into();
    let lines = logged(|| {
        let metrics = run.open().unwrap();
        (1..=3).for_each(|step| metrics.record(&record(step)));
        metrics.event("saved", &[]);
        metrics.finish();
    });
    let warnings: Vec<_> = lines.iter().filter(|line| line.starts_with("WARNING")).collect();
    assert_eq!(
        warnings,
        [
            "WARNING - /dev/full: writing failed; metrics go there: make its folder writable and see that there is room, \
             or turn off metrics.enable_jsonl: No space left on device (os error 28). The training goes on without this \
             file"
        ]
    );
    assert_eq!(run.events()[0].len(), 4);
}

#[test]
fn a_file_that_cannot_be_made_is_an_error_before_the_training() {
    let run = Run::new();
    fs::create_dir(run.folder.path().join("metrics.jsonl")).unwrap();
    let Err(Error::Metrics { file, key, .. }) = run.open() else { panic!("opened") };
    assert_eq!((file, key), (run.folder.path().join("metrics.jsonl"), "enable_jsonl"));
}

#[test]
fn a_loss_that_nobody_sees() {
    let mut run = Run::new();
    let warning = "WARNING - the loss is not visible: it is on rank 2; add this rank to LOG_RANK";
    for (ranks, is_warned) in [("0", true), ("0,2", false)] {
        (run.rank, run.log_ranks) = (0, LogRanks::parse(ranks).unwrap());
        assert_eq!(logged(|| drop(run.open().unwrap())).contains(&warning.to_owned()), is_warned);
    }
}

#[test]
fn a_device_without_a_known_peak() {
    let warning =
        "WARNING - the peak of this device is not known; mfu is a share of an A100's, which means little";
    let peak = job::flops::peak("cpu", None);
    // Where there is no figure for operations there is no mfu to warn of.
    for (costs, is_warned) in [
        (COSTS, false),
        (Costs { peak, ..COSTS }, true),
        (Costs { peak, flops_per_token: None, ..COSTS }, false),
    ] {
        let run = Run { costs, ..Run::new() };
        assert_eq!(logged(|| drop(run.open().unwrap())).contains(&warning.to_owned()), is_warned);
    }
}

#[test]
fn trouble_with_memory_is_said_when_it_grows() {
    let run = Run { config: config::Metrics::default(), ..Run::new() };
    let lines = logged(|| {
        let metrics = run.open().unwrap();
        for (alloc_retries, ooms) in [(0, 0), (2, 0), (2, 0), (3, 1)] {
            let memory = Memory { alloc_retries, ooms, ..record(1).memory };
            metrics.record(&Record { memory, ..record(1) });
        }
    });
    let warnings: Vec<_> = lines.iter().filter(|line| line.starts_with("WARNING")).collect();
    assert_eq!(
        warnings,
        [
            "WARNING - 2 CUDA memory allocation retries.",
            "WARNING - 3 CUDA memory allocation retries.",
            "WARNING - 1 CUDA OOM errors thrown."
        ]
    );
}

#[test]
fn threads_share_it() {
    let run = Run::new();
    let metrics = run.open().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..200).for_each(|step| metrics.event("saved", &[("step", json!(step))])));
        (1..=200).for_each(|step| metrics.record(&record(step)));
    });
    assert_eq!((run.objects().len(), run.events()[0].len()), (400, 201));
}

#[test]
fn the_page_lists_every_tag_and_key() {
    let page = include_str!("../../../docs/metrics.md");
    let rates = record(10).window.rates(&COSTS);
    let mut names: Vec<_> =
        tensorboard::step_scalars(&record(10), &rates).iter().map(|(tag, _)| (*tag).to_owned()).collect();
    names.extend(tensorboard::validation_scalars(&validation()).iter().map(|(tag, _)| (*tag).to_owned()));
    names.extend(jsonl::step_object(&record(10), &rates, 0.0, 0).keys().cloned());
    names.extend(jsonl::validation_object(&validation(), 0.0, 0).keys().cloned());
    names.extend(jsonl::event_object("saved", &[], 0.0, 0).keys().cloned());
    let missing: Vec<_> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
