use super::*;

/// Wrong requests, damaged data: what is typed and the exit code. The messages are in the snapshot.
const BAD_INPUTS: &[(i32, &[&str])] = &[
    (2, &[]),
    (2, &["lss", TWO_FILES]),
    (2, &["ls"]),
    (2, &["ls", "TMP/nothing"]),
    (2, &["ls", ""]),
    (2, &["ls", "ftp://host/run"]),
    (2, &["ls", "file://host/run"]),
    (2, &["ls", TWO_FILES, "--include", "a[b"]),
    (3, &["ls", "TMP/notes"]),
    (3, &["inspect", "TMP/notes"]),
    (3, &["inspect", "TMP/random"]),
    (3, &["verify", "TMP/random.safetensors"]),
    (3, &["verify", "TMP/cut.safetensors"]),
    (3, &["verify", "TMP/empty.safetensors"]),
    (2, &["inspect", TWO_FILES, "--html", "TMP/random"]),
    (2, &["verify", TWO_FILES, "--threads", "0"]),
    (2, &["cat", TWO_FILES]),
    (2, &["cat", TWO_FILES, "zzzzzz"]),
    (2, &["cat", LLAMA, "layers.0.attention.wq.wieght"]),
    (2, &["cat", TWO_FILES, "a[x]"]),
    (2, &["cat", TWO_FILES, "a[]"]),
    (2, &["cat", TWO_FILES, "a[::2]"]),
    (2, &["cat", TWO_FILES, "a[1,,2]"]),
    (2, &["cat", TWO_FILES, "a[3]"]),
    (2, &["cat", TWO_FILES, "a[-4]"]),
    (2, &["cat", TWO_FILES, "a[0,0,0]"]),
    (2, &["cat", TWO_FILES, "a", "--npy", "TMP/random"]),
    (2, &["diff", TWO_FILES]),
    (2, &["diff", TWO_FILES, TWO_FILES, "--rtol", "x"]),
    (2, &["diff", TWO_FILES, TWO_FILES, "--atol=-1"]),
    (2, &["diff", TWO_FILES, TWO_FILES, "--atol", "NaN"]),
    (2, &["convert", TWO_FILES, "TMP/new"]),
    (2, &["convert", TWO_FILES, "TMP/new", "--to", "safetensor"]),
    (2, &["convert", TWO_FILES, "TMP/notes", "--to", "safetensors"]),
    (2, &["convert", TWO_FILES, "TMP/cut.safetensors"]),
    (2, &["convert", TWO_FILES, "TMP/new", "--to", "safetensors", "--dtype", "bf15"]),
    (2, &["convert", TWO_FILES, "TMP/new", "--to", "safetensors", "--dtype", "int8"]),
    (2, &["convert", TWO_FILES, "TMP/new", "--to", "safetensors", "--memory", "1kB"]),
    (2, &["convert", TWO_FILES, "TMP/new", "--to", "safetensors", "--memory", "lots"]),
    (2, &["convert", TWO_FILES, "TMP/new", "--to", "safetensors", "--compress"]),
    (2, &["convert", TWO_FILES, "TMP/new", "--to", "safetensors", "--include", "nothing"]),
    (2, &["convert", BOXES, "TMP/new.safetensors", "--sharded"]),
    (2, &["reshard", TWO_FILES, "TMP/new", "--to", "safetensors", "--ep", "2"]),
    (2, &["reshard", TWO_FILES, "TMP/new", "--to", "safetensors", "--tp", "0"]),
    (2, &["reshard", TWO_FILES, "TMP/new.safetensors", "--to", "safetensors", "--tp", "2"]),
    (2, &["reshard", "TMP/nothing", "TMP/new", "--to", "safetensors"]),
    (2, &["cp", "TMP/nothing", "TMP/new"]),
    (2, &["cp", TWO_FILES, "ftp://host/run"]),
    (2, &["cp", "TMP/notes", "TMP/notes/inside"]),
    (2, &["cp", "TMP/notes", "TMP/notes"]),
    (2, &["cp", "TMP/random", "TMP/empty.safetensors"]),
    (2, &["cp", "TMP/random", "TMP/new", "--memory", "1kB"]),
];

#[test]
fn wrong_input_is_answered_with_what_was_found_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("notes/read.me", b"nothing to see");
    let random: Vec<u8> = (1..=255u8).map(|byte| byte.wrapping_mul(167)).collect();
    write("random", &random);
    write("random.safetensors", &random);
    write("empty.safetensors", b"");
    let whole =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(DTYPES)).unwrap();
    write("cut.safetensors", &whole[..100]);
    for (expected, args) in BAD_INPUTS {
        let (code, text) = run(folder.path(), args);
        assert_eq!(code, *expected, "{args:?}: {text}");
        assert!(text.contains("error: ") || args.is_empty(), "{args:?}: {text}");
    }
    let runs: Vec<&[&str]> = BAD_INPUTS.iter().map(|(_, args)| *args).collect();
    insta::assert_snapshot!(session(folder.path(), &runs));
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 5, "nothing was written: {left:?}");
}
