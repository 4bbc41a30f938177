//! Any cut of a tensor to any other, in strips of any size: the bytes and checksums are those of the tensor.

use super::engine::run_in_strips;
use super::job::StripBytes;
use super::{CopyOptions, CopyStats, Job, TensorReader, Wanted, load};
use crate::error::{Error, Result};
use crate::format::{ChecksumKind, Draft, Elements, ObjectDraft, ObjectSums, PlacedRegion, Reader, Target};
use crate::format::{Pieces, TargetTensor};
use crate::layout::{Region, copy_box, row_major};
use crate::model::{Catalog, Chunk, ChunkTable, DType, Fqn, ObjectInfo, Tensor, TensorSpec, Value};
use crate::storage::memory::MemoryStore;
use crate::storage::{Key, Place, ReadAt};
use crate::threads::lock;
use crc_fast::CrcAlgorithm::{Crc32IsoHdlc, Crc64Nvme};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

/// Bytes before the elements of every chunk and placed region, so that nothing is aligned by chance.
const LEAD: u64 = 3;

/// A checkpoint of one tensor `w`, one object per chunk, each chunk stored in its own order of dims.
#[derive(Debug)]
struct OneTensor {
    catalog: Catalog,
    place: Place,
    strides: Vec<Vec<u64>>,
    sums: Vec<u32>,
    reads: Arc<Mutex<Vec<u64>>>,
}

/// A source that remembers the length of every read.
#[derive(Debug)]
struct Counted(Arc<dyn ReadAt>, Arc<Mutex<Vec<u64>>>);

impl ReadAt for Counted {
    fn byte_len(&self) -> u64 {
        self.0.byte_len()
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        lock(&self.1).push(target.len() as u64);
        self.0.read_at(byte_offset, target)
    }
}

impl OneTensor {
    fn new(dtype: DType, shape: &[u64], regions: &[Region], order: usize) -> Self {
        Self::with_orders(dtype, shape, regions, |index| order + index)
    }

    fn with_orders(dtype: DType, shape: &[u64], regions: &[Region], order: impl Fn(usize) -> usize) -> Self {
        let place = memory();
        let whole = elements_of(dtype, shape);
        let mut catalog = Catalog::new("test");
        let (mut chunks, mut strides, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        for (index, region) in regions.iter().enumerate() {
            let own = dense_strides(&region.extent, order(index));
            let bytes = cut(dtype, shape, &whole, region, &own);
            let key = Key::new(format!("chunk-{index}")).unwrap();
            place.store.put(&key, &[&[0xee; LEAD as usize][..], &bytes].concat()).unwrap();
            let byte_len = LEAD + bytes.len() as u64;
            catalog.objects.push(ObjectInfo { key, byte_len, exact: true, writer: None });
            chunks.push(Chunk { region: region.clone(), object: index as u32, byte_offset: 0, byte_len });
            sums.push(crc_fast::checksum(Crc32IsoHdlc, &bytes) as u32);
            strides.push(own);
        }
        let spec = TensorSpec::new(dtype, shape);
        let chunks = ChunkTable::Listed(chunks);
        catalog.tensors.insert("w".into(), Tensor { spec, path: Vec::new(), chunks, placements: None });
        OneTensor { catalog, place, strides, sums, reads: Arc::default() }
    }
}

impl Reader for OneTensor {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn resolve(&self, _: &Fqn, _: &Tensor, chunk: &Chunk) -> Result<Elements> {
        let index = chunk.object as usize;
        let stored = self.place.store.open(&self.catalog.objects[index].key)?;
        let source = Arc::new(Counted(stored, self.reads.clone()));
        let row_major = self.strides[index] == row_major(&chunk.region.extent);
        let strides = (!row_major).then(|| self.strides[index].clone());
        Ok(Elements { source, byte_offset: LEAD, strides, crc32: Some(self.sums[index]) })
    }

    fn value(&self, fqn: &Fqn) -> Result<Value> {
        Err(Error::NoSuchName { fqn: fqn.as_str().to_owned(), hint: String::new() })
    }
}

/// Puts every region in an object of its own.
#[derive(Debug)]
struct OnePerRegion {
    objects: Vec<ObjectDraft>,
    checksums: ChecksumKind,
}

impl Draft for OnePerRegion {
    fn objects(&self) -> &[ObjectDraft] {
        &self.objects
    }

    fn checksums(&self) -> ChecksumKind {
        self.checksums
    }

    fn seal(&self, _: &[Option<Vec<u8>>]) -> Result<Vec<(Key, Vec<u8>)>> {
        Ok(Vec::new())
    }
}

fn memory() -> Place {
    Place { store: Arc::new(MemoryStore::new()), key: Key::root() }
}

/// A value per element that tells its position.
fn elements_of(dtype: DType, shape: &[u64]) -> Vec<u8> {
    let count = Region::whole(shape).elements();
    (0..count)
        .flat_map(|at| {
            at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[..dtype.block_bytes() as usize].to_vec()
        })
        .collect()
}

/// Strides of a dense array whose dims are stored in the `order`-th rotation.
fn dense_strides(extent: &[u64], order: usize) -> Vec<u64> {
    let mut dims: Vec<usize> = (0..extent.len()).collect();
    dims.rotate_left(order % extent.len().max(1));
    let stored: Vec<u64> = dims.iter().map(|&dim| extent[dim]).collect();
    let mut strides = vec![0; extent.len()];
    dims.iter().zip(row_major(&stored)).for_each(|(&dim, stride)| strides[dim] = stride);
    strides
}

fn cut(dtype: DType, shape: &[u64], whole: &[u8], region: &Region, strides: &[u64]) -> Vec<u8> {
    let block_bytes = dtype.block_bytes() as usize;
    let mut bytes = vec![0; region.elements() as usize * block_bytes];
    if !region.is_empty() {
        let from = region.position_in(&Region::whole(shape), &row_major(shape)) as usize * block_bytes;
        copy_box(&whole[from..], &row_major(shape), &mut bytes, strides, &region.extent, block_bytes);
    }
    bytes
}

/// The grid of boxes between the cuts of every dim.
fn grid(shape: &[u64], cuts: &[Vec<u64>]) -> Vec<Region> {
    let mut regions = vec![Region::new([], [])];
    for (&size, cuts) in shape.iter().zip(cuts) {
        let mut edges: Vec<u64> = cuts.iter().map(|cut| cut % (size + 1)).chain([0, size]).collect();
        edges.sort_unstable();
        edges.dedup();
        if size == 0 {
            edges.push(0);
        }
        regions = regions
            .iter()
            .flat_map(|region| {
                edges.windows(2).map(move |edge| {
                    let mut next = region.clone();
                    next.start.push(edge[0]);
                    next.extent.push(edge[1] - edge[0]);
                    next
                })
            })
            .collect();
    }
    regions
}

fn copy(
    source: &OneTensor,
    regions: &[Region],
    checksums: ChecksumKind,
    strip_bytes: u64,
) -> (Place, Vec<ObjectSums>, CopyStats) {
    let strip_bytes = StripBytes { plain: strip_bytes, reordered: strip_bytes };
    let spec = source.catalog.tensors["w"].spec.clone();
    let objects = regions
        .iter()
        .enumerate()
        .map(|(index, region)| ObjectDraft {
            key: Key::new(format!("out-{index}")).unwrap(),
            writer: index as u32,
            byte_len: LEAD + spec.dtype.bytes(region.elements()).unwrap(),
            fixed: Vec::new(),
            placed: vec![PlacedRegion { tensor: 0, region: region.clone(), byte_offset: LEAD }],
        })
        .collect();
    let tensor = TargetTensor { fqn: "w".into(), spec, path: Vec::new(), pieces: Pieces::Listed(Vec::new()) };
    let (place, draft) = (memory(), OnePerRegion { objects, checksums });
    let job = Job {
        reader: source,
        sources: &["w".into()],
        target: &Target { tensors: vec![tensor], ..Target::default() },
        objects: (0..draft.objects().len()).collect(),
        output: Default::default(),
        draft: &draft,
        place: &place,
        options: CopyOptions::default(),
        progress: &(),
    };
    let (sums, stats) = run_in_strips(job, strip_bytes, 3).unwrap();
    assert_eq!(stats.written_bytes, source.catalog.tensor_bytes());
    (place, sums, stats)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_cut_to_any_cut(
        (shape, from, to) in (0usize..=4).prop_flat_map(|dims| (
            prop::collection::vec(0u64..=6, dims),
            prop::collection::vec(prop::collection::vec(0u64..7, 0..=2), dims),
            prop::collection::vec(prop::collection::vec(0u64..7, 0..=2), dims),
        )),
        order in 0usize..4,
        strip_bytes in 8u64..200,
        dtype in prop::sample::select(vec![DType::U8, DType::BF16, DType::F32, DType::F64]),
        block_bytes in 1u64..50,
    ) {
        let source = OneTensor::new(dtype, &shape, &grid(&shape, &from), order);
        let regions = grid(&shape, &to);
        let whole = elements_of(dtype, &shape);
        for checksums in [ChecksumKind::None, ChecksumKind::Crc32, ChecksumKind::Crc64Blocks { block_bytes }] {
            let (place, sums, _) = copy(&source, &regions, checksums, strip_bytes);
            for (index, region) in regions.iter().enumerate() {
                let bytes = place.store.get(&Key::new(format!("out-{index}")).unwrap(), u64::MAX).unwrap();
                let expected = cut(dtype, &shape, &whole, region, &row_major(&region.extent));
                prop_assert_eq!(&bytes[LEAD as usize..], &expected[..]);
                match checksums {
                    ChecksumKind::None => {}
                    ChecksumKind::Crc32 => {
                        prop_assert_eq!(u64::from(sums[index].crc32[0]), crc_fast::checksum(Crc32IsoHdlc, &expected));
                    }
                    ChecksumKind::Crc64Blocks { .. } => {
                        let blocks: Vec<u64> = expected
                            .chunks(block_bytes as usize)
                            .map(|block| crc_fast::checksum(Crc64Nvme, block))
                            .collect();
                        prop_assert_eq!(&sums[index].blocks[0], &blocks);
                    }
                }
            }
        }
    }

    #[test]
    fn any_cut_into_memory(
        (shape, from, to) in (0usize..=3).prop_flat_map(|dims| (
            prop::collection::vec(0u64..=6, dims),
            prop::collection::vec(prop::collection::vec(0u64..7, 0..=2), dims),
            prop::collection::vec(prop::collection::vec(0u64..7, 0..=2), dims),
        )),
        order in 0usize..4,
        threads in 1usize..4,
    ) {
        let source = OneTensor::new(DType::BF16, &shape, &grid(&shape, &from), order);
        let regions = grid(&shape, &to);
        let mut memory: Vec<Vec<u8>> = regions.iter().map(|region| vec![0; 2 * region.elements() as usize]).collect();
        let wanted = regions.iter().zip(&mut memory);
        let wanted = wanted.map(|(region, target)| Wanted { fqn: "w", region: region.clone(), dtype: None, target }).collect();
        let stats = load(&source, wanted, CopyOptions { threads, ..CopyOptions::default() }, &()).unwrap();
        prop_assert_eq!(stats.written_bytes, source.catalog.tensor_bytes());
        let whole = elements_of(DType::BF16, &shape);
        for (region, bytes) in regions.iter().zip(&memory) {
            prop_assert_eq!(bytes, &cut(DType::BF16, &shape, &whole, region, &row_major(&region.extent)));
        }
    }

    #[test]
    fn any_region_of_any_cut(
        (shape, from, start, extent) in (1usize..=3).prop_flat_map(|dims| (
            prop::collection::vec(1u64..=6, dims),
            prop::collection::vec(prop::collection::vec(0u64..7, 0..=2), dims),
            prop::collection::vec(0u64..6, dims),
            prop::collection::vec(0u64..=6, dims),
        )),
        order in 0usize..4,
    ) {
        let source = OneTensor::new(DType::I32, &shape, &grid(&shape, &from), order);
        let start: Vec<u64> = start.iter().zip(&shape).map(|(start, size)| start % size).collect();
        let extent: Vec<u64> = extent.iter().zip(&start).zip(&shape).map(|((e, s), size)| (*e).min(size - s)).collect();
        let region = Region::new(start, extent);
        let mut bytes = vec![0; region.elements() as usize * 4];
        TensorReader::new(&source, "w").unwrap().read(&region, &mut bytes).unwrap();
        let whole = elements_of(DType::I32, &shape);
        prop_assert_eq!(bytes, cut(DType::I32, &shape, &whole, &region, &row_major(&region.extent)));
    }
}

#[test]
fn a_source_whose_checksum_does_not_hold_is_not_copied() {
    let regions = grid(&[8, 8], &[vec![4], vec![]]);
    let mut source = OneTensor::new(DType::F32, &[8, 8], &regions, 0);
    source.sums[1] ^= 1;
    let spec = source.catalog.tensors["w"].spec.clone();
    let object = ObjectDraft {
        key: Key::new("out").unwrap(),
        writer: 0,
        byte_len: 256,
        fixed: Vec::new(),
        placed: vec![PlacedRegion { tensor: 0, region: Region::whole(&[8, 8]), byte_offset: 0 }],
    };
    let draft = OnePerRegion { objects: vec![object], checksums: ChecksumKind::None };
    let tensor = TargetTensor { fqn: "w".into(), spec, path: Vec::new(), pieces: Pieces::Listed(Vec::new()) };
    let place = memory();
    let result = super::run(Job {
        reader: &source,
        sources: &["w".into()],
        target: &Target { tensors: vec![tensor], ..Target::default() },
        objects: (0..draft.objects().len()).collect(),
        output: Default::default(),
        draft: &draft,
        place: &place,
        options: CopyOptions::default(),
        progress: &(),
    });
    assert!(matches!(result, Err(Error::Damaged { .. })), "{result:?}");
    assert_eq!(place.store.list(&Key::root()).unwrap(), []);
}

#[test]
fn a_load_refuses_damage_and_memory_of_another_size() {
    let regions = grid(&[8, 8], &[vec![4], vec![]]);
    let mut source = OneTensor::new(DType::F32, &[8, 8], &regions, 0);
    let whole = Region::whole(&[8, 8]);
    let mut memory = vec![0; 256];
    let mut outcome = |source: &OneTensor, fqn: &str, byte_len: usize| {
        let wanted =
            vec![Wanted { fqn, region: whole.clone(), dtype: None, target: &mut memory[..byte_len] }];
        load(source, wanted, CopyOptions::default(), &()).map(|stats| stats.read_bytes)
    };
    assert_eq!(outcome(&source, "w", 256).unwrap(), 256);
    assert!(matches!(outcome(&source, "v", 256), Err(Error::NoSuchName { .. })));
    let error = outcome(&source, "w", 255).unwrap_err().to_string();
    assert!(error.ends_with("has 256 bytes, the memory for it 255"), "{error}");
    source.sums[1] ^= 1;
    assert!(matches!(outcome(&source, "w", 256), Err(Error::Damaged { .. })));
}

#[test]
fn a_part_of_the_columns_reads_little_more_than_it_wants() {
    let shape = [64, 16384];
    let source = OneTensor::new(DType::F32, &shape, &[Region::whole(&shape)], 0);
    let wanted = Region::new([0, 4096], [64, 2048]);
    let mut bytes = vec![0; 64 * 2048 * 4];
    let fetched = TensorReader::new(&source, "w").unwrap().read(&wanted, &mut bytes).unwrap();
    assert_eq!(fetched, bytes.len() as u64);
    // Rows of 16 elements are shorter than a page: the span is read once instead.
    let narrow = Region::new([0, 0], [64, 16]);
    let mut bytes = vec![0; 64 * 16 * 4];
    let fetched = TensorReader::new(&source, "w").unwrap().read(&narrow, &mut bytes).unwrap();
    assert_eq!(fetched, (63 * 16384 + 16) * 4);
}

#[test]
fn a_transposed_tensor_is_read_once_in_long_runs() {
    // An expert of 5120 by 8192 and what is staged of it, each an eighth as long.
    let shape = [640, 1024];
    let (halves, quarters) =
        (grid(&shape, &[vec![320], vec![]]), grid(&shape, &[vec![], vec![256, 512, 768]]));
    for (from, to) in [(grid(&shape, &[vec![], vec![]]), halves.clone()), (quarters, halves)] {
        let source = OneTensor::with_orders(DType::BF16, &shape, &from, |_| 1);
        assert!(source.strides.iter().all(|strides| strides[0] == 1), "the source is transposed");
        let (place, _, stats) = copy(&source, &to, ChecksumKind::Crc32, (10 << 20) / 64);
        assert_eq!(stats.read_bytes, 2 * 640 * 1024);
        let reads = lock(&source.reads);
        assert_eq!(reads.iter().sum::<u64>(), stats.read_bytes, "what the store gave");
        assert!(reads.iter().all(|&read| read >= 80 << 10), "{reads:?}");
        let whole = elements_of(DType::BF16, &shape);
        for (index, region) in to.iter().enumerate() {
            let bytes = place.store.get(&Key::new(format!("out-{index}")).unwrap(), u64::MAX).unwrap();
            let expected = cut(DType::BF16, &shape, &whole, region, &row_major(&region.extent));
            assert!(bytes[LEAD as usize..] == expected[..], "object {index}");
        }
    }
}
