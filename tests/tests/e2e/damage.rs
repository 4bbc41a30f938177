//! A single flipped bit of tensor data is found, and named.

use crate::{convert, fixture};
use dcp::convert::{ConvertOptions, Sharding};
use dcp::format::{WriteOptions, open};
use dcp::model::{FqnFilter, Severity};
use dcp::verify::{VerifyOptions, verify};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

const FLIPS: u64 = 200;

/// Flips bits all over the tensors of the checkpoint at `path`, one at a time; `verify --deep` must name tensor and
/// object every time.
fn every_flip_is_named(path: &Path, root: &Path) {
    let options = VerifyOptions { deep: true, filter: FqnFilter::default(), threads: 2 };
    let place = crate::place(path);
    let sound = open(&place).unwrap();
    let report = verify(&*sound, &options, &()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    let mut seed = 7u64;
    let mut random = |below: u64| {
        // Numerical Recipes' 64-bit congruential generator: the same flips in every run.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let tensors: Vec<_> =
        sound.catalog().tensors.iter().filter(|(_, tensor)| tensor.spec.bytes() > Some(0)).collect();
    for flip in 0..FLIPS {
        let (fqn, tensor) = tensors[random(tensors.len() as u64) as usize];
        let chunks = tensor.chunks.all(&tensor.spec.shape).unwrap();
        let chunks: Vec<_> = chunks.into_iter().filter(|chunk| !chunk.region.is_empty()).collect();
        let chunk = &chunks[random(chunks.len() as u64) as usize];
        let elements = sound.resolve(fqn, tensor, chunk).unwrap();
        let byte_len = tensor.spec.dtype.bytes(chunk.region.elements()).unwrap();
        // A reader that checks blocks shows a chunk's elements alone; the item in the object is nothing else.
        let first = match elements.source.granularity() {
            1 => elements.byte_offset,
            _ => chunk.byte_offset,
        };
        let at = first + random(byte_len);
        let bit = 1u8 << random(8);
        let key = &sound.catalog().objects[chunk.object as usize].key;
        let below = key.below(&place.key).filter(|below| !below.is_empty()).unwrap_or(key.name());
        let file = OpenOptions::new().read(true).write(true).open(root.join(below)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ bit], at).unwrap();

        let damaged = open(&place).unwrap();
        let report = verify(&*damaged, &options, &()).unwrap();
        let named = report.findings.iter().any(|finding| {
            finding.severity == Severity::Damage
                && finding.fqn.as_ref() == Some(fqn)
                && finding.object.as_ref().is_some_and(|object| object.name() == key.name())
        });
        assert!(named, "flip {flip} of {fqn} at byte {at} of {key}: {:?}", report.findings);
        file.write_all_at(&byte, at).unwrap();
    }
}

#[test]
fn flips_in_dcp() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ckpt");
    std::fs::create_dir(&path).unwrap();
    // As PyTorch wrote it, not as we did.
    for entry in std::fs::read_dir(e2e::fixtures().join("torch-2.11/llama_ws2_fsdp/ckpt")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
    }
    every_flip_is_named(&path, &path);
}

#[test]
fn flips_in_pt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full.pt");
    std::fs::copy(e2e::fixtures().join("torch-2.11/pt_files/llama_full.pt"), &path).unwrap();
    every_flip_is_named(&path, folder.path());
}

#[test]
fn flips_in_what_we_write() {
    let source = fixture("torch-2.11/llama_ws4_2d/ckpt");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dcp");
    convert(&*source, "dcp", &crate::place(&path), &ConvertOptions::default());
    every_flip_is_named(&path, &path);
    let path = folder.path().join("titan");
    convert(&*source, "titan", &crate::place(&path), &ConvertOptions::default());
    every_flip_is_named(&path, &path);
    let write = WriteOptions { file_name: Some("model.pt".to_owned()), ..WriteOptions::default() };
    let options = ConvertOptions { sharding: Sharding::Whole, write, ..ConvertOptions::default() };
    let path = folder.path().join("pt");
    convert(&*source, "pt", &crate::place(&path), &options);
    every_flip_is_named(&path.join("model.pt"), &path);
}
