use super::*;

#[test]
fn every_command_explains_itself() {
    let folder = tempfile::tempdir().unwrap();
    let commands = [
        "ls", "inspect", "cat", "verify", "diff", "convert", "reshard", "to-hf", "from-hf", "seed", "plan",
        "cp", "prune",
    ];
    insta::assert_snapshot!("help", session(folder.path(), &[&["--help"]]));
    for command in commands {
        insta::assert_snapshot!(format!("help_{command}"), session(folder.path(), &[&[command, "--help"]]));
    }
}
