//! Element types, with the names that PyTorch and safetensors give them.

use std::fmt;

/// An element type of a stored tensor.
///
/// Sub-byte types are handled in whole *blocks*: `F4` packs 2 elements in 1 byte, the `F6` types 4 elements in
/// 3 bytes. PyTorch's `float4_e2m1fn_x2` counts bytes in its shape and is [`DType::F4x2`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[allow(missing_docs)] // the names are the documentation; the table below gives both spellings
pub enum DType {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    BF16,
    F32,
    F64,
    C32,
    C64,
    C128,
    F8E4M3,
    F8E4M3Fnuz,
    F8E5M2,
    F8E5M2Fnuz,
    F8E8M0,
    F4,
    F4x2,
    F6E2M3,
    F6E3M2,
}

/// One row of the table of element types.
struct Row {
    dtype: DType,
    /// PyTorch's name without the `torch.` prefix, where PyTorch has the type.
    torch: Option<&'static str>,
    /// The name in a safetensors header, where that format has the type.
    safetensors: Option<&'static str>,
    block_elements: u64,
    block_bytes: u64,
}

const fn row(
    dtype: DType,
    torch: Option<&'static str>,
    safetensors: Option<&'static str>,
    block_elements: u64,
    block_bytes: u64,
) -> Row {
    Row { dtype, torch, safetensors, block_elements, block_bytes }
}

use DType::*;
/// Every element type, in declaration order.
static DTYPES: &[Row] = &[
    row(Bool, Some("bool"), Some("BOOL"), 1, 1),
    row(U8, Some("uint8"), Some("U8"), 1, 1),
    row(I8, Some("int8"), Some("I8"), 1, 1),
    row(U16, Some("uint16"), Some("U16"), 1, 2),
    row(I16, Some("int16"), Some("I16"), 1, 2),
    row(U32, Some("uint32"), Some("U32"), 1, 4),
    row(I32, Some("int32"), Some("I32"), 1, 4),
    row(U64, Some("uint64"), Some("U64"), 1, 8),
    row(I64, Some("int64"), Some("I64"), 1, 8),
    row(F16, Some("float16"), Some("F16"), 1, 2),
    row(BF16, Some("bfloat16"), Some("BF16"), 1, 2),
    row(F32, Some("float32"), Some("F32"), 1, 4),
    row(F64, Some("float64"), Some("F64"), 1, 8),
    row(C32, Some("complex32"), None, 1, 4),
    row(C64, Some("complex64"), Some("C64"), 1, 8),
    row(C128, Some("complex128"), None, 1, 16),
    row(F8E4M3, Some("float8_e4m3fn"), Some("F8_E4M3"), 1, 1),
    row(F8E4M3Fnuz, Some("float8_e4m3fnuz"), Some("F8_E4M3FNUZ"), 1, 1),
    row(F8E5M2, Some("float8_e5m2"), Some("F8_E5M2"), 1, 1),
    row(F8E5M2Fnuz, Some("float8_e5m2fnuz"), Some("F8_E5M2FNUZ"), 1, 1),
    row(F8E8M0, Some("float8_e8m0fnu"), Some("F8_E8M0"), 1, 1),
    row(F4, None, Some("F4"), 2, 1),
    row(F4x2, Some("float4_e2m1fn_x2"), None, 1, 1),
    row(F6E2M3, None, Some("F6_E2M3"), 4, 3),
    row(F6E3M2, None, Some("F6_E3M2"), 4, 3),
];

impl DType {
    fn row(self) -> &'static Row {
        &DTYPES[self as usize]
    }

    /// Every element type.
    pub fn all() -> impl Iterator<Item = DType> {
        DTYPES.iter().map(|row| row.dtype)
    }

    /// PyTorch's name without `torch.`, or `None` where PyTorch lacks the type.
    pub fn torch_name(self) -> Option<&'static str> {
        self.row().torch
    }

    /// The name in a safetensors header, or `None` where that format lacks the type.
    pub fn safetensors_name(self) -> Option<&'static str> {
        self.row().safetensors
    }

    /// The name shown to people and written in manifests: PyTorch's, else safetensors' in lower case.
    pub fn name(self) -> &'static str {
        match self {
            F4 => "float4_e2m1fn",
            F6E2M3 => "float6_e2m3fn",
            F6E3M2 => "float6_e3m2fn",
            other => other.row().torch.unwrap_or("?"),
        }
    }

    /// Finds a type by the name [`DType::name`] gives.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::all().find(|dtype| dtype.name() == name)
    }

    /// Finds a type by PyTorch's name without `torch.`.
    pub fn from_torch_name(name: &str) -> Option<DType> {
        DTYPES.iter().find(|row| row.torch == Some(name)).map(|row| row.dtype)
    }

    /// Finds a type by its name in a safetensors header.
    pub fn from_safetensors_name(name: &str) -> Option<DType> {
        DTYPES.iter().find(|row| row.safetensors == Some(name)).map(|row| row.dtype)
    }

    /// Elements in one indivisible group of bytes: 1 for all but the sub-byte types.
    pub fn block_elements(self) -> u64 {
        self.row().block_elements
    }

    /// Bytes of one indivisible group of elements: the element size for all but the sub-byte types.
    pub fn block_bytes(self) -> u64 {
        self.row().block_bytes
    }

    /// Bytes of `elements` packed elements; `None` on overflow or where they do not fill whole blocks.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let row = self.row();
        elements
            .is_multiple_of(row.block_elements)
            .then(|| (elements / row.block_elements).checked_mul(row.block_bytes))
            .flatten()
    }

    /// Whether the type is a real floating-point type, which `--dtype` may convert.
    pub fn is_float(self) -> bool {
        matches!(self, F16 | BF16 | F32 | F64 | F8E4M3 | F8E4M3Fnuz | F8E5M2 | F8E5M2Fnuz)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_declaration_order_and_names_are_unique() {
        for (index, row) in DTYPES.iter().enumerate() {
            assert_eq!(row.dtype as usize, index);
            assert_eq!(DType::from_name(row.dtype.name()), Some(row.dtype));
            if let Some(name) = row.torch {
                assert_eq!(DType::from_torch_name(name), Some(row.dtype));
            }
            if let Some(name) = row.safetensors {
                assert_eq!(DType::from_safetensors_name(name), Some(row.dtype));
            }
        }
    }

    #[test]
    fn bytes_of_sub_byte_types_come_in_whole_blocks() {
        assert_eq!(F4.bytes(6), Some(3));
        assert_eq!(F4.bytes(5), None);
        assert_eq!(F6E2M3.bytes(8), Some(6));
        assert_eq!(F64.bytes(u64::MAX), None);
    }
}
