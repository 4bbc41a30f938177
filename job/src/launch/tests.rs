//! What launchers say.

use super::*;

/// Variables that are set, with their values.
type Set<'a> = &'a [(&'a str, &'a str)];

fn find<'a>(environment: Set<'a>) -> impl Fn(&str) -> Option<String> + 'a {
    |name| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
}

fn detected(environment: Set) -> Result<Option<(u32, u32)>, String> {
    let member = member(&find(environment)).map_err(|error| error.to_string())?;
    Ok(member.map(|member| (member.rank, member.ranks)))
}

const SLURM_3_OF_16: [(&str, &str); 3] =
    [("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "3"), ("SLURM_NTASKS", "16")];

#[test]
fn launchers_are_understood() {
    let slurm = SLURM_3_OF_16;
    let batch = [("SLURM_STEP_ID", "4294967291"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "16")];
    let of_step = [&slurm[..], &[("SLURM_STEP_NUM_TASKS", "4")]].concat();
    let mpirun = [("OMPI_COMM_WORLD_RANK", "5"), ("OMPI_COMM_WORLD_SIZE", "8")];
    let elastic = [("RANK", "9"), ("WORLD_SIZE", "32"), ("TORCHELASTIC_RUN_ID", "x")];
    let agreeing = [&slurm[..], &[("RANK", "3"), ("WORLD_SIZE", "16")]].concat();
    let expected: [(Set, Option<(u32, u32)>); 12] = [
        (&[], None),
        (&slurm, Some((3, 16))),
        (&of_step, Some((3, 4))),
        (&slurm[1..], None),
        (&batch, None),
        (&mpirun, Some((5, 8))),
        (&[("PMI_RANK", "1"), ("PMI_SIZE", "2")], Some((1, 2))),
        (&[("RANK", "1"), ("WORLD_SIZE", "2")], Some((1, 2))),
        (&[("RANK", ""), ("WORLD_SIZE", "2")], None),
        (&agreeing, Some((3, 16))),
        (&[&slurm[..], &mpirun].concat(), Some((5, 8))),
        (&[&slurm[..], &elastic].concat(), Some((9, 32))),
    ];
    for (environment, task) in expected {
        assert_eq!(detected(environment), Ok(task), "{environment:?}");
    }
}

#[test]
fn what_makes_no_sense_names_variable_and_value() {
    let stale = [&SLURM_3_OF_16[..], &[("RANK", "0"), ("WORLD_SIZE", "1")]].concat();
    let expected: [(Set, &[&str]); 7] = [
        (&stale, &["SLURM_PROCID=3", "SLURM_NTASKS=16", "RANK=0", "WORLD_SIZE=1"]),
        (&[("RANK", "4"), ("WORLD_SIZE", "4")], &["RANK=4", "WORLD_SIZE=4"]),
        (&[("RANK", "0"), ("WORLD_SIZE", "0")], &["RANK=0", "WORLD_SIZE=0"]),
        (&[("RANK", "-1"), ("WORLD_SIZE", "4")], &["RANK=-1"]),
        (&[("RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "x")], &["LOCAL_RANK=x"]),
        (&[("PMI_RANK", "1"), ("PMI_SIZE", "many")], &["PMI_SIZE=many"]),
        (&[("OMPI_COMM_WORLD_RANK", "1")], &["OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE"]),
    ];
    for (environment, words) in expected {
        let message = detected(environment).unwrap_err();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

fn meeting(environment: Set) -> Result<(String, u16, bool, String), String> {
    let find = find(environment);
    let member = member(&find).unwrap().unwrap();
    let Rendezvous { host, port, is_open, prefix } =
        Rendezvous::of(&find, &member).map_err(|error| error.to_string())?;
    Ok((host, port, is_open, prefix))
}

#[test]
fn where_ranks_meet() {
    let torchrun = [
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "head"),
        ("MASTER_PORT", "4711"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("TORCHELASTIC_RESTART_COUNT", "3"),
        ("TORCHELASTIC_RUN_ID", "x"),
    ];
    let found =
        |host: &str, port, is_open, prefix: &str| Ok((host.to_owned(), port, is_open, prefix.to_owned()));
    assert_eq!(meeting(&torchrun), found("head", 4711, true, "titan/3"));
    let of_step = [("SLURM_STEP_NODELIST", "gpu[07-08]"), ("SLURM_JOB_ID", "1000"), ("SLURM_LOCALID", "1")];
    let slurm = [&SLURM_3_OF_16[..], &of_step].concat();
    assert_eq!(meeting(&slurm), found("gpu07", 31_000, false, "titan/0"));
    let named = [&slurm[..], &[("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "5")]].concat();
    assert_eq!(meeting(&named), found("10.0.0.1", 5, false, "titan/0"));
    let mpirun =
        [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
    assert_eq!(meeting(&mpirun), found("127.0.0.1", 29_500, false, "titan/0"));
    assert!(meeting(&mpirun[..2]).unwrap_err().contains("set MASTER_ADDR to the host of rank 0"));
    let port = [&mpirun[..], &[("MASTER_PORT", "http")]].concat();
    assert!(meeting(&port).unwrap_err().contains("MASTER_PORT=http"));
    let nodes = [&SLURM_3_OF_16[..], &[("SLURM_STEP_NODELIST", "gpu[")]].concat();
    assert!(meeting(&nodes).unwrap_err().contains("gpu["));
}
