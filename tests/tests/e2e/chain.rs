//! Every fixture through every format and back: nothing is lost but what a format cannot hold.

use crate::{convert, in_memory, open_path};
use dcp::convert::{ConvertOptions, Sharding};
use dcp::diff::{DiffOptions, Difference, diff};
use dcp::format::Reader;
use dcp::model::{DType, FqnFilter};

fn differences(a: &dyn Reader, b: &dyn Reader) -> Vec<Difference> {
    let options = DiffOptions { filter: FqnFilter::default(), rtol: 0.0, atol: 0.0, threads: 2 };
    diff(a, b, &options, &()).unwrap().differences
}

/// Names of tensors whose type safetensors lacks.
fn not_in_safetensors(reader: &dyn Reader) -> Vec<String> {
    let lacks = |dtype: DType| dtype.safetensors_name().is_none() && dtype != DType::F4x2;
    let tensors = reader.catalog().tensors.iter().filter(|(_, tensor)| lacks(tensor.spec.dtype));
    tensors.map(|(fqn, _)| fqn.as_str().to_owned()).collect()
}

#[test]
fn every_fixture_through_every_format_and_back() {
    let mut checked = 0;
    for version in ["torch-2.4", "torch-2.11", "torch-2.15"] {
        for entry in std::fs::read_dir(e2e::fixtures().join(version)).unwrap() {
            let path = entry.unwrap().path();
            if !path.join("ckpt").is_dir() {
                continue;
            }
            let source = open_path(&path.join("ckpt"));
            let name = path.display();
            let titan = convert(&*source, "titan", &in_memory(), &ConvertOptions::default());
            assert_eq!(differences(&*source, &*titan), [], "{name}: titan");
            let whole = ConvertOptions { sharding: Sharding::Whole, ..ConvertOptions::default() };
            let pt = convert(&*titan, "pt", &in_memory(), &whole);
            assert_eq!(differences(&*source, &*pt), [], "{name}: pt");
            let exclude = not_in_safetensors(&*source);
            let filter = FqnFilter::new(&[], &exclude).unwrap();
            let tensors = ConvertOptions { filter, drop_values: true, ..whole };
            let safetensors = convert(&*pt, "safetensors", &in_memory(), &tensors);
            let back = convert(&*safetensors, "dcp", &in_memory(), &ConvertOptions::default());
            for difference in differences(&*source, &*back) {
                let Difference::OnlyInA(fqn) = &difference else { panic!("{name}: {difference:?}") };
                let is_value = source.catalog().values.contains_key(fqn);
                assert!(is_value || exclude.iter().any(|excluded| excluded == fqn.as_str()), "{name}: {fqn}");
            }
            checked += 1;
        }
    }
    assert!(checked >= 29, "{checked} fixtures");
}
