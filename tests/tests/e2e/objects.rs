//! Objects that are cut short, missing, empty, too long, exchanged or strange: each is told in its own words.

use crate::{convert, fixture, open_path, place};
use dcp::convert::ConvertOptions;
use dcp::copy::TensorReader;
use dcp::layout::Region;
use dcp::model::{FqnFilter, Severity};
use dcp::verify::{VerifyOptions, verify};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

/// The data files below a folder, sorted.
fn data_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(data_files(&path)),
            false if path.extension().is_some_and(|ending| ending == "safetensors" || ending == "distcp") => {
                found.push(path);
            }
            false => {}
        }
    }
    found.sort();
    found
}

fn set_len(path: &Path, byte_len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(byte_len).unwrap();
}

/// What `verify` says of a checkpoint of this format after `harm` has been done to its data files.
fn said(format: &str, deep: bool, harm: impl FnOnce(&[PathBuf])) -> Vec<(Severity, String)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ckpt");
    convert(&*fixture("torch-2.11/ws2_fsdp_uneven/ckpt"), format, &place(&path), &ConvertOptions::default());
    harm(&data_files(&path));
    let options = VerifyOptions { deep, filter: FqnFilter::default(), threads: 2 };
    let report = verify(&*open_path(&path), &options, &()).unwrap();
    report.findings.into_iter().map(|finding| (finding.severity, finding.message)).collect()
}

#[track_caller]
fn tells(findings: &[(Severity, String)], severity: Severity, words: &str) {
    assert!(
        findings.iter().any(|(found, message)| *found == severity && message.contains(words)),
        "{findings:?}"
    );
}

#[test]
fn each_harm_has_its_own_message() {
    let formats = [
        ("titan", "the manifest does not refer to this object", "do not have the recorded checksum"),
        ("dcp", "left from another save", "the object is too long"),
    ];
    for (format, of_extra, of_exchanged) in formats {
        assert_eq!(said(format, true, |_| {}), []);
        let len = |path: &Path| fs::metadata(path).unwrap().len();
        let cut = said(format, false, |files| set_len(&files[0], len(&files[0]) - 1));
        tells(&cut, Severity::Damage, "the object is cut short");
        let missing = said(format, false, |files| fs::remove_file(&files[0]).unwrap());
        tells(&missing, Severity::Damage, "the object is missing");
        let empty = said(format, false, |files| set_len(&files[0], 0));
        tells(&empty, Severity::Damage, "the object is empty");
        let long = said(format, false, |files| set_len(&files[0], len(&files[0]) + 1));
        tells(&long, Severity::Damage, "the object is too long");
        let extra = said(format, false, |files| {
            // A file of the format's own kind: for PyTorch any other file may lie beside a checkpoint.
            let name = files[0].file_name().unwrap().to_str().unwrap().replace('0', "7");
            fs::copy(&files[0], files[0].with_file_name(name)).unwrap();
        });
        tells(&extra, Severity::Note, of_extra);
        assert!(extra.iter().all(|(severity, _)| *severity == Severity::Note), "{extra:?}");
        let exchanged = said(format, true, |files| {
            let spare = files[0].with_extension("spare");
            fs::rename(&files[0], &spare).unwrap();
            fs::rename(&files[1], &files[0]).unwrap();
            fs::rename(&spare, &files[1]).unwrap();
        });
        tells(&exchanged, Severity::Damage, of_exchanged);
    }
}

/// Two objects of equal length and structure: only a checksum tells them apart, which `titan` has.
#[test]
fn equal_looking_titan_objects_that_were_exchanged_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ckpt");
    let options = ConvertOptions::default();
    convert(&*fixture("torch-2.11/ws4_2d/ckpt"), "titan", &place(&path), &options);
    let files = data_files(&path);
    let mut bytes: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    // Give the second object the first one's contents, at its own length.
    let byte_len = bytes[1].len();
    bytes[0].resize(byte_len, 0);
    fs::write(&files[1], &bytes[0]).unwrap();
    let options = VerifyOptions { deep: true, filter: FqnFilter::default(), threads: 2 };
    let report = verify(&*open_path(&path), &options, &()).unwrap();
    assert!(!report.is_sound());
}

#[test]
fn a_ranged_read_of_a_flipped_titan_block_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ckpt");
    convert(&*fixture("torch-2.11/llama_ws2_fsdp/ckpt"), "titan", &place(&path), &ConvertOptions::default());
    let sound = open_path(&path);
    let (fqn, tensor) = sound.catalog().tensors.get_key_value("tok_embeddings.weight").unwrap();
    let chunk = tensor.chunks.all(&tensor.spec.shape).unwrap().swap_remove(0);
    let key = &sound.catalog().objects[chunk.object as usize].key;
    let file = path.join(key.below(&place(&path).key).unwrap());
    let mut bytes = fs::read(&file).unwrap();
    bytes[chunk.byte_offset as usize + 40] ^= 1;
    fs::write(&file, bytes).unwrap();

    let damaged = open_path(&path);
    let reader = TensorReader::new(&*damaged, fqn.as_str()).unwrap();
    let mut two = [0; 8];
    // The flipped byte is not among the two elements, but in their block.
    let wanted = Region::new(chunk.region.start.clone(), [1, 2]);
    let error = reader.read(&wanted, &mut two).unwrap_err();
    assert!(matches!(error, dcp::Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("tok_embeddings.weight"), "{error}");
}
