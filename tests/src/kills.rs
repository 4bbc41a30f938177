//! Real kills: a job of four processes saves step after step, is killed at a random moment, and is looked at.
//!
//! Every byte that is saved is a function of tensor, position and step, so that any reader can tell which step it is of.

use dcp::copy::TensorReader;
use dcp::layout::{Layout, Mesh, Placement, Region, copy_box, row_major};
use dcp::load::newest_complete;
use dcp::model::{DType, TensorSpec, Value};
use dcp::save::{HostMemory, State, StateTensor, StateValue};
use dcp::storage::{Environment, open_url_with};
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Ranks of the job, on a mesh dp 2 x tp 2.
pub const RANKS: u32 = 4;
/// How long a rank waits for another.
pub const RANK_TIMEOUT: Duration = Duration::from_secs(2);
/// Survivors end by themselves within this: the time for a rank, the ten seconds for a lost server, and some.
const STUCK_AFTER: Duration = Duration::from_secs(40);
/// Of the runs in which one rank is killed, one in so many waits for the others to end by themselves.
const WAITS: u64 = 8;

const TENSORS: [(&str, [u64; 2], [Placement; 2]); 4] = [
    ("both", [256, 128], [Placement::Shard { dim: 0 }, Placement::Shard { dim: 1 }]),
    ("rows", [300, 128], [Placement::Shard { dim: 0 }, Placement::Replicate]),
    ("everywhere", [64, 512], [Placement::Replicate, Placement::Replicate]),
    ("stage", [128, 96], [Placement::Only { coordinate: 1 }, Placement::Shard { dim: 0 }]),
];

/// What a rank saves as a step.
pub fn state(rank: u32, step: u64) -> State {
    let mesh = Arc::new(Mesh::new([("dp", 2), ("tp", 2)]).expect("a mesh"));
    let tensor = |(name, shape, placements): (&str, [u64; 2], [Placement; 2])| {
        let layout = Layout::new(mesh.clone(), placements.to_vec(), shape.to_vec()).expect("a layout");
        let local = layout.region(rank).map(|region| cut(&shape, &whole(name, &shape, step), &region));
        StateTensor {
            fqn: name.into(),
            spec: TensorSpec::new(DType::F32, shape),
            path: Vec::new(),
            placements: placements.to_vec(),
            local: local.map(|bytes| Arc::new(HostMemory::new(bytes)) as _),
        }
    };
    let tensors = TENSORS.into_iter().map(tensor).collect();
    let value = StateValue { fqn: "step".into(), path: Vec::new(), value: Value::Int(step as i64) };
    State { mesh: Some(mesh.clone()), tensors, values: vec![value] }
}

fn whole(name: &str, shape: &[u64], step: u64) -> Vec<u8> {
    let seed =
        name.bytes().fold(step.wrapping_mul(0x9e37_79b9_7f4a_7c15), |seed, byte| seed ^ u64::from(byte) << 7);
    (0..4 * shape.iter().product::<u64>()).map(|at| (seed.wrapping_mul(2 * at + 1) >> 40) as u8).collect()
}

fn cut(shape: &[u64], whole: &[u8], region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; 4 * region.elements() as usize];
    let from = 4 * region.position_in(&Region::whole(shape), &row_major(shape)) as usize;
    copy_box(&whole[from..], &row_major(shape), &mut bytes, &row_major(&region.extent), &region.extent, 4);
    bytes
}

/// What a campaign saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Times that one rank, or all, were killed.
    pub kills: u64,
    /// Of these, one rank alone.
    pub single: u64,
    /// Steps that the newest complete one advanced by.
    pub saves: u64,
    /// Kills after which a save was left that had begun and was not committed.
    pub cut_off: u64,
    /// Reported as committed, and not there.
    pub lost: u64,
    /// Complete, and not of one step.
    pub mixed: u64,
    /// Survivors that did not end.
    pub stuck: u64,
}

/// Kills the job `kills` times. `program` is `save_loop`; `environment` is what it needs beside its own.
///
/// Errors: what starting processes and reading the run give.
pub fn campaign(
    program: &Path,
    url: &str,
    environment: &[(String, String)],
    kills: u64,
    seed: u64,
) -> Result<Seen, Box<dyn Error>> {
    let settings: Environment = environment.iter().cloned().collect();
    let run = open_url_with(url, &settings)?;
    let (mut seen, mut newest, mut random) = (Seen::default(), 0, seed);
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    while seen.kills < kills {
        let reported = Arc::new(AtomicU64::new(0));
        let job = format!("kill-{}", seen.kills);
        let mut children = start(program, url, environment, &job, newest + 1, &reported)?;
        std::thread::sleep(Duration::from_millis(5 + draw(250)));
        seen.kills += 1;
        if draw(2) == 0 {
            seen.single += 1;
            let victim = draw(u64::from(RANKS)) as usize;
            children[victim].kill()?;
            match seen.single % WAITS {
                0 => seen.stuck += u64::from(!end_by_themselves(&mut children)?),
                _ => std::thread::sleep(Duration::from_millis(draw(100))),
            }
        }
        for child in &mut children {
            // One that has ended already is no error.
            let _ = child.kill();
            child.wait()?;
        }
        let reported = reported.load(Ordering::SeqCst);
        let step = match newest_complete(&run, None) {
            Ok(found) => {
                seen.mixed += u64::from(!is_of_one_step(&*found.reader, found.step)?);
                seen.cut_off += u64::from(!found.passed_over.is_empty());
                found.step
            }
            Err(dcp::Error::NoneComplete { .. }) => 0,
            Err(error) => return Err(error.into()),
        };
        seen.lost += u64::from(step < reported.max(newest));
        seen.saves += step.saturating_sub(newest);
        newest = step.max(newest);
    }
    Ok(seen)
}

fn start(
    program: &Path,
    url: &str,
    environment: &[(String, String)],
    job: &str,
    first: u64,
    reported: &Arc<AtomicU64>,
) -> Result<Vec<Child>, Box<dyn Error>> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut children = Vec::new();
    for rank in 0..RANKS {
        let mut command = Command::new(program);
        command.args([url, &rank.to_string(), &address, job, &first.to_string()]);
        command.envs(environment.iter().cloned()).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let (lines, reported) = (child.stdout.take().ok_or("no output")?, reported.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                let step = line.strip_prefix("committed ").and_then(|step| step.parse().ok());
                reported.fetch_max(step.unwrap_or(0), Ordering::SeqCst);
            }
        });
        children.push(child);
    }
    Ok(children)
}

fn end_by_themselves(children: &mut [Child]) -> Result<bool, Box<dyn Error>> {
    let start = Instant::now();
    while start.elapsed() < STUCK_AFTER {
        let mut all = true;
        for child in children.iter_mut() {
            all &= child.try_wait()?.is_some();
        }
        if all {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}

/// Whether a checkpoint has, in every tensor and value, exactly what was saved as this step.
fn is_of_one_step(reader: &dyn dcp::format::Reader, step: u64) -> Result<bool, dcp::Error> {
    for (name, shape, _) in TENSORS {
        let mut found = vec![0; 4 * shape.iter().product::<u64>() as usize];
        TensorReader::new(reader, name)?.read(&Region::whole(&shape), &mut found)?;
        if found != whole(name, &shape, step) {
            return Ok(false);
        }
    }
    Ok(reader.value(&"step".into())? == Value::Int(step as i64))
}
