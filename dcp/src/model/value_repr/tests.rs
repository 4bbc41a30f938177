use super::*;
use crate::model::{DType, InlineTensor, TensorSpec};

fn tensor(dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Value {
    Value::Tensor(InlineTensor { spec: TensorSpec::new(dtype, shape), bytes })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().as_chunks::<2>().0;
    digits.iter().map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

#[test]
fn tensors_and_arrays_print_as_their_libraries_print_them() {
    let rows = include_str!("golden.tsv").lines().filter(|line| !line.starts_with('#'));
    let mut checked = 0;
    for row in rows {
        let [kind, dtype, shape, bytes, text] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        let shape = shape.split(',').filter(|size| !size.is_empty());
        let shape: Vec<u64> = shape.map(|size| size.parse().unwrap()).collect();
        let (name, bytes) = (dtype.to_owned(), unhex(bytes));
        let value = match kind {
            "tensor" => tensor(DType::from_torch_name(dtype).unwrap(), &shape, bytes),
            "scalar" => Value::NumpyScalar { dtype: name, bytes },
            _ => Value::NumpyArray { dtype: name, shape, bytes },
        };
        assert_eq!(value.py_repr(), text, "{row}");
        checked += 1;
    }
    assert!(checked > 200, "{checked} rows");
}

#[test]
fn what_is_large_is_shown_by_its_corners() {
    let counted = |count: i64| (0..count).flat_map(i64::to_le_bytes).collect::<Vec<u8>>();
    let array = |shape: &[u64]| {
        let bytes = counted(shape.iter().product::<u64>() as i64);
        Value::NumpyArray { dtype: "<i8".into(), shape: shape.to_vec(), bytes }
    };
    let tensor = |shape: &[u64]| tensor(DType::I64, shape, counted(shape.iter().product::<u64>() as i64));
    for (value, text) in [
        (tensor(&[1001]), "tensor([   0,    1,    2,  ...,  998,  999, 1000])"),
        (array(&[1001]), "array([   0,    1,    2, ...,  998,  999, 1000], shape=(1001,))"),
        (
            tensor(&[4, 1000]),
            "tensor([[   0,    1,    2,  ...,  997,  998,  999], [1000, 1001, 1002,  ..., 1997, 1998, 1999], \
             [2000, 2001, 2002,  ..., 2997, 2998, 2999], [3000, 3001, 3002,  ..., 3997, 3998, 3999]])",
        ),
        (
            array(&[300, 2, 2]),
            "array([[[   0,    1], [   2,    3]], [[   4,    5], [   6,    7]], [[   8,    9], [  10,   11]], ..., \
             [[1188, 1189], [1190, 1191]], [[1192, 1193], [1194, 1195]], [[1196, 1197], [1198, 1199]]], \
             shape=(300, 2, 2))",
        ),
    ] {
        assert_eq!(value.py_repr(), text);
    }
}

#[test]
fn text_bytes_and_containers() {
    let pairs = vec![(Value::Str("it's".into()), Value::Tuple(vec![Value::Int(1)]))];
    for (value, text) in [
        (Value::Dict(pairs.clone()), r#"{"it's": (1,)}"#),
        (Value::OrderedDict(pairs), r#"OrderedDict({"it's": (1,)})"#),
        (Value::OrderedDict(vec![]), "OrderedDict()"),
        (Value::Set(vec![]), "set()"),
        (Value::Tuple(vec![]), "()"),
        (Value::Bytes(b"a'\n\x00".to_vec()), r#"b"a'\n\x00""#),
        (Value::ByteArray(b"'\"".to_vec()), r#"bytearray(b'\'"')"#),
        (
            Value::Str("\u{e9}\u{0}\u{7f}\u{a0}\u{ad}\u{301}\u{2028}\u{e000}\u{1f600}\u{e0001}".into()),
            "'\u{e9}\\x00\\x7f\\xa0\\xad\u{301}\\u2028\\ue000\u{1f600}\\U000e0001'",
        ),
        (Value::Complex(1.0, 2.0), "(1+2j)"),
        (Value::BigInt(vec![0, 0, 0, 0, 0, 0, 0, 0, 1]), "18446744073709551616"),
        (Value::Device("cuda:1".into()), "device(type='cuda', index=1)"),
        (Value::Size(vec![]), "torch.Size([])"),
        (Value::Opaque { global: "m.C".into() }, "<m.C>"),
    ] {
        assert_eq!(value.py_repr(), text);
    }
}

#[test]
fn elements_that_are_not_there_are_counted() {
    assert_eq!(tensor(DType::F4, &[4], vec![0; 2]).py_repr(), "tensor(<2 bytes>, dtype=torch.float4_e2m1fn)");
    let odd = Value::NumpyArray { dtype: "<f16".into(), shape: vec![1], bytes: vec![0; 16] };
    assert_eq!(odd.py_repr(), "array(<16 bytes of <f16>)");
    let short = Value::NumpyScalar { dtype: "<f4".into(), bytes: vec![0; 2] };
    assert_eq!(short.py_repr(), "<2 bytes of <f4>");
}
