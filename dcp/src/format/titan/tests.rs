//! Checkpoints written by the engine and read back.

mod attacks;
mod layouts;
mod memory;

use self::memory::{objects, place};
use super::Titan;
use crate::convert::{self, ConvertOptions, Sharding};
use crate::diff::{DiffOptions, diff};
use crate::format::safetensors::encode::{NewTensor, encode};
use crate::format::safetensors::header::read_header;
use crate::format::{Reader, WriteOptions, open};
use crate::model::{DType, FqnFilter, Severity};
use crate::plan::Degrees;
use crate::storage::{Key, Place};
use crate::verify::{VerifyOptions, verify};
use std::sync::Arc;

/// A safetensors file with uneven, odd, scalar, empty and large tensors.
fn source() -> Place {
    let tensors: [(&str, DType, &[u64]); 6] = [
        ("layers.0.w", DType::F32, &[513, 1030]),
        ("layers.0.odd", DType::U8, &[7]),
        ("w@1", DType::BF16, &[5, 3]),
        ("scalar", DType::F64, &[]),
        ("empty", DType::I32, &[0, 4]),
        ("bias", DType::BF16, &[64]),
    ];
    let tensors = tensors.map(|(name, dtype, shape)| NewTensor { name, dtype, shape });
    let header = encode("source", &[("format", "pt")], &tensors, 8).unwrap();
    let mut bytes = header.bytes;
    let len = header.end - bytes.len() as u64;
    bytes.extend((0..len).map(|at| (at * 31 + at / 251) as u8 & 0x3f));
    place(&[("step/model.safetensors".to_owned(), bytes)])
}

fn converted(sharding: Sharding, compress: bool) -> (Arc<dyn Reader>, Place) {
    let reader = open(&source()).unwrap();
    let goal = place(&[]);
    let write = WriteOptions { compress, ..WriteOptions::default() };
    let options = ConvertOptions { sharding, write, ..ConvertOptions::default() };
    convert::plan(&*reader, &goal, &Titan, &options).unwrap().run(&()).unwrap();
    (reader, goal)
}

fn degrees() -> Sharding {
    Sharding::Degrees(Degrees { pp: 1, dp_replicate: 2, dp_shard: 2, cp: 1, tp: 2 })
}

fn deep() -> VerifyOptions {
    VerifyOptions { deep: true, filter: FqnFilter::default(), threads: 1 }
}

#[test]
fn the_engine_writes_what_the_reader_reads() {
    for sharding in [Sharding::Keep, Sharding::Whole, degrees()] {
        let (source, goal) = converted(sharding, false);
        let reader = open(&goal).unwrap();
        assert_eq!(reader.catalog().format, "titan");
        let options = DiffOptions { filter: FqnFilter::default(), rtol: 0.0, atol: 0.0, threads: 1 };
        assert_eq!(diff(&*source, &*reader, &options, &()).unwrap().differences, []);
        let report = verify(&*reader, &deep(), &()).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert_eq!(report.checked_bytes, report.read_bytes);
        let shards =
            reader.catalog().objects.iter().filter(|info| info.key.as_str().ends_with(".safetensors"));
        for info in shards {
            let file = goal.store.open(&info.key).unwrap();
            assert_eq!(read_header(&*file, 0, "shard").unwrap().end, info.byte_len);
        }
    }
    let (_, goal) = converted(degrees(), false);
    let reader = open(&goal).unwrap();
    assert_eq!(reader.catalog().mesh.as_ref().unwrap().ranks(), 8);
    assert!(reader.catalog().tensors["layers.0.w"].placements.is_some());
}

#[test]
fn every_flipped_bit_is_found() {
    for compress in [false, true] {
        let (_, goal) = converted(degrees(), compress);
        let whole = objects(&goal);
        assert_eq!(whole.iter().any(|(name, _)| name.ends_with(".frames")), compress);
        for (index, (name, bytes)) in whole.iter().enumerate() {
            let pads = pads(&goal, name);
            let spread = (0..bytes.len()).step_by(bytes.len() / 7 + 1);
            for at in spread.filter(|&at| !pads.iter().any(|pad| pad.contains(&(at as u64)))) {
                let mut flipped = whole.clone();
                flipped[index].1[at] ^= 1;
                assert!(is_damaged(&flipped), "{name}: byte {at}");
            }
        }
    }
}

/// The bytes of a shard that are padding, which no checksum covers.
fn pads(place: &Place, name: &str) -> Vec<std::ops::Range<u64>> {
    if !name.ends_with(".safetensors") {
        return Vec::new();
    }
    let file = place.store.open(&Key::new(name).unwrap()).unwrap();
    let tensors = read_header(&*file, 0, name).unwrap().tensors;
    let pads = tensors.into_iter().filter(|(fqn, _)| fqn.as_str().starts_with("__titan_pad."));
    pads.map(|(_, tensor)| tensor.bytes).collect()
}

fn is_damaged(files: &[(String, Vec<u8>)]) -> bool {
    match open(&place(files)).and_then(|reader| verify(&*reader, &deep(), &())) {
        Ok(report) => report.findings.iter().any(|one| one.severity == Severity::Damage),
        Err(_) => true,
    }
}

#[test]
fn without_its_manifest_it_is_no_checkpoint_and_leftovers_are_noted() {
    let (_, goal) = converted(Sharding::Whole, false);
    let mut all = objects(&goal);
    all.push(("step/0123/left".to_owned(), vec![1]));
    let reader = open(&place(&all)).unwrap();
    let findings = &reader.catalog().findings;
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].severity, findings[0].object.as_ref().unwrap().as_str()),
        (Severity::Note, "step/0123/left")
    );
    all.retain(|(name, _)| !name.ends_with("titan-0000.json"));
    assert!(open(&place(&all)).map_or(true, |reader| reader.catalog().format != "titan"));
}
