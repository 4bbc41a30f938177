//! Any tensors on any mesh: what is written reads back, and lies where the shard's own header says.

use super::memory::{Whole, cut, objects, place, write};
use crate::copy::TensorReader;
use crate::error::Error;
use crate::format::titan::header::{entry_name, stored_as};
use crate::format::{Pieces, Reader, Target, TargetTensor, WriteOptions, open};
use crate::layout::{Layout, Mesh, Placement, Region};
use crate::model::{DType, FqnFilter, Path, PathPart, TensorSpec};
use crate::storage::Place;
use crate::verify::{VerifyOptions, verify};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::sync::Arc;

/// Every tensor reads back whole, and verification finds nothing.
fn assert_reads_back(source: &Whole, goal: &Place, target: &Target) -> Arc<dyn Reader> {
    let reader = open(goal).unwrap();
    assert_eq!(reader.catalog().format, "titan");
    assert_eq!(reader.catalog().tensors.len(), target.tensors.len());
    for (expected, (fqn, found)) in target.tensors.iter().zip(&reader.catalog().tensors) {
        assert_eq!((&expected.fqn, &expected.spec), (fqn, &found.spec));
        let mut bytes = vec![0; found.spec.bytes().unwrap() as usize];
        let tensor = TensorReader::new(&*reader, fqn.as_str()).unwrap();
        tensor.read(&Region::whole(&found.spec.shape), &mut bytes).unwrap();
        assert_eq!(bytes, source.bytes(fqn.as_str()), "{fqn}");
    }
    let options = VerifyOptions { deep: true, filter: FqnFilter::default(), threads: 1 };
    let report = verify(&*reader, &options, &()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.read_bytes, report.checked_bytes);
    reader
}

/// Chunks tile every tensor and lie where the safetensors library finds the entry of that name.
fn assert_shards_agree(source: &Whole, goal: &Place, reader: &dyn Reader) {
    let files: HashMap<String, Vec<u8>> = objects(goal).into_iter().collect();
    let mut seen = 0;
    for (fqn, tensor) in &reader.catalog().tensors {
        let (dtype, shape, whole) = (tensor.spec.dtype, &tensor.spec.shape, source.bytes(fqn.as_str()));
        let mut ordinals: HashMap<u32, u32> = HashMap::new();
        let mut elements = 0;
        for chunk in tensor.chunks.all(shape).unwrap() {
            elements += chunk.region.elements();
            let info = &reader.catalog().objects[chunk.object as usize];
            let file = &files[info.key.as_str()];
            assert_eq!(info.byte_len, file.len() as u64);
            let shard = SafeTensors::deserialize(file).unwrap();
            let ordinal = ordinals.entry(info.writer.unwrap()).or_default();
            let view = shard.tensor(&entry_name(fqn.as_str(), *ordinal)).unwrap();
            *ordinal += 1;
            let (_, extent) = stored_as(dtype, &chunk.region.extent);
            assert_eq!(view.shape(), extent.iter().map(|&n| n as usize).collect::<Vec<_>>());
            let at = view.data().as_ptr() as usize - file.as_ptr() as usize;
            assert_eq!((at as u64, view.data().len() as u64), (chunk.byte_offset, chunk.byte_len));
            assert_eq!(at % 64, 0);
            assert!(view.data() == cut(dtype, shape, &whole, &chunk.region), "{fqn} {:?}", chunk.region);
            seen += 1;
        }
        assert_eq!(elements, tensor.spec.elements().unwrap(), "{fqn}");
    }
    let entries = files.iter().filter(|(name, _)| name.ends_with(".safetensors")).map(|(_, file)| {
        let shard = SafeTensors::deserialize(file).unwrap();
        shard.names().into_iter().filter(|name| !name.starts_with("__titan_pad.")).count()
    });
    assert_eq!(entries.sum::<usize>(), seen);
}

fn tensor(name: &str, dtype: DType, shape: &[u64], pieces: Pieces) -> TargetTensor {
    TargetTensor { fqn: name.into(), spec: TensorSpec::new(dtype, shape), path: Path::new(), pieces }
}

fn placed(placements: &[Placement], owner: &[u32]) -> Pieces {
    Pieces::Placed { placements: placements.to_vec(), owner: owner.to_vec() }
}

#[test]
fn every_kind_of_layout() {
    use Placement::{Only, Replicate, Shard, StridedShard};
    let mesh = Arc::new(Mesh::new([("pp", 2), ("dp", 3), ("tp", 2)]).unwrap());
    let on = |coordinate| Only { coordinate };
    let dim0 = Shard { dim: 0 };
    let rows = |start, extent| Region::new([start, 0], [extent, 4]);
    let boxes = vec![(6, rows(0, 1)), (0, rows(3, 2)), (6, rows(1, 2)), (6, rows(5, 0)), (12, rows(5, 4))];
    let strided = [on(0), StridedShard { dim: 0, split_factor: 2 }, dim0];
    let target = Target {
        tensors: vec![
            tensor("scalar", DType::F32, &[], placed(&[on(1), Replicate, Replicate], &[0, 2, 1])),
            tensor("even", DType::BF16, &[12, 8], placed(&[on(0), dim0, Shard { dim: 1 }], &[0; 3])),
            tensor("uneven", DType::F64, &[7, 3], placed(&[on(1), dim0, Replicate], &[0, 0, 1])),
            tensor("few", DType::U8, &[2], placed(&[on(0), dim0, Replicate], &[0, 0, 1])),
            tensor("strided", DType::F32, &[13, 2], placed(&strided, &[0; 3])),
            tensor("everywhere", DType::I64, &[24], placed(&[dim0; 3], &[0; 3])),
            tensor("empty", DType::F32, &[4, 0], placed(&[on(1), dim0, Replicate], &[0, 0, 1])),
            tensor("listed", DType::C128, &[9, 4], Pieces::Listed(boxes)),
            tensor("x@1", DType::F16, &[5], placed(&[on(0), Replicate, Replicate], &[0; 3])),
            tensor("__metadata__", DType::F4x2, &[64], Pieces::Listed(vec![(3, Region::whole(&[64]))])),
            tensor("large", DType::F32, &[600, 1000], placed(&[on(0), Replicate, Replicate], &[0; 3])),
        ],
        values: Vec::new(),
        mesh: Some(mesh.clone()),
        writers: 13,
        step: Some(7),
    };
    let (source, goal) = write(&target, &WriteOptions::default()).unwrap();
    let reader = assert_reads_back(&source, &goal, &target);
    assert_shards_agree(&source, &goal, &*reader);
    let catalog = reader.catalog();
    assert_eq!((&catalog.mesh, catalog.step), (&Some(mesh), Some(7)));
    assert_eq!(catalog.tensors["strided"].placements.as_deref(), Some(&strided[..]));
    assert_eq!(catalog.tensors["__metadata__"].placements, None, "found from boxes");
    let listed = catalog.tensors["listed"].chunks.all(&[9, 4]).unwrap();
    assert!(listed.iter().any(|chunk| chunk.region == rows(5, 0)), "listed empty boxes are kept");
    let large = catalog.tensors["large"].chunks.all(&[600, 1000]).unwrap();
    assert_eq!(large[0].byte_offset % 4096, 0);
    let (source, goal) = write(&target, &WriteOptions { compress: true, ..WriteOptions::default() }).unwrap();
    assert_reads_back(&source, &goal, &target);
}

#[test]
fn paths_are_kept_and_the_trivial_one_is_not_stored() {
    let whole = || Pieces::Listed(vec![(0, Region::whole(&[1]))]);
    let (mut nested, mut flat) =
        (tensor("a.0.w", DType::U8, &[1], whole()), tensor("b.w", DType::U8, &[1], whole()));
    nested.path = vec![PathPart::Key("a".into()), PathPart::Index(0), PathPart::Key("w".into())];
    flat.path = vec![PathPart::Key("b.w".into())];
    let path = nested.path.clone();
    let target = Target { tensors: vec![nested, flat], writers: 1, ..Target::default() };
    let (_, goal) = write(&target, &WriteOptions::default()).unwrap();
    let reader = open(&goal).unwrap();
    assert_eq!(reader.catalog().tensors["a.0.w"].path, path);
    assert_eq!(reader.catalog().tensors["b.w"].path, Path::new());
}

#[test]
fn what_cannot_be_laid_out_is_refused() {
    let refused = |tensors: Vec<TargetTensor>| {
        let target = Target { tensors, writers: 1, ..Target::default() };
        write(&target, &WriteOptions::default()).map(|_| ()).unwrap_err()
    };
    let line = |start: u64, extent: u64| (0, Region::new([start], [extent]));
    for boxes in [
        vec![line(0, 3)],
        vec![line(0, 3), line(2, 2)],
        vec![line(u64::MAX, 2), line(0, 4)],
        vec![(0, Region::whole(&[4, 1]))],
        vec![(1, Region::whole(&[4]))],
    ] {
        let error = refused(vec![tensor("w", DType::F32, &[4], Pieces::Listed(boxes.clone()))]);
        assert!(matches!(error, Error::BadTensor { .. }), "{boxes:?}: {error}");
    }
    let halves = Pieces::Listed(vec![line(0, 1), line(1, 3)]);
    assert!(matches!(refused(vec![tensor("w", DType::F4, &[4], halves)]), Error::BadTensor { .. }));
    let twice = || tensor("w", DType::F32, &[4], Pieces::Listed(vec![line(0, 4)]));
    assert!(matches!(refused(vec![twice(), twice()]), Error::Inexpressible { .. }));
}

/// A tensor and how to cut it, as numbers that fit any mesh.
#[derive(Clone, Debug)]
struct Sketch {
    dtype: DType,
    shape: Vec<u64>,
    placements: Vec<(u8, u32)>,
    /// Cuts of a listed tensor: dim, position, writer; `None` for a placed one.
    cuts: Option<Vec<(u32, u64, u32)>>,
}

fn sketch() -> impl Strategy<Value = Sketch> {
    use DType::{BF16, C32, C128, F4x2, F6E2M3, F32, F64, U8};
    let dtypes = prop::sample::select(vec![U8, BF16, F32, F64, C32, C128, F4x2, F6E2M3]);
    let shape = prop::collection::vec(prop_oneof![1 => Just(0u64), 9 => 1..9u64], 0..4);
    let placements = prop::collection::vec((0..5u8, 0..12u32), 3);
    let cuts = prop::option::weighted(0.4, prop::collection::vec((0..3u32, 0..9u64, 0..9u32), 0..5));
    (dtypes, shape, placements, cuts).prop_map(|(dtype, shape, placements, cuts)| Sketch {
        dtype,
        shape,
        placements,
        cuts,
    })
}

impl Sketch {
    /// Dims that may be cut: packed elements stay together.
    fn dims(&self) -> u32 {
        let packed = self.dtype.block_elements() > 1 && !self.shape.is_empty();
        (self.shape.len() - usize::from(packed)) as u32
    }

    fn target(&self, index: usize, mesh: &Arc<Mesh>, writers: u32) -> Option<TargetTensor> {
        let mut shape = self.shape.clone();
        if self.dtype.block_elements() > 1 {
            *shape.last_mut()? *= 4;
        }
        let pieces = match &self.cuts {
            Some(cuts) => self.listed(&shape, cuts, writers),
            None => self.placed(&shape, mesh)?,
        };
        Some(tensor(&format!("t{index}"), self.dtype, &shape, pieces))
    }

    fn placed(&self, shape: &[u64], mesh: &Arc<Mesh>) -> Option<Pieces> {
        let dim = |number: u32| number.checked_rem(self.dims());
        let place = |size: u32, kind: u8, number: u32| match kind {
            0 => Some(Placement::Only { coordinate: number % size }),
            1 | 2 => dim(number).map(|dim| Placement::Shard { dim }),
            3 => dim(number / 4).map(|dim| Placement::StridedShard { dim, split_factor: 1 + number % 4 }),
            _ => Some(Placement::Replicate),
        };
        let axes = || mesh.axes().iter().zip(&self.placements);
        let placements: Option<Vec<_>> =
            axes().map(|(axis, &(kind, number))| place(axis.size, kind, number)).collect();
        let placements = placements?;
        Layout::new(mesh.clone(), placements.clone(), shape.to_vec()).ok()?;
        let owner = axes().map(|(axis, (_, number))| number % axis.size).collect();
        Some(Pieces::Placed { placements, owner })
    }

    /// The whole, cut in two again and again.
    fn listed(&self, shape: &[u64], cuts: &[(u32, u64, u32)], writers: u32) -> Pieces {
        let mut boxes = vec![(0, Region::whole(shape))];
        for &(dim, at, writer) in cuts {
            let Some(dim) = dim.checked_rem(self.dims()).map(|dim| dim as usize) else { break };
            let (_, rest) = boxes.pop().unwrap();
            let at = rest.start[dim] + at.min(rest.extent[dim]);
            let (mut low, mut high) = (rest.clone(), rest.clone());
            low.extent[dim] = at - rest.start[dim];
            (high.start[dim], high.extent[dim]) = (at, rest.end(dim) - at);
            boxes.extend([(writer % writers, low), ((writer / 2) % writers, high)]);
        }
        Pieces::Listed(boxes)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn any_tensors_on_any_mesh(
        sketches in prop::collection::vec(sketch(), 0..7),
        sizes in prop::collection::vec(1..4u32, 0..4),
        extra_writers in 0..3u32,
        object_bytes_max in prop::option::of(1..500u64),
        compress: bool,
    ) {
        let mesh = Arc::new(Mesh::new(["a", "b", "c"].into_iter().zip(sizes)).unwrap());
        let writers = mesh.ranks() + extra_writers;
        let sketches = sketches.iter().enumerate();
        let tensors = sketches.filter_map(|(index, sketch)| sketch.target(index, &mesh, writers)).collect();
        let target = Target { tensors, values: Vec::new(), mesh: Some(mesh), writers, step: None };
        let options =
            WriteOptions { compress, shard_bytes_max: object_bytes_max, ..WriteOptions::default() };
        let (source, goal) = write(&target, &options).unwrap();
        let reader = assert_reads_back(&source, &goal, &target);
        if !compress {
            assert_shards_agree(&source, &goal, &*reader);
        }
    }

    #[test]
    fn any_listed_boxes_come_back_with_their_writers(sketch in sketch(), writers in 1..9u32) {
        let mesh = Arc::new(Mesh::new::<String>([]).unwrap());
        if let Some(tensor) = sketch.target(0, &mesh, writers) {
            let target = Target { tensors: vec![tensor], writers, ..Target::default() };
            let expected = boxes(target.pieces(&target.tensors[0]).unwrap());
            let (_, goal) = write(&target, &WriteOptions::default()).unwrap();
            let reader = open(&goal).unwrap();
            let (_, found) = reader.catalog().tensors.get_index(0).unwrap();
            let writer = |object: u32| reader.catalog().objects[object as usize].writer.unwrap();
            let chunks = found.chunks.all(&found.spec.shape).unwrap().into_iter();
            let found = boxes(chunks.map(|chunk| (writer(chunk.object), chunk.region)).collect());
            prop_assert_eq!(found, expected);
        }
    }
}

/// Boxes that hold something, or all where none does, in a fixed order.
fn boxes(mut boxes: Vec<(u32, Region)>) -> Vec<(u32, Region)> {
    if boxes.iter().any(|(_, region)| !region.is_empty()) {
        boxes.retain(|(_, region)| !region.is_empty());
    }
    boxes.sort();
    boxes
}

#[test]
fn a_small_read_needs_the_files_of_one_writer_only() {
    let mesh = Arc::new(Mesh::new([("dp", 4)]).unwrap());
    let shape = [4096, 512];
    let whole = tensor("w", DType::F32, &shape, placed(&[Placement::Shard { dim: 0 }], &[0]));
    let target = Target { tensors: vec![whole], mesh: Some(mesh), writers: 4, ..Target::default() };
    let (source, goal) = write(&target, &WriteOptions::default()).unwrap();
    let mut left = objects(&goal);
    left.retain(|(name, _)| name.contains("r00002") || name.ends_with("titan-0000.json"));
    let reader = open(&place(&left)).unwrap();
    let tensor = TensorReader::new(&*reader, "w").unwrap();
    let region = Region::new([2100, 3], [7, 200]);
    let mut bytes = vec![0; 7 * 200 * 4];
    tensor.read(&region, &mut bytes).unwrap();
    assert_eq!(bytes, cut(DType::F32, &shape, &source.bytes("w"), &region));
    let elsewhere = tensor.read(&Region::new([0, 0], [1, 1]), &mut [0; 4]);
    assert!(matches!(elsewhere, Err(Error::NotFound { .. })), "{elsewhere:?}");
}
