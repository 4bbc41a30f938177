//! What a file can say, and what it cannot. That PyTorch's own files are read is tested beside what it makes.

use super::*;

const SHAPE: Shape = Shape { ranks: 2, stages_per_rank: 1, microbatches: 2 };
const GPIPE: &str = "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n";

fn refused(text: &str) -> String {
    parse(text, SHAPE).unwrap_err().to_string()
}

#[test]
fn pauses_ends_of_lines_and_overlaps_change_nothing() {
    let pipeline = parse(GPIPE, SHAPE).unwrap();
    let same = [
        "0F0,0F1,0B0,0B1\r\n1F0,1F1,1B0,1B1\r\n\r\n",
        "0F0,0F1,,,0B0,0B1\n,1F0,1F1,1B0, 1B1 ,",
        "0F0,0F1,0B0,0B1\n1F0,(1F1;1B0)OVERLAP_F_B,1B1\n",
    ];
    for text in same {
        assert_eq!(parse(text, SHAPE).unwrap(), pipeline, "{text}");
    }
    assert_eq!(pipeline.rank_of, [0, 1]);
}

/// Stages may be on ranks as no schedule by name has them.
#[test]
fn ranks_may_have_any_stages() {
    let text = "1F0,1F1,1B0,1B1\n0F0,0F1,0B0,0B1\n";
    assert_eq!(parse(text, SHAPE).unwrap().rank_of, [1, 0]);
}

#[test]
fn entries_that_are_none() {
    for entry in
        ["0F", "F0", "0", "x", "0f0", "-1F0", "0F0x", "0F-1", "0 F0", "0F0;0F1", "0F4294967296", "\u{fc}F0"]
    {
        let told = refused(&GPIPE.replacen("0F1", entry, 1));
        assert!(
            told.starts_with(&format!(
                "parallelism.pipeline_parallel_schedule_csv, line 1, entry 2 (`{entry}`): "
            )),
            "{told}"
        );
    }
    for entry in ["(0F0;0F1", "(0F0)F", "()OVERLAP_F_B", "(0F0;)OVERLAP_F_B", "(0F0;0F1)OVERLAP_F_B2"] {
        let told = refused(&GPIPE.replacen("0F0,0F1", entry, 1));
        assert!(
            told.starts_with(&format!(
                "parallelism.pipeline_parallel_schedule_csv, line 1, entry 1 (`{entry}`): "
            )),
            "{told}"
        );
    }
    for entry in PLACED_HERE {
        assert!(refused(&GPIPE.replacen("0F1", &format!("0{entry}1"), 1)).contains("compute_only"));
    }
}

#[test]
fn files_that_do_not_fit() {
    insta::assert_snapshot!(refused("0F0,0B0\n"), @"parallelism.pipeline_parallel_schedule_csv: lines found: 1; expected 2, one per rank of parallelism.pipeline_parallel_degree");
    insta::assert_snapshot!(refused(""), @"parallelism.pipeline_parallel_schedule_csv: lines found: 0; expected 2, one per rank of parallelism.pipeline_parallel_degree");
    insta::assert_snapshot!(refused(&GPIPE.replace("0B1", "0B2")), @"parallelism.pipeline_parallel_schedule_csv, line 1, entry 4 (`0B2`): there are 2 microbatches, counted from 0");
    insta::assert_snapshot!(refused(&GPIPE.replace("0B1", "2B1")), @"parallelism.pipeline_parallel_schedule_csv, line 1, entry 4 (`2B1`): there are 2 stages, counted from 0");
    insta::assert_snapshot!(refused(&GPIPE.replace("0B1", "1B1")), @"parallelism.pipeline_parallel_schedule_csv, line 2, entry 1 (`1F0`): stage 1 is on rank 0 too; one rank has a stage");
    insta::assert_snapshot!(refused("0F0,0F1,0B0,0B1\n\n"), @"parallelism.pipeline_parallel_schedule_csv: lines found: 1; expected 2, one per rank of parallelism.pipeline_parallel_degree");
    insta::assert_snapshot!(refused("0F0,0F1,0B0,0B1\n,\n"), @"parallelism.pipeline_parallel_schedule_csv: no rank has stage 1; there are 2, counted from 0: add its passes");
}

#[test]
fn files_that_cannot_be_carried_out() {
    insta::assert_snapshot!(refused(&GPIPE.replace(",0B1", "")), @"parallelism.pipeline_parallel_schedule_csv: rank 0, move 7 (the end): microbatch 1 of stage 0 has not gone backward");
    insta::assert_snapshot!(refused(&GPIPE.replace("1F0,1F1,1B0", "1F0,1B1,1F1")), @"parallelism.pipeline_parallel_schedule_csv: rank 0, move 2 (0B0): it can never begin: its forward pass, or the backward pass of the stage after, is not done before, with every rank going on as far as it can");
    insta::assert_snapshot!(refused(&GPIPE.replace("0F1", "0F0")), @"parallelism.pipeline_parallel_schedule_csv: rank 0, move 2 (0B0): it can never begin: its forward pass, or the backward pass of the stage after, is not done before, with every rank going on as far as it can");
    insta::assert_snapshot!(refused(&GPIPE.replace("0B1", "0I1")), @"parallelism.pipeline_parallel_schedule_csv: rank 0, move 8 (the end): microbatch 1 of stage 0 has not gone backward to the gradients of the parameters");
    insta::assert_snapshot!(refused(&GPIPE.replace("0B1", "0W1,0I1")), @"parallelism.pipeline_parallel_schedule_csv: rank 0, move 3 (0W1): it can never begin: the gradient of its input is not computed before, with every rank going on as far as it can");
    insta::assert_snapshot!(refused(&GPIPE.replace("0B0,0B1", "0B0,0I0,0B1")), @"parallelism.pipeline_parallel_schedule_csv: rank 0, move 7 (0I0): it has gone backward before");
}
